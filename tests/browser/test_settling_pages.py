"""Settling steps in a real browser: two people at once, a run that waits, and whether everybody can do it.

Skipped where no Chromium is installed; the extra ``mdap[browser]`` has all else that these tests need.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the extra mdap[browser] is not installed")
pytest.importorskip("axe_playwright_python", reason="the extra mdap[browser] is not installed")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page

import mdap
from mdap_hanoi import Hanoi
from tests.acceptance.processes import Cli
from tests.viewing import ECHO, HOSTILE_ID, Site, make_database, serving

TOKEN = "the-token-of-these-tests"
SIZES = {"desk": (1280, 900), "phone": (360, 740)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A viewer of runs with undecided and doubtful steps, hostile ones among them."""
    path = tmp_path_factory.mktemp("settling") / "runs.db"
    make_database(path)
    voting = mdap.VotingSettings(max_samples=8)
    for seed, run_id in enumerate(("tower", "spire")):
        with suppress(mdap.UndecidedError):
            options = {"error_rate": 0.45, "seed": seed}
            mdap.solve_sync(Hanoi(disks=4), db=path, run_id=run_id, options=options, voting=voting)
    with serving(path, (ECHO,), TOKEN) as running:
        yield running


def person(browser: Browser, site: Site, colours: Any = "light", size: str = "desk") -> Page:
    """A browser of its own that has opened the printed address."""
    width, height = SIZES[size]
    context = browser.new_context(color_scheme=colours, viewport={"width": width, "height": height})
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto(f"{site.url}/?token={site.token}")
    assert page.url == f"{site.url}/"
    return page


def check(page: Page) -> None:
    """Everybody can use the page, and nobody has to scroll sideways."""
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == [], page.url
    assert page.viewport_size is not None
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], page.url


def claim(page: Page, name: str) -> None:
    page.get_by_label("Your name, for the record").fill(name)
    page.get_by_role("button", name="Claim this step").click()
    page.get_by_text(f"{name}, the step is yours until").wait_for()


def settle(page: Page, choice: str, reason: str, verb: str = "Settle") -> None:
    page.get_by_role("radio", name=choice).check()
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name=re.compile(f"{verb} step")).click()
    page.get_by_text("Settled by").wait_for()


def rows(site: Site, sql: str) -> list[Any]:
    with closing(sqlite3.connect(site.path)) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line in an empty folder."""
    cli = Cli(tmp_path)
    yield cli
    cli.stop()


@pytest.mark.parametrize(("colours", "size"), [("dark", "phone"), ("light", "desk")])
@pytest.mark.slow
def test_everybody_can_use_the_pages(browser: Browser, site: Site, colours: str, size: str) -> None:
    """The queue, a step before and after it is claimed, one with hostile texts, and one that somebody has."""
    page, other = person(browser, site, colours, size), person(browser, site, colours, size)
    page.goto(f"{site.url}/waiting")
    check(page)
    [[run]] = rows(site, f"SELECT id FROM runs WHERE run_id = '{HOSTILE_ID}'")
    for step in (0, 2):
        page.goto(f"{site.url}/runs/{run}/steps/{step}/settle")
        check(page)
        claim(page, "Ada")
        check(page)
        other.goto(f"{site.url}/runs/{run}/steps/{step}/settle")
        assert other.get_by_text("Ada has this step").is_visible()
        check(other)
        page.get_by_role("button", name="Give it back").click()
        page.get_by_role("button", name="Claim this step").wait_for()


@pytest.mark.slow
def test_two_people_settle_three_steps(browser: Browser, site: Site) -> None:
    """Each takes one of the queue; a decided one is overridden; each is on record, with what to resume."""
    ada, bob = person(browser, site), person(browser, site, "dark", "phone")
    for page in (ada, bob):
        page.goto(f"{site.url}/waiting")
    ada.get_by_role("heading", name="of tower").get_by_role("link").click()
    claim(ada, "Ada")
    bob.reload()
    assert bob.get_by_text("Ada has it until").is_visible()
    bob.get_by_role("heading", name="of spire").get_by_role("link").click()
    claim(bob, "Bob")
    settle(ada, "Candidate A", "the rules say so")
    check(ada)
    settle(bob, "Candidate B", "the other one breaks them")
    check(bob)
    assert bob.get_by_text("mdap resume spire --db").is_visible()
    bob.goto(f"{site.url}/runs/1/steps/0")
    bob.get_by_role("link", name="Settle this step").click()
    assert bob.get_by_label("Your name, for the record").input_value() == "Bob"
    claim(bob, "Bob")
    bob.get_by_role("radio", name="Another answer").check()
    bob.get_by_label("Another answer, as JSON").last.fill("nonsense")
    bob.get_by_label("Reason").fill("to see")
    bob.get_by_role("button", name="Override step 0").click()
    assert "is no answer to this step" in bob.get_by_role("alert").inner_text()
    check(bob)
    [[right]] = rows(site, "SELECT winner FROM decisions WHERE run = 1 AND step = 0")
    bob.get_by_label("Another answer, as JSON").last.fill(right)
    bob.get_by_role("button", name="Override step 0").click()
    bob.get_by_text("mdap resume plain-override-1 --db").wait_for()
    check(bob)
    people = "SELECT r.run_id, author, d.reason FROM decisions d JOIN runs r ON r.id = run"
    assert rows(site, f"{people} WHERE author IN ('Ada', 'Bob') ORDER BY author, run") == [
        ("tower", "Ada", "the rules say so"),
        ("spire", "Bob", "the other one breaks them"),
        ("plain-override-1", "Bob", "to see"),
    ]


@pytest.mark.slow
def test_a_run_that_waits_goes_on_from_the_page(browser: Browser, cli: Cli) -> None:
    """By itself, while the page is open."""
    waits = "-M error_rate=0.5 -M seed=2 --max-samples 5 --wait-for-person 500 --run-id tower --display none"
    process = cli.start(f"run hanoi -p disks=1 {waits}")
    assert process.stderr is not None
    assert b"waits 500 seconds for a person" in process.stderr.readline()
    with serving(cli.folder / "mdap.db", (), TOKEN) as site:
        page = person(browser, site)
        page.goto(f"{site.url}/waiting")
        assert page.locator(".pill-waiting").inner_text() == "waiting"
        page.get_by_role("link", name="Step 0").click()
        claim(page, "Ada")
        page.get_by_role("radio", name="Another answer").check()
        page.get_by_label("Another answer, as JSON").last.fill('{"move":[1,0,2],"next_state":[[],[],[1]]}')
        page.get_by_label("Reason").fill("one disk, one move")
        page.get_by_role("button", name="Settle step 0").click()
        page.get_by_text("Settled by Ada").wait_for()
        assert cli.end(process).code == 0
        page.reload()
        assert page.get_by_text("has gone on from there").is_visible()
        assert page.get_by_text("mdap resume").count() == 0


@pytest.mark.slow
def test_no_other_page_can_settle_a_step(browser: Browser, site: Site) -> None:
    """A form that another server's page sends, from the same browser, is refused; so is the cookie alone."""
    ada = person(browser, site)
    with serving(site.path) as foreign:
        ada.goto(f"{foreign.url}/")
        ada.evaluate(
            """target => {
                const form = Object.assign(document.createElement("form"), {method: "post", action: target});
                for (const name of ["do", "author", "form"])
                    form.append(Object.assign(document.createElement("input"), {name, value: "claim"}));
                document.body.append(form);
            }""",
            f"{site.url}/runs/1/steps/1/settle",
        )
        # Its own policy lets it send forms nowhere else; without that, the server refuses.
        before = rows(site, "SELECT count(*) FROM rulings")
        with suppress(Error):
            ada.evaluate("document.forms[document.forms.length - 1].submit()")
        sent = ada.context.request.post(
            f"{site.url}/runs/1/steps/1/settle",
            form={"do": "claim", "author": "x"},
            headers={"Origin": foreign.url},
        )
        assert sent.status == 403
    assert rows(site, "SELECT count(*) FROM rulings") == before
    stranger = browser.new_context().new_page()
    answer = stranger.goto(f"{site.url}/waiting")
    assert answer is not None
    assert answer.status == 401


@pytest.mark.slow
def test_a_link_that_somebody_sent_opens_the_pages(browser: Browser, site: Site) -> None:
    """Also from a page of another site, as of a chat; the address then shows no token any more."""
    page = browser.new_context().new_page()
    with serving(site.path) as chat:
        page.goto(f"http://localhost:{chat.port}/")
        page.evaluate("there => { location.href = there; }", f"{site.url}/waiting?token={site.token}")
        page.get_by_role("heading", name="Waiting for you").wait_for()
    assert page.url == f"{site.url}/waiting"
