"""Settling steps from the pages, and by the JSON interface, asked by a plain HTTP client."""

import html
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

import mdap
from mdap.audit import verify
from mdap.plugins import make_task
from mdap.rules.digests import answer_key
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED
from tests.integration.test_decisions import Table, says
from tests.viewing import Answer, Site, serving

TOKEN = "the-token-of-this-test"
TASK = "tests.integration.test_decisions:Table"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a finished run, three of whose steps are undecided, and one doubtful."""
    path = tmp_path / "it's <b>.db"
    PROVIDED["it"] = ScriptedProvider(says)
    try:
        voting = mdap.VotingSettings(k=3, max_samples=12)
        mdap.solve_sync(Table(), model="tests.helpers:provided/it", db=path, run_id="r", voting=voting)
    finally:
        PROVIDED.clear()
    return path


@pytest.fixture
def site(path: Path) -> Iterator[Site]:
    """A viewer of it on which steps can be settled."""
    with serving(path, (TASK,), TOKEN) as running:
        yield running


class Person:
    """A browser: it keeps its cookies and says where its forms come from."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookies: dict[str, str] = {}
        entered = site.ask(f"/?token={site.token}")
        assert (entered.status, entered.headers["Location"]) == (303, "/")
        self._keep(entered)

    def _keep(self, answer: Answer) -> None:
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, rest = cookie.partition("=")
            self.cookies[name] = rest.partition(";")[0]

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def page(self, path: str) -> str:
        answer = self.site.ask(path, Cookie=self.cookie)
        assert answer.status == 200, answer.text
        return answer.text

    def form(self, path: str) -> dict[str, str]:
        """The hidden fields of the form on a page."""
        found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', self.page(path))
        return {name: html.unescape(value) for name, value in found}

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        headers = {"Cookie": self.cookie, "Origin": self.site.url, "Content_Type": FORM, **headers}
        sent = {name: value for name, value in headers.items() if value}
        answer = self.site.ask(path, "POST", urlencode(fields), **sent)
        self._keep(answer)
        return answer

    def claim(self, step: int, name: str) -> str:
        """Claim a step of run 1; return where the form to settle it is."""
        at = f"/runs/1/steps/{step}/settle"
        claimed = self.post(at, {**self.form(at), "do": "claim", "author": name})
        assert claimed.status == 303, claimed.text
        return str(claimed.headers["Location"])

    def settle(self, at: str, **fields: str) -> Answer:
        return self.post(at.partition("?")[0], {**self.form(at), "do": "settle", **fields})


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def settled(path: Path) -> int:
    """How many steps people have settled, and runs that took over."""
    [[decisions]] = rows(path, "SELECT count(*) FROM decisions WHERE author <> 'mdap'")
    [[runs]] = rows(path, "SELECT count(*) FROM runs")
    return int(decisions + runs - 1)


@pytest.mark.slow
def test_three_steps_are_settled_by_two_people(site: Site, path: Path) -> None:
    """A candidate, an answer of one's own, and an override; each is on record with its author and reason."""
    ada, bob = Person(site), Person(site)
    queue = ada.page("/waiting")
    assert [int(step) for step in re.findall(r"/steps/(\d+)/settle", queue)] == [3, 5, 7]
    hers, his = ada.claim(3, "Ada <b>"), bob.claim(5, "Bob")
    offered = re.findall(r'name="choice" value="(\w+)"', ada.page(hers))
    assert offered == [answer_key("6"), answer_key("7"), "other"]
    page = bob.page(hers.partition("?")[0])
    assert "<strong>Ada &lt;b&gt; has this step</strong> until 20" in page
    assert 'name="do" value="settle"' not in page
    assert "Ada &lt;b&gt;</strong> has it until" in bob.page("/waiting")
    # Somebody else's claim does not do, even with its number.
    refused = bob.settle(his, claim=hers.partition("=")[2], choice="other", answer="10", reason="x")
    assert refused.status == 409
    assert "Bob has step 5 of r until" in html.unescape(refused.text)
    bad = ada.settle(hers, choice="other", answer="nothing & more", reason="she said so")
    assert bad.status == 400
    assert "nothing & more is no answer to this step" in html.unescape(bad.text)
    assert 'name="answer" rows="3" spellcheck="false">nothing &amp; more</textarea>' in bad.text
    assert ada.settle(hers, choice=answer_key("6"), reason="I looked").status == 303
    assert bob.settle(his, choice="other", answer="10", reason="the model would not").status == 303
    again = ada.settle(hers, choice=answer_key("7"), reason="twice")
    assert again.status == 400  # the form is gone, and with it the claim's number
    assert [int(step) for step in re.findall(r"/steps/(\d+)/settle", ada.page("/waiting"))] == [7]
    page = html.unescape(ada.page("/runs/1/steps/3/settle"))
    assert "<strong>Settled by Ada <b></strong>" in page
    assert "mdap resume r --db" in page
    assert '<span class="pill pill-waiting">waiting</span>' in page
    over = bob.claim(8, "Bob")
    assert bob.settle(over, choice="other", answer="99", reason="better").status == 303
    assert "mdap resume r-override-1 --db" in bob.page("/runs/1/steps/8/settle")
    people = "SELECT r.run_id, step, winner, author, d.reason FROM decisions d JOIN runs r ON r.id = run"
    assert rows(path, f"{people} WHERE author <> 'mdap' ORDER BY run, place") == [
        ("r", 3, "6", "Ada <b>", "I looked"),
        ("r", 5, "10", "Bob", "the model would not"),
        ("r-override-1", 8, "99", "Bob", "better"),
    ]
    for run_id in ("r", "r-override-1"):
        assert verify(path, run_id, make_task).verdict == "verified"


def test_what_has_no_token_sees_nothing(site: Site) -> None:
    """No page, no text, no file, no interface; a wrong token, cookie or header is as good as none."""
    cookie = Person(site).cookie
    for where in (
        "/",
        "/waiting",
        "/runs/1",
        "/runs/1/steps/3/settle",
        "/texts/1",
        "/static/style.css",
        "/api/waiting",
    ):
        assert site.ask(where, Cookie=cookie).status == 200, where
        for headers in (
            {},
            {"Cookie": cookie.replace(cookie[-1], "x")},
            {"Cookie": f"{cookie.partition('=')[0]}={TOKEN}"},
            {"Authorization": "Bearer nothing"},
            {"Authorization": f"Basic {TOKEN}"},
        ):
            refused = site.ask(where, **headers)
            assert (refused.status, refused.headers["Set-Cookie"]) == (401, None), where
            assert refused.text == "Open the address that mdap serve printed: it has the token.\n"
        assert site.ask(f"{where}?token=x").status == 401
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert site.ask("/waiting", method, Cookie=cookie).status == 405


def test_the_token_becomes_a_cookie_of_this_server_only(site: Site) -> None:
    """No script can read it, no other site's page sends it, and the address no longer has the token."""
    entered = site.ask(f"/runs/1?from=3&token={TOKEN}")
    assert (entered.status, entered.headers["Location"]) == (303, "/runs/1?from=3")
    [cookie] = entered.headers.get_all("Set-Cookie", [])
    assert cookie.startswith(f"mdap-{site.port}=")
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
        "httponly",
        "path=/",
        "samesite=strict",
    }
    assert TOKEN not in cookie
    away = site.ask(f"//evil.example/x?token={TOKEN}")
    assert away.headers["Location"] == "/evil.example/x"
    sent = site.ask(f'/runs/1?q="><b>&token={TOKEN}'.replace(">", "%3E"), **{"Sec-Fetch-Site": "cross-site"})
    assert (sent.status, sent.headers["Set-Cookie"] is None) == (200, False)
    assert 'content="0; url=/runs/1?q=%22%3E%3Cb%3E"' in sent.text
    assert entered.headers["Referrer-Policy"] == "same-origin"
    assert entered.headers["Cache-Control"] == "no-store"


FOREIGN: list[tuple[dict[str, str], int]] = [
    ({"Cookie": ""}, 401),
    ({"Origin": ""}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "http://127.0.0.1:1"}, 403),
    ({"Origin": "https://127.0.0.1"}, 403),
    ({"Host": "evil.example"}, 421),
    ({"Host": "127.0.0.1:1"}, 421),
    ({"Content_Type": "text/plain"}, 415),
    ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
    ({"Content_Type": "application/json"}, 415),
]


def test_a_form_of_another_page_settles_nothing(site: Site, path: Path) -> None:
    """Whatever it knows but the cookie, and whatever the browser adds for it."""
    ada = Person(site)
    at = ada.claim(3, "ada")
    fields = {**ada.form(at), "do": "settle", "choice": "other", "answer": "6", "reason": "x"}
    for headers, status in FOREIGN:
        assert ada.post("/runs/1/steps/3/settle", fields, **headers).status == status, headers
        assert settled(path) == 0
    assert ada.post("/runs/1/steps/3/settle", fields).status == 303
    assert settled(path) == 1


@pytest.mark.slow
def test_a_forged_form_settles_nothing(site: Site, path: Path) -> None:
    """Its secret is another one than the cookie, the token, and that of another server."""
    ada = Person(site)
    at = ada.claim(3, "ada")
    fields = {**ada.form(at), "do": "settle", "choice": "other", "answer": "6", "reason": "x"}
    cookie = next(iter(ada.cookies.values()))
    for forged in ("", "x", cookie, TOKEN, fields["form"][:-1], f"{fields['form']}x", "\u00e9\ud83d"[:1]):
        refused = ada.post("/runs/1/steps/3/settle", {**fields, "form": forged})
        assert (refused.status, "not one of this server's" in html.unescape(refused.text)) == (403, True)
    without = {name: value for name, value in fields.items() if name != "form"}
    assert ada.post("/runs/1/steps/3/settle", without).status == 403
    with serving(path, (TASK,), "another-token") as other:
        theirs = Person(other).form("/runs/1/steps/5/settle")["form"]
    assert ada.post("/runs/1/steps/3/settle", {**fields, "form": theirs}).status == 403
    for strange in ({"do": "burn"}, {"claim": ""}, {"claim": "-1"}, {"claim": "9" * 30}):
        assert ada.post("/runs/1/steps/3/settle", {**fields, **strange}).status == 400
    assert settled(path) == 0


def test_a_body_has_a_bounded_size(site: Site, path: Path) -> None:
    """Whatever it says of its length."""
    ada = Person(site)
    fields = {**ada.form(ada.claim(3, "ada")), "do": "settle", "answer": "6" * 2**20, "reason": "x"}
    assert ada.post("/runs/1/steps/3/settle", fields).status == 413
    many = {f"field-{number}": "" for number in range(50)}
    assert ada.post("/runs/1/steps/3/settle", {**fields, "answer": "6", **many}).status == 400
    bearer = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}
    assert site.ask("/api/settle", "POST", b"[" * 100_000, **bearer).status == 400
    assert site.ask("/api/settle", "POST", b'"\xff"', **bearer).status == 400
    assert settled(path) == 0


def test_without_a_desk_nothing_can_be_settled(path: Path) -> None:
    """A plain `mdap serve` has no such pages and takes no POST."""
    with serving(path) as site:
        for where in ("/waiting", "/runs/1/steps/3/settle", "/api/waiting"):
            assert site.ask(where).status == 404
            assert site.ask(where, "POST", Origin=site.url).status == 405
        assert "settle" not in site.page("/runs/1/steps/3")


def test_a_task_that_may_not_be_loaded_is_not(path: Path) -> None:
    """A database names code; only what is installed, or named by who serves it, is run."""
    with serving(path, (), TOKEN) as site:
        ada = Person(site)
        refused = ada.settle(ada.claim(3, "ada"), choice="other", answer="6", reason="x")
    assert refused.status == 400
    assert f"{TASK} is not installed; to load it, add --task {TASK}" in refused.text
    assert settled(path) == 0


def test_hostile_texts_stay_texts(site: Site, path: Path) -> None:
    """Of names, reasons and answers; in the pages and in the next person's form."""
    ada = Person(site)
    script = "<script>alert(1)</script>\u202e"
    named = {**ada.form("/runs/1/steps/3/settle"), "do": "claim", "author": "ada\u202e"}
    assert ada.post("/runs/1/steps/3/settle", named).status == 400
    at = ada.claim(3, '"><img src=x><script>')
    bad = ada.settle(at, choice="other", answer=f"</textarea>{script}", reason=f"</textarea>{script}")
    assert bad.status == 400
    assert ada.settle(at, choice="other", answer="6", reason=script).status == 303
    for page in (
        bad.text,
        ada.page("/waiting"),
        ada.page("/runs/1/steps/3/settle"),
        ada.page("/runs/1/steps/3"),
    ):
        assert "<img" not in page
        assert "<script>" not in page
        assert "\u202e" not in page


# --- for tools


def told(answer: Answer) -> Any:
    assert answer.headers["Content-Type"] == "application/json"
    return json.loads(answer.text)


def call(site: Site, name: str, given: Any, **headers: str) -> tuple[int, Any]:
    sent = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json", **headers}
    answer = site.ask(f"/api/{name}", "POST", json.dumps(given), **{k: v for k, v in sent.items() if v})
    return answer.status, told(answer) if answer.headers[
        "Content-Type"
    ] == "application/json" else answer.text


def test_a_tool_settles_a_step(site: Site, path: Path) -> None:
    """It reads what waits, claims, settles by value or candidate, and is told what to resume."""
    listed = told(site.ask("/api/waiting?run=r&most=3", Authorization=f"Bearer {TOKEN}"))["waiting"]
    assert [(one["step"], one["state"], one["claim"]) for one in listed] == [
        (3, "undecided", None),
        (5, "undecided", None),
        (7, "undecided", None),
    ]
    assert listed[0]["candidates"][0]["votes"] == 6
    status, claim = call(site, "claim", {"run": "r", "step": 3, "author": "bot"})
    assert (status, claim["author"]) == (200, "bot")
    assert call(site, "claim", {"run": "r", "step": 3, "author": "eve"})[0] == 409
    given = {"run": "r", "step": 3, "author": "bot", "reason": "checked", "claim": claim["claim"]}
    key = next(one["key"] for one in listed[0]["candidates"] if one["replies"][0]["text"] == "6")
    status, settled = call(site, "settle", {**given, "candidate": key})
    assert (status, settled) == (
        200,
        {"run_id": "r", "step": 3, "author": "bot", "goes_on": False, "resume": settled["resume"]},
    )
    assert settled["resume"].startswith("mdap resume r --db '")
    assert call(site, "settle", {**given, "answer": 7})[0] == 409
    assert call(site, "claim", {"run": "r", "step": 5, "author": "bot"})[0] == 200
    assert call(site, "release", {"run": "r", "step": 5, "author": "bot"}) == (200, {"released": True})
    status, over = call(
        site,
        "settle",
        {"run": "r", "step": 8, "author": "bot", "reason": "x", "answer": 99, "override": True},
    )
    assert (status, over["run_id"]) == (200, "r-override-1")
    assert rows(path, "SELECT author FROM decisions WHERE winner = '99'") == [("bot",)]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"step": "3"}, "step must be a whole number from 0 on."),
    ({"step": True}, "step must be a whole number from 0 on."),
    ({"author": 1}, "author must be a text."),
    ({"author": " "}, "give your name: it goes on record with the decision"),
    ({"answer": 6, "candidate": "x"}, "Give either answer, a JSON value, or candidate, the key of one."),
    ({"why": "x"}, "There is no why: give answer, author, candidate, claim, override, reason, run, step."),
    ({"override": "yes"}, "override must be true or false."),
    ({"claim": "1"}, "claim must be a whole number from 0 on."),
    ({"answer": "x"}, '"x" is no answer to this step: '),
    ({"answer": "\ud800"}, '"\\ud800" is no answer to this step: '),
]


def test_a_tools_mistake_is_a_sentence(site: Site, path: Path) -> None:
    """With the status of a bad request."""
    for given, sentence in MISTAKES:
        whole = {"run": "r", "step": 3, "author": "bot", "reason": "x", "answer": 6, **given}
        status, answer = call(site, "settle", whole)
        assert (status, answer["error"].startswith(sentence)) == (400, True), answer
        assert settled(path) == 0


def test_a_tool_needs_the_token_itself(site: Site, path: Path) -> None:
    """A browser's cookie does not do, so no form can reach the interface; nor does a page elsewhere."""
    given = {"run": "r", "step": 3, "author": "bot", "reason": "x", "answer": 6}
    cookie = Person(site).cookie
    assert call(site, "settle", given, Authorization="")[0] == 401
    assert call(site, "settle", given, Authorization="", Cookie=cookie, Origin=site.url)[0] == 401
    assert call(site, "settle", given, Origin="http://evil.example")[0] == 403
    assert call(site, "settle", given, Host="evil.example")[0] == 421
    assert call(site, "settle", given, Content_Type="text/plain")[0] == 415
    assert call(site, "settle", {**given, "run": "nobody"})[0] == 404
    assert call(site, "settle", {**given, "run": "\ud800"})[0] == 404
    assert settled(path) == 0
    assert call(site, "settle", given)[0] == 200
