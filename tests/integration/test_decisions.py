"""What a process is told of many steps at once: decided or not, and how sure."""

from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit import verify
from mdap.audit.review import review
from mdap.errors import UnavailableError
from mdap.plugins import make_task
from mdap.rules.certificate import confident, shape_of
from mdap.testing import ScriptedProvider, check_task
from tests.integration.test_session import provide, query
from tests.processes import Double, double

DIVIDED = (3, 7)
REFUSED = 5


class Table(Double):
    """Double many numbers, whatever becomes of some of them."""

    width: int = 10

    async def solve(self, ask: mdap.Ask) -> Any:
        found = await ask.decisions(double(number, key=f"row/c{number}") for number in range(self.width))
        return [[one.answer, one.decided, one.reason, one.confidence, one.author] for one in found]


def says(request: mdap.SampleRequest, ordinal: int) -> str | Exception:
    number = int(request.user.split()[1])
    if number == REFUSED:
        return mdap.RejectedError("not this one")
    if number in DIVIDED:
        return str(2 * number + ordinal % 2)
    return str(2 * number + (number == 8 and ordinal == 1))


async def solved(db: Path, **settings: Any) -> mdap.Solution:
    model = provide(ScriptedProvider(says))
    voting = mdap.VotingSettings(k=3, max_samples=12)
    return await mdap.solve(Table(), model=model, db=db, run_id="r", voting=voting, **settings)


async def test_each_row_says_what_it_came_to(tmp_path: Path) -> None:
    """In order, an undecided one with its reason; the run is finished, and verified."""
    db = tmp_path / "mdap.db"
    solution = await solved(db)
    rows = solution.result
    assert [row[0] for row in rows] == [None if n in (*DIVIDED, REFUSED) else 2 * n for n in range(10)]
    assert [row[1] for row in rows] == [n not in (*DIVIDED, REFUSED) for n in range(10)]
    assert rows[3][2] == "step 3 has no winner after 12 samples: its best answer leads by 0, and k is 3"
    assert "not this one" in rows[REFUSED][2]
    assert solution.undecided == 3
    assert verify(db, "r", make_task).verdict == "verified"


async def test_confidence_is_the_certificates_doubt_over_the_rows_asked_together(tmp_path: Path) -> None:
    """Unanimous rows are surest; a divided one less so; what no vote decided has none."""
    solution = await solved(tmp_path / "mdap.db")
    sure = [row[3] for row in solution.result]
    assert sure[3] is sure[REFUSED] is None
    assert sure[0] > sure[8] > 0.9
    doubtful = review(tmp_path / "mdap.db", "r")
    doubts = {one.key: one.doubt or 0.0 for one in doubtful}
    for number in (0, 8):
        assert sure[number] == pytest.approx(1 - doubts[f"row/c{number}"], abs=1e-6)


async def test_confidence_is_the_same_after_a_resume(tmp_path: Path) -> None:
    """It follows from what was asked and decided, not from the session that decided it."""
    uncut = await solved(tmp_path / "uncut.db")
    left = [20]

    def fading(request: mdap.SampleRequest, ordinal: int) -> str | Exception:
        left[0] -= 1
        return UnavailableError("gone") if left[0] == 0 else says(request, ordinal)

    db = tmp_path / "cut.db"
    model = provide(ScriptedProvider(fading))
    voting = mdap.VotingSettings(k=3, max_samples=12)
    with pytest.raises(mdap.StoppedError):
        await mdap.solve(Table(), model=model, db=db, run_id="r", voting=voting)
    assert query(db, "SELECT count(*) FROM decisions")[0][0] > 0
    resumed = await mdap.solve(Table(), model=model, db=db, run_id="r", voting=voting)
    assert resumed.result == uncut.result
    assert verify(db, "r", make_task).verdict == "verified"


async def test_with_a_lead_of_one_vote_nothing_tells(tmp_path: Path) -> None:
    solution = await mdap.solve(Table(width=3), k=1, db=tmp_path / "mdap.db", options={"error_rate": 0})
    assert [row[3] for row in solution.result] == [None] * 3


def test_confidence_is_never_certainty() -> None:
    """Votes can agree on a wrong answer, however many there are."""
    decision = mdap.Decision(step=0, answer=1, decided=True, votes={"1": 60}, key="r/0")
    [told] = confident([decision], [shape_of("1", decision.votes)])
    assert told.confidence is not None
    assert 0.99 < told.confidence < 1


def test_a_domain_that_uses_it_is_checked() -> None:
    """`check_task` answers `ask.decisions` by the oracle."""
    check_task(Table())
