"""The secret of one server on whose pages steps can be settled: who has it may read and settle."""

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
    """What a request must show, and what a browser keeps of it.

    A browser that opens the printed address gets a cookie, which no script can read and no page of another
    site can send. A form has a second secret, which only pages of this server hold. A tool sends the token.

    Args:
        token: the secret.
        port: of the server: browsers send the cookies of all ports of a host.
    """

    def __init__(self, token: str, port: int) -> None:
        self._token = token
        self._name = f"mdap-{port}"
        self._cookie = self._derived("cookie")
        self.form = self._derived("form")

    def _derived(self, use: str) -> str:
        return hmac.new(self._token.encode(), use.encode(), "sha256").hexdigest()

    def entry(self, path: str, query: bytes, headers: Headers) -> Response | None:
        """Return the answer to an address with a token: the same without it, and the cookie if it is ours."""
        given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in given if name == _TOKEN]
        if not tokens or not _same(tokens[0], self._token):
            return None
        rest = urlencode([pair for pair in given if pair[0] != _TOKEN])
        # One slash: a path that begins with two would lead to another host.
        there = f"/{quote(path.lstrip('/'))}{'?' if rest else ''}{rest}"
        answer: Response = RedirectResponse(there, 303)
        if headers.get("sec-fetch-site") == "cross-site":
            # A link in somebody's chat: a browser would not send the cookie behind a redirect from there.
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
        """Whether a form is one of this server's."""
        return _same(given, self.form)

    def named(self, headers: Headers) -> str:
        """Return the name that this browser gave last; nothing if it gave none."""
        return unquote(_cookies(headers).get(f"{self._name}-name", ""))[:_LONGEST_NAME]

    def keep_name(self, answer: Response, name: str) -> None:
        """Let the browser remember a person's name."""
        self._keep(answer, f"{self._name}-name", quote(name[:_LONGEST_NAME], safe=""))

    def _keep(self, answer: Response, name: str, value: str) -> None:
        answer.set_cookie(name, value, httponly=True, samesite="strict", path="/")


def _cookies(headers: Headers) -> dict[str, str]:
    return cookie_parser(headers.get("cookie", ""))


def _same(given: str, ours: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), ours.encode())
