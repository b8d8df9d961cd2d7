"""What a run does with values that JSON does not tell apart: it ends before they share votes or steps."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, model_validator

import mdap
from mdap.audit import verify
from mdap.errors import FailedError, UsageError
from mdap.tasks import Task
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED

SCRIPTED = "tests.helpers:provided/one"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    PROVIDED.clear()


def solve(task: mdap.Task, db: Path, replies: list[str], **more: Any) -> mdap.Solution:
    PROVIDED["one"] = ScriptedProvider(lambda request, n: replies[n % len(replies)])
    return mdap.solve_sync(task, model=SCRIPTED, db=db, run_id="a", **more)


class Shape(BaseModel):
    pass


class Circle(Shape):
    r: int


class Square(Shape):
    side: int


class Found(BaseModel):
    shape: Shape


def shaped(text: str) -> Found:
    kind, size = text.split()
    return Found(shape=Circle(r=int(size)) if kind == "circle" else Square(side=int(size)))


class Quoted(BaseModel):
    value: int
    quote: str = Field(exclude=True)


class Quoting(mdap.Process[str]):
    async def solve(self, ask: mdap.Ask) -> str:
        found = await ask(mdap.Step(user="how many?", parse=lambda text: Quoted(value=len(text), quote=text)))
        return found.quote


class Shaped(mdap.Process[str]):
    async def solve(self, ask: mdap.Ask) -> str:
        return repr(await ask(mdap.Step(user="which?", parse=shaped)))


def made(task: Task) -> Callable[..., Task]:
    return lambda name, params: task


def test_unequal_answers_do_not_share_votes(tmp_path: Path) -> None:
    """The race ends, the replies are on record, and the audit agrees."""
    db = tmp_path / "a.db"
    with pytest.raises(
        FailedError, match="would share their votes: give each class a field of its own"
    ) as caught:
        solve(Shaped(), db, ["square 7", "circle 3", "circle 4"])
    assert caught.value.solution.totals.samples >= 2
    assert verify(db, "a", made(Shaped())).ok


def test_an_audit_finds_votes_that_were_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a log of before answers were told apart."""
    db = tmp_path / "a.db"
    with monkeypatch.context() as before:
        before.setattr("mdap.engine.voting.refuse_rivals", lambda first, answer, spelled: None)
        assert (
            solve(Shaped(), db, ["square 7", "circle 3", "circle 4"]).result == "Found(shape=Square(side=7))"
        )
    verification = verify(db, "a", made(Shaped()))
    assert verification.verdict == "mismatch"
    assert verification.mismatches[0].what == "votes for one answer"


def test_answers_may_carry_what_is_not_voted_on(tmp_path: Path) -> None:
    """What pydantic excludes tells no answers apart; the first reply's stays."""
    db = tmp_path / "a.db"
    assert solve(Quoting(), db, ["one", "two"]).result == "one"
    assert verify(db, "a", made(Quoting())).ok


class InPlace(mdap.Chain[list[int], int]):
    """Changes its state in place, from step *since* on."""

    since: int = 0
    by_step: bool = False

    def start(self) -> list[int]:
        return []

    def step(self, state: list[int]) -> mdap.Step[int] | None:
        if self.by_step and len(state) >= self.since:
            state.append(0)
        return mdap.Step(user=f"{state}", parse=int) if len(state) < 8 else None

    def advance(self, state: list[int], answer: int) -> list[int]:
        if self.by_step or len(state) < self.since:
            return [*state, answer]
        state.append(answer)
        return state


@pytest.mark.parametrize("since", [0, 3, 7])
@pytest.mark.parametrize("speculate", ["off", "vote"])
def test_a_state_changed_in_place_is_noticed(tmp_path: Path, since: int, speculate: str) -> None:
    """Whenever it is, and however far steps are sampled ahead; the run is not finished."""
    with pytest.raises(FailedError, match=r"changed the state in place: let (it|advance) return a new list"):
        solve(InPlace(since=since), tmp_path / "a.db", ["1"], speculate=speculate)


def test_a_state_changed_by_step_is_noticed(tmp_path: Path) -> None:
    """The first of its class, and any that no longer comes back from its JSON, before it is asked."""
    with pytest.raises(FailedError, match="step changed the state in place"):
        solve(InPlace(by_step=True), tmp_path / "a.db", ["1"])
    with pytest.raises(FailedError, match="deciding step 3: SpellingError: step changed the state in place"):
        solve(InPlace(by_step=True, since=3), tmp_path / "b.db", ["1"])


class Collecting(mdap.Chain[int, int]):
    told: list[int] = Field(default_factory=list)

    def start(self) -> int:
        return 0

    def step(self, state: int) -> mdap.Step[int] | None:
        return mdap.Step(user=f"{state}", parse=int) if state < 3 else None

    def advance(self, state: int, answer: int) -> int:
        self.told.append(answer)
        return state + 1

    def result(self, state: int) -> list[int]:
        return self.told


def test_a_parameter_changed_in_place_is_noticed(tmp_path: Path) -> None:
    """At the first answer: a resumed run would begin with the parameters as they are on record."""
    with pytest.raises(FailedError, match="step 0: SpellingError: advance changed the task's parameters"):
        solve(Collecting(), tmp_path / "a.db", ["1"])


@dataclass
class Memo:
    at: int

    def __post_init__(self) -> None:
        self.seen = 0


class Remembering(mdap.Chain[Memo, int]):
    """Keeps something in its state that is no field."""

    def start(self) -> Memo:
        memo = Memo(0)
        memo.seen = 5
        return memo

    def step(self, state: Memo) -> mdap.Step[int] | None:
        return mdap.Step(user=f"{state.at}", parse=int) if state.at < 4 else None

    def advance(self, state: Memo, answer: int) -> Memo:
        return Memo(state.at + 1 + state.seen)


def test_a_state_that_holds_more_than_its_json_is_noticed(tmp_path: Path) -> None:
    """The first answer is tried on the state as it is and as it comes back."""
    with pytest.raises(
        FailedError, match="advance goes on otherwise from a state and an answer that were read back"
    ):
        solve(Remembering(), tmp_path / "a.db", ["1"])


class Versioned(mdap.Process[int]):
    async def solve(self, ask: mdap.Ask) -> int:
        return await ask(mdap.Step(user="?", parse=int))


@pytest.mark.parametrize("version", [2, "2", 2.0, (2, "b")])
def test_a_version_of_any_type_is_the_same_again(
    tmp_path: Path, version: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And another than that of another type."""
    db = tmp_path / "a.db"
    monkeypatch.setattr(Versioned, "version", version)
    assert solve(Versioned(), db, ["1"]).result == 1
    assert solve(Versioned(), db, ["1"]).result == 1
    assert verify(db, "a", made(Versioned())).notes == ()
    monkeypatch.setattr(Versioned, "version", 2 if version == "2" else "2")
    with pytest.raises(UsageError, match=r"was started with task version .* install version"):
        solve(Versioned(), db, ["1"])


class Tagged(mdap.Process[int]):
    key: str = Field("a", exclude=True)

    async def solve(self, ask: mdap.Ask) -> int:
        return 1


def test_parameters_are_looked_at_before_anything_is_recorded(tmp_path: Path) -> None:
    """There is no run that could not be resumed."""
    db = tmp_path / "a.db"
    with pytest.raises(UsageError, match="parameter key of Tagged comes back from the record"):
        solve(Tagged(key="b"), db, ["1"])
    with sqlite3.connect(db) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


class Words(mdap.Chain[frozenset[str], str]):
    """Goes through its set of words in some order."""

    known: frozenset[str] = frozenset({"x", "y"})
    by: str = ""

    def start(self) -> frozenset[str]:
        return frozenset("ab")

    def step(self, state: frozenset[str]) -> mdap.Step[str] | None:
        known = self.known if self.by == "parameter" else sorted(self.known)
        words = state if self.by == "step" else sorted(state)
        prompt = f"{' '.join(known)}: {' '.join(words)}"
        return mdap.Step(user=prompt, parse=str) if len(state) < 5 else None

    def advance(self, state: frozenset[str], answer: str) -> frozenset[str]:
        first = next(iter(state)) if self.by == "advance" else min(state)
        return state | {f"{first} {answer} {len(state)}"}


@pytest.mark.parametrize("by", ["step", "parameter", "advance"])
def test_the_order_of_a_set_of_words_decides_nothing(tmp_path: Path, by: str) -> None:
    """It is another one in each process: neither a resume nor an audit would find what was asked."""
    who = "advance goes" if by == "advance" else "the prompt shows a set"
    with pytest.raises(FailedError, match=f"{who} .*go through sorted") as caught:
        solve(Words(by=by), tmp_path / "a.db", ["1"])
    assert caught.value.solution.steps == 0
    assert len(solve(Words(), tmp_path / "b.db", ["1"]).result) == 5


class Checked(BaseModel):
    n: int

    @model_validator(mode="after")
    def _within(self) -> "Checked":
        assert _LIMITS[self.n] == self.n
        return self


_LIMITS = {n: n for n in range(3)}


class Limited(mdap.Chain[Checked, int]):
    """A validator of its own fails at what advance has made past it."""

    def start(self) -> Checked:
        return Checked(n=0)

    def step(self, state: Checked) -> mdap.Step[int] | None:
        return mdap.Step(user=f"{state.n}", parse=int) if state.n < 5 else None

    def advance(self, state: Checked, answer: int) -> Checked:
        return Checked.model_construct(n=state.n + 1)


def test_an_error_of_the_authors_is_theirs_when_values_are_read_back(tmp_path: Path) -> None:
    """In one sentence that has the line."""
    with pytest.raises(FailedError, match=r"opening step 3: .*test_faithful_runs.py:\d+ in .*: KeyError: 3"):
        solve(Limited(), tmp_path / "a.db", ["1"])
