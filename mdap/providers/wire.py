"""What goes over the wire, whichever SDK sends it: one request a call, nothing retried, nothing endless.

The SDKs of OpenAI and Anthropic are made by the same generator: their clients and errors go by the same
names.
"""

import importlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import anyio

from mdap.errors import TransientError
from mdap.providers.endpoint import Endpoint
from mdap.providers.failures import explain_failure
from mdap.rules.headers import Told, read_told

__all__ = ["MAX_BODY", "Response", "Wire"]

MAX_BODY: Final = 16 * 2**20
"""Bytes of a response after which reading stops."""

_CONNECTIONS: Final = 2_000
_REMEMBERED: Final = 8
# The total deadline of an attempt is set by whoever calls; this only keeps the SDK from an endless wait.
_IDLE_SECONDS: Final = 3_600.0
# A compressed body of a few kilobytes can be gigabytes of text: none is asked for, and none is taken.
_PLAIN: Final = {"Accept-Encoding": "identity"}
_PLAIN_ENCODINGS: Final = frozenset({b"", b"identity"})


class Response(NamedTuple):
    """What came back, unread.

    Attributes:
        headers: by name, in lower case.
        content: the body.
        latency: seconds from the request to the end of the body.
    """

    headers: Mapping[str, str]
    content: bytes
    latency: float


class Wire:
    """The connections to one endpoint; opened by the first request, inside the running loop.

    Args:
        sdk: the module ``openai`` or ``anthropic``.
        client: the name of its client's class.
        path: of the API that is called, from the base URL on.
        endpoint: whom to ask.

    Attributes:
        told: what the headers of the latest response that tells of limits say.
    """

    def __init__(self, sdk: str, client: str, path: str, endpoint: Endpoint) -> None:
        # Half a second: paid here, by who wants it, and not inside the loop.
        self._sdk = importlib.import_module(sdk)
        self._client_name = client
        self._path = path
        self._endpoint = endpoint
        self._client: Any = None
        self._send: Callable[..., Awaitable[Any]]
        self.told = Told()

    async def post(self, body: Mapping[str, Any]) -> Response:
        """Send one request and return what came back.

        Raises:
            ProviderError: no response of success; the subclass says whether another attempt may work.
        """
        if self._client is None:
            self._open()
        started = time.perf_counter()
        try:
            # Not the SDK's own method, which spends more time on checking and copying parameters than all
            # the rest takes; the request that leaves is the same.
            response = await self._send(body=body)
        except Exception as error:
            failure = explain_failure(self._sdk, error, self._endpoint)
            if failure is None:
                raise
            self._listen(getattr(getattr(error, "response", None), "headers", {}))
        else:
            latency = time.perf_counter() - started
            # Each look into the SDK's own mapping goes through all of it.
            headers = dict(response.headers.items())
            self._listen(headers)
            return Response(headers, response.content, latency)
        # Raised out here so that it carries no context: the SDK's errors hold the request and its key.
        raise failure

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        client, self._client = self._client, None
        if client is not None:
            with anyio.CancelScope(shield=True):
                await client.close()

    def _listen(self, headers: Mapping[str, str]) -> None:
        told = read_told(headers, time.time())
        if told.requests_per_minute or told.tokens_per_minute:
            self.told = told

    def _open(self) -> None:
        """Make the client, and how to send a body with it and get the response unread."""
        # Some versions stand on httpx and others on httpx2: take whichever the SDK itself uses.
        plain = self._sdk.DefaultAioHttpClient
        http = sys.modules[next(kind for kind in plain.__mro__ if kind.__name__ == "AsyncClient").__module__]
        limits = http.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        transport = _remembering(plain, http)
        self._client = getattr(self._sdk, self._client_name)(
            api_key=self._endpoint.key or "none",
            base_url=self._endpoint.base_url,
            max_retries=0,
            timeout=_IDLE_SECONDS,
            default_headers=_PLAIN,
            http_client=transport(limits=limits, event_hooks={"response": [_body_cap(http)]}),
        )
        # Given a path, the SDK puts the address together anew for each request; and what it is not told it
        # works out, and copies.
        base = self._client.base_url
        url = str(base.copy_with(raw_path=base.raw_path.rstrip(b"/") + self._path.encode()))
        options = {"headers": {}, "max_retries": 0, "timeout": _IDLE_SECONDS}
        self._send = partial(self._client.post, url, cast_to=http.Response, options=options)


def _remembering(transport: Any, http: Any) -> Any:
    """Return a client class like *transport* that works out only once what all its requests share.

    To take the same address apart and to merge the same headers takes longer than to send a request.
    """
    address = lru_cache(maxsize=_REMEMBERED)(http.URL)

    class Remembering(transport):  # type: ignore[misc] # which class that is, is known only at run time
        @lru_cache(maxsize=_REMEMBERED)  # noqa: B019 - there is one client, for as long as the provider is
        def _merged(self, headers: tuple[tuple[str, str], ...]) -> Any:
            merged = http.Headers(self.headers)
            merged.update(http.Headers(headers))
            return merged

        def build_request(
            self, method: str, url: Any, *, headers: Any, timeout: Any, content: Any = None, **more: Any
        ) -> Any:
            if any(value is not None for value in more.values()):
                more |= {"headers": headers, "timeout": timeout, "content": content}
                return super().build_request(method, url, **more)
            # One SDK hands over pairs, another one a mapping.
            pairs = headers if isinstance(headers, list) else http.Headers(headers).multi_items()
            return http.Request(
                method,
                address(url),
                headers=self._merged(tuple(pairs)),
                cookies=self.cookies,
                content=content,
                extensions={"timeout": http.Timeout(timeout).as_dict()},
            )

    return Remembering


def _body_cap(http: Any) -> Callable[[Any], Awaitable[None]]:
    """Return a response hook that keeps the SDK from reading an endless body into memory."""
    too_large = f"the response is larger than {MAX_BODY // 2**20} MiB"

    # Which library this class comes from is known only at run time, hence hidden from the type checker.
    class Capped(http.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                size += len(chunk)
                if size > MAX_BODY:
                    raise TransientError(too_large, kind="huge_body")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def cap(response: Any) -> None:
        headers = {name.lower(): value for name, value in response.headers.raw}
        if headers.get(b"content-encoding", b"").strip().lower() not in _PLAIN_ENCODINGS:
            raise TransientError("the response is compressed, which was not asked for", kind="compressed")
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:
            response.stream = Capped(response.stream)
        elif int(length) > MAX_BODY:
            raise TransientError(too_large, kind="huge_body")

    return cap
