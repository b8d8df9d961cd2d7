"""Servers that speak one protocol in their own ways: a run needs no option for any of them."""

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit.verifying import verify
from mdap.plugins import make_task
from mdap.records import RunStatus
from mdap.testing import Canned, Faults, FaultyServer, Manners
from mdap_hanoi import Hanoi
from tests.acceptance.player import play

USUAL = {
    "json_schema": "loose",
    "token_parameter": "max_completion_tokens",
    "send_temperature": True,
    "system_role": "system",
    "n": True,
}
NO_SCHEMA = {"formats": ("json_object", "text")}
OLD_LIMIT = {"limits": ("max_tokens",)}
NO_SYSTEM = {"system_role": False}
TEXT = {**OLD_LIMIT, **NO_SYSTEM, "formats": ("text",), "temperatures": "none"}
LEAST = {
    "json_schema": "off",
    "token_parameter": "max_tokens",
    "send_temperature": False,
    "system_role": "user",
}
# What each server takes, and what is found out where that is not what is sent at first.
SERVERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "like OpenAI's": ({}, {}),
    "no JSON schema": (NO_SCHEMA, {"json_schema": "object"}),
    "no response_format": ({"formats": ("text",)}, {"json_schema": "off"}),
    "no max_completion_tokens": (OLD_LIMIT, {"token_parameter": "max_tokens"}),
    "no system role": (NO_SYSTEM, {"system_role": "user"}),
    "no temperature": ({"temperatures": "none"}, {"send_temperature": False}),
    "no temperature but 1": ({"temperatures": "default"}, {"send_temperature": False}),
    "one slot and a queue": ({"slots": 1}, {}),
    "parts as content": ({"parts": True}, {}),
    "nothing but text": (TEXT, LEAST),
    "nothing but text, and no word on it": ({**TEXT, "names_it": False}, LEAST),
    "a status of 422": ({**OLD_LIMIT, "status": 422}, {"token_parameter": "max_tokens"}),
    "no word on what it refuses": (
        {**NO_SCHEMA, **NO_SYSTEM, "names_it": False},
        {"json_schema": "object", "system_role": "user"},
    ),
    "breaks at a schema": (
        {"formats": ("text",), "status": 500, "names_it": False},
        {"json_schema": "off"},
    ),
    "breaks at a system message, and says so": ({**NO_SYSTEM, "status": 500}, {"system_role": "user"}),
    "refuses with status 200": ({**NO_SCHEMA, "status": 200}, {"json_schema": "object"}),
    "ignores max_completion_tokens": (
        {"ignores": ("max_completion_tokens",), "cuts": True},
        {"token_parameter": "max_tokens"},
    ),
}


class Sure(random.Random):
    """A random source with which the player never errs."""

    def random(self) -> float:
        """Return what makes a right move."""
        return 0.5


def talk(body: dict[str, Any], rng: random.Random) -> str:
    """Play without an error, and tell a long story where one is wanted."""
    said = play(body, Sure(rng.getrandbits(64)))
    return said * 8 if said.startswith("They called") else said


@contextmanager
def serving(
    monkeypatch: pytest.MonkeyPatch,
    manners: dict[str, Any],
    script: list[str | Canned] | None = None,
) -> Iterator[FaultyServer]:
    faults = Faults(latency=0.001 if "slots" in manners else 0.0)
    with FaultyServer.in_thread(
        talk, manners=Manners(**manners), faults=faults, script=script or []
    ) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.base_url.removesuffix("/v1"))
        yield server


async def run(db: Path, disks: int = 4, model: str = "openai/m", **settings: Any) -> mdap.Solution:
    # Without speculation nothing is still under way at the end, so that both sides count the same.
    async with mdap.Session(model, db=db, speculate="off", **settings) as session:
        return await session.run(Hanoi(disks=disks), k=3, run_id="one")


def rows(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql).fetchall()


def found(db: Path) -> list[dict[str, Any]]:
    return [
        json.loads(data)["options"]
        for (data,) in rows(db, "SELECT data FROM run_events WHERE kind = 'probe'")
    ]


def ledger(server: FaultyServer) -> mdap.Usage:
    return mdap.Usage(
        sum(served.prompt_tokens for served in server.log),
        sum(served.completion_tokens for served in server.log),
    )


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_of_any_manner_needs_no_option(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is solved and verified; what was found is in the log, and totals are the server's to the token."""
    (manners, other), db = SERVERS[name], tmp_path / "a.db"
    with serving(monkeypatch, manners) as server:
        solution = await run(db)
    assert (solution.status, solution.result) == (RunStatus.FINISHED, {"solved": True, "moves": 15})
    assert found(db) == [{**USUAL, **other}]
    assert solution.usage == ledger(server)
    assert solution.totals.failed_attempts == 0
    billed = sum(served.replies for served in server.log)
    assert billed - solution.totals.samples == solution.totals.probe.samples
    assert len(server.log) < billed
    sent = {served.body.get("temperature") for served in server.log if "Current state" in str(served.body)}
    assert sent == {temperature for (temperature,) in rows(db, "SELECT DISTINCT temperature FROM samples")}
    assert verify(db, "one", make_task).ok


async def test_a_resumed_run_asks_as_before_and_warns_of_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found is tried first, with or without a probe; another finding is a warning, no error."""
    db = tmp_path / "a.db"
    script = ["ok"] * 12 + [Canned(401, {"error": {"message": "no"}})]
    with serving(monkeypatch, {**OLD_LIMIT, **NO_SYSTEM}, script=script):
        assert (await run(db)).status is RunStatus.STOPPED
    with serving(monkeypatch, {**OLD_LIMIT, **NO_SYSTEM}, script=script[:8] + script[-1:]) as server:
        assert (await run(db, limits=mdap.Limits(probe=False))).status is RunStatus.STOPPED
    assert server.counts()["refused"] == 0
    with serving(monkeypatch, {**OLD_LIMIT, **NO_SYSTEM, "temperatures": "none"}) as server:
        solution = await run(db)
    assert (solution.status, server.counts()["refused"]) == (RunStatus.FINISHED, 1)
    first = {**USUAL, "token_parameter": "max_tokens", "system_role": "user"}
    assert found(db) == [first, {**first, "send_temperature": False}]
    assert "openai/m takes other options than when the run began: send_temperature is False, was True" in (
        solution.warnings
    )
    assert verify(db, "one", make_task).ok


@pytest.mark.parametrize(
    ("manners", "option"),
    [
        (OLD_LIMIT, "-M token_parameter=max_tokens"),
        (NO_SYSTEM, "-M system_role=user"),
        ({"temperatures": "default"}, "-M send_temperature=false"),
        ({"refuses": ("n",)}, "-M n=false"),
    ],
)
async def test_without_a_probe_the_error_names_the_option(
    manners: dict[str, Any], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with what to add to the command; so asked, another one is solved."""
    limits = mdap.Limits(probe=False)
    options: dict[str, Any] = {"n": True} if "refuses" in manners else {}
    with serving(monkeypatch, manners):
        refused = await run(tmp_path / "a.db", limits=limits, options=options)
        # A request for one reply is sent without n, and answered: what follows is its step's fate.
        assert refused.status is (RunStatus.UNDECIDED if "n" in options else RunStatus.FAILED)
        assert str(refused.reason).endswith(f"; try {option}")
        name, _, value = option.removeprefix("-M ").partition("=")
        solution = await run(tmp_path / "b.db", limits=limits, options={name: value})
    assert solution.status is RunStatus.FINISHED


async def test_what_a_user_sets_is_not_negotiated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option wins over what the probe would find, and so does a field of extra_body."""
    options = {"json_schema": "loose", "extra_body": {"max_tokens": 900}}
    with serving(monkeypatch, {"formats": ("text",)}) as server:
        solution = await run(tmp_path / "a.db", disks=2, options=options)
    assert solution.status is RunStatus.FINISHED  # Hanoi has no schema
    assert found(tmp_path / "a.db") == [{"n": True, "send_temperature": True, "system_role": "system"}]
    assert server.counts()["refused"] > 0


async def test_a_server_of_anthropics_protocol_is_negotiated_with_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as there is something to choose: temperature and system message."""
    with serving(monkeypatch, {**NO_SYSTEM, "temperatures": "none"}) as server:
        solution = await run(tmp_path / "a.db", disks=3, model="anthropic/m")
    assert solution.status is RunStatus.FINISHED
    [options] = found(tmp_path / "a.db")
    assert options == {"send_temperature": False, "system_role": "user", "cache_breakpoints": True}
    assert solution.usage == ledger(server)


async def test_a_server_that_knows_no_cache_control_is_sent_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its refusal of the probe's first request names it; the run is solved without."""
    with serving(monkeypatch, {"refuses": ("cache_control",)}) as server:
        solution = await run(tmp_path / "a.db", disks=3, model="anthropic/m")
    assert solution.status is RunStatus.FINISHED
    [options] = found(tmp_path / "a.db")
    assert options == {"send_temperature": True, "system_role": "system", "cache_breakpoints": False}
    assert server.counts()["refused"] == 1


async def test_the_temperature_on_record_is_the_one_that_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of extra_body, where there is one; such a run can be verified, and replayed."""
    db = tmp_path / "a.db"
    with serving(monkeypatch, {}):
        await run(db, disks=3, options={"extra_body": {"temperature": 0.7}})
    assert rows(db, "SELECT DISTINCT temperature FROM samples") == [(0.7,)]
    assert verify(db, "one", make_task).ok


async def test_a_run_without_temperatures_can_be_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever temperatures the replay has by its own schedule."""
    db = tmp_path / "a.db"
    with serving(monkeypatch, {"temperatures": "none"}):
        await run(db, disks=3)
    async with mdap.Session("replay/one", db=db) as session:
        solution = await session.run(Hanoi(disks=3), k=3, run_id="again")
    assert solution.status is RunStatus.FINISHED


async def test_the_cost_of_a_probe_is_the_first_run_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens and cost are counted once, whatever runs a session has; a batch carries it as a whole."""
    db, prices = tmp_path / "a.db", {"openai/m": mdap.Price(input=1.0, output=2.0)}
    with serving(monkeypatch, {}) as server:
        async with mdap.Session("openai/m", db=db, prices=prices, speculate="off") as session:
            solutions = [await session.run(Hanoi(disks=2), k=2, run_id=name) for name in ("one", "two")]
        probe = [served for served in server.log if "Current state" not in str(served.body)]
        alone = ledger(server)
        async with mdap.Session("openai/m", db=db, speculate="off") as session:
            parts = [part async for part in session.solve_all([Hanoi(disks=2)] * 3, k=2, run_id="batch")]
            whole = await session.find("batch")
    assert (
        [solution.totals.probe.samples for solution in solutions]
        == [sum(served.replies for served in probe), 0]
        == [5, 0]
    )
    assert solutions[0].usage + solutions[1].usage == alone
    costs = [solution.cost_usd for solution in solutions]
    assert costs == pytest.approx(
        [(one.usage.input_tokens + 2 * one.usage.output_tokens) / 1e6 for one in solutions]
    )
    assert whole is not None
    assert (whole.totals.probe.samples, [part.totals.probe.samples for part in parts]) == (5, [0, 0, 0])
    everything = ledger(server)
    assert alone + whole.usage == everything
    sql = "SELECT sum(input_tokens), sum(output_tokens), sum(probe_samples) FROM run_totals"
    assert rows(db, sql) == [(everything.input_tokens, everything.output_tokens, 10)]
