"""Check that a task keeps the promises that the engine relies on."""

from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from mdap.errors import RAISED, UndecidedError, UsageError
from mdap.rules.canonical import canonical
from mdap.rules.declared import check_methods
from mdap.rules.orders import SHOWN, shows_order
from mdap.rules.parameters import as_resumed, version_of
from mdap.rules.reading import typed_answer
from mdap.rules.values import Kind, SpellingError, kinds_of
from mdap.tasks import Chain, Process, Step, Task
from mdap.testing.findings import AbandonedError, Breaches, Conformance, NonconformingError, words
from mdap.testing.questions import Effort, ExaminedStep, check_outcome, defines, note_skipped
from mdap.testing.walking import OracleAsk, TooManyError, solved

_DEVIATIONS: Final = 12
_PARTS: Final = 6

T = TypeVar("T", bound=Chain[Any, Any] | Process[Any])


def check_task(
    task: Task, *, steps: int = 2_000, texts: int = 200, seconds: float = 2.0, seed: int = 0
) -> Conformance:
    """Check that *task* keeps the promises that the engine relies on.

    It walks through the task as its oracle decides, and looks at each step: methods are pure and change
    no argument; states and answers survive their JSON; a rendered reply is read back as the answer it was
    rendered from, in the step itself and in each view; no named mistake is right; the task goes on after a
    wrong decision; at its end it is solved. At some steps the parsers get hostile texts: what they do must be
    to answer or to raise `RedFlag`, in bounded time. A process must ask the same
    questions and give the same result in any order of answers; its parts are checked too.

    Args:
        task: a small instance, so that it ends within *steps*.
        steps: how many steps to walk through at most.
        texts: how many mutations of honest replies to try at the steps 0, 1, 3, 7, 15, ...
        seconds: processor time that reading one text may take.
        seed: where the mutations come from.

    Returns:
        What was looked at, and what could not be.

    Raises:
        NonconformingError: the task breaks a promise; the error's text names each breach and its step.
        UsageError: *task* is of no kind that can be checked.
    """
    __tracebackhide__ = True  # pytest then shows the line of the test
    found, name = Breaches(), type(task).__name__
    effort = Effort(steps, texts, seconds, seed)
    if not isinstance(task, Chain | Process):
        raise UsageError(f"{name} cannot be checked: derive it from mdap.Chain or mdap.Process")
    found.usage("methods are called as mdap calls them", lambda _: check_methods(type(task), name), task)
    found.usage("parameters come back from the record", as_resumed, task)
    found.usage("its version can be recorded", version_of, task)
    walked = 0 if found.breaches else _walked(found, as_resumed(task), effort)
    breaches, skipped = tuple(found.breaches), tuple(found.skipped)
    report = Conformance(name, walked, found.texts, breaches, skipped)
    if report.breaches:
        raise NonconformingError(report)
    return report


def _walked(findings: Breaches, task: Task, effort: Effort) -> int:
    """Walk through a task; return how many steps."""
    if isinstance(task, Chain):
        return _ChainWalk(findings, task, effort).go()
    return _ProcessWalk(findings, task, effort).go() if isinstance(task, Process) else 0


class _Walk(Generic[T]):
    def __init__(self, findings: Breaches, task: T, effort: Effort) -> None:
        self.findings = findings
        self._task = task
        self._effort = effort

    def _mistakes(self, subject: Any, truth: Any) -> list[Any]:
        """Return the mistakes that the task names; note if there are none, or one that is right."""
        if not defines(self._task, "mistakes"):
            return []
        wrong = list(self.findings.pure("mistakes", self._task.mistakes, subject, truth))
        forms = []
        for answer in [truth, *wrong]:
            form = self.findings.call("canonical", self._task.canonical, answer)
            forms.append(self.findings.spelled("an answer", form))
        if not wrong:
            self.findings.add("there are mistakes", "mistakes returned none")
        if forms[0] in forms[1:]:
            self.findings.add("mistakes are wrong", f"{forms[0]:.160} is right, and among the mistakes")
        return wrong


class _ChainWalk(_Walk[Chain[Any, Any]]):
    """A chain, followed from its start to its end."""

    def __init__(self, findings: Breaches, task: Chain[Any, Any], effort: Effort) -> None:
        super().__init__(findings, task, effort)
        self._first: Step[Any] | None = None
        self._length: int | None = None
        self._states, self._answers = kinds_of(task)
        note_skipped(findings, task)

    def go(self) -> int:
        """Walk through the chain; return how many steps."""
        number, steps = 0, self._effort.steps
        try:
            self._length = length = self.findings.pure("length", self._task.length)
            state = self.findings.pure("start", self._task.start)
            while number < steps and (length is None or number < length):
                self.findings.step = f"step {number}"
                state, step = self._step(state)
                if step is None:
                    break
                number += 1
                if not defines(self._task, "oracle"):
                    self._examine(step, [], number)
                    return number
                state = self._decide(state, step, number)
            self._end(state, number, length, steps)
        except AbandonedError:
            pass  # what made it impossible to go on is noted
        return number

    def _step(self, state: Any) -> tuple[Any, Step[Any] | None]:
        """Return *state* as a run has it, and the step in it, which must be that of the stored state."""
        back = self._back(state)
        state = self._settled(self._states, state)
        step = self.findings.pure("step", self._task.step, state)
        self._first = self._first or step
        if step is not None and shows_order(self._task, state, step):
            self.findings.add("methods are pure", SHOWN)
        again = self.findings.call("step", self._task.step, back)
        self.findings.same(
            "states survive their JSON", "the step in a stored state", words(step), words(again)
        )
        return state, step

    def _settled(self, kind: Kind, value: Any) -> Any:
        spelled = self.findings.spelled("a state or an answer", value)
        return self.findings.call("a validator", kind.settled, value, spelled)

    def _back(self, state: Any) -> Any:
        spelled = self.findings.spelled("a state", state)
        try:
            self._states.compare(state, spelled)
        except SpellingError as error:
            self.findings.add("states survive their JSON", str(error))
            raise AbandonedError from error
        return self._states.read(spelled)

    def _decide(self, state: Any, step: Step[Any], number: int) -> Any:
        """Look at all that hangs on *step*; return the state after the right answer."""
        truth = self.findings.pure("oracle", self._task.oracle, state)
        wrong = self._mistakes(state, truth)
        guess = self.findings.pure("guess", self._task.guess, state)
        read = self._examine(step, [truth, *wrong, *([] if guess is None else [guess])], number)
        before = self.findings.spelled("a state", state)
        for answer in [*wrong, *read]:
            self._go_astray(state, answer, last=number == self._length)
        if self.findings.spelled("a state", state) != before:
            self.findings.add("methods change no argument", "advance changed what it was given")
            raise AbandonedError  # what comes after would rest on wrong decisions, too
        form = self._settled(self._answers, self.findings.call("canonical", self._task.canonical, truth))
        parameters = self.findings.spelled("a parameter", self._task)
        after = self.findings.pure("advance", self._task.advance, state, form)
        if self.findings.spelled("a parameter", self._task) != parameters:
            self.findings.add("methods change no argument", "advance changed the task's parameters")
        stored = self.findings.call("advance", self._task.advance, self._back(state), form)
        self.findings.same("states survive their JSON", "the state after a stored state", after, stored)
        return after

    def _examine(self, step: Step[Any], answers: list[Any], number: int) -> list[Any]:
        """Look at the step's prompts and parsers; return answers that were read from hostile texts."""
        render = self._task.render if defines(self._task, "render") else None
        examined = ExaminedStep(self.findings, self._task, step, render, self._answers.compare)
        return examined.examine(answers, self._effort, number)

    def _go_astray(self, state: Any, answer: Any, *, last: bool) -> None:
        """Follow a wrong decision for one step: the run must go on, whatever won."""
        try:
            form = self._task.canonical(answer)
            after = self._task.advance(state, form)
            # A run of known length asks for nothing more after its last decision.
            step = None if last else self._task.step(after)
            if step is not None and defines(self._task, "oracle"):
                self._task.oracle(after)
        except RAISED as error:
            what = f"after {answer!r:.100}: {type(error).__name__}: {error!s:.100}"
            self.findings.add("a wrong decision does not end the run", what)

    def _end(self, state: Any, number: int, length: int | None, most: int) -> None:
        self.findings.step = ""
        if self._first is not None:
            state_again = self._settled(self._states, self._task.start())
            again = self.findings.call("step", self._task.step, state_again)
            what = "the first step, asked for again at the end,"
            self.findings.same("methods are pure", what, words(self._first), words(again))
        if length is not None and number < min(length, most):
            self.findings.add("length is the number of steps", f"it says {length}, and there were {number}")
        elif number >= most and number != length:
            what = f"it goes on after {most} steps: check a smaller instance, or raise steps"
            self.findings.add("its oracle brings it to an end", what)
            return
        result = self.findings.pure("result", self._task.result, state)
        check_outcome(self.findings, self._task, result)


class _ProcessWalk(_Walk[Process[Any]]):
    """A process, solved by its oracle, and again with single decisions wrong or without a winner."""

    def go(self) -> int:
        """Look at the process and its parts; return how many steps it asked for."""
        ask = OracleAsk(self._task, self._effort.steps)
        try:
            result = self._solve(ask)
            if ask.asked or not ask.nested:
                note_skipped(self.findings, self._task)
            self._check_result(result, ask)
            self._check_order(result, ask)
            self._check_keys(ask.asked)
            mistakes = [self._check_step(number, step) for number, step in enumerate(ask.asked)]
            self.findings.step = ""
            self._deviate(mistakes)
        except AbandonedError:
            pass  # what made it impossible to go on is noted
        return len(ask.asked) + self._check_parts(ask.nested)

    def _solve(self, ask: OracleAsk) -> Any:
        try:
            return solved(self._task, ask)
        except TooManyError:
            what = (
                f"it asks for more than {self._effort.steps} steps: check a smaller instance, or raise steps"
            )
            self.findings.add("its oracle brings it to an end", what)
        except NotImplementedError:
            if defines(self._task, "oracle"):
                raise
            note_skipped(self.findings, self._task)
        except RAISED as error:
            self.findings.add("methods raise nothing", f"solve raised {type(error).__name__}: {error!s:.160}")
        raise AbandonedError

    def _check_result(self, result: Any, ask: OracleAsk) -> None:
        check_outcome(self.findings, self._task, result)
        length = self.findings.pure("length", self._task.length)
        if length is not None and length < len(ask.asked):
            what = f"it says {length}, and {len(ask.asked)} were asked for"
            self.findings.add("length is the number of steps", what)

    def _check_order(self, result: Any, ask: OracleAsk) -> None:
        """Solve it again, what is asked side by side from the last to the first."""
        again = OracleAsk(self._task, self._effort.steps, backwards=True)
        name = "it does the same in whatever order answers come"
        self.findings.same(name, "its result", result, self._solve(again))
        one, other = (sorted(map(words, each.asked), key=canonical) for each in (ask, again))
        self.findings.same(name, "what it asks", one, other)

    def _check_keys(self, asked: Iterable[Step[Any]]) -> None:
        prompts: dict[str, Any] = {}
        for step in asked:
            if step.key is not None and prompts.setdefault(step.key, words(step)) != words(step):
                self.findings.add("a key stands for one prompt", f"{step.key!r:.80} stands for several")

    def _check_step(self, number: int, step: Step[Any]) -> list[Any]:
        """Look at one step; return its mistakes."""

        def render(answer: Any) -> str:
            return self._task.render(step, answer)

        self.findings.step = f"step {number}"
        truth = self.findings.pure("oracle", self._task.oracle, step)
        wrong = self._mistakes(step, truth)
        rendering = render if defines(self._task, "render") else None
        examined = ExaminedStep(self.findings, self._task, step, rendering, _survives(step))
        return [*wrong, *examined.examine([truth, *wrong], self._effort, number + 1)]

    def _deviate(self, mistakes: list[list[Any]]) -> None:
        """Solve it with one decision wrong, and with one undecided, at some steps."""
        for place in range(0, len(mistakes), len(mistakes) // _DEVIATIONS + 1):
            undecided = UndecidedError(f"step {place} has no winner")
            for answer in [undecided, *mistakes[place][:2], *mistakes[place][-1:]]:
                self._deviate_at(place, answer)

    def _deviate_at(self, place: int, answer: Any) -> None:
        ask = OracleAsk(
            self._task, 4 * self._effort.steps, lambda number, truth: answer if number == place else truth
        )
        try:
            canonical(solved(self._task, ask))
        except UndecidedError:
            pass  # it may return an undecided step in its result, or give up over it
        except TooManyError:
            self.findings.add(
                "a wrong decision does not make it endless", f"at step {place}: {answer!r:.100}"
            )
        except RAISED as error:
            what = f"after {answer!r:.100} at step {place}: {type(error).__name__}: {error!s:.100}"
            self.findings.add("a wrong decision does not end the run", what)

    def _check_parts(self, nested: Iterable[Task]) -> int:
        """Look at some of the tasks that were solved as parts; return how many steps they have."""
        parts: dict[type[Task], Task] = {}
        for part in nested:
            parts.setdefault(type(part), part)
        parts.pop(type(self._task), None)
        steps = 0
        for kind, part in list(parts.items())[:_PARTS]:
            self.findings.part, self.findings.step = f"part {kind.__name__}", ""
            steps += _walked(self.findings, part, self._effort)
            self.findings.part = ""
        return steps


def _survives(step: Step[Any]) -> Callable[[Any, str], None]:
    """Return what compares an answer with what its schema reads back, which a person's answer is read by."""

    def compare(answer: Any, spelled: str) -> None:
        try:
            back = canonical(typed_answer(step, spelled))
        except ValueError as error:
            raise SpellingError(f"{spelled:.160} is refused by the step's schema: {error!s:.160}") from error
        if back != spelled:
            raise SpellingError(f"the step's schema reads {spelled:.160} back as {back:.160}")

    return compare
