"""Samples in jobs of batch APIs: the same decisions at half the price, whatever trouble the jobs meet."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit import verify
from mdap.audit.statistics import statistics
from mdap.journal.reader import open_log
from mdap.plugins import make_task
from mdap.testing import BatchFaults, FaultyServer
from mdap.viewer.about import about
from mdap_hanoi import Hanoi
from tests.batching import (
    QUICK,
    VENDORS,
    WHOLE,
    Digit,
    answer,
    check_paid_once,
    environment,
    query,
    session,
    solve,
)

DOCS = 16


@pytest.fixture(params=VENDORS)
def vendor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reach(server: FaultyServer, patch: pytest.MonkeyPatch) -> None:
    for name, value in environment(server).items():
        patch.setenv(name, value)


def check_right(solutions: list[mdap.Solution[Any]]) -> None:
    """Check that every document got its own digit."""
    assert [(one.status, one.reason) for one in solutions if one.status != "finished"] == []
    assert [one.result for one in solutions] == [doc % 10 for doc in range(len(solutions))]


@pytest.mark.slow
async def test_waves_decide_as_ordinary_requests_do_and_cost_half(
    tmp_path: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first wave has k samples of every document, the next ones what disagreement asks for."""
    prices = {f"{vendor}/m": mdap.Price(input=100, output=100)}
    found = {}
    for lane in ("requests", "batch"):
        drawn: Counter[tuple[Any, ...]] = Counter()

        def same(body: dict[str, Any], rng: Any, drawn: Counter[tuple[Any, ...]] = drawn) -> str:
            place = (str(body["messages"]), body["temperature"])
            drawn[place] += 1
            return answer({**body, "seed": f"{place}{drawn[place]}"}, rng)

        async with FaultyServer(same) as server:
            reach(server, monkeypatch)
            solutions = await solve(vendor, tmp_path / f"{lane}.db", DOCS, WHOLE, lane=lane, prices=prices)
        check_right(solutions)
        billed = sum(one.prompt_tokens + one.completion_tokens for one in server.log)
        tallies = query(tmp_path / f"{lane}.db", "SELECT winner, tally FROM decisions ORDER BY run")
        found[lane] = tallies, billed, sum(one.cost_usd or 0.0 for one in solutions), server

    ordinary, batch = found["requests"], found["batch"]
    assert batch[:2] == ordinary[:2]
    assert batch[2] == pytest.approx(batch[1] * 100e-6 / 2) == pytest.approx(ordinary[2] / 2)
    assert batch[3].counts() == {"batched": len(batch[3].log)}
    first, *rest = (len(job.rows) for job in batch[3].desk.jobs)
    assert first == 2 * DOCS
    assert 0 < sum(rest) < first / 2
    check_paid_once(batch[3], tmp_path / "batch.db")
    assert verify(tmp_path / "batch.db", "docs", make_task).ok
    # The audit's figures and the pages say what was charged, too.
    assert sum(statistics(tmp_path / "batch.db", "docs").costs.values()) == pytest.approx(batch[2])
    async with open_log(tmp_path / "batch.db") as reader:
        shown = await about(reader, 1)
    assert shown is not None
    assert shown.saved_in_batches == pytest.approx(batch[2])


# On a busy machine the first wave may leave with few rows, so several jobs have each trouble.
TROUBLES: dict[str, dict[str, Any]] = {
    "expired with part of the results": {"expired": 0.4, "jobs": 4},
    "expired without any result": {"expired": 1.0, "jobs": 1},
    "cancelled by the vendor": {"cancelled": 0.5, "jobs": 4},
    "rows that failed": {"failed": 0.3, "jobs": 4},
    "no output file": {"failed": 1.0, "jobs": 1},
    "rows in no file": {"missing": 0.3, "jobs": 4},
    "ids that nobody sent, or that come twice, in another order": {
        "unknown": 5,
        "doubled": 0.5,
        "shuffled": True,
    },
    "wrong counters": {"wrong_counters": True},
    "downloads that break off": {"cut": 2},
    "a creation whose response is lost": {"lost": 2},
    "a full queue": {"queued_tokens": 150},
    "a full queue that does not say how long it is": {"queued_tokens": 150, "says_limit": False},
    "a file that is too large": {"largest": 4_000},
}
# Anthropic has one file of results and no counters of ours, and its refusal never names a limit.
OPENAI_ONLY = (
    "expired without any result",
    "no output file",
    "wrong counters",
    "a full queue that does not say how long it is",
)
TROUBLED = [
    (vendor, trouble)
    for trouble in TROUBLES
    for vendor in (("openai",) if trouble in OPENAI_ONLY else VENDORS)
]


@pytest.mark.parametrize(("vendor", "trouble"), TROUBLED)
async def test_trouble_costs_attempts_and_nothing_else(
    tmp_path: Path, vendor: str, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of a job, each row that was answered votes once, and what failed is asked again."""
    faults = BatchFaults(**TROUBLES[trouble])
    async with FaultyServer(answer, batches=faults) as server:
        reach(server, monkeypatch)
        solutions = await solve(vendor, tmp_path / "mdap.db", DOCS)
    check_right(solutions)
    answered = sum(len(set(job.output)) for job in server.desk.jobs)
    strange = sum("nobody" in line for job in server.desk.jobs for line in job.output)
    assert sum(one.totals.samples for one in solutions) == answered - strange
    lost = sum(one.totals.failed_attempts for one in solutions)
    rows = sum(len(job.rows) for job in server.desk.jobs if job.state != "failed")
    assert lost == rows - (answered - strange)
    assert (lost > 0) == (trouble.split()[0] in ("expired", "cancelled", "rows", "no"))


@pytest.mark.slow
async def test_a_queue_without_room_for_one_row_stops_with_a_sentence(
    tmp_path: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is tried for ever."""
    async with FaultyServer(answer, batches=BatchFaults(queued_tokens=1)) as server:
        reach(server, monkeypatch)
        [one, *_] = await solve(vendor, tmp_path / "mdap.db", 3)
    assert one.status is mdap.RunStatus.STOPPED
    assert "queue" in str(one.reason)
    assert server.log == []


@pytest.mark.slow
async def test_detached_runs_stop_once_all_waits_and_resume_with_what_came(
    tmp_path: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session collects a wave and submits the next; none pays for anything twice."""
    detach = WHOLE.model_copy(update={"detach": True})
    async with FaultyServer(answer, batches=BatchFaults(polls=40)) as server:
        reach(server, monkeypatch)
        stopped = await solve(vendor, tmp_path / "mdap.db", 6, detach)
        assert {(one.status, one.stop_cause) for one in stopped} == {("stopped", "batch")}
        assert "12 samples wait in a batch job" in str(stopped[0].reason)
        assert len(server.desk.jobs) == 1
        async with session(vendor, tmp_path / "mdap.db", lane="requests") as plain:
            with pytest.raises(mdap.UsageError, match="resume it with --lane batch"):
                await plain.run(Digit(doc=0), k=2, run_id="docs/0")
        check_right(await solve(vendor, tmp_path / "mdap.db", 6))
    check_paid_once(server, tmp_path / "mdap.db")


async def test_after_max_wait_the_job_is_cancelled_and_the_rest_goes_as_ordinary_requests(
    tmp_path: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the job had answered by then counts."""
    late = QUICK.model_copy(update={"max_wait": 0.01})
    async with FaultyServer(answer, batches=BatchFaults(polls=1_000_000)) as server:
        reach(server, monkeypatch)
        check_right(await solve(vendor, tmp_path / "mdap.db", 6, late))
    assert [job.state for job in server.desk.jobs] == ["cancelled"]
    assert server.counts()["batched"] == 6
    assert server.counts()["ok"] >= 6


@pytest.mark.slow
async def test_after_max_waves_a_step_is_decided_by_ordinary_requests(
    tmp_path: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contested step does not take a day for every few samples."""
    async with FaultyServer(answer) as server:
        reach(server, monkeypatch)
        once = WHOLE.model_copy(update={"max_waves": 1})
        check_right(await solve(vendor, tmp_path / "mdap.db", DOCS, once))
    assert [len(job.rows) for job in server.desk.jobs] == [2 * DOCS]
    assert 0 < server.counts()["ok"] < DOCS


async def test_a_chain_is_refused_unless_it_guesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wave for each step would take weeks; with guesses all steps are in one."""
    async with FaultyServer(answer) as server:
        reach(server, monkeypatch)
        async with session("openai", tmp_path / "mdap.db") as opened:
            with pytest.raises(
                mdap.UsageError, match=r"31 steps needs at least 31 waves.* 31 x 24 h = 31 days"
            ):
                await opened.run(Hanoi(disks=5))
            with pytest.raises(mdap.UsageError, match="hedge"):
                await opened.run(Hanoi(disks=2), voting=mdap.VotingSettings(hedge=1))
        assert server.desk.jobs == []


async def test_models_without_a_batch_api_are_refused(tmp_path: Path) -> None:
    """It is said before anything is begun."""
    with pytest.raises(mdap.UsageError, match="sim has not"):
        async with mdap.Session("sim", db=tmp_path / "mdap.db", lane="batch"):
            pass
