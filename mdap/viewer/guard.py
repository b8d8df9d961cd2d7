"""What every request must be, and what every answer says to the browser."""

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mdap.viewer.key import Key

__all__ = ["RequestGuard"]

_SAFE: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class RequestGuard:
    """Let only requests through that come from a page of our own, and have the key where there is one.

    A foreign page can have its host name point to this machine, and then read what a server answers; but
    the browser still sends that name as the Host.

    Args:
        app: the application.
        hosts: values of the Host header that are ours, with the port.
        key: what a request must show; None where everybody may read, and nobody may change anything.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], key: Key | None = None) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._origins = frozenset(f"http://{host}" for host in hosts)
        self._key = key
        # Without a referrer, browsers keep the origin of a form back, too.
        self._safe = _SAFE if key is None else {**_SAFE, "Referrer-Policy": "same-origin"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in self._safe.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], headers) or self._without_key(scope, headers)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, method: str, headers: Headers) -> Response | None:
        if headers.getlist("host") not in [[host] for host in self._hosts]:
            return PlainTextResponse("Open the address that mdap serve printed.\n", 421)
        if not self._origins.issuperset(headers.getlist("origin")):
            return PlainTextResponse("Only pages of this server may ask.\n", 403)
        if method not in ("GET", "HEAD") and (self._key is None or method != "POST"):
            sentence = "Nothing can be changed here.\n" if self._key is None else "There is no such method.\n"
            allowed = "GET, HEAD" if self._key is None else "GET, HEAD, POST"
            return PlainTextResponse(sentence, 405, {"Allow": allowed})
        return None

    def _without_key(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that does not show the key; None to one that does."""
        key = self._key
        if key is None or key.by_token(headers):
            return None
        reads = scope["method"] != "POST"
        if reads and (entry := key.entry(scope["path"], scope["query_string"], headers)) is not None:
            return entry
        if not key.by_cookie(headers):
            return PlainTextResponse("Open the address that mdap serve printed: it has the token.\n", 401)
        if not reads and not headers.getlist("origin"):
            # A browser says where a form comes from; who does not has the cookie from somewhere else.
            return PlainTextResponse("Only pages of this server may ask.\n", 403)
        return None
