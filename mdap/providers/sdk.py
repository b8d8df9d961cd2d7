"""A vendor's SDK: what it makes of a request, and requests that it sends itself.

The SDKs of OpenAI and Anthropic are made by the same generator: their clients and errors go by the same
names. They retry nothing here: an attempt is one request, so that limits, counts and the log are true.
"""

import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import anyio

from mdap.providers.endpoint import Endpoint
from mdap.providers.sending import IDLE_SECONDS, MAX_BODY, MOST_CONNECTIONS, Answer, check_head, too_large

__all__ = ["SDK", "Pattern", "ThroughSDK"]

# See `check_head`.
_PLAIN: Final = {"Accept-Encoding": "identity"}


class Pattern(NamedTuple):
    """A request as the SDK would send it, but for its body.

    Attributes:
        url: where it goes, without user and password.
        headers: by name, in lower case; the key is among them.
    """

    url: str
    headers: Mapping[str, str]


class SDK:
    """One vendor's SDK, pointed at one endpoint.

    Args:
        name: of the module, ``openai`` or ``anthropic``.
        client: the name of its client's class.
        path: of the API that is called, from the base URL on.
        endpoint: whom to ask.

    Attributes:
        http: the library that it stands on: httpx for some versions, httpx2 for others.
        module: the SDK.
        path: of the API that is called.
    """

    def __init__(self, name: str, client: str, path: str, endpoint: Endpoint) -> None:
        # Half a second: paid here, by who wants it, and not inside the loop.
        self.module: Final = importlib.import_module(name)
        kinds = self.module.DefaultAioHttpClient.__mro__
        self.http: Final = sys.modules[
            next(kind for kind in kinds if kind.__name__ == "AsyncClient").__module__
        ]
        self.path: Final = path
        self._client = client
        self._endpoint = endpoint

    def client(self, http_client: Any) -> Any:
        """Return a client that sends through *http_client*, and closes it."""
        return getattr(self.module, self._client)(
            api_key=self._endpoint.key or "none",
            base_url=self._endpoint.base_url,
            max_retries=0,
            timeout=IDLE_SECONDS,
            default_headers=_PLAIN,
            http_client=http_client,
        )

    async def post(self, client: Any, body: Mapping[str, Any]) -> Any:
        """Return the unread response to *body*.

        This is not the method that the SDK documents for completions: that one spends more time on checking
        and copying parameters than all the rest takes. The request that leaves is the same.
        """
        # A redirect would carry the prompt, and may carry the key, to whom the user never named.
        options = {"follow_redirects": False, "timeout": IDLE_SECONDS}
        return await client.post(self.path, body=body, cast_to=self.http.Response, options=options)

    async def pattern(self) -> Pattern:
        """Have the SDK put a request together, without sending it anywhere."""
        http = self.http
        caught: list[Any] = []

        class Caught(http.AsyncBaseTransport):  # type: ignore[misc,name-defined] # known at run time only
            async def handle_async_request(self, request: Any) -> Any:
                caught.append(request)
                return http.Response(200, json={})

        async with self.client(self.module.DefaultAsyncHttpxClient(transport=Caught())) as client:
            await self.post(client, {})
        [request] = caught
        headers = {name.lower(): value for name, value in request.headers.items()}
        # These belong to one connection, one body, or, where an SDK sends it, to one request alone.
        for name in ("host", "content-length", "idempotency-key"):
            headers.pop(name, None)
        return Pattern(str(request.url.copy_with(username=None, password=None)), headers)


class ThroughSDK:
    """Sends every request through the SDK's client."""

    def __init__(self, sdk: SDK) -> None:
        self._sdk = sdk
        self._client: Any = None

    async def send(self, body: Mapping[str, Any]) -> Answer:
        """Send one request; raise whatever the SDK does where nothing whole comes back."""
        if self._client is None:
            self._client = self._open()
        try:
            response = await self._sdk.post(self._client, body)
        except self._sdk.module.APIStatusError as error:
            response = error.response
        return Answer(response.status_code, dict(response.headers.items()), response.content)

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        client, self._client = self._client, None
        if client is not None:
            with anyio.CancelScope(shield=True):
                await client.close()

    def _open(self) -> Any:
        http = self._sdk.http
        limits = http.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS)
        hooks = {"response": [_body_cap(http)]}
        return self._sdk.client(self._sdk.module.DefaultAioHttpClient(limits=limits, event_hooks=hooks))


def _body_cap(http: Any) -> Callable[[Any], Awaitable[None]]:
    """Return a response hook that keeps the SDK from reading an endless body into memory."""

    class Capped(http.AsyncByteStream):  # type: ignore[misc] # which library's, is known at run time only
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                size += len(chunk)
                if size > MAX_BODY:
                    raise too_large()
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def cap(response: Any) -> None:
        if not check_head(response.headers):
            response.stream = Capped(response.stream)

    return cap
