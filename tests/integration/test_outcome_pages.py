"""The pages and the report show how a run came out: green is solved, never just finished."""

import re
from pathlib import Path

import anyio
import pytest

import mdap
from mdap.cli.main import main
from mdap.viewer.templating import static
from mdap_hanoi import Hanoi
from tests.helpers import Walk
from tests.viewing import serving

STATES = ["solved", "not solved", "doubtful", "finished"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs 1 to 4, one of each state, and a batch of two that are not equally good."""
    path = tmp_path_factory.mktemp("log") / "a.db"
    options = {"error_rate": 0.25, "seed": 1}
    mdap.solve_sync(Hanoi(disks=5), k=4, db=path, run_id="r0", options=options)
    mdap.solve_sync(Hanoi(disks=5), k=1, db=path, run_id="r1", options=options)
    mdap.solve_sync(Walk(steps=300), k=2, db=path, run_id="r2", options={"error_rate": 0.2, "seed": 1})
    mdap.solve_sync(Walk(steps=20), k=5, db=path, run_id="r3", options={"error_rate": 0.01})
    anyio.run(batch, path)
    return path


async def batch(path: Path) -> None:
    async with mdap.Session(db=path, options={"error_rate": 0.3, "seed": 1}) as session:
        async for _ in session.solve_all([Hanoi(disks=1), Hanoi(disks=7)], k=1, run_id="batch"):
            pass


def pills(page: str) -> list[tuple[str, str]]:
    return re.findall(r'<span class="pill pill-([\w-]+)">([^<]+)</span>', page)


@pytest.mark.slow
def test_the_list_and_each_run_show_the_outcome(path: Path) -> None:
    """A doubtful run is told from a finished one once its votes are counted."""
    with serving(path) as site:
        listed = [(state.replace(" ", "-"), state) for state in ["not solved", *reversed(STATES)]]
        pages = (site.page("/") for _ in range(20))  # each counts on a little
        assert pills(next(page for page in pages if "not counted yet" not in page)) == listed
        for number, state in enumerate(STATES, start=1):
            assert pills(site.page(f"/runs/{number}"))[0][1] == state


def test_a_batch_counts_its_parts_by_outcome(path: Path) -> None:
    """Beside the pill of each."""
    with serving(path) as site:
        page = site.page("/runs/5")
    assert [name for _, name in pills(page)] == ["not solved", "not solved", "solved"]
    assert "1 solved, 1 not solved." in page or "1 not solved, 1 solved." in page


def test_only_solved_is_green() -> None:
    """The style gives no other outcome or status of a run the colour of what is good."""
    style = static("style.css").decode()
    [good] = re.findall(r"^([^{\n]*) \{ background: var\(--good-soft\)", style, flags=re.MULTILINE)
    assert set(good.split(", ")) == {".pill-solved", ".pill-unanimous"}


@pytest.mark.parametrize("number", range(4))
def test_the_report_shows_it(
    path: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With numbers that agree: what P(no errors) leaves, and how many errors there are then."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["audit", "report", f"r{number}", "--db", str(path), "-o", "r.html"])
    assert ended.value.code == 0
    page = (tmp_path / "r.html").read_text()
    assert pills(page)[0][1] == STATES[number]
    assert (" of such runs have any, " in page) == (number != 1)
