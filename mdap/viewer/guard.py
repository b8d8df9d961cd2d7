"""Checks of every request, and headers of every response."""

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
    """Accept only requests from the viewer's own pages, with the key if there is one.

    A foreign page can point its host name to this machine and then read responses of a local server. But the
    browser still sends that name as the Host.

    Args:
        app: the application.
        hosts: accepted values of the Host header, with the port.
        key: the secret that a request must show; None if anyone may read and nobody may write.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], key: Key | None = None) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._origins = frozenset(f"http://{host}" for host in hosts)
        self._key = key
        # With no-referrer, browsers also withhold the origin of a form.
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
        """Return the response to a request without the key; None for one with the key."""
        key = self._key
        if key is None or key.by_token(headers):
            return None
        reads = scope["method"] != "POST"
        if reads and (entry := key.entry(scope["path"], scope["query_string"], headers)) is not None:
            return entry
        if not key.by_cookie(headers):
            return PlainTextResponse("Open the address that mdap serve printed: it has the token.\n", 401)
        if not reads and not headers.getlist("origin"):
            # Browsers send the origin of a form; a client without it has stolen the cookie.
            return PlainTextResponse("Only pages of this server may ask.\n", 403)
        return None
