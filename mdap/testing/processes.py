"""Examine a process: its questions, in any order of answers, and after a wrong one."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from mdap.errors import RAISED, UndecidedError
from mdap.rules.canonical import canonical
from mdap.rules.reading import typed_answer
from mdap.rules.values import SpellingError
from mdap.tasks import Chain, Process, Step, Task
from mdap.testing.chains import ChainWalk
from mdap.testing.findings import AbandonedError, Breaches, words
from mdap.testing.questions import Effort, ExaminedStep, check_mistakes, check_outcome, defines, note_skipped
from mdap.testing.walking import OracleAsk, TooManyError, solved

__all__ = ["ProcessWalk"]

_DEVIATIONS: Final = 12
_PARTS: Final = 6


class ProcessWalk:
    """A process, solved by its oracle, and again with single decisions wrong or without a winner.

    Args:
        findings: where breaches are noted.
        task: the process.
        effort: how hard to try.
    """

    def __init__(self, findings: Breaches, task: Process[Any], effort: Effort) -> None:
        self.findings = findings
        self._task = task
        self._effort = effort

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
        self.findings.same(name, "what it asks", _contents(ask.asked), _contents(again.asked))

    def _check_keys(self, asked: Iterable[Step[Any]]) -> None:
        prompts: dict[str, Any] = {}
        for step in asked:
            if step.key is not None and prompts.setdefault(step.key, words(step)) != words(step):
                self.findings.add("a key stands for one prompt", f"{step.key!r:.80} stands for several")

    def _check_step(self, number: int, step: Step[Any]) -> list[Any]:
        """Look at one step; return its mistakes."""
        self.findings.step = f"step {number}"
        truth = self.findings.pure("oracle", self._task.oracle, step)
        wrong: list[Any] = []
        if defines(self._task, "mistakes"):
            wrong = list(self.findings.pure("mistakes", self._task.mistakes, step, truth))
            check_mistakes(self.findings, self._task, truth, wrong)
        question = ExaminedStep(self.findings, self._task, step, self._rendering(step), _survives(step))
        question.check_prompt()
        question.check_answers([truth, *wrong])
        return [*wrong, *question.check_texts(self._effort, number + 1)]

    def _rendering(self, step: Step[Any]) -> Callable[[Any], str] | None:
        if not defines(self._task, "render"):
            return None
        return lambda answer: self._task.render(step, answer)

    def _deviate(self, mistakes: list[list[Any]]) -> None:
        """Solve it with one decision wrong, and with one undecided, at some steps."""
        places = range(0, len(mistakes), len(mistakes) // _DEVIATIONS + 1)
        for place in places:
            undecided = UndecidedError(f"step {place} has no winner")
            answers = [undecided, *mistakes[place][:2], *mistakes[place][-1:]]
            for answer in answers:
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
            if isinstance(part, Chain):
                steps += ChainWalk(self.findings, part, self._effort).go()
            elif isinstance(part, Process):
                steps += ProcessWalk(self.findings, part, self._effort).go()
            self.findings.part = ""
        return steps


def _contents(steps: Iterable[Step[Any]]) -> list[Any]:
    return sorted((words(step) for step in steps), key=canonical)


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
