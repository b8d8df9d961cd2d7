"""Prompts in the log: which are there, that nobody changes them, and that an audit compares what was sent."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit import Verification, verify
from mdap.errors import UsageError
from mdap.journal.reader import open_log
from mdap.plugins import make_task
from mdap.rules.digests import prompt_digest, views_digest
from mdap.session import settle_step
from mdap.session.prompting import TaskPrompts
from mdap.viewer.source import Rendered, merged_by, prompts_of
from tests.asking import Rows
from tests.helpers import Walk
from tests.integration.test_manners import run, serving
from tests.integration.test_verify import edited

NOISY = {"error_rate": 0.2, "flag_rate": 0.05, "seed": 4}


def rows(db: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql, values).fetchall()


def proven(db: Path, run_id: str) -> Verification:
    return verify(db, run_id, make_task)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A process of four rows and a choice, and a chain of twelve steps that records its prompts, too."""
    db = tmp_path_factory.mktemp("log") / "a.db"
    mdap.solve_sync(Rows(), db=db, options=NOISY, run_id="rows")
    mdap.solve_sync(Walk(steps=12), db=db, options=NOISY, run_id="walk", record_prompts=True)
    return db


def test_a_process_records_every_view_of_every_step(log: Path) -> None:
    """System and user message, schema and limit of output tokens, by step and view."""
    found = rows(
        log, "SELECT step, view, system, user, schema, max_tokens FROM step_prompts WHERE run_id = 'rows'"
    )
    assert [row[:2] for row in found] == [(step, view) for step in range(4) for view in (0, 1)] + [(4, 0)]
    assert found[4] == (
        2,
        0,
        "You read rows.",
        "Row 2 of the document: its name?",
        '{"enum":["a","b"],"type":"string"}',
        40,
    )
    assert found[5][2:4] == (None, "Which name has row 2 of the document?")
    assert found[8][2:] == (None, "The best of a, a, a, a?", None, 750)


def test_each_text_of_a_prompt_is_stored_once(log: Path) -> None:
    """The system message and the schema of four steps are one row each."""
    for text in ("You read rows.", '{"enum":["a","b"],"type":"string"}'):
        assert rows(log, "SELECT count(*) FROM texts WHERE body = ?", text) == [(1,)]


def test_recorded_prompts_are_those_of_the_digest_chain(log: Path) -> None:
    """Their digest is `steps.prompt_digest`, which the chain covers."""
    digests = dict(
        rows(log, "SELECT step, prompt_digest FROM steps JOIN runs r ON r.id = run WHERE run_id = 'rows'")
    )
    views: dict[int, list[str]] = {}
    for step, system, user in rows(
        log, "SELECT step, system, user FROM step_prompts WHERE run_id = 'rows' ORDER BY step, view"
    ):
        views.setdefault(step, []).append(prompt_digest(system or "", user))
    assert {step: views_digest(found) for step, found in views.items()} == digests


def test_a_chain_records_prompts_on_request_alone(log: Path, tmp_path: Path) -> None:
    """It gives the same decisions and the same digest either way; calibrations and nested chains follow."""
    db = tmp_path / "b.db"
    plain = mdap.solve_sync(Walk(steps=12), db=db, options=NOISY, run_id="walk")
    assert rows(db, "SELECT * FROM prompts") == []
    assert rows(log, "SELECT count(*) FROM step_prompts WHERE run_id = 'walk'") == [(12,)]
    last = (
        "SELECT digest FROM decisions d JOIN runs r ON r.id = run WHERE run_id = 'walk' ORDER BY place DESC"
    )
    [digest] = rows(log, last)[0]
    assert plain.digest == digest


def test_nothing_of_a_document_is_stored_where_it_must_not_be(tmp_path: Path) -> None:
    """No row, no text, no page of the file and no page of its log holds a word of the prompt."""
    db = tmp_path / "a.db"
    secret = "PATIENT 4711"
    for keyed in (True, False):
        mdap.solve_sync(Secret(word=secret[:7], keyed=keyed), db=db, record_prompts=False)
        assert proven(db, "latest").ok
    assert rows(db, "SELECT * FROM prompts") == []
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.iterdir())
    mdap.solve_sync(Secret(word=secret[:7]), db=db)
    assert rows(db, "SELECT DISTINCT user FROM step_prompts") == [(f"{secret}?",)]


class Secret(mdap.Process[Any]):
    """Ask about something that is in no parameter, and is no step's input."""

    word: str
    keyed: bool = False

    async def solve(self, ask: mdap.Ask) -> Any:
        key = "patient" if self.keyed else None
        return await ask(mdap.Step(user=f"{self.word} 4711?", parse=str.strip, key=key))

    def oracle(self, step: mdap.Step[Any]) -> str:
        return "well"

    def mistakes(self, step: mdap.Step[Any], truth: str) -> list[str]:
        return ["ill"]

    def render(self, step: mdap.Step[Any], answer: str) -> str:
        return answer


class Listed(mdap.Process[Any]):
    """Ask for words that are parameters of it, under keys."""

    words: tuple[str, ...] = ()

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask.map(
            mdap.Step(user=f"Is {word} well?", parse=str.strip, key=word) for word in self.words
        )

    def oracle(self, step: mdap.Step[Any]) -> str:
        return "yes"

    def mistakes(self, step: mdap.Step[Any], truth: str) -> list[str]:
        return ["no"]

    def render(self, step: mdap.Step[Any], answer: str) -> str:
        return answer


# -- resuming --------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [None, False, True])
async def test_a_resumed_run_records_as_it_began(tmp_path: Path, record: bool | None) -> None:
    """Whoever resumes it, by its id or by the same call, and whether or not they say it again."""
    db = tmp_path / "a.db"
    few = mdap.Budget(tokens=150)
    async with mdap.Session(db=db, options=NOISY, budget=few, record_prompts=record) as session:
        assert (await session.run(Rows(rows=12), run_id="one")).status == "stopped"
    begun = rows(db, "SELECT count(*) FROM prompts")[0][0]
    async with mdap.Session(db=db, options=NOISY, budget=mdap.Budget(tokens=300)) as session:
        assert (await session.resume("one")).status == "stopped"
    async with mdap.Session(db=db, options=NOISY) as session:
        assert (await session.solve(Rows(rows=12), run_id="one")).status == "finished"
    assert bool(begun) == (record is not False)
    assert rows(db, "SELECT count(*) FROM prompts")[0][0] == (0 if record is False else 12 * 2 + 1)
    assert proven(db, "one").ok


async def test_a_resumed_batch_records_as_it_began(tmp_path: Path) -> None:
    """Its cases, too: those that are left when the same call is made again."""
    db = tmp_path / "a.db"
    for record in (False, None):
        tasks = [Rows(rows=1)] * (2 if record is None else 1)
        async with mdap.Session(db=db, record_prompts=record) as session:
            async for solution in session.solve_all(tasks, run_id="batch"):
                assert solution.status == "finished"
    assert rows(db, "SELECT count(*), (SELECT count(*) FROM prompts) FROM runs") == [(3, 0)]


async def test_a_run_does_not_change_whether_it_records(tmp_path: Path) -> None:
    """To say otherwise at a resume is refused in words, so that no document is stored unnoticed."""
    db = tmp_path / "a.db"
    async with mdap.Session(db=db, budget=mdap.Budget(tokens=60), record_prompts=False) as session:
        await session.run(Rows(), run_id="one")
    async with mdap.Session(db=db, record_prompts=True) as session:
        with pytest.raises(UsageError, match="started with record_prompts = false, not true"):
            await session.run(Rows(), run_id="one")


# -- changed by somebody ---------------------------------------------------------------------------

STEP_2 = "run = (SELECT id FROM runs WHERE run_id = '{0}') AND step = 2"


@pytest.mark.parametrize("run_id", ["rows", "walk"])
@pytest.mark.parametrize(
    ("statement", "kinds"),
    [
        (
            "UPDATE texts SET body = 'other' WHERE id = (SELECT user FROM prompts WHERE view = 0 AND {0})",
            {"text"},
        ),
        (
            "UPDATE prompts SET user = (SELECT min(user) FROM prompts) WHERE view = 0 AND {0}",
            {"text", "seal"},
        ),
        (
            "UPDATE prompts SET system = (SELECT id FROM texts LIMIT 1) WHERE view = 0 AND {0}",
            {"text", "seal"},
        ),
        ("UPDATE prompts SET schema = user WHERE {0}", {"seal"}),
        ("UPDATE prompts SET max_tokens = 7 WHERE {0}", {"seal", "prompt"}),
        ("UPDATE prompts SET view = 5 WHERE view = 0 AND {0}", {"text", "seal"}),
        ("DELETE FROM prompts WHERE view = 0 AND {0}", {"text", "seal"}),
        ("DELETE FROM prompts WHERE {0}", {"text", "seal"}),
    ],
)
def test_a_changed_prompt_is_found(
    log: Path, tmp_path: Path, run_id: str, statement: str, kinds: set[str]
) -> None:
    """By the digest of its text, by that of its step, by the seal; and not called a change of the task."""
    came = proven(edited(log, tmp_path, statement.format(STEP_2.format(run_id))), run_id)
    assert came.verdict == "mismatch"
    assert set(came.counts) >= kinds
    assert "prompt" not in came.counts or "prompt" in kinds or "schema" in statement
    assert {mismatch.step for mismatch in came.mismatches if mismatch.kind == "text"} <= {2}


@pytest.mark.parametrize("run_id", ["rows", "walk"])
def test_a_log_without_the_setting_is_verified(log: Path, tmp_path: Path, run_id: str) -> None:
    """Of a run that an earlier version began, no prompt is missed; only the seal, taken since, differs."""
    statements = (
        f"UPDATE runs SET settings = json_remove(settings, '$.record_prompts') WHERE run_id = '{run_id}'",
        "DELETE FROM prompts",
    )
    assert set(proven(edited(log, tmp_path, *statements), run_id).counts) == {"seal"}


# -- changed by the task's author ------------------------------------------------------------------


def said(came: Verification) -> list[tuple[int | None, str, str, str]]:
    return [(one.step, one.what, one.expected, one.found) for one in came.mismatches]


def test_a_changed_prompt_of_a_process_is_named_with_what_changed(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step, and with a few characters around the difference."""
    monkeypatch.setattr(Rows, "word", "Line")
    came = proven(log, "rows")
    assert came.verdict == "plugin changed"
    assert said(came) == [
        (
            step,
            "its prompt changed, user message of view 1",
            f"'Line {step} of the document: its '…",
            f"'Row {step} of the document: its '…",
        )
        for step in range(4)
    ]


def test_a_step_without_a_key_is_found_by_its_likeness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompt is all that it is known by, and that has changed."""
    db = tmp_path / "a.db"
    monkeypatch.setattr(Rows, "keyed", False)
    mdap.solve_sync(Rows(rows=3), db=db, options=NOISY, run_id="rows")
    monkeypatch.setattr(Rows, "word", "Line")
    found = said(proven(db, "rows"))
    assert [each[0] for each in found] == [0, 1, 2]
    assert all(f"{step} of" in expected and f"{step} of" in was for step, _, expected, was in found)


def test_a_prompt_that_was_never_asked_is_no_changed_one(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What resembles nothing on record is new."""
    monkeypatch.setattr(Rows, "more", True)
    [(step, what, expected, _)] = said(proven(log, "rows"))
    assert (step, expected) == (None, "something that was decided")
    assert what.startswith("asking for step")


@pytest.mark.parametrize(
    ("name", "value", "what", "expected", "found"),
    [
        ("tokens", 50, "its limit of output tokens changed", "50", "40"),
        ("prefix", "line", "its key changed", "line/0", "row/0"),
        ("schema", {"type": "string", "enum": ["a", "c"]}, "its schema changed", "\"c\"", "\"b\""),
        ("schema", None, "its schema changed", "nothing", '{"enum":["a","b"],"type":"string"}'),
    ],
)  # fmt: skip
def test_whatever_is_sent_beside_the_messages_is_compared(
    log: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, what: str, expected: str, found: str
) -> None:
    """Schema and limit go to the model as well; a key says which step it is."""
    monkeypatch.setattr(Rows, name, value)
    came = proven(log, "rows")
    assert came.verdict == "plugin changed"
    first = came.mismatches[0]
    assert (first.step, first.what) == (0, what)
    assert expected in first.expected
    assert found in first.found


class Polite(Walk):
    def step(self, state: tuple[int, int]) -> mdap.Step[int] | None:
        step = super().step(state)
        if step is None or state[0] != 5:
            return step
        return mdap.Step(user=f"please: {step.user}", parse=self.read)


def test_a_changed_prompt_of_a_chain_is_named_with_what_changed(log: Path) -> None:
    """Where it is recorded; a digest alone can only say that it is another."""
    came = verify(log, "walk", lambda task, params: Polite(**params))
    [(step, what, expected, found)] = said(came)
    assert (came.verdict, step, what) == ("plugin changed", 5, "its prompt changed, user message")
    assert (expected, found[:5]) == (f"'please: {found[1:]}", "'0 5 ")


# -- nothing has changed ---------------------------------------------------------------------------


class Shared(Listed):
    """Ask several things under one key, with a schema that has a set in it."""

    async def solve(self, ask: mdap.Ask) -> Any:
        schema = {"type": "string", "enum": list({"yes", "no", "perhaps", "never"})}
        return await ask.map(
            mdap.Step(user=f"Is {word} well?", parse=str.strip, key="one key", schema=schema)
            for word in self.words
        )


async def test_no_change_is_seen_where_there_is_none(tmp_path: Path) -> None:
    """Steps that share a key, speculation that was wrong, tiers, views, a step settled by hand, a batch."""
    db = tmp_path / "a.db"
    options = {**NOISY, "latency": 0.0005}
    async with mdap.Session(db=db, options=options, record_prompts=True) as session:
        await session.solve(Shared(words=("Ada", "Ben", "Cy", "Di")), run_id="shared")
        await session.solve(Walk(steps=30, seed=2), k=2, run_id="ahead")
        await session.solve(Rows(rows=2, nested=True), run_id="nested")
        async for _ in session.solve_all([Rows(rows=1), Walk(steps=3)], run_id="batch"):
            pass
    assert rows(db, "SELECT count(*) FROM samples s JOIN runs r ON r.id = run WHERE verdict = 'void'") > [
        (0,)
    ]
    async with mdap.Session(db=db, options={"error_rate": 0.9, "seed": 1}, record_prompts=True) as session:
        hard = mdap.VotingSettings(k=9, max_samples=12)
        assert (await session.run(Walk(steps=3), voting=hard, run_id="hard")).status == "undecided"
    await settle_step(db, "hard", 0, answer="1", author="ada", reason="looked")
    for run_id in ("shared", "ahead", "nested", "batch", "hard"):
        came = proven(db, run_id)
        assert (came.verdict, came.mismatches) == ("verified", ()), run_id


async def test_a_step_that_was_asked_again_after_an_edit_is_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first session asked otherwise; what the finished run rests on is what the task asks today."""
    db = tmp_path / "a.db"
    async with mdap.Session(db=db, options=NOISY, budget=mdap.Budget(tokens=250)) as session:
        assert (await session.run(Rows(rows=12), run_id="one")).totals.steps > 2
    monkeypatch.setattr(Rows, "word", "Line")
    async with mdap.Session(db=db, options=NOISY) as session:
        await session.resume("one")
    came = proven(db, "one")
    assert (came.verdict, came.mismatches) == ("verified", ())


def test_the_log_keeps_no_key_of_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded are messages, schema and limit, and none of what goes along in a request's head."""
    key = "sk-canary-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    db = tmp_path / "a.db"
    with mdap.testing.FaultyServer.in_thread(lambda body, rng: "a") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        mdap.solve_sync(Rows(rows=2), model="openai/m", db=db)
    assert len(rows(db, "SELECT * FROM prompts")) == 5
    assert all(key.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_settings_say_it_in_the_record(log: Path) -> None:
    """A reader of the log knows why a run has prompts or none."""
    found = rows(log, "SELECT run_id, settings ->> 'record_prompts' FROM runs ORDER BY run_id")
    assert found == [("rows", None), ("walk", 1)]
    assert json.loads(rows(log, "SELECT settings FROM runs LIMIT 1")[0][0])["record_prompts"] is None


# -- how it was sent -------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [False, True])
async def test_a_merged_system_message_is_told_from_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Whether mdap found out that the endpoint takes none, or the user said so, the log has it."""
    db = tmp_path / "a.db"
    options = {"system_role": "user"} if told else {}
    with serving(monkeypatch, {"system_role": False}):
        await run(db, disks=2, options=options, record_prompts=True)
    async with open_log(db) as reader:
        row = await reader.find("one")
        assert await merged_by(reader, row) == ("openai/m",)
        [opening] = await reader.rows("openings_of_step", row.number, 0)
        found = await prompts_of(reader, TaskPrompts(), row, opening)
    assert isinstance(found, Rendered)
    assert (found.recorded, found.same, found.max_tokens) == (True, True, 750)
    assert "Towers of Hanoi" in found.views[0][0]
