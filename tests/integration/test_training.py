"""Training data out of a log: a reply that won, beside each that lost, with where it comes from."""

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit.training import LESSON_FORMATS, Lesson, LessonFilter, export_lessons, lessons
from mdap.cli.main import main
from mdap.plugins import make_recorded
from mdap.rules.digests import prompt_digest
from mdap.testing import ScriptedProvider
from mdap_arithmetic import Multiply
from mdap_hanoi import Hanoi
from tests.helpers import PROVIDED, Walk

TOWER = Hanoi(disks=5, style="compact", views=3)
MODELS = ["sim/weak?error_rate=0.3", "sim/strong?error_rate=0.02"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "a.db"
    mdap.solve_sync(TOWER, model=MODELS, k=4, db=path, run_id="tower")
    return path


def taught(log: Path, run_id: str = "tower", **wanted: Any) -> list[Lesson]:
    return list(lessons(log, run_id, make_recorded, LessonFilter(**wanted)))


def written(found: list[Lesson], fmt: str, **how: bool) -> list[dict[str, Any]]:
    out = io.BytesIO()
    export_lessons(found, out, fmt, **how)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def ran(command: list[str]) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code


def test_every_voted_step_teaches_its_winner(log: Path) -> None:
    """Prompt and chosen reply are those of one recorded sample that voted for the decision."""
    found = taught(log)
    assert [lesson.step for lesson in found] == list(range(31))
    with mdap.open_log(log) as opened:
        steps = {entry.step: entry for entry in opened.steps("tower")}
        samples = [entry for entry in opened.samples("tower") if entry.verdict == "vote"]
    state = TOWER.start()
    for lesson in found:
        step, truth = TOWER.step(state), TOWER.oracle(state)
        prompts = [(step.system, step.user), *((view.system, view.user) for view in step.views)]
        view = prompts.index((lesson.system, lesson.user))
        parse = [step.parse, *(view.parse for view in step.views)][view]
        assert parse(lesson.chosen) == truth
        assert all(parse(text) != truth for text in lesson.rejected)
        assert lesson.prompt_digest == prompt_digest(lesson.system, lesson.user)
        told = (lesson.model, lesson.chosen, view)
        assert told in {(one.model, one.text, one.view) for one in samples if one.step == lesson.step}
        votes = steps[lesson.step].votes
        assert (lesson.votes, lesson.total) == (max(votes.values()), sum(votes.values()))
        assert lesson.margin == steps[lesson.step].margin
        state = TOWER.advance(state, truth)


def test_the_doubt_is_the_certificates(log: Path) -> None:
    """The doubts of all steps add up to the errors that the certificate expects."""
    found = taught(log)
    certificate = mdap.solve_sync(TOWER, model=MODELS, k=4, db=log, run_id="tower").certificate
    assert certificate is not None
    assert sum(lesson.doubt or 0 for lesson in found) == pytest.approx(certificate.expected_errors)
    calm = max(lesson.doubt or 0 for lesson in found if not lesson.contested)
    assert max(lesson.doubt or 0 for lesson in found) > calm


def test_filters_leave_out_steps_and_replies(log: Path) -> None:
    everything = taught(log)
    contested = taught(log, contested=True)
    assert contested == [lesson for lesson in everything if lesson.contested]
    assert 0 < len(contested) < len(everything)
    wide = taught(log, min_margin=5)
    assert wide == [lesson for lesson in everything if lesson.margin >= 5]
    strong = taught(log, from_model="sim/strong")
    assert {lesson.model for lesson in strong} == {"sim/strong"}
    assert {lesson.model for lesson in everything} == {"sim/strong", "sim/weak"}
    assert taught(log, from_model="nobody") == []


def test_chat_rows_end_with_the_winning_reply(log: Path) -> None:
    lesson = taught(log)[0]
    row = written([lesson], "chat-jsonl")[0]
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][2]["content"] == lesson.chosen
    assert row["metadata"]["doubt"] == lesson.doubt
    assert row["metadata"]["model"] == lesson.model
    assert set(written([lesson], "chat-jsonl", bare=True)[0]) == {"messages"}


def test_preference_rows_stand_for_replies_that_lost(log: Path) -> None:
    """One row for each answer that lost, and none for a step on which all agreed."""
    found = taught(log)
    rows = written(found, "preference-jsonl", bare=True)
    assert len(rows) == sum(len(lesson.rejected) for lesson in found) > 0
    for row in rows:
        assert set(row) == {"prompt", "chosen", "rejected"}
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"
        assert row["chosen"] != row["rejected"]


@pytest.mark.parametrize("fmt", LESSON_FORMATS)
def test_a_common_loader_reads_it(log: Path, tmp_path: Path, fmt: str) -> None:
    """`datasets` reads the file as it is, where it is installed; pandas does in any case."""
    import pandas

    file = tmp_path / "rows.jsonl"
    with file.open("wb") as out:
        export_lessons(taught(log), out, fmt)
    assert len(pandas.read_json(file, lines=True)) == len(file.read_bytes().splitlines())
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset("json", data_files=str(file), cache_dir=str(tmp_path), split="train")
    assert rows.column_names == [*json.loads(file.read_bytes().splitlines()[0])]


def test_the_command_writes_what_the_library_does(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = ["audit", "export", "tower", "--db", str(log)]
    options = ["--format", "preference-jsonl", "--contested", "--from-model", "sim/strong"]
    assert ran([*told, *options]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert rows == written(taught(log, contested=True, from_model="sim/strong"), "preference-jsonl")
    for option in ("--contested", "--bare", "--min-margin=2", "--from-model=x"):
        assert ran([*told, option]) == 2
        sentence = capfd.readouterr().err
        assert sentence.startswith(f"mdap: {option.partition('=')[0]} is for training data: add --format")


def test_a_process_without_recorded_prompts_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    db = tmp_path / "a.db"
    mdap.solve_sync(Multiply(a="12", b="3"), db=db, run_id="sum")
    with closing(sqlite3.connect(db)) as connection:
        recorded = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'prompts'").fetchone()
    done = ran(["audit", "export", "sum", "--db", str(db), "--format", "chat-jsonl"])
    said = capfd.readouterr()
    if recorded:
        assert len(said.out.splitlines()) == len(taught(db, "sum")) > 0
    else:
        assert done == 2
        assert "a process whose prompts are not in the log" in said.err


def test_a_changed_prompt_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply never stands beside a prompt that it was not given to."""
    db = tmp_path / "a.db"
    mdap.solve_sync(Hanoi(disks=2, style="compact"), db=db, run_id="r")
    monkeypatch.setattr("mdap_hanoi.compact.SYSTEM", "Something else.")
    with pytest.raises(mdap.UsageError, match="step 0 of r had another prompt than hanoi gives it now"):
        taught(db, "r")


def test_hostile_replies_stay_one_line_each(tmp_path: Path) -> None:
    db = tmp_path / "a.db"
    PROVIDED["odd"] = ScriptedProvider(lambda request, n: mdap.Reply("1", "odd\u2028\nname"))
    mdap.solve_sync(Walk(steps=2), model="tests.helpers:provided/odd", db=db, run_id="odd")
    rows = written(taught(db, "odd"), "chat-jsonl")
    assert len(rows) == 2
    assert all(row["messages"][-1]["content"] == "1" for row in rows)


def test_a_batch_teaches_what_its_cases_do(tmp_path: Path) -> None:
    db = tmp_path / "a.db"
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"disks": 2}\n{"disks": 3}\n')
    command = [
        "run",
        "hanoi",
        "--inputs",
        str(cases),
        "--db",
        str(db),
        "--run-id",
        "many",
        "--display",
        "none",
    ]
    assert ran(command) == 0
    found = taught(db, "many")
    assert sorted({lesson.run_id for lesson in found}) == ["many/0", "many/1"]
    assert len(found) == 3 + 7
