"""What goes over the wire: one request a call, nothing retried, nothing endless."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from mdap.errors import ProviderError
from mdap.providers.acquaintance import Acquaintance
from mdap.providers.endpoint import Endpoint, Transport
from mdap.providers.failures import classify, explain_failure, json_or_none
from mdap.providers.sdk import SDK, ThroughSDK
from mdap.providers.sending import Sender
from mdap.rules.headers import Told, read_told

__all__ = ["Response", "Wire", "in_blocks"]


T = TypeVar("T")


class Response(NamedTuple):
    """What came back, its body as it came.

    Attributes:
        headers: by name, in lower case.
        content: the body.
        latency: seconds from the request to the end of the body.
    """

    headers: Mapping[str, str]
    content: bytes
    latency: float


def in_blocks(text: str, ends: Sequence[int], mark: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a message's *text* in blocks, with a *mark* at each of its *ends*, in characters."""
    cuts = [0, *ends]
    blocks = [{"type": "text", "text": text[a:b], **mark} for a, b in zip(cuts, ends, strict=False)]
    return [*blocks, {"type": "text", "text": text[cuts[-1] :]}] if cuts[-1] < len(text) else blocks


class Wire:
    """The connections to one endpoint; opened by the first request, inside the running loop.

    Args:
        sdk: of the endpoint's vendor.
        endpoint: whom to ask.
        transport: what carries the requests.

    Attributes:
        told: what the headers of the latest response that tells of limits say.
    """

    def __init__(self, sdk: SDK, endpoint: Endpoint, transport: Transport) -> None:
        self._sdk = sdk
        self._endpoint = endpoint
        self._sender = _sender(sdk, transport)
        self._acquaintance = Acquaintance(endpoint, sdk.path)
        self.told = Told()

    async def ask(self, body: Mapping[str, Any], read: Callable[[Response], T]) -> T:
        """Send one request and return what *read* makes of the response.

        Raises:
            ProviderError: no response that can be read; the subclass says whether another attempt may work.
        """
        try:
            with self._acquaintance.asking():
                answer = read(await self.post(body))
        except ProviderError as error:
            failure = self._acquaintance.judged(error)
        else:
            self._acquaintance.met()
            return answer
        raise failure.with_traceback(None)

    async def post(self, body: Mapping[str, Any]) -> Response:
        """Send one request and return what came back.

        Raises:
            ProviderError: no response of success; the subclass says whether another attempt may work.
        """
        started = time.perf_counter()
        try:
            answer = await self._sender.send(body)
        except Exception as error:
            failure = explain_failure(self._sdk.module, error, self._endpoint)
            if failure is None:
                raise
        else:
            latency = time.perf_counter() - started
            self._listen(answer.headers)
            if 200 <= answer.status < 300:
                return Response(answer.headers, answer.content, latency)
            said = json_or_none(answer.content) or answer.content.decode("utf-8", "replace")
            failure = classify(answer.status, answer.headers, said, self._endpoint)
        # Raised out here, and anew, so that it carries neither context nor frames: the request and its key
        # are in them.
        raise failure.with_traceback(None)

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        await self._sender.aclose()

    def _listen(self, headers: Mapping[str, str]) -> None:
        told = read_told(headers, time.time())
        if told.requests_per_minute or told.tokens_per_minute:
            self.told = told


def _sender(sdk: SDK, transport: Transport) -> Sender:
    if transport == "sdk":
        return ThroughSDK(sdk)
    # The default: it takes about 40 % less processor time a vote than the SDK (2.2 against 3.8 ms, with 32
    # requests in flight; benchmarks/over_http.py). Imported here, since aiohttp takes a while to load.
    from mdap.providers.direct import Direct

    return Direct(sdk)
