"""The author's code of a chain, called so that whatever it raises names the task and what it was doing."""

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from mdap.errors import PluginError, UsageError
from mdap.records import ResumePoint
from mdap.rules.canonical import canonical
from mdap.settings import explain
from mdap.tasks import Chain, Decision, RedFlag, Step, Task, canonical_step, types_of

__all__ = ["Authored", "Subject"]

T = TypeVar("T")


class Subject:
    """What a chain's step is about: the task in a state. See `mdap.records.Subject`."""

    __slots__ = ("_state", "_task")

    def __init__(self, task: Chain[Any, Any], state: Any) -> None:
        self._task = task
        self._state = state

    def truth(self) -> Any:
        """Return the oracle's answer."""
        return self._task.oracle(self._state)

    def mistakes(self, truth: Any) -> list[Any]:
        """Return plausible wrong answers."""
        return self._task.mistakes(self._state, truth)

    def render(self, answer: Any) -> str:
        """Return a reply that gives *answer*."""
        return self._task.render(answer)


class Authored:
    """A chain whose methods raise nothing but `PluginError`.

    Args:
        name: the task's name.
        task: the chain.

    Attributes:
        has_effects: whether decisions bring anything about outside.
    """

    __slots__ = ("_has_forms", "has_effects", "name", "task")

    def __init__(self, name: str, task: Chain[Any, Any]) -> None:
        self.name = f"task {name}"
        self.task = task
        self.has_effects = type(task).effects is not Chain.effects
        self._has_forms = type(task).canonical is not Task.canonical

    def fail(self, doing: str, error: Exception) -> NoReturn:
        """Raise the `PluginError` for *error*."""
        raise PluginError(self.name, doing, error) from error

    def _call(self, doing: str, number: int, method: Callable[..., T], *args: Any) -> T:
        try:
            return method(*args)
        except Exception as error:
            self.fail(doing.format(number), error)

    def length(self) -> int | None:
        """Return the number of steps, or None."""
        return self._call("giving its length", 0, self.task.length)

    def step(self, number: int, state: Any) -> Step[Any] | None:
        """Return step *number*, or None at the end."""
        # Not by `_call`, as `advance` and `spelled` are not: they are called for every step.
        try:
            step = self.task.step(state)
        except Exception as error:
            self.fail(f"giving step {number}", error)
        if step is None:
            return None
        if step.max_tokens is not None and step.max_tokens < 1:
            self.fail(f"giving step {number}", ValueError(f"max_tokens={step.max_tokens} allows no reply"))
        if step.proposal:
            wrong = ValueError("each step of a chain is a decision, not a proposal")
            self.fail(f"giving step {number}", wrong)
        return canonical_step(self.task, step) if self._has_forms else step

    def advance(self, number: int, state: Any, answer: Any) -> Any:
        """Return the state after step *number* was answered."""
        try:
            return self.task.advance(state, answer)
        except Exception as error:
            self.fail(f"advancing over step {number}", error)

    async def effects(self, state: Any, decision: Decision[Any]) -> None:
        """Bring about what the *decision* in *state* calls for."""
        try:
            await self.task.effects(state, decision)
        except Exception as error:
            self.fail(f"bringing about the effects of step {decision.step}", error)

    def guess(self, number: int, state: Any) -> Any:
        """Return the task's own guess at step *number*, or None."""
        doing = "guessing step {}"
        guess = self._call(doing, number, self.task.guess, state)
        return None if guess is None else self._call(doing, number, self.task.canonical, guess)

    def oracle(self, number: int, state: Any) -> Any:
        """Return the right answer to step *number*."""
        doing = "giving the right answer to step {}"
        answer = self._call(doing, number, self.task.oracle, state)
        return self._call(doing, number, self.task.canonical, answer)

    def spelled(self, number: int, value: Any) -> str:
        """Return the canonical JSON of a state or an answer of step *number*."""
        try:
            return canonical(value)
        except Exception as error:
            self.fail(f"spelling step {number} as JSON", error)

    def first_state(self, point: ResumePoint) -> Any:
        """Return the state in which the first undecided step is to be opened."""
        if point.input is None or point.winner is None:
            return self._call("giving its first state", 0, self.task.start)
        state, answer = self.read_back(point.step, point.input, point.winner)
        return self.advance(point.step, state, answer)

    def read_back(self, number: int, spelled: str, winner: str) -> tuple[Any, Any]:
        """Return the recorded state and answer of step *number*."""
        states, answers = self.types()
        try:
            return states.validate_json(spelled), answers.validate_json(winner)
        except ValidationError as error:
            self.fail(f"reading back step {number}", error)

    def state(self, number: int, spelled: str) -> Any:
        """Return the recorded state in which step *number* was asked."""
        try:
            return self.types()[0].validate_json(spelled)
        except ValidationError as error:
            self.fail(f"reading back step {number}", error)

    def checked_answer(self, step: Step[Any], text: str) -> Any:
        """Return the answer that *text* is as JSON; refuse one that no reply could have given.

        Raises:
            UsageError: it is no such answer.
        """
        try:
            answer = self.task.canonical(self.types()[1].validate_json(text))
            if canonical(step.parse(self.task.render(answer))) != canonical(answer):
                raise RedFlag("it would be read as another answer")
        except NotImplementedError:
            return answer  # a task that renders no replies cannot check it further
        except (ValidationError, RedFlag) as error:
            raise UsageError(f"{text} is no answer to this step: {_first_line(error)}") from None
        return answer

    def types(self) -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
        """Return adapters for the task's types of state and answer, as given to ``Chain[S, A]``."""
        return types_of(self.task)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return explain("answer", error)
    return str(error)
