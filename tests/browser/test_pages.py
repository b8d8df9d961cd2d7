"""The pages in a real browser: what it runs, what it refuses, and whether everybody can use them.

Skipped where no Chromium is installed; the extra ``mdap[browser]`` has all else that these tests need.
"""

import itertools
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the extra mdap[browser] is not installed")
pytest.importorskip("axe_playwright_python", reason="the extra mdap[browser] is not installed")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page, Request, Route

from mdap.testing import Faults, FaultyServer
from tests.acceptance.player import play
from tests.acceptance.processes import Cli
from tests.viewing import ECHO, HOSTILE_ID, Site, make_database, serving

PAGES = (
    "/",
    "/runs/1",
    "/runs/2",
    "/runs/3",
    "/runs/4",
    "/runs/6",
    "/runs/1/steps?show=divided",
    "/runs/6/steps?show=undecided",
    "/runs/2/steps?show=overridden",
    "/runs/3/steps/0",
    "/runs/3/steps/3",
    "/runs/2/steps/0",
    "/runs/3/search?q=document",
    "/runs/2/events",
    "/?sort=-cost&outcome=solved",
    "/runs/1/timeline",
    "/runs/1/tree?step=5",
    "/runs/4/tree",
    "/compare?a=1&b=2",
    "/compare?a=1",
    "/nothing",
)
WIDE = """[...document.querySelectorAll('main .scroll, main .timeline, main .facts')]
    .filter(one => one.checkVisibility() && one.scrollWidth > one.clientWidth + 1)
    .map(one => one.ariaLabel)"""
"""What has to be scrolled sideways."""
SIZES = {"desk": (1280, 900), "phone": (360, 740)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A viewer of runs of all kinds."""
    path = tmp_path_factory.mktemp("browser") / "runs.db"
    make_database(path)
    with serving(path, (ECHO,)) as running:
        yield running


def watched(
    browser: Browser, colours: str = "light", size: str = "desk", scripts: bool = True
) -> tuple[Page, list[str]]:
    """Return a page, and what it complains of: errors, refused scripts, dialogs, requests elsewhere."""
    width, height = SIZES[size]
    context = browser.new_context(
        color_scheme="dark" if colours == "dark" else "light",
        viewport={"width": width, "height": height},
        java_script_enabled=scripts,
    )
    context.set_default_timeout(120_000)
    page = context.new_page()
    said: list[str] = []

    def dismissed(dialog: Dialog) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    def sent(request: Request) -> None:
        if "//127.0.0.1:" not in request.url:
            said.append(request.url)

    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", dismissed)
    page.on("request", sent)
    return page, said


@pytest.mark.slow
@pytest.mark.parametrize(("colours", "size"), [("dark", "phone"), ("light", "desk")])
def test_everybody_can_use_the_pages(browser: Browser, site: Site, colours: str, size: str) -> None:
    """axe-core finds nothing at all, in both colours and on both widths, and no page is too wide."""
    page, said = watched(browser, colours, size)
    for path in PAGES:
        page.goto(site.url + path)
        found = Axe().run(page).response["violations"]
        assert [(rule["id"], rule["impact"], rule["nodes"][0]["html"]) for rule in found] == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], path
        if size == "phone":
            assert page.evaluate(WIDE) == [], path
    assert [one for one in said if "404" not in one] == []


@pytest.mark.slow
def test_a_report_can_be_used_by_everybody(browser: Browser, site: Site, tmp_path: Path) -> None:
    """The same for a report, opened as a file."""
    cli = Cli(tmp_path)
    for run, colours in (("hard", "light"), (HOSTILE_ID, "dark")):
        assert cli(f"audit report '{run}' -o report.html --db '{site.path}'").code == 0
        page, said = watched(browser, colours)
        page.goto((tmp_path / "report.html").as_uri())
        assert [rule["id"] for rule in Axe().run(page).response["violations"]] == []
        assert said == [(tmp_path / "report.html").as_uri()]


@pytest.mark.slow
def test_hostile_texts_do_nothing(browser: Browser, site: Site) -> None:
    """No script of a reply, a reason, a name or a query runs, and none has to be refused."""
    page, said = watched(browser)
    hostile = [f"/runs/3/steps/{step}" for step in range(8)]
    for path in ("/", "/runs/3", "/runs/2/steps/0", *hostile, "/runs/1/search?q=<script>alert(1)</script>"):
        page.goto(site.url + path)
        page.wait_for_load_state()
        assert "owned" not in page.title()
    assert said == []


@pytest.mark.slow
def test_all_can_be_read_without_scripts(browser: Browser, site: Site) -> None:
    """Whoever forbids scripts still sees the numbers, the plots and the samples, and can filter."""
    page, said = watched(browser, scripts=False)
    page.goto(f"{site.url}/runs/1")
    assert page.locator("svg.plot").count() == 5
    page.get_by_role("link", name="Steps", exact=True).click()
    page.get_by_role("link", name="Divided").click()
    page.locator("table a").first.click()
    assert page.get_by_role("heading", name="Decided").is_visible()
    assert page.locator("details.sample[open] pre").first.is_visible()
    assert said == []


@pytest.mark.slow
def test_runs_are_sorted_filtered_and_compared_without_scripts(browser: Browser, site: Site) -> None:
    """A head sorts, a form filters, a tab leads to the runs to compare with."""
    page, said = watched(browser, scripts=False)
    page.goto(site.url)
    page.get_by_role("link", name="Steps", exact=True).click()
    assert page.locator("tbody th a").first.inner_text() == "plain"
    page.locator("select[name=outcome]").select_option("stopped")
    page.get_by_role("button", name="Show").click()
    assert page.locator("tbody th a").all_inner_texts() == ["poor"]
    page.goto(f"{site.url}/runs/1")
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("link", name="poor").click()
    assert page.get_by_role("heading", name="Two runs side by side").is_visible()
    assert said == []


@pytest.mark.slow
def test_the_pages_can_be_used_by_keyboard(browser: Browser, site: Site) -> None:
    """The first key leads past the head, and each stop on the way is seen."""
    page, _ = watched(browser)
    page.goto(f"{site.url}/runs/1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Runs"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.slow
def test_the_page_of_a_running_run_moves(browser: Browser, tmp_path: Path) -> None:
    """Numbers change without a reload, can be held, and at its end the run is shown as finished."""
    cli = Cli(tmp_path)
    opened, held = threading.Event(), threading.Event()
    asked = itertools.count()

    def answer(body: dict[str, Any], rng: random.Random) -> str:
        # However slow the browser is, it sees the run at its beginning, and buttons before its end.
        gate = {100: opened, 300: held}.get(next(asked))
        if gate is not None:
            gate.wait(120)
        return play(body, rng)

    page, said = watched(browser)
    with FaultyServer.in_thread(answer, faults=Faults(latency=0.03)) as model:
        run = "run hanoi -p disks=7 -k 4 --model openai/m -M seed=1 --no-probe --speculate off"
        writer = cli.start(f"{run} --display plain", env={"OPENAI_BASE_URL": model.base_url})
        assert writer.stderr is not None
        writer.stderr.readline()  # the run has begun
        watch_it_end(page, tmp_path / "mdap.db", opened, held)
        assert cli.end(writer).code == 0
    assert said == []


def watch_it_end(page: Page, db: Path, opened: threading.Event, held: threading.Event) -> None:
    with serving(db) as running:
        page.goto(f"{running.url}/runs/1")
        page.evaluate("window.loaded = 'once'")
        before = page.locator("#live-state").get_attribute("data-decided")
        opened.set()
        page.locator(f"#live-state:not([data-decided='{before}'])").wait_for(state="attached")
        assert page.evaluate("window.loaded") == "once"
        page.get_by_role("button", name="Pause updates").click()
        assert page.get_by_role("button", name="Pause updates").get_attribute("aria-pressed") == "true"
        page.get_by_role("button", name="Pause updates").click()
        page.route("**/live", still_counting)
        held.set()
        page.locator(".pill-solved").wait_for(timeout=120_000)


def still_counting(route: Route) -> None:
    """Say what the page of a run that ended says, until all of it is counted."""
    response = route.fetch()
    said = response.text()
    if "data-running" not in said:
        said = said.replace('id="live-state"', 'id="live-state" data-wait="250"')
    route.fulfill(response=response, body=said)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only there can a claim be looked at")
def test_a_killed_run_is_told_from_a_running_one(browser: Browser, tmp_path: Path) -> None:
    """While its process lives the page says running, and killed as soon as it does not, by itself."""
    cli = Cli(tmp_path)
    writer = cli.start("run hanoi -p disks=20 -M latency=0.03 --speculate off --display plain")
    assert writer.stderr is not None
    writer.stderr.readline()  # the run has begun
    page, said = watched(browser)
    with serving(tmp_path / "mdap.db") as running:
        page.goto(f"{running.url}/runs/1")
        assert page.locator(".headline .pill").inner_text() == "running"
        writer.kill()
        cli.end(writer)
        page.locator(".pill-killed").wait_for(timeout=120_000)
        assert page.get_by_role("button").count() == 0
    assert said == []
