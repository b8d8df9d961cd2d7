"""What a run adds up to, counted in pieces, against a count of the whole log by hand."""

import itertools
import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

import mdap
from mdap.journal.reader import open_log
from mdap.viewer import summary as counting
from mdap.viewer.about import about, verdicts
from mdap.viewer.counting import Count
from mdap.viewer.figures import figures
from mdap.viewer.summary import Summary
from mdap_hanoi import Hanoi

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 127 steps with errors, flags, void samples and latencies."""
    path = tmp_path_factory.mktemp("summary") / "a.db"
    options = {"error_rate": 0.2, "flag_rate": 0.1, "latency": 0.003, "seed": 3}
    mdap.solve_sync(Hanoi(disks=7), db=path, options=options, speculate="vote")
    return path


async def summed(path: Path, *ends: int) -> Summary:
    """Count run 1 up to each end in turn."""
    summary = Summary(1)
    async with open_log(path) as reader:
        for end in ends:
            assert await summary.count(reader, end)
    return summary


@pytest.mark.slow
async def test_a_count_is_what_the_rows_say(database: Path) -> None:
    """Every number of the summary, from the rows themselves."""
    summary = await summed(database, 127)
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT tally, votes, margin FROM decisions").fetchall()
        verdicts = Counter(verdict for (verdict,) in connection.execute("SELECT verdict FROM samples"))
        flags = Counter(
            reason
            for (reason,) in connection.execute("SELECT flag_reason FROM samples WHERE verdict = 'flag'")
        )
        tokens = connection.execute("SELECT sum(input_tokens), sum(output_tokens) FROM samples").fetchone()
    races = Counter((sum(json.loads(tally).values()), votes, margin) for tally, votes, margin in rows)
    assert verdicts["void"] > 0
    assert (summary.races, summary.verdicts, summary.flags) == (races, verdicts, flags)
    assert summary.votes == sum(total * count for (total, *_), count in races.items())
    assert summary.against == sum((total - votes) * count for (total, votes, _), count in races.items())
    assert summary.divided == sum(count for (total, votes, _), count in races.items() if total > votes)
    (use,) = summary.models.values()
    assert (use.input_tokens, use.output_tokens, use.samples) == (*tokens, verdicts.total())
    assert summary.latencies.total() == verdicts.total()


async def test_counting_in_pieces_changes_nothing(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a count is cut, and however often its bins are put together, the sums are the same."""
    whole = await summed(database, 127)
    monkeypatch.setattr(counting, "_BINS", 16)
    for ends in [(127,), (1, 127), (3, 4, 99, 100, 127), (*range(1, 127, 7), 127)]:
        cut = await summed(database, *ends)
        assert len(cut.bins) <= 16
        assert (cut.races, cut.verdicts, cut.flags, cut.latencies) == (
            whole.races,
            whole.verdicts,
            whole.flags,
            whole.latencies,
        )
        assert sum(part.decisions for part in cut.bins) == 127
        assert sum(part.against for part in cut.bins) == whole.against
        assert cut.doubts == whole.doubts
        assert cut.width * len(cut.bins) >= 127 > cut.width * (len(cut.bins) - 1)


async def test_the_doubtful_are_those_with_the_strongest_rivals(database: Path) -> None:
    """The first of them are the ones that a sort of all decisions would put first."""
    summary = await summed(database, 127)
    with closing(sqlite3.connect(database)) as connection:
        expected = connection.execute(
            "SELECT step, votes - margin FROM decisions WHERE votes > margin ORDER BY 2 DESC, place LIMIT 12"
        ).fetchall()
    assert [(doubt.step, doubt.rival) for doubt in summary.doubts] == expected


async def test_the_chance_and_the_plots_are_those_of_the_whole_run(database: Path) -> None:
    """The overview agrees with the solution, and every plot has its numbers."""
    async with open_log(database) as reader:
        run = await about(reader, 1)
        assert run is not None
        summary = await summed(database, run.end)
    sure = verdicts(run, summary)
    assert sure.output_tokens == sum(use.output_tokens for use in summary.models.values())
    assert sure.p_zero_errors is not None
    found = {figure.title: figure for figure in figures(summary, run.k, run.prices)}
    assert list(found) == [
        "Convergence",
        "Votes per step",
        "Disagreement along the run",
        "Tokens along the run",
        "Latency",
        "Red flags by reason",
    ]
    votes = {int(row[0]): int(row[1].replace(",", "")) for row in found["Votes per step"].rows}
    assert votes == dict(summary.lengths())


async def test_a_run_without_rows_has_no_plots() -> None:
    """Nothing is divided by nothing."""
    assert figures(Summary(1), 3, {}) == []


async def test_a_batch_is_the_sum_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its counting is cut, a batch has the numbers of all its cases, each once."""
    path = tmp_path / "b.db"
    async with mdap.Session(db=path, options={"error_rate": 0.2, "seed": 1}) as session:
        tasks = [Hanoi(disks=2 + number % 4) for number in range(12)]
        assert [one.status async for one in session.solve_all(tasks, run_id="batch")] == ["finished"] * 12
    async with open_log(path) as reader:
        run = await about(reader, 1)
        assert run is not None
        whole, cut = Count(run), Count(run)
        await whole.go_on(reader, run)
        looks = 0
        monkeypatch.setattr("mdap.viewer.counting.SHORT", 10)  # so that some parts are long
        monkeypatch.setattr("mdap.viewer.counting._PARTS", 5)
        ticks = itertools.count()
        monkeypatch.setattr("mdap.viewer.counting.monotonic", lambda: next(ticks))
        while not cut.whole:
            await cut.go_on(reader, run, seconds=3)
            looks += 1
        totals = await reader.totals(run.number)
    assert looks > 1
    for count in (whole, cut):
        summary = count.summary
        assert count.parts == 12
        assert (summary.decisions, summary.verdicts["vote"]) == (totals.steps, totals.votes)
        assert sum(use.input_tokens for use in summary.models.values()) == totals.usage.input_tokens
    assert (whole.summary.races, whole.summary.doubts) == (cut.summary.races, cut.summary.doubts)
    titles = [figure.title for figure in figures(whole.summary, run.k, run.prices)]
    assert "Convergence" in titles
    assert "Disagreement along the run" not in titles
