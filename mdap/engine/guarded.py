"""Calls to the author's code that name the task and the method in every error."""

import inspect
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from mdap.errors import RAISED, PluginError, UsageError
from mdap.groups import of_its_own
from mdap.records import ResumePoint
from mdap.rules.canonical import canonical
from mdap.rules.orders import FOLLOWED, SHOWN, follows_order, shows_order
from mdap.rules.values import SpellingError, difference, kinds_of
from mdap.settings import explain
from mdap.tasks import Chain, Decision, Process, RedFlag, Step, Task, canonical_step

T = TypeVar("T")


class TaskSubject:
    """The subject of a step, for simulation. See `mdap.records.Subject`.

    It is *about* a chain's state, or a process's step. `render` is given what is *rendered* before the
    answer.
    """

    __slots__ = ("_about", "_rendered", "_task")

    def __init__(self, task: Chain[Any, Any] | Process[Any], about: Any, *rendered: Any) -> None:
        self._task = task
        self._about = about
        self._rendered = rendered

    def truth(self) -> Any:
        """Return the oracle's answer."""
        return simulated(self._task, "oracle", self._task.oracle, self._about)

    def mistakes(self, truth: Any) -> list[Any]:
        """Return plausible wrong answers."""
        return simulated(self._task, "mistakes", self._task.mistakes, self._about, truth)

    def render(self, answer: Any) -> str:
        """Return a reply that gives *answer*."""
        return simulated(self._task, "render", self._task.render, *self._rendered, answer)


def simulated(task: Task, name: str, method: Callable[..., T], *args: Any) -> T:
    """Return what a *method* returns by which a task has its replies simulated.

    Raises:
        NotImplementedError: the task does not have it.
        PluginError: it fails, or returns something else than it must.
    """
    try:
        found = method(*args)
        if name == "mistakes" and not (isinstance(found, list | tuple) and found):
            raise TypeError(f"mistakes must return a list of at least one answer, not {found!r:.60}")
        if name == "render" and not isinstance(found, str):
            raise TypeError(f"render must return a str, not {found!r:.60}")
    except NotImplementedError:
        raise
    except RAISED as error:
        raise PluginError(f"task {type(task).__qualname__}", f"calling {name}", error) from error
    return found


def not_a_step(found: Any) -> TypeError:
    """Return the error for what stands where an `mdap.Step` must, and close it where nobody awaits it."""
    if inspect.iscoroutine(found):
        found.close()
    return TypeError(
        f"an mdap.Step is needed, not {found!r:.80}, which is of class {type(found).__qualname__}"
    )


def length_of(name: str, task: Task) -> int | None:
    """Return the number of steps of *task* if it knows it.

    Raises:
        PluginError: it fails, or is no number of steps.
    """
    try:
        length: Any = task.length()
        if length is not None and (not isinstance(length, int) or length < 0):
            raise TypeError(f"length must return a whole number of at least 0 or None, not {length!r:.60}")
    except RAISED as error:
        raise PluginError(name, "giving its length", error) from error
    return None if length is None else int(length)


class GuardedTask:
    """A chain whose methods raise nothing but `PluginError`.

    Attributes:
        has_effects: whether decisions have external effects.
        states: the declared type of its states.
        answers: that of its answers.
    """

    def __init__(self, name: str, task: Chain[Any, Any]) -> None:
        self.name = f"task {name}"
        self.task = task
        self.has_effects = type(task).effects is not Chain.effects
        self._has_forms = type(task).canonical is not Task.canonical
        self.states, self.answers = kinds_of(task)

    def fail(self, doing: str, error: BaseException) -> NoReturn:
        """Raise the `PluginError` for *error*, or *error* if it comes from outside, such as Ctrl-C."""
        if not of_its_own(error):
            raise error
        raise PluginError(self.name, doing, error) from error

    def _call(self, doing: str, number: int, method: Callable[..., T], *args: Any) -> T:
        try:
            return method(*args)
        except BaseException as error:
            self.fail(doing.format(number), error)

    def length(self) -> int | None:
        """Return the number of steps, or None."""
        return length_of(self.name, self.task)

    def opened(self, number: int, state: Any) -> tuple[Any, str, Step[Any]] | None:
        """Return *state* as every session has it, its canonical JSON, and the step in it; None at the end.

        A last state need not have any JSON. Others are checked: they must come back from theirs, and `step`
        must leave them as they are.
        """
        spelled, looked = "", False
        doing, refused = "spelling step {} as JSON", None
        try:
            spelled = canonical(state)
            doing = "opening step {}"
            looked = self.states.due(state, spelled)
            if looked:
                self.states.compare(state, spelled)
            state = self.states.settled(state, spelled)
        except RAISED as error:
            refused = error
        step = self.step(number, state)
        if step is None:
            return None
        if refused is not None:
            self.fail(doing.format(number), refused)
        if looked:
            self.unchanged(number, state, spelled, "step")
            if shows_order(self.task, state, step):
                self.fail(f"giving step {number}", SpellingError(SHOWN))
        return state, spelled, step

    def step(self, number: int, state: Any) -> Step[Any] | None:
        """Return step *number*, or None at the end."""
        # Not by `_call`, as `advance` and `spelled` are not: they are called for every step.
        try:
            step = self.task.step(state)
        except BaseException as error:
            self.fail(f"giving step {number}", error)
        if step is None:
            return None
        if not isinstance(step, Step):
            self.fail(f"giving step {number}", not_a_step(step))
        if step.proposal:
            wrong = ValueError("each step of a chain is a decision, not a proposal")
            self.fail(f"giving step {number}", wrong)
        return canonical_step(self.task, step) if self._has_forms else step

    def advance(self, number: int, state: Any, answer: Any, winner: str, spelled: str | None = None) -> Any:
        """Return the state after step *number* was answered, whose *winner* is the answer's canonical JSON.

        *spelled* is that of the state as it was when the step was opened; None to compare nothing.
        """
        try:
            after = self.task.advance(state, self.answers.settled(answer, winner))
        except BaseException as error:
            self.fail(f"advancing over step {number}", error)
        if spelled is not None and self.states.mutable:
            self.unchanged(number, state, spelled, "step or advance")
        return after

    def unchanged(self, number: int, state: Any, spelled: str, method: str) -> None:
        """Refuse a *state* that *method* has changed in place since it was *spelled*, for step *number*."""
        if self._changed(number, state, spelled):
            what = f"{method} changed the state in place: let advance return a new {type(state).__qualname__}"
            self.fail(f"deciding step {number}", SpellingError(what))

    def _changed(self, number: int, state: Any, spelled: str) -> bool:
        now = self.spelled(number, state)
        # An integer may have become the float that it stood for.
        return now != spelled and now != self.spelled(number, self.state(number, spelled))

    def check_answer(self, number: int, asked: tuple[Any, str], answer: Any, spelled: str) -> None:
        """Check that an answer comes back from its JSON; the first of a class, that the task goes on alike.

        *asked* is the state in which the step was asked, and its canonical JSON.

        Raises:
            SpellingError: it does not.
        """
        if not (self.answers.due(answer, spelled) and self.answers.compare(answer, spelled)):
            return
        state, before = asked
        parameters = canonical(self.task)
        answer = self.answers.settled(answer, spelled)
        form = canonical(answer)
        try:
            after = self.task.advance(state, answer)
        except BaseException as error:
            if not of_its_own(error):
                raise
            return  # it may be a wrong answer, which need not lead anywhere
        if canonical(self.task) != parameters:
            raise SpellingError("advance changed the task's parameters: keep in the state what changes")
        if self._changed(number, state, before):
            kind = type(state).__qualname__
            raise SpellingError(f"advance changed the state in place: let it return a new {kind}")
        if canonical(answer) != form:
            raise SpellingError("advance changed the answer in place: let it work on a copy")
        again = self.task.advance(self.states.read(before), self.answers.read(spelled))
        if difference(after, again) is not None:
            raise SpellingError(
                "advance goes on otherwise from a state and an answer that were read back from their JSON: "
                "keep all that it needs in their fields, in none that is private or excluded"
            )
        if follows_order(self.task, state, answer, after):
            raise SpellingError(FOLLOWED)

    async def effects(self, state: Any, decision: Decision[Any]) -> None:
        """Carry out the effects of the *decision* in *state*."""
        try:
            under_way: Any = self.task.effects(state, decision)
            if not inspect.isawaitable(under_way):
                raise TypeError("it is not async: write `async def effects(self, state, decision)`")
            await under_way
        except BaseException as error:
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
        except RAISED as error:
            self.fail(f"spelling step {number} as JSON", error)

    def first_state(self, point: ResumePoint) -> Any:
        """Return the state in which the first undecided step is to be opened."""
        if point.input is None or point.winner is None:
            return self._call("giving its first state", 0, self.task.start)
        state, answer = self.read_back(point.step, point.input, point.winner)
        return self.advance(point.step, state, answer, point.winner)

    def read_back(self, number: int, spelled: str, winner: str) -> tuple[Any, Any]:
        """Return the recorded state and answer of step *number*."""
        state = self.state(number, spelled)
        return state, self._call("reading back step {}", number, self.answers.read, winner)

    def state(self, number: int, spelled: str) -> Any:
        """Return the recorded state in which step *number* was asked."""
        return self._call("reading back step {}", number, self.states.read, spelled)

    def checked_answer(self, step: Step[Any], text: str) -> Any:
        """Return the answer that *text* is as JSON; refuse one that no reply could have given.

        Raises:
            UsageError: it is no such answer.
        """
        try:
            answer = self.task.canonical(self.answers.read(text))
            if canonical(step.parse(self.task.render(answer))) != canonical(answer):
                raise RedFlag("it would be read as another answer")
        except NotImplementedError:
            return answer  # a task that renders no replies cannot check it further
        except (ValidationError, RedFlag) as error:
            raise UsageError(f"{text} is no answer to this step: {flaw(error)}") from error
        except RAISED as error:
            self.fail("checking the answer", error)
        return answer


def not_undecided(number: int) -> UsageError:
    """Return the error of settling a step that does not wait for it."""
    return UsageError(f"step {number} is not one that voting left undecided: `mdap audit review` lists those")


def flaw(error: Exception) -> str:
    """Return in one line what *error* says is wrong with an answer."""
    if isinstance(error, ValidationError):
        return explain("field", error)
    return str(error).partition("\n")[0]
