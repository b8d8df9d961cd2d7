"""The journal on a real SQLite file: what is appended is there, once, for good, whatever is cancelled."""

import itertools
import json
import random
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mdap.engine.config import RunConfig
from mdap.errors import DatabaseError, LockedError, UsageError
from mdap.journal import resuming
from mdap.journal import writer as writing
from mdap.journal.batch import Batch, in_blocks
from mdap.journal.claims import EVOLUTIONS, JOBS, Claims
from mdap.journal.database import migrate
from mdap.journal.logfile import APPLICATION_ID, SCHEMA, Numbered
from mdap.journal.reader import open_log
from mdap.journal.statements import KEPT, migrations, statement, statements
from mdap.journal.writer import Writer, open_journal
from mdap.records import (
    SAMPLE_COLUMNS,
    AttemptFailed,
    Decided,
    Fact,
    PromptSent,
    RunEvent,
    SampleTaken,
    StepOpened,
    StepResolved,
)
from mdap.rules.digests import text_digest
from mdap.rules.redflags import clean
from mdap.settings import Speculate, Speculation, VotingSettings
from tests.driving import Choices, Drive
from tests.helpers import Log, Model, Walk, resume_point, rows_of

RECORD = ["runs", "run_events", "texts", "steps", "prompts", "samples", "decisions"]
OF_EVOLUTIONS = ["evolutions", "iterations", "evolution_events"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture(autouse=True)
def _no_thread_is_left(path: Path) -> Iterator[None]:
    """Every connection's thread ends with the test, and no file stays locked."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread


def query(path: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, timeout=0)) as connection:
        return connection.execute(sql, values).fetchall()


def columns(run_id: str = "one") -> dict[str, Any]:
    return {
        "run_id": run_id,
        "kind": "run",
        "task": "walk",
        "task_version": "1",
        "params": "{}",
        "settings": '{"k":3}',
        "provider": "{}",
        "k": 3,
        "mdap_version": "0",
    }


def opened(step: int = 0, opening: int = 0, run: int = 1, **more: Any) -> StepOpened:
    return StepOpened(run, step, opening, str(step), "[0,0]", "ab" * 16)._replace(**more)


def sample(step: int, ordinal: int, text: str = "1", **more: Any) -> SampleTaken:
    counted = None if more.get("verdict") in ("void", "cancelled") else ordinal + 1
    how = ("k" * 16, None, "toy", 0, 0.1)
    row = SampleTaken(
        *(1, step, 0, counted, ordinal, "vote"), *how, 7, 3, 0, 0.25, 1, None, "stop", text_digest(text)
    )
    return row._replace(**{"text": text, **more})


def decided(step: int = 0, **more: Any) -> Decided:
    return Decided(1, step, step, 0, "1", '{"1":3}', 3, 3, None, None, "d" * 64)._replace(**more)


async def write(path: Path, *batches: Iterable[Fact], run_id: str = "one") -> None:
    """Commit each batch of facts on its own."""
    async with open_journal(path) as writer:
        await writer.begin_run(columns(run_id))
        for batch in batches:
            for fact in batch:
                writer.append(fact)
            await writer.flush()


PROMPT = PromptSent(1, 0, 0, 0, None, text_digest("q?"), None, 750, None, "q?", None)

EACH: list[Fact] = [
    opened(),
    PROMPT,
    sample(0, 0),
    AttemptFailed(1, 0, 0, 1, 2, "timeout", "no reply"),
    decided(),
    RunEvent(1, "started", "because", "me", {"a": [1, None]}),
]


# --- rows


async def test_every_fact_is_a_row(path: Path) -> None:
    """Each kind of fact comes back from its table with every value that it was given."""
    await write(path, EACH)
    assert query(path, "SELECT * FROM steps") == [tuple(EACH[0])]
    row = sample(0, 0)
    [stored] = query(path, "SELECT * FROM samples")
    named = dict(zip(SAMPLE_COLUMNS, stored, strict=True))
    assert named == {**dict(zip(SAMPLE_COLUMNS, row.row(), strict=True)), "text": 2}
    assert query(path, "SELECT id, digest, body FROM texts") == [
        (1, text_digest("q?"), "q?"),
        (2, row.text_digest, "1"),
    ]
    assert query(path, "SELECT * FROM prompts") == [(1, 0, 0, 0, None, 1, None, 750)]
    assert query(path, "SELECT * FROM decisions") == [tuple(decided())]
    failed, started = query(path, "SELECT kind, author, reason, step, opening, data FROM run_events")
    assert failed[:5] == ("attempt_failed", None, "no reply", 0, 0)
    assert json.loads(failed[5]) == {"ordinal": 1, "attempt": 2, "kind": "timeout"}
    assert started[:5] == ("started", "me", "because", None, None)
    assert json.loads(started[5]) == {"a": [1, None]}
    assert query(path, "SELECT kind, k, task FROM runs") == [("run", 3, "walk")]
    [(at,)] = query(path, "SELECT created_at FROM runs")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)


async def test_what_is_unknown_stays_unknown(path: Path) -> None:
    """None is NULL, not zero and not an empty text."""
    unknown: dict[str, Any] = dict.fromkeys(
        ("answer_key", "input_tokens", "output_tokens", "cached_tokens", "latency", "text", "text_digest")
    )
    lost = sample(0, 0, verdict="cancelled")._replace(**unknown)
    await write(path, [opened(), lost, RunEvent(1, "started")])
    [stored] = query(path, "SELECT * FROM samples")
    assert stored == lost.row()
    assert query(path, "SELECT author, reason, data FROM run_events") == [(None, None, None)]


async def test_each_text_is_stored_once(path: Path) -> None:
    """Texts are addressed by content, over all steps, batches and runs."""
    await write(
        path, [opened(), sample(0, 0, "x"), sample(0, 1, "x")], [sample(0, 2, "x"), sample(0, 3, "y")]
    )
    assert sorted(query(path, "SELECT body FROM texts")) == [("x",), ("y",)]
    assert query(path, "SELECT ordinal, text FROM sample_texts ORDER BY ordinal") == [
        (0, "x"),
        (1, "x"),
        (2, "x"),
        (3, "y"),
    ]


HOSTILE = {
    "nul": "a\0b",
    "surrogate": "a\ud800b\udfff",
    "controls": "\x1b[2J\r\n\t\x07\x7f\u202e",
    "quotes": "'; DROP TABLE samples; --\"\\",
    "json": '{"verdict":"vote"}',
    "json array": '[1,2,[3]]"],[',
    "json number": "1e999",
    "escapes": "\\u0000 \\ud800 \\n",
    "astral": "🗼" * 10,
    "bom": "\ufeff\ufffe",
    "huge": "é" * 10**6,
    "empty": "",
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_hostile_texts_come_back_as_they_were_recorded(path: Path, kind: str) -> None:
    """P7: model text is data: cleaned of what no database can carry, it comes back character by character."""
    text = clean(HOSTILE[kind], 10**6)
    await write(path, [opened(), sample(0, 0, text)], [decided()])
    [(body, digest)] = query(path, "SELECT body, digest FROM texts")
    assert (body, digest) == (text, text_digest(body))
    async with open_log(path) as reader:
        [recorded] = (await resuming.resume_point(reader, 1)).openings or [None]
        assert recorded is None
        [row] = await reader.rows("samples_of_step", 1, 0)
        assert row["text"] == text


@pytest.mark.parametrize("kind", HOSTILE)
async def test_hostile_messages_do_not_spoil_the_log(path: Path, kind: str) -> None:
    """P7: an error's message, a reason or a state may quote an endpoint: it is stored and can be read."""
    text = HOSTILE[kind]
    message = AttemptFailed(1, 0, 0, 0, 1, "http_500", text[:500])
    await write(path, [opened(), message, RunEvent(1, "stopped", text, text, {"quoted": text})])
    rows = query(path, "SELECT reason, author FROM run_events")
    async with open_log(path) as reader:
        assert len(await reader.rows("events", 1)) == 1
        reason, data = await reader.ending(1)
        assert reason == rows[1][0]
    if not {"\0", *"\ud800\udfff"} & set(text):
        assert (reason, data["quoted"], rows[0][0]) == (text, text, text[:500])


@pytest.mark.parametrize("table", RECORD)
@pytest.mark.parametrize("change", ["UPDATE {table} SET rowid = rowid", "DELETE FROM {table}"])
async def test_the_record_cannot_be_changed(path: Path, table: str, change: str) -> None:
    """Triggers refuse UPDATE and DELETE on every table of record."""
    await write(path, EACH)
    [(first, *_)] = query(path, f"SELECT name FROM pragma_table_info('{table}')")[:1]
    sql = change.format(table=table).replace("rowid = rowid", f"{first} = {first}")
    before = query(path, f"SELECT * FROM {table}")
    assert before
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
        query(path, sql)
    assert query(path, f"SELECT * FROM {table}") == before


async def test_every_table_but_pending_only_grows(path: Path) -> None:
    """No table was added without its triggers; those in transit are no part of a run's record."""
    transit = ("rulings", "batch_jobs", "batch_rows", "batch_events")
    await write(path)
    tables = {name for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    triggers = [name for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    assert tables == {*RECORD, *OF_EVOLUTIONS, *transit, "pending"}
    assert sorted(triggers) == sorted(
        f"{table}_no_{what}" for table in (*RECORD, *OF_EVOLUTIONS, *transit) for what in ("update", "delete")
    )


# --- commits


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of facts in each commit of facts."""
    sizes: list[int] = []

    def counted(connection: sqlite3.Connection, batch: Batch) -> None:
        if batch.size > len(batch.runs):
            sizes.append(batch.size - len(batch.runs))
        commit(connection, batch)

    commit = writing._commit
    monkeypatch.setattr(writing, "_commit", counted)
    return sizes


async def test_facts_are_committed_in_groups(path: Path, commits: list[int]) -> None:
    """What is appended without a pause goes out in one commit."""
    await write(path, [opened(step) for step in range(1000)])
    assert commits == [1000]
    assert query(path, "SELECT count(*) FROM steps") == [(1000,)]


async def test_facts_are_committed_without_being_asked(path: Path, commits: list[int]) -> None:
    """Nobody has to flush: what was appended is durable after the commit window at the latest."""
    async with open_journal(path) as writer:
        await writer.begin_run(columns())
        writer.append(opened())
        while not query(path, "SELECT * FROM steps"):
            await anyio.lowlevel.checkpoint()
    assert commits == [1]


async def test_a_flush_is_durable_for_everybody(path: Path) -> None:
    """After `flush`, another connection sees every fact appended before it, in each of many rounds."""
    async with open_journal(path) as writer:
        await writer.begin_run(columns())
        for step in range(50):
            writer.append(opened(step))
            await writer.flush()
            assert query(path, "SELECT count(*) FROM steps") == [(step + 1,)]
        await writer.flush()


async def test_many_can_flush_at_once(path: Path) -> None:
    """Whoever flushes waits for their own facts, in one commit with those of the others."""
    async with open_journal(path) as writer:
        await writer.begin_run(columns())

        async def one(step: int) -> None:
            for opening in range(5):
                writer.append(opened(step, opening))
                await writer.flush()
                assert query(
                    path, "SELECT count(*) FROM steps WHERE step = ? AND opening = ?", step, opening
                ) == [(1,)]

        async with anyio.create_task_group() as group:
            for step in range(10):
                group.start_soon(one, step)
    assert query(path, "SELECT count(*) FROM steps") == [(50,)]


async def test_a_journal_that_falls_behind_holds_its_writers_up(path: Path, commits: list[int]) -> None:
    """Back-pressure: `settle` waits for commits while too much is pending, and returns at once otherwise."""
    async with open_journal(path) as writer:
        await writer.begin_run(columns())
        await writer.wait_for_room()
        assert commits == []
        for step in range(30_000):
            writer.append(opened(step))
        await writer.wait_for_room()
        assert sum(commits) == 30_000


async def test_many_facts_are_committed_before_their_time(
    path: Path, commits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 2,000 on, however many come at once; fewer wait for the commit window, and none is no fact."""
    monkeypatch.setattr(writing, "COMMIT_SECONDS", 3600.0)
    facts: list[Fact] = [opened(step) for step in range(6_000)]
    seen: list[Fact] = []
    async with open_journal(path, seen.append) as writer:
        await writer.begin_run(columns())
        writer.append(*facts[:1_999])
        writer.append()
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        assert commits == []
        for start, end in ((1_999, 2_002), (2_002, 4_502), (4_502, 6_000)):
            writer.append(*facts[start:end])
            if end < len(facts):
                with anyio.fail_after(120):
                    while len(seen) < end:
                        await anyio.lowlevel.checkpoint()
    assert commits == [2_002, 2_500, 1_498]
    assert seen == facts


async def test_a_watcher_sees_what_is_durable(path: Path) -> None:
    """P3: a fact is shown to others only once it can be found in the file."""
    seen: list[Fact] = []

    def watch(fact: Fact) -> None:
        assert isinstance(fact, StepOpened)
        assert query(path, "SELECT 1 FROM steps WHERE step = ?", fact.step) == [(1,)]
        seen.append(fact)

    async with open_journal(path, watch) as writer:
        await writer.begin_run(columns())
        for step in range(20):
            writer.append(opened(step))
            if step % 7 == 0:
                await writer.flush()
    assert seen == [opened(step) for step in range(20)]


async def test_after_a_failed_commit_nothing_is_taken_any_more(path: Path) -> None:
    """What was committed before is safe; whoever waits or appends is told; the journal still closes."""
    async with open_journal(path) as writer:
        await writer.begin_run(columns())
        writer.append(opened(0))
        await writer.flush()
        usable = [writer.usable]
        writer.append(opened(1))
        writer.append(opened(0))
        with pytest.raises(DatabaseError, match="another process is writing the same run"):
            await writer.flush()
        assert [*usable, writer.usable] == [True, False]
        with pytest.raises(DatabaseError):
            writer.append(opened(2))
        with pytest.raises(DatabaseError):
            await writer.flush()
    assert query(path, "SELECT step FROM steps") == [(0,)]


async def test_everybody_who_waits_learns_of_a_failed_commit(path: Path) -> None:
    """Nobody hangs in a flush that can never come."""
    told: list[DatabaseError] = []

    async def wait(writer: Writer) -> None:
        with pytest.raises(DatabaseError) as raised:
            await writer.flush()
        told.append(raised.value)

    async with open_journal(path) as writer:
        await writer.begin_run(columns())
        writer.append(opened(0))
        writer.append(opened(0))
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(wait, writer)
    assert len(told) == 5


async def test_a_run_id_is_taken_once(path: Path) -> None:
    """Two runs of one name are refused by the database itself, and the journal goes on."""
    async with open_journal(path) as writer:
        assert await writer.begin_run(columns("a")) == 1
        with pytest.raises(DatabaseError):
            await writer.begin_run(columns("a"))
        assert await writer.begin_run(columns("b")) == 2
        writer.append(opened(0, run=2))
        await writer.flush()
    assert query(path, "SELECT run FROM steps") == [(2,)]


async def test_runs_that_begin_together_are_committed_together(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not wait for the commit window, and one whose name is taken does not affect the others."""
    monkeypatch.setattr(writing, "COMMIT_SECONDS", 3600.0)
    begun: dict[int, list[int]] = {}

    async with open_journal(path) as writer:

        async def begin(number: int) -> None:
            try:
                begun.setdefault(number % 40, []).append(await writer.begin_run(columns(f"{number % 40}")))
            except DatabaseError:
                refused.append(number % 40)

        refused: list[int] = []
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(begin, number)
    assert sorted(refused) == list(range(10))
    assert sorted(id for [id] in begun.values()) == list(range(1, 41))
    rows = dict(query(path, "SELECT id, run_id FROM runs"))
    assert {rows[id]: id for [id] in begun.values()} == {str(n): id for n, [id] in begun.items()}


async def test_a_run_whose_commit_fails_has_not_begun(path: Path) -> None:
    """`begin_run` raises, as a flush of facts does that cannot be committed."""
    async with open_journal(path) as writer:
        await writer.begin_run(columns("a"))
        writer.append(opened(0), opened(0))  # the same step twice
        with pytest.raises(DatabaseError):
            await writer.begin_run(columns("b"))
    assert query(path, "SELECT run_id FROM runs") == [("a",)]
    with pytest.raises(DatabaseError, match="is closed"):
        await writer.begin_run(columns("c"))


async def test_an_error_of_the_body_comes_out_bare_after_the_last_commit(path: Path) -> None:
    """No `ExceptionGroup`, and what was appended before the error is there."""

    async def body() -> None:
        async with open_journal(path) as writer:
            await writer.begin_run(columns())
            writer.append(opened())
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await body()
    assert query(path, "SELECT count(*) FROM steps") == [(1,)]


# --- guesses


TENTATIVE = [sample(1, 0, "a", tentative=True), sample(1, 1, "b", tentative=True)]


@pytest.mark.parametrize("cut", range(6))
@pytest.mark.parametrize("confirmed", [True, False])
async def test_guesses_move_to_the_record_when_they_are_resolved(
    path: Path, cut: int, confirmed: bool
) -> None:
    """In one commit or over two, the rows are the same: votes if the guess was right, void if it was not."""
    late = sample(1, 2, "c") if confirmed else sample(1, 2, "c", verdict="void")
    facts: list[Fact] = [opened(0), opened(1), *TENTATIVE, StepResolved(1, 1, 0, confirmed), late]
    await write(path, facts[:cut], facts[cut:])
    assert query(path, "SELECT count(*) FROM pending") == [(0,)]
    rows = query(path, "SELECT ordinal, verdict, counted, text FROM sample_texts ORDER BY ordinal")
    if confirmed:
        assert rows == [(0, "vote", 1, "a"), (1, "vote", 2, "b"), (2, "vote", 3, "c")]
    else:
        assert rows == [(0, "void", None, "a"), (1, "void", None, "b"), (2, "void", None, "c")]
    whole = query(path, "SELECT * FROM samples WHERE ordinal = 0")[0]
    expected = TENTATIVE[0]
    assert whole[6:18] == expected[6:18]


async def test_guesses_wait_apart_from_the_record(path: Path) -> None:
    """Until then they are in no total and no view, but they survive a crash."""
    await write(path, [opened(0), opened(1), *TENTATIVE])
    assert query(path, "SELECT * FROM samples") == []
    assert query(path, "SELECT samples, votes FROM run_totals") == [(0, 0)]
    async with open_log(path) as reader:
        first, second = (await resuming.resume_point(reader, 1)).openings
    assert [taken.text for taken in second.samples] == ["a", "b"]
    assert (first.samples, second.tentative) == ([], True)


async def test_resolving_one_step_leaves_the_others(path: Path) -> None:
    """A resolution touches its own run, step and opening only."""
    others = [
        sample(1, 0, "other opening", opening=1, tentative=True),
        sample(2, 0, "other step", tentative=True),
        sample(1, 0, "other run", run=2, tentative=True),
    ]
    steps = [opened(1), opened(1, 1), opened(2), opened(1, run=2)]
    await write(path, [*steps, *TENTATIVE, *others], [StepResolved(1, 1, 0, False)])
    assert query(path, "SELECT count(*) FROM samples WHERE verdict = 'void'") == [(2,)]
    left = query(path, "SELECT run, step, opening FROM pending ORDER BY 1, 2, 3")
    assert left == [(1, 1, 1), (1, 2, 0), (2, 1, 0)]


@pytest.mark.parametrize("many", [1, 2, 4, 5, 255, 256, 257, 1024, 1025, 2300])
async def test_a_commit_may_hold_any_number_of_facts(path: Path, many: int) -> None:
    """Rows go many to a statement: none is lost, none comes twice, and no neighbour's is touched."""
    guesses = [sample(step, 0, f"said {step}", tentative=True) for step in range(many + 1)]
    steps = [opened(step) for step in range(many + 1)]
    right = [step % 3 > 0 for step in range(many)]
    await write(path, [*steps, *guesses], [StepResolved(1, step, 0, right[step]) for step in range(many)])
    assert query(path, "SELECT step FROM pending") == [(many,)]
    found = query(path, "SELECT step, verdict, counted, text FROM sample_texts ORDER BY step")
    assert found == [
        (step, *(("vote", 1) if right[step] else ("void", None)), f"said {step}") for step in range(many)
    ]
    assert query(path, "SELECT step FROM steps ORDER BY step") == [(step,) for step in range(many + 1)]


@pytest.mark.parametrize("name", statements("append"))
def test_a_commit_takes_few_statements(name: str) -> None:
    """Each may wait for the interpreter's lock, and a new one is prepared: few, and few different ones."""
    sql = statements("append")[name]
    width = sql.count("?")
    different = set()
    for many in (0, 1, 2, 255, 256, 257, 1024, 1025, 5_000):
        executed = list(in_blocks(sql, [row + 1 for row in range(many) for _ in range(width)]))
        assert len(executed) <= many // 1024 + 1
        assert all(statement.count("?") == len(parameters) for statement, parameters in executed)
        said = [value for _, parameters in executed for value in parameters]
        assert [value for value in said if value] == [row + 1 for row in range(many) for _ in range(width)]
        different |= {statement for statement, _ in executed}
    assert len(different) * len(statements("append")) <= KEPT


@pytest.mark.parametrize("fact", [opened(), decided()])
async def test_a_fact_that_lacks_a_column_is_not_written(path: Path, fact: Fact) -> None:
    """Nor is anything that would stand in the wrong column because of it."""
    with pytest.raises(DatabaseError, match=f"^{path} cannot take what was to be recorded"):
        await write(path, [opened(1)], [opened(2), tuple.__new__(type(fact), tuple(fact)[:-3]), opened(3)])
    assert query(path, "SELECT step FROM steps") == [(1,)]


@pytest.mark.parametrize("seed", range(25))
async def test_the_database_says_what_the_facts_say(path: Path, seed: int) -> None:
    """However a run's facts are cut into commits, rows, totals and resume point are those of the facts."""
    rng = random.Random(seed)
    task = Walk(steps=8, seed=seed)
    mode = rng.choice([Speculate.VOTE, Speculate.GUESS])
    rules = RunConfig(1, VotingSettings(k=3), Speculation(mode=mode, depth=rng.randrange(1, 6)), 3)
    drive = Drive(Model(task, right=0.6), rules, Choices([rng.randrange(40) for _ in range(400)]), Log())
    drive.run()
    facts = drive.kept(rng.randrange(10**6))
    some = [seam for seam in drive.seams if seam < len(facts) and rng.random() < 0.2]
    seams = sorted({0, len(facts), *some})
    await write(path, *(facts[start:end] for start, end in itertools.pairwise(seams)))

    expected = rows_of(facts)
    samples = [taken for rows in expected.samples.values() for taken in rows]
    pending = [taken for rows in expected.pending.values() for taken in rows]
    assert sorted(query(path, "SELECT * FROM steps")) == sorted(map(tuple, expected.steps.values()))
    for table, rows in (("samples", samples), ("pending", pending)):
        found = query(path, statement("open_pending").replace("pending s", f"{table} s"), 1)
        assert sorted(found, key=repr) == sorted((row[:-1] for row in rows), key=repr)
    assert query(path, "SELECT * FROM decisions ORDER BY place") == list(map(tuple, expected.decisions))
    async with open_log(path) as reader:
        assert await resuming.resume_point(reader, 1) == resume_point(facts)
        totals = await reader.totals(1)
    verdicts = [taken.verdict for taken in (*samples, *pending)]
    assert (totals.votes, totals.red_flags) == (verdicts.count("vote"), verdicts.count("flag"))
    assert (totals.void, totals.cancelled) == (verdicts.count("void"), verdicts.count("cancelled"))
    assert totals.failed_attempts == len(expected.failed_attempts)


# --- cancellation


async def cancel_after(turns: int, scope: anyio.CancelScope) -> None:
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.parametrize("seed", range(30))
async def test_cancelling_around_the_journal_loses_nothing(path: Path, seed: int) -> None:
    """Cancel everything around the journal at a random moment: what was appended by then is committed."""
    rng = random.Random(seed)
    appended: list[tuple[int, int]] = []

    async def work(writer: Writer, number: int) -> None:
        run = await writer.begin_run(columns(f"run {number}"))
        for step in range(10**6):
            writer.append(opened(step, run=run))
            appended.append((run, step))
            if rng.random() < 0.2:
                await writer.flush()
            elif rng.random() < 0.2:
                await writer.wait_for_room()
            else:
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as outer:
        outer.start_soon(cancel_after, rng.randrange(1, 400), outer.cancel_scope)
        async with open_journal(path) as writer, anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(work, writer, number)
    assert sorted(query(path, "SELECT run, step FROM steps")) == sorted(appended)
    query(path, "BEGIN IMMEDIATE")


@pytest.mark.parametrize("seed", range(20))
async def test_cancelling_inside_the_journal_leaves_no_transaction_open(path: Path, seed: int) -> None:
    """Users of the journal are cancelled in the middle of anything: the next one finds it in order."""
    rng = random.Random(seed)
    appended = 0

    async with open_journal(path) as writer:
        run = await writer.begin_run(columns())

        async def work() -> None:
            nonlocal appended
            while True:
                writer.append(opened(appended, run=run))
                appended += 1
                await rng.choice([writer.flush, writer.wait_for_room, anyio.lowlevel.checkpoint])()

        for round_ in range(5):
            async with anyio.create_task_group() as group:
                group.start_soon(work)
                group.start_soon(writer.begin_run, columns(f"extra {round_}"))
                group.start_soon(cancel_after, rng.randrange(1, 100), group.cancel_scope)
            await writer.flush()
            assert query(path, "SELECT count(*) FROM steps") == [(appended,)]
            query(path, "BEGIN IMMEDIATE")
        assert await writer.begin_run(columns("last")) > 1


@pytest.mark.parametrize("opening", [open_journal, open_log])
def test_cancelling_while_opening_leaves_nothing(path: Path, opening: Callable[[Path], Any]) -> None:
    """Cancel at any moment while the file is opened or closed: no thread, no lock, no half schema is left.

    Each time the loop ends at once, as it does after Ctrl-C, and no thread may want it any more.
    """
    if opening is open_log:
        anyio.run(write, path, EACH)

    async def interrupted(turns: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_after, turns, group.cancel_scope)
            async with opening(path):
                await anyio.lowlevel.checkpoint()

    for turns in range(60):
        anyio.run(interrupted, turns)
    if opening is open_journal:
        anyio.run(write, path, EACH)
    assert query(path, "SELECT count(*) FROM steps") == [(1,)]


@pytest.mark.parametrize("seed", range(10))
async def test_a_cancelled_reader_can_go_on_reading(path: Path, seed: int) -> None:
    """Queries cancelled half way neither block the writer nor spoil the connection."""
    rng = random.Random(seed)
    async with open_journal(path) as writer, open_log(path) as reader:
        run = await writer.begin_run(columns())

        async def read() -> None:
            while True:
                await resuming.resume_point(reader, run)
                await reader.totals(run)

        for step in range(10):
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                group.start_soon(cancel_after, rng.randrange(1, 60), group.cancel_scope)
            writer.append(opened(step))
            await writer.flush()
            assert len((await resuming.resume_point(reader, run)).openings) == step + 1
        await reader.find("one")
    # Only if no reader holds an old state can the whole log be taken into the file.
    assert query(path, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0


# --- the file


def schema(path: Path) -> list[tuple[str, str]]:
    return query(path, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")


async def test_a_new_file_is_ours(path: Path) -> None:
    """Marked as ours, of the newest schema, in WAL mode."""
    await write(path)
    assert query(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert APPLICATION_ID.to_bytes(4) == b"mdap"
    assert query(path, "PRAGMA user_version") == [(max(migrations()),)]
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


async def test_the_schema_is_that_of_the_migrations(path: Path, tmp_path: Path) -> None:
    """A fresh file has just what the numbered statements make, in order; numbers run from 1 without a gap."""
    await write(path)
    by_hand = tmp_path / "by hand.db"
    assert list(migrations()) == list(range(1, len(migrations()) + 1))
    with closing(sqlite3.connect(by_hand, isolation_level=None)) as connection:
        for statements in migrations().values():
            for statement in statements:
                connection.execute(statement)
    assert schema(path) == schema(by_hand)
    assert len(schema(path)) >= 20


async def test_opening_again_changes_nothing(path: Path) -> None:
    """A file of the newest schema is opened as it is, and its rows are kept."""
    await write(path, EACH)
    before = schema(path)
    await write(path, run_id="two")
    assert schema(path) == before
    assert query(path, "SELECT count(*) FROM runs") == [(2,)]


def content(path: Path) -> bytes:
    return path.read_bytes()


def make(path: Path, *sql: str) -> bytes:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in sql:
            connection.execute(statement)
    return path.read_bytes()


FOREIGN: dict[str, Sequence[str]] = {
    "tables of someone else": ("CREATE TABLE t(x)",),
    "a mark of someone else": ("CREATE TABLE t(x)", "PRAGMA application_id = 5"),
    "a version of someone else": ("PRAGMA user_version = 3",),
    "only a mark": ("PRAGMA application_id = 5",),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("opening", [open_journal, open_log])
async def test_a_foreign_database_is_refused_untouched(
    path: Path, kind: str, opening: Callable[[Path], Any]
) -> None:
    """A SQLite file of another program is not written to."""
    before = make(path, *FOREIGN[kind])
    with pytest.raises(DatabaseError, match=re.escape(f"{path} is not an mdap database")):
        async with opening(path):
            pytest.fail("opened")
    assert content(path) == before


@pytest.mark.parametrize("opening", [open_journal, open_log])
async def test_a_file_that_is_no_database_is_refused_untouched(
    path: Path, opening: Callable[[Path], Any]
) -> None:
    """Nor is any other file."""
    text = b"precious text, long enough for a header\n" * 40
    await anyio.Path(path).write_bytes(text)
    with pytest.raises(DatabaseError, match="is not an mdap database"):
        async with opening(path):
            pytest.fail("opened")
    assert content(path) == text


@pytest.mark.parametrize("opening", [open_journal, open_log])
async def test_a_newer_database_is_refused_untouched(path: Path, opening: Callable[[Path], Any]) -> None:
    """A schema that this version does not know is left alone, and the sentence says to upgrade."""
    await write(path)
    known = max(migrations())
    before = make(path, f"PRAGMA user_version = {known + 1}", "PRAGMA wal_checkpoint(TRUNCATE)")
    sentence = rf"newer mdap \(schema {known + 1}, this one knows {known}\): upgrade mdap"
    with pytest.raises(DatabaseError, match=sentence):
        async with opening(path):
            pytest.fail("opened")
    assert content(path) == before


async def test_an_empty_file_is_a_new_database(path: Path) -> None:
    """What `mktemp` leaves is as good as no file; only a reader has nothing to read in it."""
    await anyio.Path(path).touch()
    with pytest.raises(DatabaseError, match="is empty"):
        async with open_log(path):
            pytest.fail("opened")
    await write(path, EACH)
    assert query(path, "SELECT count(*) FROM steps") == [(1,)]


async def test_places_that_cannot_hold_a_database_are_refused(tmp_path: Path) -> None:
    """A missing folder, a folder in place of a file, and nothing to read: each a sentence about the path."""
    with pytest.raises(UsageError, match=r"the folder .*missing does not exist"):
        async with open_journal(tmp_path / "missing" / "a.db"):
            pytest.fail("opened")
    with pytest.raises(UsageError, match="is a folder"):
        async with open_journal(tmp_path):
            pytest.fail("opened")
    with pytest.raises(UsageError, match="there is no database"):
        async with open_log(tmp_path / "a.db"):
            pytest.fail("opened")
    assert [entry async for entry in anyio.Path(tmp_path).iterdir()] == []


async def test_a_failed_migration_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrations are all or nothing, under one transaction."""
    await write(path, EACH)
    broken = {**migrations(), SCHEMA + 1: ["CREATE TABLE more(x)", "CREATE TABLE steps(x)"]}
    monkeypatch.setattr("mdap.journal.database.migrations", lambda: broken)
    with pytest.raises(DatabaseError):
        async with open_journal(path):
            pytest.fail("opened")
    monkeypatch.undo()
    assert query(path, "PRAGMA user_version") == [(SCHEMA,)]
    assert "more" not in dict(schema(path))
    await write(path, run_id="two")


async def test_a_newer_version_renews_an_older_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next migration is applied to a file of this schema, once, and rows are kept."""
    await write(path, EACH)
    newer = {**migrations(), SCHEMA + 1: ["CREATE TABLE more(x)"]}
    monkeypatch.setattr("mdap.journal.database.migrations", lambda: newer)
    with pytest.raises(DatabaseError, match="`mdap runs --db"):
        async with open_log(path):
            pytest.fail("opened")
    await write(path, run_id="two")
    await write(path, run_id="three")
    assert query(path, "PRAGMA user_version") == [(SCHEMA + 1,)]
    assert query(path, "SELECT count(*) FROM runs") == [(3,)]


@pytest.mark.parametrize("turn", range(8))
async def test_a_file_that_becomes_ours_while_it_is_looked_at_is_ours(
    path: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    """Another process may make the schema between any two statements of ours: that is no foreign file."""
    connect = sqlite3.connect
    turns = itertools.count()

    def another_process(_: str) -> None:
        if next(turns) == turn:
            other = connect(path, timeout=0, isolation_level=None)
            # Where the other one is locked out, there is nothing to fear.
            with closing(other), suppress(sqlite3.OperationalError):
                other.execute("BEGIN IMMEDIATE")
                for statement in itertools.chain(*migrations().values()):
                    other.execute(statement)
                other.execute(f"PRAGMA user_version = {max(migrations())}")
                other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                other.execute("COMMIT")

    def beside_another_process(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(another_process)
        return connection

    monkeypatch.setattr("mdap.journal.database.sqlite3.connect", beside_another_process)
    async with open_journal(path):
        pass
    monkeypatch.undo()
    assert next(turns) > turn
    await write(path, EACH)
    assert query(path, "SELECT count(*) FROM steps") == [(1,)]


async def test_a_row_without_a_run_is_refused(path: Path) -> None:
    """What fills a statement up is left out; what is wrong must not be."""
    with pytest.raises(DatabaseError, match="NOT NULL"):
        await write(path, [opened(1)._replace(run=None)])  # type: ignore[arg-type] # what a mistake may do
    assert query(path, "SELECT count(*) FROM steps") == [(0,)]


@pytest.mark.slow
async def test_many_tasks_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """Whoever comes second waits, and finds the schema that the first one made."""
    for number in range(12):
        path = tmp_path / f"{number}.db"
        async with anyio.create_task_group() as group:
            for name in "abcdef":
                group.start_soon(lambda path, name: write(path, run_id=name), path, name)
        assert query(path, "SELECT count(*) FROM runs") == [(6,)]


@pytest.mark.slow
def test_two_processes_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """So do processes."""
    program = (
        "import sys, anyio\n"
        "from pathlib import Path\n"
        "from mdap.journal.writer import open_journal\n"
        "async def main():\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    for number in range(12):\n"
        "        async with open_journal(Path(sys.argv[1]) / f'{number}.db'):\n"
        "            pass\n"
        "anyio.run(main)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    # They have all started before any is let go.
    for process in processes:
        if process.stdout is not None:
            process.stdout.readline()
    for process in processes:
        if process.stdin is not None:
            process.stdin.write("\n")
            process.stdin.flush()
    ended = [(process.communicate(timeout=240)[1], process.returncode) for process in processes]
    # One that waits long for another's lock says so.
    assert [code for _, code in ended] == [0, 0], ended
    for number in range(12):
        assert query(tmp_path / f"{number}.db", "PRAGMA user_version") == [(max(migrations()),)]


async def test_a_file_locked_by_another_program_is_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the busy time, the writer says who is in the way; nothing is lost that was committed."""
    monkeypatch.setattr("mdap.journal.logfile.PATIENCE", 0.0)
    monkeypatch.setattr("mdap.journal.database.TRY_SECONDS", 0.01)
    await write(path, [opened(0)])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        async with open_journal(path) as writer:
            other.execute("BEGIN IMMEDIATE")
            writer.append(opened(1))
            with pytest.raises(LockedError, match="is locked by another program"):
                await writer.flush()
            other.execute("ROLLBACK")
    assert query(path, "SELECT count(*) FROM steps") == [(1,)]


# --- one process a run


def test_a_run_is_claimed_once(path: Path) -> None:
    """Another task of this process is refused until the first gives the run back; other runs are free."""
    claims = Claims(path)
    claims.take(1, "one")
    claims.take(2, "two")
    claims.take(JOBS + 1, "a job")  # runs, jobs and evolutions have numbers of their own
    claims.take(EVOLUTIONS + 1, "an evolution")
    with pytest.raises(UsageError, match="run one is being worked on already"):
        claims.take(1, "one")
    claims.drop(1)
    claims.take(1, "one")
    claims.close()
    again = Claims(path)
    again.take(1, "one")
    again.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there, only the UNIQUE constraints keep writers apart")
def test_another_process_cannot_take_a_claimed_run(path: Path) -> None:
    """The claim holds across processes, and ends with the process that held it."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mdap.errors import UsageError\n"
        "from mdap.journal.claims import Claims\n"
        "claims = Claims(Path(sys.argv[1]))\n"
        "try:\n"
        "    claims.take(1, 'one')\n"
        "except UsageError as error:\n"
        "    print(error)\n"
        "claims.take(2, 'two')\n"
    )

    def run() -> str:
        command = [sys.executable, "-c", program, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout

    claims = Claims(path)
    claims.take(1, "one")
    assert run().startswith("run one is being worked on already")
    claims.close()
    assert run() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="there, only the UNIQUE constraints keep writers apart")
def test_two_sessions_of_one_process_cannot_take_the_same_run(path: Path) -> None:
    """A claim is on the run, not on who asks: a second session of this process is refused, too."""
    first, second = Claims(path), Claims(path)
    first.take(1, "one")
    try:
        with pytest.raises(UsageError, match="run one is being worked on already"):
            second.take(1, "one")
    finally:
        first.close()
        second.close()


def test_numbered_values_come_without_a_warning(path: Path) -> None:
    """By name, as all versions of Python take them; statements with plain marks stay as they are."""
    with closing(sqlite3.connect(path, factory=Numbered)) as connection:
        assert connection.execute("SELECT ?2, ?1, ?1", (1, "two")).fetchall() == [("two", 1, 1)]
        assert connection.execute("SELECT ?, ?", (1, 2)).fetchall() == [(1, 2)]
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


async def test_what_served_a_sample_is_on_record(path: Path) -> None:
    """The model served, its fingerprint and its reasoning stand beside the reply, guesses included."""
    thought = {"reasoning": "2 + 2", "reasoning_digest": text_digest("2 + 2"), "reasoning_tokens": 9}
    served: dict[str, Any] = {"served_model": "m-2026", "fingerprint": "fp", "temperature": None, **thought}
    guessed = sample(1, 0, **served)._replace(tentative=True)
    await write(path, [opened(), opened(1), sample(0, 0, **served), guessed], [StepResolved(1, 1, 0, True)])
    columns = "served_model, fingerprint, reasoning_tokens, reasoning, temperature, text"
    expected = ("m-2026", "fp", 9, "2 + 2", None, "1")
    assert query(path, f"SELECT {columns} FROM sample_texts ORDER BY step") == [expected] * 2


async def test_a_log_of_the_first_schema_migrates(path: Path) -> None:
    """Rows stay as they are, and the digests over them too: columns that came later are NULL."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in migrations()[1]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "INSERT INTO runs VALUES (1, 'a', 'run', NULL, 't', '', '{}', '{}', '{}', 3, '', '')"
        )
        connection.execute("INSERT INTO steps VALUES (1, 0, 0, '0', '1', 'ab')")
        connection.execute("INSERT INTO texts VALUES (7, 'cd', 'x')")
        row = (1, 0, 0, 1, 0, "vote", "ab", None, "m", 0, 0.5, 1, 2, 0, 0.25, 1, None, "stop", 7)
        connection.execute(f"INSERT INTO samples VALUES ({', '.join('?' * len(row))})", row)
    assert (migrate(path), migrate(path)) == (1, None)
    async with open_log(path) as reader:
        [again] = await reader.rows("samples_of_step", 1, 0)
    assert SampleTaken(*again).row() == (*row[:18], "cd", *6 * (None,))
    assert SampleTaken(*again).digest_columns() == (*row[4:18], "cd")
    await write(path, [opened(run=2)], run_id="b")
