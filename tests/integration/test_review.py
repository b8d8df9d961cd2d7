"""The decisions to look at: the most doubtful first, with every candidate and every reply."""

import json
from pathlib import Path

import pytest
from anyio import to_thread

import mdap
from mdap.audit.review import review
from mdap.cli.main import main
from mdap.testing import ScriptedProvider
from mdap_hanoi import Hanoi
from tests.helpers import PROVIDED, Walk
from tests.integration.test_decisions import Table, says
from tests.integration.test_session import provide

OPTIONS = {"error_rate": 0.25, "flag_rate": 0.1, "seed": 3}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "a.db"
    mdap.solve_sync(Hanoi(disks=7), options=OPTIONS, k=3, db=path, run_id="tower")
    return path


def test_the_most_doubtful_come_first(log: Path) -> None:
    """By the chance of being wrong; and none that is left out is more doubtful."""
    found = review(log, "tower", 127)
    assert len(found) == 127
    assert [one.doubt for one in found] == sorted((one.doubt or 0.0 for one in found), reverse=True)
    assert sorted(one.step for one in found) == list(range(127))
    assert review(log, "tower", 9) == found[:9]
    # The most doubtful race is not one in which all votes were for the winner.
    assert len(found[0].candidates) > 1


def test_every_reply_is_there(log: Path) -> None:
    """Votes add up to the tally, and each text says what it voted for."""
    with mdap.open_log(log) as opened:
        steps = {step.step: step for step in opened.steps("tower")}
    task = Hanoi(disks=7)
    for one in review(log, "tower", 20):
        step = steps[one.step]
        assert one.candidates[0].won
        assert one.candidates[0].answer == step.answer
        assert {
            json.dumps(each.answer, separators=(",", ":")): each.votes for each in one.candidates
        } == step.votes
        assert (one.input, one.margin, len(one.flags)) == (step.input, 3, step.red_flags)
        for each in one.candidates:
            assert len(each.replies) == each.votes
            assert all(json.dumps(task.read(text).move) in text for _, text in each.replies)


def test_the_command(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Candidates side by side, or one JSON object."""
    with pytest.raises(SystemExit, match="0"):
        main(["audit", "review", "tower", "--db", str(log), "--most", "3", "--json"])
    told = json.loads(capsys.readouterr().out)["decisions"]
    assert told == [one.to_dict() for one in review(log, "tower", 3)]
    with pytest.raises(SystemExit, match="0"):
        main(["audit", "review", "tower", "--db", str(log), "--most", "1"])
    out = capsys.readouterr().out
    assert out.startswith(f"tower, step {told[0]['step']}: wrong with a chance of ")
    assert "votes, decided" in out


def test_hostile_texts_are_shown_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No control character and no markup of a model reaches the terminal."""
    db = tmp_path / "a.db"
    texts = iter(["\x1b[31m[bold]0", "0", "\x1b]0;title\x07", "1", "1", "1", "1", "1"])

    class Loose(Walk):
        def read(self, text: str) -> int:
            return int(text[-1]) if text[-1].isdigit() else 2

    PROVIDED["it"] = ScriptedProvider(lambda request, n: mdap.Reply(next(texts, "1"), "toy"))
    try:
        mdap.solve_sync(Loose(steps=1), model="tests.helpers:provided/it", db=db, run_id="h", k=3)
    finally:
        PROVIDED.clear()
    with pytest.raises(SystemExit, match="0"):
        main(["audit", "review", "h", "--db", str(db)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[bold]0" in out


def test_there_may_be_nothing_to_review(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run without any decision."""
    db = tmp_path / "a.db"
    mdap.solve_sync(Table(width=0), db=db, run_id="n")
    with pytest.raises(SystemExit, match="0"):
        main(["audit", "review", "n", "--db", str(db)])
    assert capsys.readouterr().out == "no step was decided by vote yet\n"


async def test_steps_without_a_winner_come_first_with_their_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was replied, or why nobody would; by the key a person settles them."""
    db = tmp_path / "a.db"
    model = provide(ScriptedProvider(says))
    await mdap.solve(Table(), model=model, db=db, run_id="r", voting=mdap.VotingSettings(k=3, max_samples=12))
    found = review(db, "r", 20)
    assert [one.key for one in found[:3]] == ["row/c3", "row/c5", "row/c7"]
    assert [one.doubt is None for one in found] == [True] * 3 + [False] * 7
    assert [(one.votes, one.won) for one in found[0].candidates] == [(6, False), (6, False)]
    assert found[0].candidates[0].replies == (("scripted", "6"),) * 6
    assert (found[1].candidates, found[1].reason) == ((), "not this one")
    with pytest.raises(SystemExit, match="0"):
        await to_thread.run_sync(main, ["audit", "review", "r", "--db", str(db), "--most", "4"])
    out = capsys.readouterr().out
    assert "r, step 3 (row/c3): UNDECIDED, 12 samples, none of which leads far enough" in out
    assert "r, step 5 (row/c5): UNDECIDED, not this one" in out
    assert "r, step 8 (row/c8): wrong with a chance of" in out


def test_the_undecided_step_of_a_chain_is_there(tmp_path: Path) -> None:
    """It is what the run waits for."""
    db = tmp_path / "a.db"
    voting = mdap.VotingSettings(k=3, max_samples=5)
    with pytest.raises(mdap.UndecidedError):
        mdap.solve_sync(Hanoi(disks=3), options={"error_rate": 1.0}, voting=voting, db=db, run_id="n")
    [one] = review(db, "n")
    assert (one.step, one.doubt, one.run_id) == (0, None, "n")
