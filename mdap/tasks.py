"""The classes a domain subclasses: `Chain` and `Process`, and the `Step` that they ask.

A task is a pydantic model; its fields are its parameters, stored with the run and set by ``-p NAME=VALUE``.
"""

import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from mdap.records import encodable

S = TypeVar("S")
A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class RedFlag(Exception):
    """Raise this in a parser to discard a reply before it can vote.

    Args:
        reason: a short stable phrase; statistics count by it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = str(reason)


def _encode(asked: Any, *names: str) -> None:
    """Replace characters that cannot be sent or stored in the texts of a frozen object; refuse other types.

    Raises:
        TypeError: one of them is not a string, or *parse* is not callable.
    """
    for name in names:
        text = getattr(asked, name)
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a str, not {_kind(text)}")
        if not text.isascii():
            object.__setattr__(asked, name, encodable(text))
    if not callable(asked.parse):
        raise TypeError(f"parse must be a function of a reply's text, not {_kind(asked.parse)}")


def _kind(value: Any) -> str:
    return "None" if value is None else f"of class {type(value).__qualname__}"


@dataclass(frozen=True, slots=True)
class View(Generic[A]):
    """Another presentation of a step: the same question seen through a symmetry, paraphrased, reordered.

    A model repeats its errors on one prompt; votes on equivalent prompts err more independently.

    Attributes:
        user: the user message.
        parse: reads a reply's text into the answer *to the step itself*.
        system: the system message.
        render: returns the reply that gives an answer in this view, for simulation; None for the task's own.
    """

    user: str
    parse: Callable[[str], A]
    system: str = ""
    render: Callable[[A], str] | None = None

    def __post_init__(self) -> None:
        _encode(self, "user", "system")


@dataclass(frozen=True, slots=True)
class Step(Generic[A]):
    """One subtask for one microagent: a prompt, and the parser that reads the reply.

    Attributes:
        user: the user message.
        parse: reads a reply's text into an answer. It must be a pure function; it raises `RedFlag`
            to discard the reply and nothing else, whatever the text.
        system: the system message, usually the same for every step of a task.
        schema: a type or JSON schema of the answer, sent to endpoints that support it.
        max_tokens: maximum output tokens of a reply; None for the run's setting.
        views: further presentations of the step; samples rotate over them and the step's own.
        input: the step's subject as a JSON value, recorded and passed to the oracle of a process; None
            records the user message instead, unless the run records no prompts. A chain's steps
            record their state and need none.
        key: identifies a step of a process; None for its prompt alone. Two steps with the same prompt
            and key are one step.
        proposal: whether to take the first valid reply unvoted, for later steps of a process to vote
            on. A proposal is no decision, whatever k is, and does not count in the certificate.
        shared: the beginning of *user* that further steps repeat, such as a document. Endpoints keep it in
            their cache and charge less for it in later requests.
    """

    user: str
    parse: Callable[[str], A]
    system: str = ""
    schema: Any = None
    max_tokens: int | None = None
    views: tuple[View[A], ...] = ()
    input: Any = None
    key: str | None = None
    proposal: bool = False
    shared: str = ""

    def __post_init__(self) -> None:
        user, system = self.user, self.system
        # Plain ASCII texts without a key, which are usual, skip the slower checks.
        plain = type(user) is type(system) is str and user.isascii() and system.isascii()
        if not (plain and self.key is None and callable(self.parse)):
            _encode(self, "user", "system", "shared", *(() if self.key is None else ("key",)))
        tokens = self.max_tokens
        if tokens is not None and (not isinstance(tokens, int) or tokens < 1):
            raise ValueError(f"max_tokens={tokens!r} allows no reply")
        if self.shared and not self.user.startswith(self.shared):
            raise ValueError("user does not begin with shared: put what further steps repeat first")
        if self.views and not all(isinstance(view, View) for view in self.views):
            raise TypeError("views must be a tuple of mdap.View")


class Task(BaseModel):
    """One piece of work in a domain, with its parameters as pydantic fields.

    Attributes:
        version: raise it whenever prompts, parser or rules change, so that mdap refuses to resume a run
            that started with other rules. Any JSON value will do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[Any] = "1"

    def length(self) -> int | None:
        """Return the number of steps if known in advance; a chain then ends after them."""
        return None

    def canonical(self, answer: Any) -> Any:
        """Return the canonical form of *answer*, itself an answer; votes are compared by it.

        Answers with one canonical form are one candidate, and the decision is that form. `mdap.canonical`
        has ready-made forms for numbers, dates, text, sets and JSON. It must be pure and keep
        a canonical form unchanged, and may raise `RedFlag` if an answer has none.
        """
        return answer

    def outcome(self, result: Any) -> bool | None:
        """Return whether *result* is good: True if it is, False if not, None if the task cannot tell.

        mdap records it when a run finishes, and `mdap audit verify` asks for it again, so it must be pure.

        Args:
            result: the task's result, as the recorded JSON value.
        """
        return None


def canonical_step(task: Task, step: "Step[A]") -> "Step[A]":
    """Return *step* with parsers that read replies into the canonical form of *task*'s answers."""
    if type(task).canonical is Task.canonical:
        return step
    views = tuple([replace(view, parse=_canonically(task, view.parse)) for view in step.views])
    return replace(step, parse=_canonically(task, step.parse), views=views)


def _canonically(task: Task, parse: Callable[[str], A]) -> Callable[[str], A]:
    def read(text: str) -> A:
        form: A = task.canonical(parse(text))
        return form

    return update_wrapper(read, parse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Generic[A]):
    """The result of the vote on a step.

    Attributes:
        step: the step's number in its run, from 0.
        answer: the winning answer; None if there is none.
        decided: whether there is a winner.
        votes: each candidate's votes, by its canonical JSON.
        key: unique to this step of this run: an idempotency key.
        reason: why there is no winner in one sentence, such as an endpoint's refusal; None with a winner.
        confidence: the probability that the answer is right, from the votes on this step and those asked
            with it in one call of `Ask.decisions`, if on every step a vote is right more often than
            wrong. None without a winner, after a person's decision, or with a lead of one.
        author: the person who settled the step by hand; None for a vote.
    """

    step: int
    answer: A
    decided: bool
    votes: Mapping[str, int]
    key: str
    reason: str | None = None
    confidence: float | None = None
    author: str | None = None

    def __post_init__(self) -> None:
        # In the order of the record: a resumed session sees no votes arrive.
        object.__setattr__(self, "votes", dict(sorted(self.votes.items())))


class Chain(Task, Generic[S, A]):
    """A task whose steps form a sequence: each step's input is the state after the last one.

    `S` and `A` are the types of state and answer: frozen pydantic models, frozen dataclasses, or
    plain JSON values. All methods must be pure functions of their arguments and the parameters.
    """

    @abstractmethod
    def start(self) -> S:
        """Return the state before the first step."""

    @abstractmethod
    def step(self, state: S) -> Step[A] | None:
        """Return the step to decide in *state*, or None if the task is finished."""

    @abstractmethod
    def advance(self, state: S, answer: A) -> S:
        """Return the state after *answer* was decided in *state*."""

    def result(self, state: S) -> Any:
        """Return the task's result, as a JSON value, from its last state."""
        return state

    async def effects(self, state: S, decision: Decision[A]) -> None:
        """Carry out the external effects of the *decision* in *state*: book, send, write.

        mdap calls it once for each decision, in order, after the decision is durable, and records that it
        is done. Only a crash in between calls it again, so use `Decision.key` as idempotency key. All
        other methods of a chain must be pure. A chain without this method waits for nothing.
        """

    def guess(self, state: S) -> A | None:
        """Return a cheap guess at the answer in *state*, for speculation; None for no guess."""
        return None

    def oracle(self, state: S) -> A:
        """Return the right answer in *state*, for simulation, calibration and tests."""
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def sample_state(self, rng: random.Random) -> S | None:
        """Return the state before a random step of the task, for calibration; None if not supported.

        Args:
            rng: the only source of randomness, so that a calibration can be repeated.
        """
        return None

    def mistakes(self, state: S, truth: A) -> list[A]:
        """Return plausible wrong answers in *state*, at least one, none equal to *truth*, for simulation."""
        raise NotImplementedError(f"{type(self).__name__} names no plausible mistakes")

    def render(self, answer: A) -> str:
        """Return the reply that gives *answer*, for simulation and tests."""
        raise NotImplementedError(f"{type(self).__name__} does not render replies")


class Pending(Protocol[R_co]):
    """The result of a member of a group."""

    @property
    def value(self) -> R_co:
        """The result, once the group's ``async with`` block is left."""


class AskGroup(Protocol):
    """Questions asked concurrently, until the ``async with`` block is left."""

    def ask(self, step: Step[A]) -> Pending[A]:
        """Ask for *step*; return its future answer."""

    def start(self, function: Callable[..., Awaitable[T]], *args: Any) -> Pending[T]:
        """Call an async *function*, which may ask for more, with *args*; return its future result."""


class Ask(Protocol):
    """How a process gets its decisions: mdap votes on each, records it, and reuses it on resume."""

    @property
    def run_id(self) -> str:
        """The run's name; with a step's key it makes an idempotency key."""

    @property
    def open_steps(self) -> int:
        """How many steps may be open at a time: more of them only wait, in memory."""

    @property
    def dry_run(self) -> bool:
        """Whether outside effects are forbidden: in an audit, a preview, a calibration or a pilot."""

    async def __call__(self, step: Step[A]) -> A:
        """Return the winning answer of *step*.

        Raises:
            UndecidedError: it has no winner within its allowed samples. A process that does not catch it
                is itself undecided.
        """

    async def decision(self, step: Step[A]) -> Decision[A | None]:
        """Return the vote on *step*, even if it has no winner within its allowed samples."""

    async def decisions(self, steps: Iterable[Step[A]]) -> list[Decision[A | None]]:
        """Return the votes on *steps*, in their order; mdap asks them concurrently.

        A step without a winner does not stop the others: see `Decision.decided` and `Decision.reason`.
        """

    async def map(self, steps: Iterable[Step[A]]) -> list[A]:
        """Return the winning answers of *steps* in their order; mdap asks them concurrently.

        The first that is undecided ends the others.
        """

    def group(self) -> AbstractAsyncContextManager[AskGroup]:
        """Open a group of concurrent questions: ``async with ask.group() as group``."""

    async def solve(self, task: Task, key: str | None = None) -> Any:
        """Return the result of a nested *task*, decided as a run of its own within this one.

        Args:
            task: the task.
            key: identifies the task; None for its class and parameters.

        Raises:
            UndecidedError: one of its steps has no winner.
            FailedError: it cannot go on.
        """

    async def solve_all(self, tasks: Iterable[tuple[str, Task]], take: Callable[[str, Any], None]) -> None:
        """Solve any number of nested *tasks* concurrently, each as a run of its own.

        A session with workers deals them out. The results stay in the tasks' own runs, so that the memory of
        this run does not grow with their number. With `-k robust` each task keeps the target by itself.

        Args:
            tasks: each with a key of its own; mdap reads them only as fast as it solves them.
            take: receives the id of each task's run and its result, in the order of *tasks*.

        Raises:
            UndecidedError: a step of a task has no winner.
            FailedError: a task cannot go on.
        """

    async def once(self, function: Callable[[], Any], key: str) -> Any:
        """Return the recorded first result of *function*, for code that is costly or has effects.

        The result is recorded as soon as it is there. A crash in between calls *function* again, so
        effects need an idempotency key: `run_id` and *key* together are one.

        Args:
            function: takes nothing and returns a JSON value, or an awaitable of one.
            key: identifies the result in this run.
        """


class Process(Task, Generic[R]):
    """A task in ordinary Python: an async function that asks for decisions, also concurrently.

    A resume runs the code again over the same decisions: between its questions it must be deterministic,
    and have effects only through `Ask.once`.
    """

    @abstractmethod
    async def solve(self, ask: Ask) -> R:
        """Return the task's result, as a JSON value or an object that converts to one."""

    def oracle(self, step: Step[Any]) -> Any:
        """Return the right answer to *step*, for simulation, calibration and tests; see `Step.input`."""
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def mistakes(self, step: Step[Any], truth: Any) -> list[Any]:
        """Return plausible wrong answers to *step*, at least one, none equal to *truth*, for simulation."""
        raise NotImplementedError(f"{type(self).__name__} names no plausible mistakes")

    def render(self, step: Step[Any], answer: Any) -> str:
        """Return the reply that gives *answer* to *step*, for simulation and tests."""
        raise NotImplementedError(f"{type(self).__name__} does not render replies")
