"""A report: one file that needs nothing else, whatever is in the log."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli
from tests.viewing import HOSTILE_ID, SCRIPT, make_database

VOID = ("meta", "path", "rect", "br")
"""What has no end of its own, or ends itself."""

RUNS = ("plain", "hard", HOSTILE_ID, "pair", "poor")


class Strict(HTMLParser):
    """What a report is made of; it refuses what reaches out or runs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "b"), (
            tag
        )
        assert not [name for name in given if name.startswith("on") or name in ("src", "href", "style")], (
            given
        )
        if "id" in given:
            self.ids.append(str(given["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The report of each run, made by the command."""
    cli = Cli(tmp_path_factory.mktemp("report"))
    make_database(cli.folder / "mdap.db")
    made = {}
    for number, run in enumerate(RUNS):
        ended = cli.here(f"audit report '{run}' -o {number}.html")
        assert (ended.code, ended.err) == (0, "")
        made[run] = (cli.folder / f"{number}.html").read_text(encoding="utf-8")
    return made


@pytest.mark.parametrize("run", RUNS)
def test_a_report_needs_and_runs_nothing(reports: dict[str, str], run: str) -> None:
    """Well-formed HTML without a script, a link or a file from elsewhere, also by its own policy."""
    page = reports[run]
    ids = Strict(page).ids
    assert len(ids) == len(set(ids))
    assert "default-src 'none'; style-src 'unsafe-inline'" in html.unescape(page)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", page)
    assert len(page) < 200_000


def test_hostile_names_and_reasons_are_text(reports: dict[str, str]) -> None:
    """Run, model, flag and answer are shown as they are, and do nothing."""
    page = reports[HOSTILE_ID]
    seen = html.unescape(page)
    for text in (HOSTILE_ID, "<model>", "<b onclick=alert(2)>bold</b>"):
        assert text in seen
        assert text not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert f"I checked {SCRIPT}" in html.unescape(reports["hard"])


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ("plain", "Every step was decided by a lead of 3 votes among independent samples."),
        ("plain", "of 63 expected"),
        ("hard", "Undecided."),
        ("hard", "Steps settled by a person: 1;"),
        ("poor", "Stopped."),
        ("pair", "pair/part"),
    ],
)
def test_a_report_says_how_the_run_stands(reports: dict[str, str], run: str, sentence: str) -> None:
    """Finished or not, settled or voted, alone or of parts."""
    assert sentence in html.unescape(reports[run])


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    """One line for people, one object for programs, and one sentence where it cannot."""
    cli = Cli(tmp_path)
    assert cli.here("run hanoi -p disks=3 --run-id tower --display none").code == 0
    said = cli.here("audit report tower -o a.html")
    assert said.out == "a.html holds the report of tower: open it in a browser, or print it\n"
    told = cli.here("audit report latest -o b.html --json")
    size = (cli.folder / "b.html").stat().st_size
    assert json.loads(told.out) == {"run_id": "tower", "report": "b.html", "bytes": size}
    refused = cli.here("audit report tower -o nowhere/a.html")
    assert refused.code == 2
    assert refused.sentence == (
        "nowhere/a.html cannot be written (No such file or directory): name another file with -o"
    )
    assert "there is no run 'tour'" in cli.here("audit report tour -o c.html").err
    assert not Path(cli.folder / "c.html").exists()
