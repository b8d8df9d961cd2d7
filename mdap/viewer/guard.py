"""Requests: their secret, their checks and their bodies; and the headers of every response."""

import hmac
import json
from collections.abc import Collection
from html import escape
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TOKEN: Final = "token"
_BEARER: Final = "bearer "
_LONGEST_NAME: Final = 100
_ONWARD: Final = (
    '<!doctype html><html lang="en"><title>mdap</title><meta http-equiv="refresh" content="0; url={0}">'
    '<p><a href="{0}">Continue</a></p></html>'
)
_LARGEST: Final = 2**20
_FIELDS: Final = 20
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
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


class Key:
    """The secret that a request must show, and the cookie that a browser keeps.

    A browser that opens the printed address gets a cookie that no script can read and no page of another site
    can send. Forms also carry a second secret, known only to pages of this server. A tool sends the token.

    Args:
        token: the secret.
        port: the server's port: browsers send a host's cookies to all of its ports.
    """

    def __init__(self, token: str, port: int) -> None:
        self._token = token
        self._name = f"mdap-{port}"
        self._cookie = self._derived("cookie")
        self.form = self._derived("form")

    def _derived(self, use: str) -> str:
        return hmac.new(self._token.encode(), use.encode(), "sha256").hexdigest()

    def entry(self, path: str, query: bytes, headers: Headers) -> Response | None:
        """Return a redirect to the address without its token, with the cookie if the token is right."""
        given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in given if name == _TOKEN]
        if not tokens or not _same(tokens[0], self._token):
            return None
        rest = urlencode([pair for pair in given if pair[0] != _TOKEN])
        # Exactly one slash: a path with two would redirect to another host.
        there = f"/{quote(path.lstrip('/'))}{'?' if rest else ''}{rest}"
        answer: Response = RedirectResponse(there, 303)
        if headers.get("sec-fetch-site") == "cross-site":
            # From a link in a chat, a browser would not send the cookie after a redirect.
            answer = HTMLResponse(_ONWARD.format(escape(there)))
        self._keep(answer, self._name, self._cookie)
        return answer

    def by_cookie(self, headers: Headers) -> bool:
        """Whether a request has the cookie."""
        return _same(_cookies(headers).get(self._name, ""), self._cookie)

    def by_token(self, headers: Headers) -> bool:
        """Whether a request has the token itself, as a tool sends it."""
        given = headers.get("authorization", "")
        return given[: len(_BEARER)].lower() == _BEARER and _same(given[len(_BEARER) :].strip(), self._token)

    def is_form(self, given: str) -> bool:
        """Whether a form comes from this server."""
        return _same(given, self.form)

    def named(self, headers: Headers) -> str:
        """Return the last name that this browser sent; empty if none."""
        return unquote(_cookies(headers).get(f"{self._name}-name", ""))[:_LONGEST_NAME]

    def keep_name(self, answer: Response, name: str) -> None:
        """Store a person's name in the browser."""
        self._keep(answer, f"{self._name}-name", quote(name[:_LONGEST_NAME], safe=""))

    def _keep(self, answer: Response, name: str, value: str) -> None:
        answer.set_cookie(name, value, httponly=True, samesite="strict", path="/")


def _cookies(headers: Headers) -> dict[str, str]:
    return cookie_parser(headers.get("cookie", ""))


def _same(given: str, ours: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), ours.encode())


class RequestGuard:
    """Accept only requests from the viewer's own pages, with the key if there is one.

    A foreign page can point its host name to this machine and then read responses of a local server. But the
    browser still sends that name as the Host.

    Args:
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


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form, the last one of each name; raise HTTPException for a wrong body."""
    body = await _body(request, _FORM)
    try:
        return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=_FIELDS, errors="strict"))
    except ValueError as error:
        raise HTTPException(400, "This is not a form of these pages.") from error


async def object_of(request: Request) -> dict[str, Any]:
    """Return a JSON object; raise HTTPException for a wrong body."""
    body = await _body(request, _JSON)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body is not JSON.") from error
    if not isinstance(found, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return found


async def _body(request: Request, kind: str) -> str:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise HTTPException(415, f"The body must be {kind}.")
    taken = bytearray()
    async for chunk in request.stream():
        taken += chunk
        if len(taken) > _LARGEST:
            raise HTTPException(413, f"The body may have {_LARGEST:,} bytes.")
    try:
        return taken.decode()
    except UnicodeDecodeError as error:
        raise HTTPException(400, "The body is not UTF-8.") from error


def whole_number(text: str | None) -> int | None:
    """Return the whole number from 0 on that *text* is; None if it is none, or too long for a row."""
    if not text or not (text.isascii() and text.isdigit()) or len(text) > 18:
        return None
    return int(text)
