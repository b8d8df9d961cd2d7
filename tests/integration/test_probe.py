"""What an endpoint can do, found out before it is trusted; and endpoints that say one thing twice."""

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.records import RunStatus, SampleRequest
from mdap.testing import Canned, Faults, FaultyServer, Manners, ScriptedProvider
from mdap_hanoi import Hanoi
from tests.acceptance.player import play
from tests.helpers import PROVIDED, Model, Walk


def same(body: dict[str, Any], rng: random.Random) -> str:
    """Tell one and the same story, as an engine does whose seed never changes."""
    return play(body, random.Random(1))


@contextmanager
def serving(
    monkeypatch: pytest.MonkeyPatch,
    how: Any = play,
    script: list[str | Canned] | None = None,
    **faults: Any,
) -> Iterator[FaultyServer]:
    with FaultyServer.in_thread(how, faults=Faults(**faults), script=script or []) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield server


async def run(db: Path, options: dict[str, Any] | None = None, **settings: Any) -> mdap.Solution:
    async with mdap.Session("openai/m", db=db, options=options, **settings) as session:
        return await session.run(Hanoi(disks=3), k=3, run_id="one")


def probed(db: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(db)) as connection:
        [[data]] = connection.execute("SELECT data FROM run_events WHERE kind = 'probe'")
    found: dict[str, Any] = json.loads(data)
    return found


def warned(solution: mdap.Solution) -> list[str]:
    """Return the warnings of the endpoint, without what the votes of so short a run give rise to."""
    return [warning for warning in solution.warnings if warning.startswith("openai/m ")]


def stories(server: FaultyServer) -> list[dict[str, Any]]:
    return [served.body for served in server.log if "Surprise me" in str(served.body)]


async def test_an_honest_endpoint_is_asked_four_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One small request with all that a step may want, three at temperature 1, and nothing to warn of."""
    with serving(monkeypatch) as server:
        solution = await run(tmp_path / "a.db")
    assert (solution.result["solved"], warned(solution)) == (True, [])
    asked = stories(server)
    assert [(body["temperature"], body["max_completion_tokens"]) for body in asked] == [(1.0, 64)] * 3
    assert [body.get("n", 1) for body in asked] == [1, 1, 2]
    assert probed(tmp_path / "a.db") == {
        "model": "openai/m",
        "requests": 4,
        "samples": 5,
        "failed_attempts": 0,
        "input_tokens": sum(served.prompt_tokens for served in server.log[:4]),
        "output_tokens": sum(served.completion_tokens for served in server.log[:4]),
        "cached_tokens": 0,
        "cache_write_tokens": 0,
        "options": {
            "json_schema": "loose",
            "token_parameter": "max_completion_tokens",
            "send_temperature": True,
            "system_role": "system",
            "n": True,
        },
        "repeats": False,
        "n": True,
        "usage": True,
        "request_id": True,
        "failure": None,
    }


@pytest.mark.parametrize(("how", "faults"), [(same, {}), (play, {"repeats": True})])
async def test_an_endpoint_that_repeats_itself_is_not_voted_on(
    how: Any, faults: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fixed seed or a cache: the run stops before its first sample, resumably, and says what to do."""
    with serving(monkeypatch, how, **faults) as server:
        stopped = await run(tmp_path / "a.db")
        assert stopped.status is RunStatus.STOPPED
        assert stopped.totals.samples == 0
        assert len(server.log) <= 4
        assert "gave the same text to each of 3 requests at temperature 1" in str(stopped.reason)
        assert "allow it with -M allow_duplicates=true" in str(stopped.reason)
    with serving(monkeypatch):
        resumed = await run(tmp_path / "a.db")
    assert resumed.status is RunStatus.FINISHED


async def test_whoever_wants_duplicates_is_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With allow_duplicates, the run goes on and its result carries the warning."""
    with serving(monkeypatch, same):
        solution = await run(tmp_path / "a.db", {"allow_duplicates": True})
    assert solution.status is RunStatus.FINISHED
    [warning] = warned(solution)
    assert "makes its votes on a step one vote" in warning


async def test_what_an_endpoint_cannot_do_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores n and reports no usage; the run copes, and says so."""
    with serving(monkeypatch, supports_n=False, missing_usage=1.0):
        solution = await run(tmp_path / "a.db", {"n": True})
    assert solution.status is RunStatus.FINISHED
    assert [warning.split(":")[0] for warning in warned(solution)] == [
        "openai/m ignores n",
        "openai/m reports no token usage",
    ]
    assert (probed(tmp_path / "a.db")["n"], probed(tmp_path / "a.db")["usage"]) == (False, False)


async def test_n_saves_a_request_of_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where n is honoured, one request brings both texts."""
    with serving(monkeypatch) as server:
        await run(tmp_path / "a.db", {"n": True})
    assert [body.get("n") for body in stories(server)] == [2]
    assert probed(tmp_path / "a.db")["n"] is True


class EachBilled(Manners):
    """A server that counts the prompt once for each reply to it."""

    def put_on(self, completion: dict[str, Any], *, cut: list[bool]) -> None:
        super().put_on(completion, cut=cut)
        completion["usage"]["prompt_tokens"] *= len(completion["choices"])


class Echo:
    """Say the same for all replies to one request."""

    def __init__(self) -> None:
        self._last: tuple[Any, str] = (None, "")

    def __call__(self, body: dict[str, Any], rng: random.Random) -> str:
        if self._last[0] is not body:
            self._last = (body, play(body, rng))
        return self._last[1]


@pytest.mark.parametrize(
    ("how", "manners", "faults", "n"),
    [
        (play, Manners(), {}, True),
        (play, Manners(), {"supports_n": False}, False),
        (play, Manners(), {"missing_usage": 1.0}, False),
        (play, Manners(refuses=("n",)), {}, False),
        (play, EachBilled(), {}, False),
        (Echo(), Manners(), {}, False),
    ],
    ids=["billed once", "ignored", "not metered", "refused", "billed each", "one reply said twice"],
)
async def test_samples_share_a_request_where_the_bill_says_that_they_share_a_prompt(
    how: Any,
    manners: Manners,
    faults: dict[str, Any],
    n: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without an option: n is used where it works and saves, and nothing is warned of where it does not."""
    db = tmp_path / "a.db"
    with FaultyServer.in_thread(how, faults=Faults(**faults), manners=manners) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        solution = await run(db)
    assert solution.status is RunStatus.FINISHED
    assert probed(db)["options"]["n"] is n
    votes = [served for served in server.log if "Surprise me" not in str(served.body)]
    assert ({served.body.get("n") for served in votes} == {None, 2}) is n
    assert not [warning for warning in warned(solution) if "ignores n" in warning]
    bill = sum(served.prompt_tokens for served in server.log if served.outcome != "missing_usage")
    assert isinstance(manners, EachBilled) or solution.usage.input_tokens == bill


@pytest.mark.parametrize(
    ("script", "failure"),
    [(["ok", "server_error"], "http_500"), (["reset"], "disconnected")],
)
async def test_a_probe_that_fails_holds_nothing_up(
    script: list[str | Canned], failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing is known, nothing is warned of, and the run shows whether the failure lasts."""
    with serving(monkeypatch, script=script, retry_after=0.01):
        solution = await run(tmp_path / "a.db")
    assert (solution.status, warned(solution)) == (RunStatus.FINISHED, [])
    found = probed(tmp_path / "a.db")
    assert (found["failure"], found["repeats"]) == (failure, None)


@pytest.mark.parametrize("first", ["rate_limit", "server_error"])
async def test_one_failure_that_passes_does_not_end_the_probe(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal for coming too soon, or a breakdown, is met by asking once more, and is counted."""
    with serving(monkeypatch, script=[first], retry_after=0.01):
        solution = await run(tmp_path / "a.db")
    found = probed(tmp_path / "a.db")
    assert (found["failure"], found["repeats"], found["failed_attempts"]) == (None, False, 1)
    assert (solution.totals.probe.failed_attempts, solution.totals.failed_attempts) == (1, 0)


async def test_short_texts_tell_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that answers the story with a word, or with thoughts only, is not accused."""

    def curt(body: dict[str, Any], rng: random.Random) -> str:
        return "No." if "Surprise me" in str(body) else play(body, rng)

    with serving(monkeypatch, curt):
        solution = await run(tmp_path / "a.db")
    assert (solution.status, warned(solution)) == (RunStatus.FINISHED, [])
    assert probed(tmp_path / "a.db")["repeats"] is None


async def test_a_session_probes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its later runs are told what the first one found; without the probe, nothing is asked."""
    db = tmp_path / "a.db"
    with serving(monkeypatch) as server:
        async with mdap.Session("openai/m", db=db) as session:
            for name in ("one", "two"):
                await session.solve(Hanoi(disks=2), k=2, run_id=name)
        assert len(stories(server)) == 3
        async with mdap.Session("openai/m", db=db, limits=mdap.Limits(probe=False)) as session:
            await session.solve(Hanoi(disks=2), k=2, run_id="three")
        assert len(stories(server)) == 3
    with closing(sqlite3.connect(db)) as connection:
        counts = connection.execute(
            "SELECT r.run_id, count(e.id) FROM runs r LEFT JOIN run_events e ON e.run = r.id AND "
            "e.kind = 'probe' GROUP BY r.id ORDER BY r.id"
        ).fetchall()
    assert counts == [("one", 1), ("two", 1), ("three", 0)]


async def test_the_probe_is_paid_for_out_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget that only just pays for a run does not pay for the probe as well."""

    def steady(body: dict[str, Any], rng: random.Random) -> str:
        return play(body, rng if "Surprise me" in str(body) else random.Random(3))

    prices = {"openai/m": mdap.Price(input=0, output=1_000_000)}
    voting = mdap.VotingSettings(k=1, max_tokens=60)
    statuses = []
    for probe in (False, True):
        settings: dict[str, Any] = {"prices": prices, "limits": mdap.Limits(probe=probe)}
        with serving(monkeypatch, steady):
            async with mdap.Session(
                "openai/m", db=tmp_path / f"{probe}.db", budget=mdap.Budget(usd=70), **settings
            ) as session:
                statuses.append((await session.run(Hanoi(disks=1), voting=voting)).status)
    assert statuses == [RunStatus.FINISHED, RunStatus.STOPPED]


async def test_a_kept_response_is_no_second_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a probe too: the same id with the same text is a failed attempt, and in the end stops it."""
    limits = mdap.Limits(probe=False, max_attempts=2, concurrency=1)
    with serving(monkeypatch, repeats=True):
        solution = await run(tmp_path / "a.db", limits=limits, speculate="off")
    assert solution.status is RunStatus.STOPPED
    assert "a response that it had given before" in str(solution.reason)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        kinds = connection.execute(
            "SELECT DISTINCT data->>'kind' FROM run_events WHERE kind = 'attempt_failed'"
        ).fetchall()
    assert kinds == [("repeated",)]


async def test_a_provider_that_breaks_under_the_probe_is_left_to_the_run(tmp_path: Path) -> None:
    """Its mistake is a finding; the run goes on, and would name it if it lasted."""

    class Brittle(ScriptedProvider):
        remote = True

    def say(request: SampleRequest, ordinal: int) -> str:
        return Model(Walk()).says(request.user, ordinal).text  # cannot read the question of the probe

    PROVIDED["it"] = Brittle(say, nonblocking=False)
    async with mdap.Session("tests.helpers:provided/it", db=tmp_path / "a.db") as session:
        solution = await session.run(Walk(), k=2)
    assert solution.status is RunStatus.FINISHED
    assert (probed(tmp_path / "a.db")["failure"], probed(tmp_path / "a.db")["requests"]) == ("ValueError", 1)
