"""Verifying: what a changed plugin is, what a log that is not finished is, and that parts make the whole."""

import json
import sqlite3
import types
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

import mdap
from mdap.audit import verify
from mdap.audit.verifying import Verification
from mdap.cli.main import main
from mdap.errors import DatabaseError
from mdap.plugins import make_task
from mdap.tasks import Chain, RedFlag, Step
from mdap.testing import ScriptedProvider
from mdap_hanoi import Hanoi
from tests.helpers import PROVIDED, Model, Walk

OPTIONS = {"error_rate": 0.35, "flag_rate": 0.1, "seed": 3}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "a.db"
    mdap.solve_sync(Walk(steps=200, seed=1), options=OPTIONS, db=path, run_id="walk")
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("short") / "a.db"
    mdap.solve_sync(Walk(), options=OPTIONS | {"latency": 1e-5}, db=path, run_id="walk")
    return path


class Rewritten(Walk):
    def step(self, state: tuple[int, int]) -> Step[int] | None:
        step = super().step(state)
        return step and Step(user=f"{step.user} please", parse=self.read)


class Renewed(Rewritten):
    version = "2"


class Stricter(Walk):
    def read(self, text: str) -> int:
        if text == "2":
            raise RedFlag("two is out of fashion")
        return super().read(text)


class Broken(Walk):
    def read(self, text: str) -> int:
        return {"0": 0, "1": 1, "2": 2}[text]


class Elsewhere(Walk):
    def advance(self, state: tuple[int, int], answer: int) -> tuple[int, int]:
        return (state[0] + 1, (state[1] + answer + (state[0] == 90)) % 3)


class Careless(Walk):
    def step(self, state: tuple[int, int]) -> Step[int] | None:
        raise KeyError("what")


class Otherwise(Walk):
    def result(self, state: tuple[int, int]) -> Any:
        return "all is well"


def checked_as(log: Path, kind: type[Chain[Any, Any]], **how: Any) -> Verification:
    def make(name: str, params: Mapping[str, Any]) -> Chain[Any, Any]:
        return kind(**params)

    return verify(log, "walk", make, **how)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Rewritten, {"prompt"}),
        (Renewed, {"prompt"}),
        (Stricter, {"reading"}),
        (Broken, {"reading"}),
        (Elsewhere, {"state"}),
        (Careless, {"plugin"}),
        (Otherwise, {"result"}),
    ],
)
def test_a_plugin_that_changed_is_told_from_tampering(
    log: Path, kind: type[Chain[Any, Any]], what: set[str]
) -> None:
    """The record agrees with itself, and only what the task's code says differs."""
    came = checked_as(log, kind)
    assert (came.verdict, came.ok) == ("plugin changed", False)
    assert set(came.counts) == what
    assert "agrees with itself" in " ".join(came.notes)
    assert any("version 1" in note and "this is 2" in note for note in came.notes) == (kind is Renewed)


def test_a_changed_plugin_does_not_hide_tampering(log: Path, tmp_path: Path) -> None:
    """Both at once is tampering."""
    copy = edited(log, tmp_path, "UPDATE samples SET latency = 3.5 WHERE step = 77 AND ordinal = 0")
    came = checked_as(copy, Rewritten)
    assert came.verdict == "mismatch"
    assert [mismatch.step for mismatch in came.mismatches if mismatch.kind == "prompt"][:3] == [0, 1, 2]
    assert came.counts["chain"] == 1


COLUMNS = {
    "runs": ("params", "settings", "provider", "k", "parent"),
    "run_events": ("at", "author", "reason", "step", "opening", "data"),
    "texts": ("body",),
    "steps": ("step", "opening", "key", "input", "prompt_digest"),
    "samples": (
        *("step", "opening", "counted", "ordinal", "answer_key", "flag_reason", "model", "view"),
        *("temperature", "input_tokens", "output_tokens", "cached_tokens", "latency", "attempts"),
        *("request_id", "finish_reason", "text"),
    ),
    "decisions": ("place", "step", "opening", "winner", "tally", "votes", "margin", "author", "reason"),
}


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table in COLUMNS for column in COLUMNS[table]]
)
def test_whatever_is_put_in_a_column_is_found(short: Path, tmp_path: Path, table: str, column: str) -> None:
    """A value of another type, an infinite number, one that cannot be: a finding or a sentence."""
    where = {"runs": "", "run_events": "", "texts": "WHERE id = 2"}.get(table, "WHERE step = 3")
    for value in ("NULL", "9e999", "-1", "77", "1.5", "'abc'", "'[1]'", "''", "x'00ff'"):
        with suppress(sqlite3.IntegrityError):
            copy = edited(short, tmp_path, f"UPDATE {table} SET {column} = {value} {where}")
            if contents(copy, table) == contents(short, table):
                continue
            try:
                came = checked_as(copy, Walk).verdict
            except DatabaseError as error:
                came = str(error)
            assert came == "mismatch" or "restore a copy" in came, value


def contents(log: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(log)) as connection:
        return [repr(row) for row in connection.execute(f"SELECT * FROM {table}")]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("latency", value) for value in ("NULL", "1e-5")),
        *(("request_id", value) for value in ("''", "'0'")),
        *(("flag_reason", value) for value in ("''", "'0'")),
        ("cached_tokens", "0"),
    ],
)
def test_whatever_else_a_sample_might_hold_is_found(tmp_path: Path, column: str, value: str) -> None:
    """Whatever is of the right type, and only not what was recorded."""
    db = tmp_path / "a.db"
    PROVIDED["it"] = ScriptedProvider(lambda request, n: Model(Walk()).says(request.user, n))
    mdap.solve_sync(Walk(), model="tests.helpers:provided/it", db=db, run_id="walk")
    copy = edited(db, tmp_path, f"UPDATE samples SET {column} = {value} WHERE step = 3 AND ordinal = 0")
    came = checked_as(copy, Walk)
    assert (came.verdict, came.counts["chain"]) == ("mismatch", 1)
    assert {mismatch.step for mismatch in came.mismatches} == {3}


def edited(log: Path, tmp_path: Path, *statements: str) -> Path:
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(log)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA synchronous = OFF")
        for [name] in target.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            target.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert target.execute(statement).rowcount
        target.commit()
    return copy


def test_the_truth_is_compared_on_request(log: Path) -> None:
    """A wrong decision is in order as a record; only the oracle knows."""
    assert checked_as(log, Walk).ok
    came = checked_as(log, Walk, oracle=True)
    wrong = sum(
        json.loads(row["answer"]) != Walk(steps=200, seed=1).oracle(tuple(json.loads(row["input"])))
        for row in decided(log)
    )
    assert wrong > 0
    assert (came.verdict, dict(came.counts)) == ("wrong decisions", {"truth": wrong})


def decided(log: Path) -> list[sqlite3.Row]:
    with closing(sqlite3.connect(log)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT input, answer FROM decided_steps WHERE run_id = 'walk'").fetchall()


@pytest.mark.parametrize("size", [1, 7, 199, 200])
def test_parts_make_the_whole(log: Path, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a chain is cut into parts, the same is found, and each thing once."""
    copy = edited(
        log,
        tmp_path,
        "UPDATE samples SET latency = 3.5 WHERE step = 77 AND ordinal = 0",
        "UPDATE decisions SET digest = replace(digest, '0', '1') WHERE place = 100",
        "UPDATE steps SET input = '[120,9]' WHERE step = 120",
    )
    whole = checked_as(copy, Walk)
    monkeypatch.setattr("mdap.audit.chains._SMALLEST", size)
    monkeypatch.setattr("mdap.audit.chains._LARGEST", size)
    reports: list[tuple[int, int]] = []
    came = checked_as(copy, Walk, progress=lambda done, total: reports.append((done, total)))
    assert came == whole
    assert came.verdict == "mismatch"
    assert {mismatch.step for mismatch in came.mismatches} == {77, 100, 101, 120}
    assert [done for done, _ in reports] == [*range(size, 200, size), 200, 200]


@pytest.mark.slow
def test_several_processes_find_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts in other processes come back in order."""
    db = tmp_path / "a.db"
    mdap.solve_sync(Hanoi(disks=7), options=OPTIONS, db=db, run_id="walk")
    copy = edited(db, tmp_path, "UPDATE samples SET latency = 3.5 WHERE step IN (30, 120) AND ordinal = 0")
    monkeypatch.setattr("mdap.audit.chains._SMALLEST", 50)
    monkeypatch.setattr("mdap.audit.chains._LARGEST", 50)
    monkeypatch.setattr("mdap.audit.chains._WORTHWHILE", 0)
    came = verify(copy, "walk", make_task, jobs=2)
    assert came == verify(copy, "walk", make_task)
    assert [mismatch.step for mismatch in came.mismatches] == [30, 120]


def test_findings_are_bounded(log: Path) -> None:
    """Of thousands of mismatches, a hundred are told in full, and all are counted."""
    came = checked_as(log, Rewritten)
    assert (len(came.mismatches), came.counts["prompt"]) == (100, 200)
    assert len(json.dumps(came.to_dict())) < 50_000


# --- logs that are not finished


@pytest.mark.slow
def test_a_run_that_stopped_is_verified_as_far_as_it_came(tmp_path: Path) -> None:
    """A budget ends it between two decisions; its seal covers what is sampled already."""
    db = tmp_path / "a.db"
    options = {**OPTIONS, "latency": 0.001}
    with pytest.raises(mdap.StoppedError):
        mdap.solve_sync(
            Hanoi(disks=8), options=options, db=db, run_id="cut", budget=mdap.Budget(tokens=30_000)
        )
    came = verify(db, "cut", make_task)
    assert (came.verdict, came.status, came.notes) == ("verified", "stopped", ())
    assert 0 < came.decisions < 255
    with closing(sqlite3.connect(db)) as connection:
        [(pending,)] = connection.execute("SELECT count(*) FROM pending").fetchall()
    mdap.solve_sync(Hanoi(disks=8), options=options, db=db, run_id="cut")
    assert verify(db, "cut", make_task).status == "finished"
    if pending:
        assert verify(db, "cut", make_task).ok


def test_a_killed_run_says_that_it_has_no_seal(log: Path, tmp_path: Path) -> None:
    """Everything but the seal still holds."""
    copy = edited(log, tmp_path, "DELETE FROM run_events WHERE kind IN ('finished', 'sealed')")
    came = checked_as(copy, Walk)
    # Its last decision is there, so that it had come to its end.
    assert (came.verdict, came.status, came.seal) == ("not sealed", "running", None)
    assert "no seal was taken yet" in came.notes[0]


def test_a_run_without_any_decision_is_verified(tmp_path: Path) -> None:
    """Undecided at its first step."""
    db = tmp_path / "a.db"
    voting = mdap.VotingSettings(k=3, max_samples=5)
    with pytest.raises(mdap.UndecidedError):
        mdap.solve_sync(Hanoi(disks=3), options={"error_rate": 1.0}, voting=voting, db=db, run_id="none")
    came = verify(db, "none", make_task)
    assert (came.verdict, came.status, came.decisions, came.digest) == ("verified", "undecided", 0, None)


def test_a_pilot_may_end_early(tmp_path: Path) -> None:
    """It ends when it has votes enough, in the middle of the chain."""
    db = tmp_path / "a.db"
    mdap.solve_sync(Hanoi(disks=8), k="auto", options={"error_rate": 0.05}, db=db, run_id="tower")
    for name in ("tower", "tower-pilot"):
        came = verify(db, name, make_task)
        assert (came.verdict, came.status, came.mismatches) == ("verified", "finished", ())


def test_a_reply_on_which_the_parser_failed_is_no_mismatch(tmp_path: Path) -> None:
    """It is recorded as cancelled, and the parser still fails on it."""
    db = tmp_path / "a.db"

    def make(name: str, params: Mapping[str, Any]) -> Chain[Any, Any]:
        return Broken(**params)

    PROVIDED["it"] = ScriptedProvider(lambda request, n: Model(Walk()).says(request.user, n))
    with pytest.raises(mdap.FailedError):
        mdap.solve_sync(Broken(), model="tests.helpers:provided/it", db=db, run_id="walk")
    came = verify(db, "walk", make)
    assert (came.verdict, came.status) == ("verified", "failed")


@pytest.mark.parametrize("method", ["start", "step", "advance", "length", "result"])
def test_a_failure_of_the_author_is_verified_as_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A run that failed fails in the same way when it is verified; another failure is a change."""
    db = tmp_path / "a.db"
    failing = types.new_class("Failing", (Walk,))

    def fail(self: Walk, *args: Any) -> Any:
        raise KeyError("by the author")

    monkeypatch.setattr(failing, method, fail)
    with pytest.raises(mdap.FailedError):
        mdap.solve_sync(failing(steps=3), db=db, run_id="walk")
    came = verify(db, "walk", lambda name, params: failing(**params))
    assert (came.verdict, came.status, came.mismatches) == ("verified", "failed", ())

    def otherwise(self: Walk, *args: Any) -> Any:
        raise KeyError("today")

    monkeypatch.setattr(failing, method, otherwise)
    came = verify(db, "walk", lambda name, params: failing(**params))
    assert (came.verdict, {found.kind for found in came.mismatches}) == ("plugin changed", {"plugin"})


@pytest.mark.slow
def test_a_run_that_goes_on_is_verified_meanwhile(tmp_path: Path) -> None:
    """Whatever is recorded while the audit reads is no mismatch."""
    db = tmp_path / "a.db"
    options = {**OPTIONS, "latency": 0.001, "fault_rate": 0.05}
    ended: list[mdap.Solution] = []
    paused, verified = Event(), Event()

    def pause(event: mdap.Event) -> None:
        # However quick the run, and however slow the audit, several of these fall into it.
        if isinstance(event.fact, mdap.Decided) and event.fact.step % 10 == 9:
            paused.set()
            verified.wait(20)
            verified.clear()

    def run() -> None:
        settings: dict[str, Any] = {"options": options, "k": 2, "on_event": pause}
        ended.append(mdap.solve_sync(Hanoi(disks=6), db=db, run_id="r", **settings))

    runner = Thread(target=run)
    runner.start()
    seen = []
    try:
        while runner.is_alive():
            with suppress(mdap.UsageError, mdap.DatabaseError):  # before there is a run
                came = verify(db, "r", make_task)
                assert not came.mismatches
                assert came.verdict in ("verified", "empty", "not sealed")  # as it begins, and as it ends
                seen.append(came.decisions)
                if paused.is_set():
                    paused.clear()
                    verified.set()
    finally:
        runner.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert verify(db, "r", make_task).digest == ended[0].digest


# --- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 and 1, one sentence, one JSON object."""
    db = tmp_path / "a.db"
    code, out, _ = run(capsys, "run", "hanoi", "-p", "disks=4", "--run-id", "h", "--db", db, "--json")
    told = json.loads(out)
    code, out, err = run(capsys, "audit", "verify", "latest", "--oracle", "--db", db, "--json")
    came = json.loads(out)
    assert (code, err, came["verdict"]) == (0, "", "verified")
    assert {name: came[name] for name in ("digest", "seal", "votes")} == {
        name: told[name] for name in ("digest", "seal", "votes")
    }
    code, out, err = run(capsys, "audit", "verify", "h", "--db", db, "--expect", told["seal"])
    assert (code, err) == (0, "")
    assert "h: verified" in out
    copy = edited(db, tmp_path, "UPDATE decisions SET votes = 4 WHERE place = 7")
    code, out, err = run(capsys, "audit", "verify", "h", "--db", copy)
    assert (code, err) == (1, "mdap: 2 things do not match: h is not as it was recorded\n")
    assert "count: step 7: votes and margin: expected (3, 3), found (4, 3)" in out


@pytest.mark.parametrize(
    ("name", "statement", "sentence"),
    [
        ("nobody", None, "there is no run 'nobody'"),
        ("h", "UPDATE runs SET settings = '{'", "is not as mdap wrote it"),
        ("h", "UPDATE runs SET task = 'nothing'", "there is no task 'nothing'"),
        ("h", "UPDATE runs SET params = '{\"disks\":99}'", "parameter disks"),
    ],
)
def test_what_cannot_be_verified_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, statement: str | None, sentence: str
) -> None:
    """Exit code 2, no traceback."""
    db = tmp_path / "a.db"
    mdap.solve_sync(Hanoi(disks=2), db=db, run_id="h")
    copy = edited(db, tmp_path, *([statement] if statement else []))
    code, _, err = run(capsys, "audit", "verify", name, "--db", copy)
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1
