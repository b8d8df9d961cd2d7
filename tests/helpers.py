"""What several tests share: a journal in memory, a toy chain, and a recount that trusts nobody."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest

import mdap
from mdap.records import (
    AttemptFailed,
    Decided,
    Fact,
    RecordedOpening,
    Refusal,
    Reply,
    ResumePoint,
    RunEvent,
    SampleTaken,
    StepOpened,
    StepResolved,
)
from mdap.tasks import Chain, RedFlag, Step

CHAIN_START = "0" * 64
NEW = ResumePoint(0, CHAIN_START)
"""Where the rows of a run without any end."""
FLAGGED = "no digit here"


class Log:
    """A `mdap.protocols.Journal` that keeps every fact in a list."""

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self.facts: list[Fact] = list(facts)
        self.settled = 0
        self.behind = False

    def append(self, *facts: Fact) -> None:
        self.facts += facts

    async def wait_for_room(self) -> None:
        self.settled += 1

    async def flush(self) -> None:
        pass

    def of(self, kind: type[Any]) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


# --- a toy chain


def unit(*what: object) -> float:
    """A number in [0, 1) that belongs to *what*, whatever was drawn before."""
    digest = blake2b("|".join(map(str, what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


class Walk(Chain[tuple[int, int], int]):
    """Each step asks for a digit from 0 to 3; two different digits may lead to the same state."""

    steps: int = 6
    seed: int = 0
    counted_beforehand: bool = True

    def start(self) -> tuple[int, int]:
        return (0, 0)

    def step(self, state: tuple[int, int]) -> Step[int] | None:
        number, place = state
        if number >= self.steps:
            return None
        if not self.counted_beforehand and number >= 1 and unit("end", self.seed, place) < 0.15:
            return None
        return Step(user=f"{self.seed} {number} {place}", parse=self.read)

    def advance(self, state: tuple[int, int], answer: int) -> tuple[int, int]:
        return (state[0] + 1, (state[1] + answer) % 3)

    def length(self) -> int | None:
        return self.steps if self.counted_beforehand else None

    def oracle(self, state: tuple[int, int]) -> int:
        return int(unit("truth", self.seed, *state) * 4)

    def mistakes(self, state: tuple[int, int], truth: int) -> list[int]:
        return [(truth + away) % 4 for away in (1, 2, 3)]

    def render(self, answer: int) -> str:
        return str(answer)

    def guess(self, state: tuple[int, int]) -> int | None:
        draw = unit("guess", self.seed, *state)
        return None if draw < 0.15 else self.oracle(state) if draw < 0.75 else int(draw * 97) % 4

    def read(self, text: str) -> int:
        if text not in ("0", "1", "2", "3"):
            raise RedFlag("not a digit")
        return int(text)


@dataclass(frozen=True)
class Model:
    """Answers a `Walk` by step input and ordinal alone, so that no schedule changes what is said."""

    task: Walk
    right: float = 0.7
    flagged: float = 0.1
    rejected: float = 0.0

    def rejects(self, user: str) -> bool:
        return unit("rejected", user) < self.rejected

    def says(self, user: str, ordinal: int) -> Reply:
        seed, number, place = map(int, user.split())
        assert seed == self.task.seed
        if unit("flag", user, ordinal) < self.flagged:
            return Reply(FLAGGED, "toy")
        truth = self.task.oracle((number, place))
        if unit("right", user, ordinal) < self.right:
            return Reply(str(truth), "toy")
        wrong = self.task.mistakes((number, place), truth)
        return Reply(str(wrong[int(unit("which", user, ordinal) * 3)]), "toy")


# --- what the database makes of facts

Place = tuple[int, int]


class Rows(NamedTuple):
    """The rows of one run, as the statements of ``append.sql`` leave them."""

    steps: dict[Place, StepOpened]
    samples: dict[Place, list[SampleTaken]]
    pending: dict[Place, list[SampleTaken]]
    decisions: list[Decided]
    failed_attempts: list[AttemptFailed]
    events: list[RunEvent]


def rows_of(facts: Iterable[Fact]) -> Rows:
    """Fold facts as commits do, wherever the commits are cut."""
    rows = Rows({}, defaultdict(list), defaultdict(list), [], [], [])
    for fact in facts:
        match fact:
            case StepOpened():
                assert (fact.step, fact.opening) not in rows.steps
                rows.steps[fact.step, fact.opening] = fact
            case SampleTaken():
                assert (fact.step, fact.opening) in rows.steps
                table = rows.pending if fact.tentative else rows.samples
                table[fact.step, fact.opening].append(fact._replace(tentative=False))
            case StepResolved():
                place = (fact.step, fact.opening)
                moved = rows.pending.pop(place, [])
                if not fact.confirmed:
                    moved = [taken._replace(verdict="void", counted=None) for taken in moved]
                rows.samples[place].extend(moved)
            case Decided():
                rows.decisions.append(fact)
            case AttemptFailed():
                rows.failed_attempts.append(fact)
            case RunEvent():
                rows.events.append(fact)
    return rows


def resume_point(facts: Iterable[Fact]) -> ResumePoint:
    """Return where the rows of *facts* end, as `mdap.journal.reader.Reader.resume_point` does."""
    rows = rows_of(facts)
    last = rows.decisions[-1] if rows.decisions else None
    step = -1 if last is None else last.step
    openings = []
    for place, opened in sorted(rows.steps.items()):
        samples = sorted(rows.samples.get(place, []), key=lambda taken: taken.ordinal)
        pending = sorted(rows.pending.get(place, []), key=lambda taken: taken.ordinal)
        void = any(taken.verdict == "void" for taken in samples)
        if place[0] > step:
            tentative = bool(pending) or not samples
            fate = (tier_of(rows, place), refusals_of(rows, place))
            openings.append(RecordedOpening(opened, pending or samples, tentative, void, *fate))
    if last is None:
        return ResumePoint(0, CHAIN_START, openings=tuple(openings))
    before = rows.steps[last.step, last.opening]
    return ResumePoint(
        len(rows.decisions), last.digest, last.step, before.input, last.winner, tuple(openings)
    )


def about(rows: Rows, kind: str, place: Place) -> list[tuple[dict[str, Any], str | None]]:
    """Data and reason of the events of a *kind* about an opening."""
    found = [(event.data or {}, event.reason) for event in rows.events if event.kind == kind]
    return [one for one in found if (one[0]["step"], one[0]["opening"]) == place]


def tier_of(rows: Rows, place: Place) -> int:
    return max((data["tier"] for data, _ in about(rows, "escalated", place)), default=0)


def refusals_of(rows: Rows, place: Place) -> tuple[Refusal, ...]:
    """Who refused an opening, as `mdap.journal.reader.Reader` tells where anything was ever answered."""
    if not any(rows.samples.values()):
        return ()
    return tuple(
        Refusal(data["member"], data["view"], data["model"], reason or "")
        for data, reason in about(rows, "refused", place)
    )


# --- the recount


class Decision(NamedTuple):
    """What may not depend on when samples came: the step's input, its answer, and who voted how."""

    step: int
    input: str
    winner: str
    tally: str
    samples: tuple[tuple[int, str | None], ...]


def as_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


def link(previous: str, opened: StepOpened, counted: Sequence[SampleTaken], decided: Decided) -> str:
    """The digest chain's next head, spelled out column by column with nothing of mdap."""
    head = [
        previous,
        *(opened.step, opened.key, opened.input, opened.prompt_digest),
        *(decided.place, decided.winner, decided.tally, decided.votes, decided.margin),
        *(decided.author, decided.reason),
    ]
    lines = [
        as_json(
            [
                *(taken.ordinal, taken.verdict, taken.answer_key, taken.flag_reason),
                *(taken.model, taken.view, taken.temperature),
                *(taken.input_tokens, taken.output_tokens, taken.cached_tokens),
                *(taken.latency, taken.attempts, taken.request_id, taken.finish_reason, taken.text_digest),
                *(later if any(value is not None for value in (*later, taken.cache_write_tokens)) else ()),
                *(() if taken.cache_write_tokens is None else (taken.cache_write_tokens,)),
            ]
        )
        for taken in sorted(counted, key=lambda taken: taken.ordinal)
        for later in [(taken.served_model, taken.fingerprint, taken.reasoning_tokens, taken.reasoning_digest)]
    ]
    return blake2b("\n".join([as_json(head), *lines]).encode(), digest_size=32).hexdigest()


def recount(facts: Sequence[Fact], k: int, *, hedged: bool = False) -> list[Decision]:
    """Recount every race of a run from its facts alone, and check all that the record promises."""
    rows = rows_of(facts)
    decisions: list[Decision] = []
    digest = CHAIN_START
    for place, decided in enumerate(rows.decisions):
        assert (decided.place, decided.step) == (place, place), "decisions come in order, each once"
        where = (decided.step, decided.opening)
        assert where not in rows.pending, "no decision rests on an input that is still a guess"
        samples = rows.samples[where]
        assert all(taken.verdict in ("vote", "flag") for taken in samples if taken.counted is not None)
        counted = [taken for taken in samples if taken.counted is not None]
        votes: dict[str, int] = {}
        for taken in counted:
            if taken.verdict == "vote":
                assert taken.text is not None
                votes[taken.text] = votes.get(taken.text, 0) + 1
        first, second = [*sorted(votes.values(), reverse=True), 0, 0][:2]
        assert first - second == decided.margin == k, "the lead is k, neither less nor more"
        assert json.loads(decided.tally) == votes
        assert votes[decided.winner] == first == decided.votes
        places = [taken.counted for taken in counted]
        assert sorted(places, key=lambda at: at or 0) == list(range(1, len(counted) + 1))
        ordinals = sorted((taken.ordinal, taken.text) for taken in counted)
        # Unless it hedges, a race counts all that it asks for, so they are the first so many.
        assert hedged or [ordinal for ordinal, _ in ordinals] == list(range(len(counted)))
        digest = link(digest, rows.steps[where], counted, decided)
        assert decided.digest == digest
        input_ = rows.steps[where].input
        decisions.append(Decision(place, input_, decided.winner, decided.tally, tuple(ordinals)))
    return decisions


# --- cases


def mostly_slow(cases: Iterable[Any], quick: int = 1) -> list[Any]:
    """Return *cases* of a test; all but the first so many are marked slow."""
    listed = list(cases)
    rest = (case if isinstance(case, tuple) else (case,) for case in listed[quick:])
    return [*listed[:quick], *(pytest.param(*case, marks=pytest.mark.slow) for case in rest)]


# --- runs that are cut


async def cut_at(
    session: mdap.Session, task: mdap.Task, votes: int, turns: int = 0, **settings: Any
) -> mdap.Solution | None:
    """Run *task*, and cancel it some turns of the loop after it has so many votes; None if it was cut."""
    progress = mdap.Progress()

    async def cancel() -> None:
        while progress.votes < votes:
            await anyio.lowlevel.checkpoint()
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()

    solution = None
    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        solution = await session.run(task, progress=progress, **settings)
        group.cancel_scope.cancel()
    return solution


# --- providers that a session can name

PROVIDED: dict[str, Any] = {}
"""Providers by the name under which ``--model tests.helpers:provided/NAME`` finds them."""


def provided(model: str, options: dict[str, Any]) -> Any:
    assert not options
    return PROVIDED[model]
