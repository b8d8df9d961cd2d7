"""The client that remembers what its requests share sends what the SDK's own would."""

from typing import Any

import anthropic
import openai
import pytest

from mdap.providers.endpoint import Endpoint
from mdap.providers.wire import Wire

URL = "http://127.0.0.1:9/v1"


def built(client: Any, body: dict[str, Any], cookies: dict[str, str]) -> Any:
    """Return the HTTP request as the client of an SDK would send it."""
    client.cookies.update(cookies)
    headers = [("Authorization", "Bearer k"), ("Accept", "application/json"), ("User-Agent", "mine")]
    content = repr(body).encode()
    return client.build_request("POST", f"{URL}/chat", headers=headers, timeout=5.0, content=content)


@pytest.mark.parametrize("cookies", [{}, {"seen": "before"}])
@pytest.mark.parametrize(("sdk", "name"), [(openai, "AsyncOpenAI"), (anthropic, "AsyncAnthropic")])
async def test_a_request_is_put_together_as_by_the_plain_client(
    sdk: Any, name: str, cookies: dict[str, str]
) -> None:
    """Address, headers in their order, cookies, content and timeouts; the second time from memory."""
    wire = Wire(sdk.__name__, name, "/chat", Endpoint(URL, "k" * 12, "KEY"))
    wire._open()
    remembering, plain = wire._client._client, sdk.DefaultAioHttpClient()
    for body in ({"n": 1}, {"n": 22}):
        ours, theirs = built(remembering, body, cookies), built(plain, body, cookies)
        assert (ours.method, str(ours.url), ours.content) == (theirs.method, str(theirs.url), theirs.content)
        assert ours.headers.raw == theirs.headers.raw
        assert ours.extensions == theirs.extensions
    await wire.aclose()
    await plain.aclose()
