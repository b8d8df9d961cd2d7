"""Every token that an endpoint bills is on record, also where its answer cannot be read."""

import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit.verifying import verify
from mdap.engine.budget_guard import BudgetGuard
from mdap.errors import TransientError, UnavailableError
from mdap.plugins import make_recorded
from mdap.records import Reply, SampleRequest
from mdap.testing import Canned, Faults, FaultyServer
from mdap_hanoi import Hanoi
from tests.acceptance.player import play
from tests.helpers import Walk

KINDS = (
    *("rate_limit_silent", "server_error", "overloaded", "reset", "truncated", "wrong_type", "empty_choices"),
    *("missing_usage", "content_filter", "drip", "unreadable"),
)
# What the server billed and told in an answer that arrived.
TOLD = ("ok", "drip", "content_filter", "unreadable")
SUMS = """
    SELECT (SELECT sum(input_tokens) FROM samples)
         + (SELECT coalesce(sum(data ->> 'input_tokens'), 0) FROM run_events),
           (SELECT sum(output_tokens) FROM samples)
         + (SELECT coalesce(sum(data ->> 'output_tokens'), 0) FROM run_events)
"""


def mixed(seed: int) -> Faults:
    """Some of all faults, together three answers of ten."""
    rng = random.Random(seed)
    kinds: list[str] = [*rng.sample(KINDS[:-1], rng.randint(1, len(KINDS) - 1)), "unreadable"]
    return Faults(drip_interval=0, **{kind: 0.3 / len(kinds) for kind in kinds})


def rows(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize(
    ("seed", "speculate", "hedge"),
    # The mix of seed 6 has all kinds of faults.
    [(6, "off", 0), (2, "vote", 0), (3, "off", 3), (4, "vote", 2)],
)
async def test_the_log_holds_what_the_server_billed(
    seed: int, speculate: str, hedge: int, tmp_path: Path
) -> None:
    """To the token, through a mix of faults; only what the server never told is missing."""
    db = tmp_path / "a.db"
    with FaultyServer.in_thread(play, faults=mixed(seed), seed=seed) as server:
        await mdap.solve(
            Hanoi(disks=3),
            model="openai/m",
            options={"base_url": server.base_url},
            db=db,
            budget=mdap.Budget(tokens=10**9),
            speculate=speculate,
            voting=mdap.VotingSettings(hedge=hedge),
            limits=mdap.Limits(probe=False),
        )
    told = [(one.prompt_tokens, one.completion_tokens) for one in server.log if one.outcome in TOLD]

    assert "unreadable" in server.counts()
    assert rows(db, SUMS) == [tuple(map(sum, zip(*told, strict=True)))]


def unreadable(body: dict[str, Any]) -> Canned:
    usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    return Canned(200, {**body, "usage": usage})


async def test_an_answer_that_cannot_be_read_is_a_failed_attempt_with_its_tokens(tmp_path: Path) -> None:
    """And it is the same each time: three are enough, besides those that have left by then."""
    db = tmp_path / "a.db"
    body = {"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}
    with (
        FaultyServer.in_thread(play, script=[unreadable(body)] * 200) as server,
        pytest.raises(mdap.StoppedError, match="No answer so far is one of the API"),
    ):
        await mdap.solve(
            Hanoi(disks=3),
            model="openai/m",
            options={"base_url": server.base_url},
            db=db,
            limits=mdap.Limits(probe=False, concurrency=1),
        )
    failed = rows(db, "SELECT data FROM run_events WHERE kind = 'attempt_failed'")

    assert 3 <= len(server.log) == len(failed) <= 6
    for (data,) in failed:
        assert json.loads(data).items() >= {"input_tokens": 50, "output_tokens": 10}.items()


@pytest.mark.slow
async def test_requests_that_fail_before_others_are_answered_do_not_make_the_address_wrong(
    tmp_path: Path,
) -> None:
    """Of requests that left at once, those that fail come back first."""
    body = {"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}
    faults = Faults(latency=0.2)
    with FaultyServer.in_thread(play, faults=faults, script=[unreadable(body)] * 4) as server:
        solution = await mdap.solve(
            Hanoi(disks=2),
            model="openai/m",
            options={"base_url": server.base_url},
            k=8,
            db=tmp_path / "a.db",
            limits=mdap.Limits(probe=False, concurrency=8),
        )
    assert solution.status is mdap.RunStatus.FINISHED
    assert solution.totals.failed_attempts == 4


async def test_the_budget_pays_for_what_cannot_be_read() -> None:
    """As it pays for replies."""
    budget_guard = BudgetGuard(mdap.Budget(tokens=1000), (None,))
    request = SampleRequest("", "2 + 2?", "d", "0", (0,), 0.0, 100)
    error = TransientError("unreadable")
    error.input_tokens, error.output_tokens = 900, 95
    budget_guard.settle(request, await budget_guard.hold(request), failure=error)

    with pytest.raises(UnavailableError, match="budget of 1,000 tokens"):
        await budget_guard.hold(request)


@pytest.mark.slow
async def test_what_fails_the_same_way_each_time_is_not_asked_for_long(tmp_path: Path) -> None:
    """Though the endpoint answered well before."""
    script = ["ok"] * 6 + ["unreadable"] * 100
    with (
        FaultyServer.in_thread(play, script=script) as server,
        pytest.raises(mdap.StoppedError, match="The last 10 answers were of this kind"),
    ):
        await mdap.solve(
            Hanoi(disks=3),
            model="openai/m",
            options={"base_url": server.base_url},
            db=tmp_path / "a.db",
            limits=mdap.Limits(probe=False, concurrency=1),
        )

    assert server.counts()["ok"] == 6
    assert 10 <= server.counts()["unreadable"] <= 16


class Frugal:
    """A model that reports every count of tokens, and none that is not 0."""

    name, nonblocking, max_n = "frugal", True, 1

    async def sample(self, request: SampleRequest) -> list[Reply]:
        reply = Reply("1", self.name, input_tokens=0, output_tokens=0, cached_tokens=0)
        return [reply._replace(reasoning_tokens=0, cache_write_tokens=0)]

    def describe(self) -> dict[str, Any]:
        return {}

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("speculate", ["off", "vote"])
async def test_no_tokens_are_not_unknown_tokens(speculate: str, tmp_path: Path) -> None:
    """A count of 0 is recorded as 0, and the digests of the run hold."""
    db = tmp_path / "a.db"
    await mdap.solve(Walk(seed=1), model=Frugal(), db=db, run_id="a", speculate=speculate)
    counts = "input_tokens, output_tokens, reasoning_tokens, cached_tokens, cache_write_tokens"
    assert set(rows(db, f"SELECT {counts} FROM samples")) == {(0, 0, 0, 0, 0)}
    assert verify(db, "a", make_recorded).verdict == "verified"
