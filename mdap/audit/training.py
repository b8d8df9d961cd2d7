"""Lessons from a log: a prompt, a reply that won the vote, and replies that lost it."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from mdap.audit.chains import MakeTask
from mdap.audit.review import doubts_of
from mdap.audit.runs import decided, find_number, plain_reading, samples_of
from mdap.errors import RAISED, PluginError, UsageError
from mdap.journal.rows import RunRow, run_numbered
from mdap.journal.statements import query
from mdap.records import NOTED, PROPOSED, Decided, PromptSent, StepOpened, Verdict
from mdap.rules.digests import answer_key, prompt_digest, views_digest
from mdap.rules.values import kinds_of
from mdap.tasks import Chain

_line: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode

_METADATA: Final = ("run_id", "step", "prompt_digest", "model", "votes", "total", "margin", "doubt")

Row = dict[str, Any]
Prompt = tuple[str, str]
"""System and user message."""


class LessonFilter(NamedTuple):
    """A filter of lessons.

    Attributes:
        contested: only of steps in which at least one vote went against the winner.
        min_margin: only of steps whose winner leads by at least this number of votes; None for any.
        from_model: only chosen replies by this model; None for any.
    """

    contested: bool = False
    min_margin: int | None = None
    from_model: str | None = None


EVERYTHING: Final = LessonFilter()


@dataclass(frozen=True, slots=True)
class Lesson:
    """A prompt with a reply that won its vote.

    Attributes:
        run_id: its run: the given run or a part of it.
        key: the step's name in its run.
        prompt_digest: digest of system and user message, in hexadecimal.
        chosen: the first reply that voted for the winner.
        rejected: for each answer that lost, the first reply to the same prompt that voted for it.
        doubt: the probability that the winner is wrong, given all votes of the run; None if a person settled
            it, or if k = 1 leaves no vote against any winner.
    """

    run_id: str
    step: int
    key: str
    prompt_digest: str
    system: str
    user: str
    chosen: str
    model: str
    rejected: tuple[str, ...]
    votes: int
    total: int
    margin: int
    doubt: float | None = None

    @property
    def contested(self) -> bool:
        """Whether a vote went against the winner."""
        return self.total > self.votes

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        system = [_message("system", self.system)] if self.system else []
        return [*system, _message("user", self.user)]


def lessons(
    db: str | Path, run_id: str, make_task: MakeTask, wanted: LessonFilter = EVERYTHING
) -> Iterator[Lesson]:
    """Yield the lessons of a run and its parts, in the order of decisions.

    A step gives no lesson if none of its recorded replies gave the winner: code decided it, or a person
    overrode the votes.

    Args:
        run_id: the run's id, a unique prefix of it, or ``latest``.
        make_task: makes a task from its name and parameters, to rebuild the prompts of a chain.

    Raises:
        UsageError: there is no such run, or its prompts are not available.
        DatabaseError: the log cannot be read.
    """
    with plain_reading(Path(db)) as connection:
        number = find_number(connection, run_id)
        certain = doubts_of(connection, number)
        for [run] in query(connection, "runs_to_learn_from", number).fetchall():
            prompts = _Prompts(connection, run_numbered(connection, run), make_task)
            for decision, opened in decided(connection, run):
                if opened is not None and _teaches(decision, wanted):
                    yield from _lesson(prompts, decision, opened, certain, wanted)


class _Prompts:
    """The prompts of a run's steps, from the log or rebuilt by its chain."""

    def __init__(self, connection: sqlite3.Connection, run: RunRow, make_task: MakeTask) -> None:
        self.run = run
        self.connection = connection
        self._make_task = make_task
        self._chain: Chain[Any, Any] | None = None

    def of(self, opened: StepOpened) -> list[Prompt]:
        """Return system and user message of each view of a step; raise UsageError if they are missing."""
        place = (opened.run, opened.step, opened.opening)
        sent = map(PromptSent._make, query(self.connection, "prompts_of_step", *place))
        found = [(prompt.system or "", prompt.user) for prompt in sent] or self._asked_again(opened)
        if opened.prompt_digest != views_digest([prompt_digest(*prompt) for prompt in found]):
            raise UsageError(
                f"{self._step(opened)} had another prompt than {self.run.task} gives it now: export with the "
                "version of the task that made the run"
            )
        return found

    def _asked_again(self, opened: StepOpened) -> list[Prompt]:
        chain = self._chain = self._chain or self._made()
        try:
            step = chain.step(kinds_of(chain)[0].read(opened.input))
        except RAISED as error:
            raise PluginError(f"task {self.run.task}", f"giving {self._step(opened)} again", error) from error
        if step is None:
            raise UsageError(f"{self.run.task} no longer asks {self._step(opened)}")
        return [(step.system, step.user), *[(view.system, view.user) for view in step.views]]

    def _made(self) -> Chain[Any, Any]:
        task = self._make_task(self.run.task, self.run.params)
        if not isinstance(task, Chain):
            raise UsageError(
                f"{self.run.run_id} is a process whose prompts are not in the log, and only a chain can give "
                "them again: run it with its prompts recorded"
            )
        return task

    def _step(self, opened: StepOpened) -> str:
        return f"step {opened.step} of {self.run.run_id}"


def _teaches(decision: Decided, wanted: LessonFilter) -> bool:
    """Return whether a decision passes the filter, and votes or a person made it."""
    if decision.author == NOTED or decision.reason == PROPOSED:
        return False
    if wanted.contested and _total(decision) == decision.votes:
        return False
    return wanted.min_margin is None or decision.margin >= wanted.min_margin


def _total(decision: Decided) -> int:
    return sum(json.loads(decision.tally).values())


def _lesson(
    prompts: _Prompts,
    decision: Decided,
    opened: StepOpened,
    certain: Mapping[tuple[int, int, int], float],
    wanted: LessonFilter,
) -> Iterator[Lesson]:
    """Yield the lesson of a step, if a wanted reply gave its winner."""
    rows = samples_of(prompts.connection, opened.run, opened.step)
    votes = [
        row for row in rows if row.opening == opened.opening and row.counted and row.verdict == Verdict.VOTE
    ]
    votes.sort(key=lambda row: row.counted or 0)
    right, by = answer_key(decision.winner), wanted.from_model
    chosen = next((row for row in votes if row.answer_key == right and by in (None, row.model)), None)
    if chosen is None:
        return
    system, user = prompts.of(opened)[chosen.view]
    others: dict[str | None, str] = {}
    for row in votes:
        if row.view == chosen.view and row.answer_key != right:
            others.setdefault(row.answer_key, row.text or "")
    total = _total(decision)
    shape = (decision.votes, decision.votes - decision.margin, total)
    yield Lesson(
        run_id=prompts.run.run_id,
        step=opened.step,
        key=opened.key,
        prompt_digest=prompt_digest(system, user),
        system=system,
        user=user,
        chosen=chosen.text or "",
        model=chosen.model,
        rejected=tuple(others.values()),
        votes=decision.votes,
        total=total,
        margin=decision.margin,
        doubt=None if decision.author else certain.get(shape),
    )


# -- formats ---------------------------------------------------------------------------------------


def _chat(lesson: Lesson) -> Iterator[Row]:
    yield {"messages": [*lesson.messages, _message("assistant", lesson.chosen)]}


def _preference(lesson: Lesson) -> Iterator[Row]:
    for rejected in lesson.rejected:
        yield {
            "prompt": lesson.messages,
            "chosen": [_message("assistant", lesson.chosen)],
            "rejected": [_message("assistant", rejected)],
        }


_ROWS: Final[dict[str, Callable[[Lesson], Iterator[Row]]]] = {
    "chat-jsonl": _chat,
    "preference-jsonl": _preference,
}

LESSON_FORMATS: Final = tuple(_ROWS)
"""The formats of `export_lessons`: a winning reply, or pairs of a winning and a losing reply."""


def export_lessons(found: Iterable[Lesson], out: IO[bytes], fmt: str, *, bare: bool = False) -> None:
    """Write lessons as training data in one of `LESSON_FORMATS`, one JSON object per line.

    *bare* leaves out *metadata*: the source and the doubt of each row.
    """
    for lesson in found:
        about = {} if bare else {"metadata": {name: getattr(lesson, name) for name in _METADATA}}
        for row in _ROWS[fmt](lesson):
            out.write(f"{_line({**row, **about})}\n".encode())


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
