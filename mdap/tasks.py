"""What the author of a domain subclasses: `Chain`, and the `Step` it asks with.

A task is a pydantic model: its fields are its parameters, validated, stored with the run and settable
with ``-p NAME=VALUE`` on the command line.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

__all__ = ["Chain", "RedFlag", "Step", "Task", "View"]

S = TypeVar("S")
A = TypeVar("A")


class RedFlag(Exception):
    """Raise this in a parser to discard a reply before it can vote.

    Args:
        reason: a short stable phrase; statistics count by it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


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
    """

    user: str
    parse: Callable[[str], A]
    system: str = ""
    schema: Any = None
    max_tokens: int | None = None
    views: tuple[View[A], ...] = ()


class Task(BaseModel):
    """One piece of work in a domain, with its parameters as pydantic fields.

    Attributes:
        version: raise it whenever prompts, parser or rules change, so that a run started with other
            rules is not silently resumed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[str] = "1"


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

    def length(self) -> int | None:
        """Return the number of steps if it is known beforehand; the run then ends after them."""
        return None

    def guess(self, state: S) -> A | None:
        """Return a cheap guess at the answer in *state*, to work ahead on; None for no guess."""
        return None

    def oracle(self, state: S) -> A:
        """Return the right answer in *state*, for simulation, calibration and tests."""
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def mistakes(self, state: S, truth: A) -> list[A]:
        """Return plausible wrong answers in *state*, at least one, for simulation."""
        raise NotImplementedError(f"{type(self).__name__} names no plausible mistakes")

    def render(self, answer: A) -> str:
        """Return a reply as a model would write it to give *answer*, for simulation and tests."""
        raise NotImplementedError(f"{type(self).__name__} does not render replies")
