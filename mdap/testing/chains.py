"""Examine a chain from its start to its end."""

from typing import Any

from mdap.errors import RAISED
from mdap.rules.orders import SHOWN, shows_order
from mdap.rules.values import Kind, SpellingError, kinds_of
from mdap.tasks import Chain, Step
from mdap.testing.findings import AbandonedError, Breaches, words
from mdap.testing.questions import Effort, ExaminedStep, check_mistakes, check_outcome, defines, note_skipped

__all__ = ["ChainWalk"]


class ChainWalk:
    """A chain, followed from its start to its end.

    Args:
        findings: where breaches are noted.
        task: the chain.
        effort: how hard to try.
    """

    def __init__(self, findings: Breaches, task: Chain[Any, Any], effort: Effort) -> None:
        self.findings = findings
        self._task = task
        self._effort = effort
        self._first: Step[Any] | None = None
        self._length: int | None = None
        self._states, self._answers = kinds_of(task)
        self._render = task.render if defines(task, "render") else None
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
                    self._question(step, [], number)
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
        answers = [truth, *wrong] if guess is None else [truth, *wrong, guess]
        read = self._question(step, answers, number)
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

    def _mistakes(self, state: Any, truth: Any) -> list[Any]:
        if not defines(self._task, "mistakes"):
            return []
        wrong = self.findings.pure("mistakes", self._task.mistakes, state, truth)
        check_mistakes(self.findings, self._task, truth, wrong)
        return list(wrong)

    def _question(self, step: Step[Any], answers: list[Any], number: int) -> list[Any]:
        """Look at the step's prompts and parsers; return answers that were read from hostile texts."""
        question = ExaminedStep(self.findings, self._task, step, self._render, self._answers.compare)
        question.check_prompt()
        question.check_answers(answers)
        return question.check_texts(self._effort, number)

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
