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
    **faults: Any,
) -> Iterator[FaultyServer]:
    with FaultyServer.in_thread(
        talk, manners=Manners(**manners), faults=Faults(**faults), script=script or []
    ) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.base_url.removesuffix("/v1"))
        yield server


async def run(db: Path, disks: int = 6, model: str = "openai/m", **settings: Any) -> mdap.Solution:
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
    with serving(monkeypatch, manners, latency=0.001 if "slots" in manners else 0.0) as server:
        solution = await run(db)
    assert (solution.status, solution.result) == (RunStatus.FINISHED, {"solved": True, "moves": 63})
    assert found(db) == [{**USUAL, **other}]
    assert solution.usage == ledger(server)
    assert solution.totals.failed_attempts == 0
    assert len(server.log) - solution.totals.samples == sum(
        (solution.totals.probe.samples, solution.totals.probe.failed_attempts)
    )
    sent = {served.body.get("temperature") for served in server.log if "Current state" in str(served.body)}
    assert sent == {temperature for (temperature,) in rows(db, "SELECT DISTINCT temperature FROM samples")}
    assert verify(db, "one", make_task).ok
