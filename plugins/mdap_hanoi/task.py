"""The task: Towers of Hanoi as a chain of one-move steps (arXiv 2511.09030, section 4)."""

import random
from typing import Any

from pydantic import Field

from mdap import Chain, Step, View
from mdap_hanoi import parse, prompts, strategy, turning
from mdap_hanoi.state import Answer, State

__all__ = ["Hanoi"]


class Hanoi(Chain[State, Answer]):
    """Move a tower of disks from the first peg to the third."""

    disks: int = Field(10, ge=1, le=64, description="height of the tower; it takes 2**disks - 1 moves")
    views: int = Field(1, ge=1, le=3, description="presentations of each step: rotations of the pegs")

    def start(self) -> State:
        """Return the whole tower on the first peg."""
        return State((self._tower(), (), ()), None)

    def step(self, state: State) -> Step[Answer]:
        """Return the question for the next move, whatever the state: `length` ends the run."""
        user = prompts.user(state, self.disks)
        views = tuple([self._view(state, turns) for turns in range(1, self.views)])
        return Step(user=user, parse=self.read, system=prompts.system(self.disks), views=views)

    def advance(self, state: State, answer: Answer) -> State:
        """Return the state that was voted for, with the move that led there."""
        return State(answer.next_state, answer.move)

    def result(self, state: State) -> dict[str, Any]:
        """Return whether the whole tower stands on the third peg, and the moves made."""
        return {"solved": state.pegs == ((), (), self._tower()), "moves": self.length()}

    def outcome(self, result: dict[str, Any]) -> bool:
        """Return whether the whole tower stands on the third peg."""
        return bool(result["solved"])

    def length(self) -> int:
        """Return the fewest moves that can solve the puzzle, which the strategy needs exactly."""
        return (1 << self.disks) - 1

    def read(self, text: str) -> Answer:
        """Return the answer that a reply gives; raise `RedFlag` where it gives none."""
        return parse.read(text, self.disks)

    def guess(self, state: State) -> Answer:
        """Return what the strategy prescribes: here, a guess is as good as the truth."""
        return self.oracle(state)

    def oracle(self, state: State) -> Answer:
        """Return what the strategy prescribes."""
        return strategy.right_answer(state, self.disks)

    def sample_state(self, rng: random.Random) -> State:
        """Return a state of the shortest solution, each as likely as any other."""
        return strategy.state_after(rng.randrange(self.length()), self.disks)

    def mistakes(self, state: State, truth: Answer) -> list[Answer]:
        """Return wrong answers that models do give."""
        return strategy.mistakes(state, truth, self.disks)

    def render(self, answer: Answer) -> str:
        """Return a short reply that gives *answer*."""
        return prompts.reply(answer)

    def _view(self, state: State, turns: int) -> View[Answer]:
        """Return the step as it looks with all pegs moved on by so many places."""

        def read(text: str) -> Answer:
            return turning.turned_answer(self.read(text), -turns)

        def render(answer: Answer) -> str:
            return self.render(turning.turned_answer(answer, turns))

        user = prompts.user(turning.turned_state(state, turns), self.disks)
        return View(user, read, prompts.system(self.disks, (2 + turns) % 3), render)

    def _tower(self) -> tuple[int, ...]:
        return tuple(range(self.disks, 0, -1))
