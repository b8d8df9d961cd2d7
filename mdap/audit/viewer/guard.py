"""What every request must be, and what every answer says to the browser."""

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

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


class Guard:
    """Let only requests through that change nothing and come from a page of our own.

    A foreign page can have its host name point to this machine, and then read what a server answers; but
    the browser still sends that name as the Host.

    Args:
        app: the application.
        hosts: values of the Host header that are ours, with the port.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        if headers.getlist("host") not in [[host] for host in self._hosts]:
            return PlainTextResponse("Open the address that mdap serve printed.\n", 421)
        if any(
            origin not in {f"http://{host}" for host in self._hosts} for origin in headers.getlist("origin")
        ):
            return PlainTextResponse("Only pages of this server may ask.\n", 403)
        if method not in ("GET", "HEAD"):
            return PlainTextResponse("Nothing can be changed here.\n", 405, {"Allow": "GET, HEAD"})
        return None
