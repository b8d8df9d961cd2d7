"""The certificate of runs on record: what `Solution` says, and which decisions are doubtful."""

from pathlib import Path

import mdap
from mdap.journal.reader import open_log
from mdap.rules.values import Kind, kinds_of
from mdap.session.results import most_doubtful
from mdap_hanoi import Hanoi
from mdap_hanoi.strategy import right_answer


async def _solved(db: Path, k: int = 5, **options: float) -> mdap.Solution:
    async with mdap.Session("sim", db=db, options=options) as session:
        return await session.run(Hanoi(disks=10), k=k, run_id="one")


async def test_independent_errors_are_certified(tmp_path: Path) -> None:
    solution = await _solved(tmp_path / "mdap.db", error_rate=0.02)
    certificate = solution.certificate
    assert certificate is not None
    assert solution.p_zero_errors == certificate.p_zero_errors
    assert certificate.error_rate_low < 0.02 < certificate.error_rate_high
    assert certificate.expected_errors < 0.2
    assert solution.warnings == ()
    assert solution.to_dict()["certificate"]["error_rate"] == certificate.error_rate


async def test_hard_prompts_are_warned_of_and_their_errors_are_doubtful(tmp_path: Path) -> None:
    """A wrong decision of the run is among the most doubtful hundredth of its steps."""
    db = tmp_path / "mdap.db"
    solution = await _solved(db, hard_rate=0.02, hard_error_rate=0.7, seed=2)
    assert "hard" in "".join(solution.warnings)
    assert (solution.p_zero_errors or 0) < 0.9
    task = Hanoi(disks=10)
    async with open_log(db) as reader:
        row = await reader.find("one")
        doubtful = await most_doubtful(reader, row.number, 10)
        state, wrong = task.start(), []
        async for decided in reader.decided(row.number):
            states, answers = mdap_types(task)
            state = states.read(decided["input"])
            answer = answers.read(decided["winner"])
            if answer != right_answer(state, 10):
                wrong.append(decided["step"])
    assert wrong
    assert [doubt.p_wrong for doubt in doubtful] == sorted(
        (doubt.p_wrong for doubt in doubtful), reverse=True
    )
    found = {doubt.step for doubt in doubtful} & set(wrong)
    assert found  # by chance, 10 of 1,023 steps would hold one in a hundred of them


async def test_nothing_is_said_where_no_vote_can_disagree(tmp_path: Path) -> None:
    solution = await _solved(tmp_path / "mdap.db", k=1)
    assert solution.certificate is None
    assert solution.p_zero_errors is None
    assert solution.to_dict()["certificate"] is None


def mdap_types(task: Hanoi) -> tuple[Kind, Kind]:
    return kinds_of(task)
