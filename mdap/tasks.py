"""What the author of a domain subclasses: `Chain` or `Process`, and the `Step` it asks with.

A task is a pydantic model: its fields are its parameters, validated, stored with the run and settable
with ``-p NAME=VALUE`` on the command line.
"""

import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict

from mdap.records import encodable

__all__ = [
    "Ask",
    "AskGroup",
    "Chain",
    "Decision",
    "Pending",
    "Process",
    "RedFlag",
    "Step",
    "Task",
    "View",
    "canonical_step",
    "result_type_of",
    "types_of",
]

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
        self.reason = reason


def _encode(asked: Any, *names: str) -> None:
    """Replace what cannot be sent or stored in the texts of a frozen object; refuse what is no text.

    Raises:
        TypeError: one of them is no text, or *parse* cannot be called.
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

    A model's errors cling to particular prompts, so votes on equivalent prompts err more independently.

    Attributes:
        user: the user message.
        parse: reads a reply's text into the answer *as the step itself would have it*.
        system: the system message.
        render: returns a reply as a model would write it to give an answer in this view, for simulation;
            None where the task's own rendering serves.
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
        max_tokens: output tokens a reply may have; None for the run's setting.
        views: further presentations of the step; samples rotate over them and the step's own.
        input: what the step is about, as a JSON value: recorded, and there for the oracle of a process; None
            records the user message in its place, unless the run records no prompts. A chain's steps are
            about their state, and need none.
        key: what a step of a process is known by; None for its prompt alone. Two steps of the same prompt
            and key are one step.
        proposal: whether the first reply that passes is taken as it is, for later steps of a process to vote
            on. It is no decision, whatever k is, and says nothing of how sure the run is.
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

    def __post_init__(self) -> None:
        user, system = self.user, self.system
        plain = type(user) is type(system) is str and user.isascii() and system.isascii()
        if not (plain and self.key is None and callable(self.parse)):
            _encode(self, "user", "system", *(() if self.key is None else ("key",)))
        tokens = self.max_tokens
        if tokens is not None and (not isinstance(tokens, int) or tokens < 1):
            raise ValueError(f"max_tokens={tokens!r} allows no reply")
        if self.views and not all(isinstance(view, View) for view in self.views):
            raise TypeError("views must be a tuple of mdap.View")


class Task(BaseModel):
    """One piece of work in a domain, with its parameters as pydantic fields.

    Attributes:
        version: raise it whenever prompts, parser or rules change, so that a run started with other
            rules is not silently resumed. Any JSON value will do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[Any] = "1"

    def length(self) -> int | None:
        """Return the number of steps if it is known beforehand; a chain then ends after them."""
        return None

    def canonical(self, answer: Any) -> Any:
        """Return *answer* in the form by which votes are compared, itself an answer.

        Answers with one canonical form are one candidate, and the decision is that form. `mdap.canonical`
        has ready-made forms for numbers, dates, text, sets and JSON. It must be pure, leave a canonical
        form as it is, and may raise `RedFlag` where an answer has none.
        """
        return answer

    def outcome(self, result: Any) -> bool | None:
        """Return whether *result* is good: True if it is, False if not, None if the task cannot tell.

        mdap records it when a run finishes, and `mdap audit verify` asks for it again, so it must be pure.

        Args:
            result: what the task came to, as the JSON value on record.
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
    """How the vote on a step went.

    Attributes:
        step: the step's number in its run, from 0.
        answer: the winning answer; None if there is none.
        decided: whether there is a winner.
        votes: each candidate's votes, by its canonical JSON.
        key: the same whenever this step of this run is meant, and no other: an idempotency key.
        reason: one sentence on why there is no winner, such as an endpoint's refusal; None if there is one.
        confidence: the chance that the answer is right, going by how the votes fell on this step and on those
            asked with it in one call of `Ask.decisions`, if on every step a vote is right more often than
            wrong. None where no vote tells: without a winner, after a person's decision, with a lead of one.
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
        # In the order of the record: not all sessions see votes come.
        object.__setattr__(self, "votes", dict(sorted(self.votes.items())))


class Chain(Task, Generic[S, A]):
    """A task whose steps follow one another; a step's input is the state the last one left.

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
        """Return what the task comes to, as a JSON value, from its last state."""
        return state

    async def effects(self, state: S, decision: Decision[A]) -> None:
        """Bring about outside what the *decision* in *state* calls for: book, send, write.

        It is called once for each decision, in order and after the decision is durable, and recorded as
        done; only a crash in between calls it again, so whatever it does needs `Decision.key`. Everything
        else of a chain must be pure. Where this is not defined, nothing is waited for.
        """

    def guess(self, state: S) -> A | None:
        """Return a cheap guess at the answer in *state*, to work ahead on; None for no guess."""
        return None

    def oracle(self, state: S) -> A:
        """Return the right answer in *state*, for simulation, calibration and tests."""
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def sample_state(self, rng: random.Random) -> S | None:
        """Return the state before a random step of the task, for calibration; None for no such thing.

        Args:
            rng: where all chance comes from, so that a calibration can be repeated.
        """
        return None

    def mistakes(self, state: S, truth: A) -> list[A]:
        """Return plausible wrong answers in *state*, at least one, none equal to *truth*, for simulation."""
        raise NotImplementedError(f"{type(self).__name__} names no plausible mistakes")

    def render(self, answer: A) -> str:
        """Return a reply as a model would write it to give *answer*, for simulation and tests."""
        raise NotImplementedError(f"{type(self).__name__} does not render replies")


class Pending(Protocol[R_co]):
    """What a member of a group comes to."""

    @property
    def value(self) -> R_co:
        """What it came to, once the group's ``async with`` block is left."""


class AskGroup(Protocol):
    """Things asked side by side, until the ``async with`` block is left."""

    def ask(self, step: Step[A]) -> Pending[A]:
        """Ask for *step*; return what its answer will be."""

    def start(self, function: Callable[..., Awaitable[T]], *args: Any) -> Pending[T]:
        """Call an async *function*, which may ask for more, with *args*; return what its result will be."""


class Ask(Protocol):
    """How a process gets its decisions: each is voted, recorded, and found again when the run is resumed."""

    @property
    def run_id(self) -> str:
        """The run's name; with a step's key it makes an idempotency key."""

    async def __call__(self, step: Step[A]) -> A:
        """Return the winning answer of *step*.

        Raises:
            UndecidedError: it has no winner within its allowed samples. A process that does not catch it
                is itself undecided.
        """

    async def decision(self, step: Step[A]) -> Decision[A | None]:
        """Return how the vote on *step* went, also where it has no winner within its allowed samples."""

    async def decisions(self, steps: Iterable[Step[A]]) -> list[Decision[A | None]]:
        """Return how the vote on each of *steps* went, in their order; they are asked side by side.

        One without a winner keeps no other from being decided: see `Decision.decided` and `Decision.reason`.
        """

    async def map(self, steps: Iterable[Step[A]]) -> list[A]:
        """Return the winning answers of *steps* in their order, asked side by side.

        The first that is undecided ends the others.
        """

    def group(self) -> AbstractAsyncContextManager[AskGroup]:
        """Open a group of things to be asked side by side: ``async with ask.group() as group``."""

    async def solve(self, task: Task, key: str | None = None) -> Any:
        """Return the result of *task*, decided as a run of its own that is a part of this one.

        Args:
            task: the task.
            key: what it is known by; None for its class and parameters.

        Raises:
            UndecidedError: one of its steps has no winner.
            FailedError: it cannot go on.
        """

    async def once(self, function: Callable[[], Any], key: str) -> Any:
        """Return what *function* returned the first time, for code that is costly or has effects.

        The result is recorded as soon as it is there. A crash in between calls *function* again, so
        effects need an idempotency key: `run_id` and *key* together are one.

        Args:
            function: takes nothing and returns a JSON value, or an awaitable of one.
            key: what the result is known by in this run.
        """


class Process(Task, Generic[R]):
    """A task that is ordinary Python: an async function that asks for decisions, also side by side.

    Its code may run several times over the same decisions, since that is how a run is resumed: between
    what it asks, it must do the same each time, and nothing that reaches the outside but through `Ask.once`.
    """

    @abstractmethod
    async def solve(self, ask: Ask) -> R:
        """Return what the task comes to, as a JSON value or something that has one."""

    def oracle(self, step: Step[Any]) -> Any:
        """Return the right answer to *step*, for simulation, calibration and tests; see `Step.input`."""
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def mistakes(self, step: Step[Any], truth: Any) -> list[Any]:
        """Return plausible wrong answers to *step*, at least one, none equal to *truth*, for simulation."""
        raise NotImplementedError(f"{type(self).__name__} names no plausible mistakes")

    def render(self, step: Step[Any], answer: Any) -> str:
        """Return a reply as a model would write it to give *answer* to *step*, for simulation and tests."""
        raise NotImplementedError(f"{type(self).__name__} does not render replies")


def types_of(kind: type[Chain[Any, Any]]) -> tuple[Any, Any]:
    """Return a task's types of state and answer, as given to ``Chain[S, A]``; `Any` where none were."""
    found = _given_to(Chain, kind)
    return (found[0], found[1]) if found else (Any, Any)


def result_type_of(kind: type[Task]) -> Any:
    """Return the type that a task declares for its result; `Any` where it declares none.

    It is what `Process.solve` or `Chain.result` is said to return, or else the R of ``Process[R]``.
    """
    method = getattr(kind, "solve" if issubclass(kind, Process) else "result", None)
    try:
        declared = get_type_hints(method).get("return", R)
    except Exception:  # a name that is there for type checkers only, or no function
        return Any
    given = (*_given_to(Process, kind), Any)[0]
    return given if isinstance(declared, TypeVar) else declared


def _given_to(generic_base: type[Task], kind: type[Task]) -> tuple[Any, ...]:
    """Return what *kind* or its bases gave to *generic_base* in square brackets; nothing where none did."""
    found: tuple[Any, ...] = ()
    # A base of one's own may be generic, too: what it was given stands nearer to the task.
    for base in reversed(kind.__mro__):
        generic = getattr(base, "__pydantic_generic_metadata__", None) or {}
        origin, given = generic.get("origin"), generic.get("args") or ()
        if origin is generic_base:
            found = given
        elif origin is not None and given:
            bound = dict(zip(origin.__pydantic_generic_metadata__["parameters"], given, strict=True))
            found = tuple(_bound(argument, bound) for argument in found)
    return found


def _bound(argument: Any, bound: Mapping[Any, Any]) -> Any:
    if isinstance(argument, TypeVar):
        return bound.get(argument, argument)
    generic = getattr(argument, "__pydantic_generic_metadata__", None) or {}
    parameters = generic.get("parameters") or getattr(argument, "__parameters__", ())
    return argument[tuple(bound.get(each, each) for each in parameters)] if parameters else argument
