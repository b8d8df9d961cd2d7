"""The secret of a server that can settle steps: its holder may read and settle."""

import hmac
from html import escape
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response

__all__ = ["Key"]

_TOKEN: Final = "token"
_BEARER: Final = "bearer "
_LONGEST_NAME: Final = 100
_ONWARD: Final = (
    '<!doctype html><html lang="en"><title>mdap</title><meta http-equiv="refresh" content="0; url={0}">'
    '<p><a href="{0}">Continue</a></p></html>'
)


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
