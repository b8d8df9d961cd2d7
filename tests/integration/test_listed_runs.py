"""The list of runs: sorted and filtered by the server, so that it works without scripts."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import mdap
from mdap_hanoi import Hanoi
from tests.helpers import Walk
from tests.viewing import Site, serving

PRICES = {"sim": mdap.Price(input=1.0, output=2.0)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of different tasks, margins, lengths and outcomes; the third has no price."""
    path = tmp_path_factory.mktemp("listed") / "a.db"
    for number, disks in enumerate((3, 6, 4, 5)):
        prices = None if number == 2 else PRICES
        mdap.solve_sync(Hanoi(disks=disks), k=number + 1, db=path, run_id=f"h{number}", prices=prices)
    wrong = {"error_rate": 0.45, "seed": 1}
    mdap.solve_sync(Hanoi(disks=5), k=1, db=path, run_id="wrong", options=wrong, prices=PRICES)
    mdap.solve_sync(Walk(steps=4), k=2, db=path, run_id="walk", prices=PRICES)
    return path


@pytest.fixture(scope="module")
def site(path: Path) -> Iterator[Site]:
    with serving(path) as running:
        yield running


def listed(site: Site, query: str = "") -> list[str]:
    return re.findall(r'<th scope="row"><a href="/runs/\d+">([^<]+)', site.page(f"/{query}"))


@pytest.mark.parametrize(
    ("query", "runs"),
    [
        ("", ["walk", "wrong", "h3", "h2", "h1", "h0"]),
        ("?sort=begun", ["h0", "h1", "h2", "h3", "wrong", "walk"]),
        ("?sort=-steps", ["h1", "wrong", "h3", "h2", "h0", "walk"]),
        ("?sort=k", ["wrong", "h0", "walk", "h1", "h2", "h3"]),
        ("?sort=run", ["h0", "h1", "h2", "h3", "walk", "wrong"]),
        ("?outcome=not+solved", ["wrong"]),
        ("?outcome=solved&sort=run", ["h0", "h1", "h2", "h3"]),
        ("?task=HAN&k=1", ["wrong", "h0"]),
        ("?model=sim&task=walk", ["walk"]),
        ("?model=gpt", []),
    ],
)
def test_runs_are_sorted_and_filtered(site: Site, query: str, runs: list[str]) -> None:
    """Of equal runs the newest comes first, and a filter finds a part of a name, in any letters."""
    assert listed(site, query) == runs


def test_what_is_unknown_comes_last(site: Site, path: Path) -> None:
    """Dearest first, or cheapest first: a run without a price is neither; the sums are those of the log."""
    down, up = listed(site, "?sort=-cost"), listed(site, "?sort=cost")
    assert down[-1] == up[-1] == "h2"
    assert down[:-1] == up[-2::-1]
    with closing(sqlite3.connect(path)) as log:
        sql = """SELECT r.run_id FROM runs r JOIN samples s ON s.run = r.id WHERE run_id <> 'h2'
            GROUP BY r.id ORDER BY sum(s.input_tokens + 2 * s.output_tokens) DESC"""
        assert down[:-1] == [name for (name,) in log.execute(sql)]


def test_heads_say_how_the_list_is_sorted(site: Site) -> None:
    """A head sorts by its column, and then the other way round, within the same filter."""
    page = site.page("/?task=hanoi&sort=-cost")
    assert re.findall(r'aria-sort="(\w+)"><a class="sort" href="([^"]+)">(\w+)', page) == [
        ("descending", "/?task=hanoi&amp;sort=cost", "Cost")
    ]
    assert 'href="/?task=hanoi&amp;sort=k">k</a>' in page


@pytest.mark.parametrize("query", ["?sort=nothing", "?page=0", "?page=x", "?page=" + 30 * "9"])
def test_a_wrong_query_gets_a_sentence(site: Site, query: str) -> None:
    """And no error of ours."""
    answer = site.ask(f"/{query}")
    assert answer.status == 400
    assert "must be" in answer.text


def test_a_run_that_is_new_is_listed_at_once(tmp_path: Path) -> None:
    """The list is kept in memory; what happens meanwhile is taken in."""
    path = tmp_path / "a.db"
    mdap.solve_sync(Hanoi(disks=2), db=path, run_id="first")
    with serving(path) as site:
        assert listed(site) == ["first"]
        budget = mdap.Budget(tokens=3000)
        with pytest.raises(mdap.StoppedError):
            mdap.solve_sync(Hanoi(disks=5), db=path, run_id="second", budget=budget)
        assert listed(site, "?outcome=stopped") == ["second"]
        mdap.solve_sync(Hanoi(disks=5), db=path, run_id="second")
        assert listed(site, "?outcome=solved") == ["second", "first"]
        assert listed(site, "?outcome=stopped") == []


def test_filters_are_shown_as_text(site: Site) -> None:
    """What somebody else's link asks for does nothing."""
    page = site.page("/?task=%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in page
