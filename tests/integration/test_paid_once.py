"""Prompts that are paid for once: `n`, and the cache of a server that really keeps one and sends a bill."""

import json
import random
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit import verify
from mdap.plugins import make_task
from mdap.records import RunStatus
from mdap.testing import ANTHROPIC_SHEET, OPENAI_SHEET, Faults, FaultyServer, Ledger
from mdap_extract import Extract
from tests.acceptance.player import play
from tests.helpers import Walk

FIELDS = ("vendor", "number", "total")
SCHEMA = {"type": "object", "properties": {name: {"type": "string"} for name in FIELDS}}


def read(body: dict[str, Any], rng: random.Random) -> str:
    """Give the fields that are asked for; tell a story where one is wanted."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(block["text"] for block in content)
    if "Surprise me" in text:
        return play(body, rng)
    asked = re.findall(r'^- "(\w+)":', text, re.MULTILINE)
    return json.dumps({name: f"{name} of {text[60:70]!r}" for name in asked})


class Wordy(Walk):
    """A chain with a long system message."""

    def step(self, state: tuple[int, int]) -> mdap.Step[int] | None:
        step = super().step(state)
        return None if step is None else replace(step, system="Be exact. " * 300)


def one(body: dict[str, Any], rng: random.Random) -> str:
    return play(body, rng) if "Surprise me" in str(body) else "1"


def documents(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "documents.jsonl"
    rows = [{"id": str(number), "text": f"{number} " * 4000} for number in range(3)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return str(path)


async def extract(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    vendor: str,
    options: dict[str, Any] | None = None,
    **limits: Any,
) -> tuple[mdap.Solution[Any], Ledger, FaultyServer]:
    """Extract three fields of three documents of some 2,000 tokens or more; return what came and the bill."""
    ledger = Ledger(OPENAI_SHEET if vendor == "openai" else ANTHROPIC_SHEET)
    sheet = ledger.sheet.model_dump(include={"input", "output", "cached_input", "cache_write"})
    task = Extract(input=documents(folder), schema=SCHEMA)
    with FaultyServer.in_thread(read, faults=Faults(latency=0.01), ledger=ledger) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.base_url.removesuffix("/v1"))
        async with mdap.Session(
            f"{vendor}/m",
            db=folder / "a.db",
            options=options,
            prices={f"{vendor}/m": mdap.Price(**sheet)},
            limits=mdap.Limits(**limits),
        ) as session:
            solution = await session.run(task, k=3, run_id="one")
    assert (solution.status, solution.steps) == (RunStatus.FINISHED, 9)
    assert verify(folder / "a.db", "one", make_task).ok
    return solution, ledger, server


@pytest.mark.parametrize(("vendor", "most"), [("openai", 0.35), ("anthropic", 0.3)])
@pytest.mark.slow
async def test_a_document_is_paid_for_about_once(
    vendor: str, most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an option; totals agree with the vendor's bill, and say what was saved."""
    solution, ledger, _ = await extract(tmp_path / "default", monkeypatch, vendor)
    plain = {"n": False} if vendor == "openai" else {"cache_breakpoints": False}
    ordinary, other, _ = await extract(tmp_path / "plain", monkeypatch, vendor, plain, warm_cache=False)
    in_full = (other.input_tokens * other.sheet.input + other.output_tokens * other.sheet.output) / 1e6
    assert solution.cost_usd == pytest.approx(ledger.usd)
    assert ordinary.cost_usd == pytest.approx(other.usd)
    assert ledger.usd < most * in_full
    assert solution.saved_usd == pytest.approx(in_full - ledger.usd, rel=0.05)
    with closing(sqlite3.connect(tmp_path / "default" / "a.db")) as connection:
        sql = "SELECT sum(input_tokens), sum(cached_tokens), sum(cache_write_tokens) FROM samples"
        [(given, cached, written)] = connection.execute(sql)
    assert (cached, written) == (ledger.cached_tokens, ledger.written_tokens)
    assert given + solution.totals.probe.usage.input_tokens == ledger.input_tokens


async def test_the_first_of_a_document_goes_ahead_and_is_the_only_one_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each document is written to the cache once, whatever is asked of it at the same time."""
    _, ledger, _ = await extract(tmp_path / "a", monkeypatch, "anthropic")
    document = len("0 " * 4000) / 4
    assert ledger.written_tokens == pytest.approx(3 * document, rel=0.2)
    assert ledger.cached_tokens == pytest.approx(3 * 8 * document, rel=0.2)


async def test_a_chain_does_not_wait_unless_that_is_wished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a chain's prompts the system message alone is marked, since its samples leave side by side."""
    marked = []
    for name, warm in (("a", None), ("b", True)):
        with FaultyServer.in_thread(one) as server:
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.base_url.removesuffix("/v1"))
            limits = mdap.Limits(warm_cache=warm)
            async with mdap.Session("anthropic/m", db=tmp_path / f"{name}.db", limits=limits) as session:
                assert (await session.run(Wordy(steps=3), k=2)).status is RunStatus.FINISHED
        bodies = [served.body for served in server.log if "Surprise me" not in str(served.body)][1:]
        assert all("cache_control" in str(body["system"]) for body in bodies)
        marked.append({"cache_control" in str(body["messages"]) for body in bodies})
    assert marked == [{False}, {True}]
