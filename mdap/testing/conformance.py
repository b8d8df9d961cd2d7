"""Whether a task keeps the promises that the engine relies on."""

from collections.abc import Callable
from typing import Any, Final

from pydantic import ValidationError

from mdap.errors import UsageError
from mdap.tasks import Chain, Step, Task, types_of
from mdap.testing.findings import AbandonedError, Conformance, Findings, NonconformingError, words
from mdap.testing.questions import OVERDUE, Question

__all__ = ["check_task"]

_NO_ORACLE: Final = "it has no oracle: only its first step was looked at, and no answer"
_NO_MISTAKES: Final = "it names no mistakes: wrong answers were not looked at"
_NO_RENDERING: Final = "it renders no replies: no reply was read back, and hostile texts are made of nothing"


def check_task(
    task: Task, *, steps: int = 2_000, texts: int = 200, seconds: float = 2.0, seed: int = 0
) -> Conformance:
    """Check that *task* keeps the promises that the engine relies on.

    It walks through the task as its oracle decides, and looks at each step: methods are pure and change
    no argument; states and answers survive their JSON; a rendered reply is read back as the answer it was
    rendered from, in the step itself and in each view; no named mistake is right; the task goes on after a
    wrong decision; at its end it is solved. At some steps the parsers get hostile texts: what they do must be
    to answer or to raise `RedFlag`, in bounded time.

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
    if not isinstance(task, Chain):
        raise UsageError(f"{type(task).__name__} cannot be checked: derive it from mdap.Chain")
    walk = _Walk(task, texts, seconds, seed)
    walked = walk.go(steps)
    found = walk.findings
    name = type(task).__name__
    report = Conformance(name, walked, found.texts, tuple(found.breaches), tuple(found.skipped))
    if report.breaches:
        raise NonconformingError(report)
    return report


class _Walk:
    """A chain, followed from its start to its end."""

    def __init__(self, task: Chain[Any, Any], texts: int, seconds: float, seed: int) -> None:
        self.findings = Findings()
        self._task = task
        self._effort = (texts, seconds, seed)
        self._first: Step[Any] | None = None
        self._length: int | None = None
        self._states, self._answers = types_of(task)
        self._render = task.render if _defines(task, "render") else None
        for method, sentence in (
            ("oracle", _NO_ORACLE),
            ("mistakes", _NO_MISTAKES),
            ("render", _NO_RENDERING),
        ):
            if not _defines(task, method):
                self.findings.skipped[sentence] = None

    def go(self, steps: int) -> int:
        """Walk through at most *steps* steps; return how many."""
        number = 0
        try:
            self._length = length = self.findings.pure("length", self._task.length)
            state = self.findings.pure("start", self._task.start)
            while number < steps and (length is None or number < length):
                self.findings.step = f"step {number}"
                step = self._step(state)
                if step is None:
                    break
                number += 1
                if not _defines(self._task, "oracle"):
                    self._question(state, step, [], number)
                    return number
                state = self._decide(state, step, number)
            self._end(state, number, length, steps)
        except AbandonedError:
            pass  # what made it impossible to go on is noted
        return number

    def _step(self, state: Any) -> Step[Any] | None:
        """Return the step in *state*, which must be that of the state as it comes back from its JSON."""
        step = self.findings.pure("step", self._task.step, state)
        self._first = self._first or step
        back = self._back(state)
        again = self.findings.call("step", self._task.step, back)
        self.findings.same(
            "states survive their JSON", "the step in a stored state", words(step), words(again)
        )
        return step

    def _back(self, state: Any) -> Any:
        spelled = self.findings.spelled("a state", state)
        try:
            back = self._states.validate_json(spelled)
        except ValidationError as error:
            self.findings.add("states survive their JSON", f"{spelled:.160} is refused: {error!s:.160}")
            raise AbandonedError from error
        self.findings.same("states survive their JSON", "what is read back", state, back)
        return back

    def _decide(self, state: Any, step: Step[Any], number: int) -> Any:
        """Look at all that hangs on *step*; return the state after the right answer."""
        truth = self.findings.pure("oracle", self._task.oracle, state)
        wrong = self._mistakes(state, truth)
        guess = self.findings.pure("guess", self._task.guess, state)
        answers = [truth, *wrong] if guess is None else [truth, *wrong, guess]
        read = self._question(state, step, answers, number)
        for answer in [*wrong, *read]:
            self._go_astray(state, answer, last=number == self._length)
        form = self.findings.call("canonical", self._task.canonical, truth)
        after = self.findings.pure("advance", self._task.advance, state, form)
        stored = self.findings.call("advance", self._task.advance, self._back(state), form)
        self.findings.same("states survive their JSON", "the state after a stored state", after, stored)
        return after

    def _mistakes(self, state: Any, truth: Any) -> list[Any]:
        if not _defines(self._task, "mistakes"):
            return []
        wrong = self.findings.pure("mistakes", self._task.mistakes, state, truth)
        if not wrong:
            self.findings.add("there are mistakes", "mistakes returned none")
        spelled = [self._form(answer) for answer in wrong]
        if self._form(truth) in spelled:
            self.findings.add(
                "mistakes are wrong", f"{self._form(truth):.160} is right, and among the mistakes"
            )
        return list(wrong)

    def _form(self, answer: Any) -> str:
        form = self.findings.call("canonical", self._task.canonical, answer)
        return self.findings.spelled("an answer", form)

    def _question(self, state: Any, step: Step[Any], answers: list[Any], number: int) -> list[Any]:
        """Look at the step's prompts and parsers; return answers that were read from hostile texts."""
        texts, seconds, seed = self._effort
        question = Question(self.findings, self._task, step, self._render, self._answers)
        question.check_prompt()
        question.check_answers(answers)
        if number & (number - 1) or self.findings.has(OVERDUE):
            return []
        return question.check_texts(question.texts(texts, seed, corpora=number == 1), seconds)

    def _go_astray(self, state: Any, answer: Any, *, last: bool) -> None:
        """Follow a wrong decision for one step: the run must go on, whatever won."""
        try:
            form = self._task.canonical(answer)
            after = self._task.advance(state, form)
            # A run of known length asks for nothing more after its last decision.
            step = None if last else self._task.step(after)
            if step is not None and _defines(self._task, "oracle"):
                self._task.oracle(after)
        except Exception as error:
            what = f"after {answer!r:.100}: {type(error).__name__}: {error!s:.100}"
            self.findings.add("a wrong decision does not end the run", what)

    def _end(self, state: Any, number: int, length: int | None, most: int) -> None:
        self.findings.step = ""
        if self._first is not None:
            again = self.findings.call("step", self._task.step, self._task.start())
            what = "the first step, asked for again at the end,"
            self.findings.same("methods are pure", what, words(self._first), words(again))
        if length is not None and number < min(length, most):
            self.findings.add("length is the number of steps", f"it says {length}, and there were {number}")
        elif number >= most and number != length:
            what = f"it goes on after {most} steps: check a smaller instance, or raise steps"
            self.findings.add("its oracle brings it to an end", what)
            return
        result = self.findings.pure("result", self._task.result, state)
        self.findings.spelled("the result", result)
        if isinstance(result, dict) and result.get("solved") is False:
            self.findings.add("its oracle solves it", f"the result is {result!r:.160}")


def _defines(task: Task, method: str) -> bool:
    """Return whether the author wrote *method*."""
    mine: Callable[..., Any] = getattr(type(task), method)
    return mine is not getattr(Chain, method)
