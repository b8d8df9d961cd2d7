"""The task: Towers of Hanoi as a chain of one-move steps (arXiv 2511.09030, section 4)."""

import random
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mdap import Chain, Step, View
from mdap_hanoi import compact, prompts, strategy
from mdap_hanoi.state import Answer, State, turned_answer, turned_state


class Hanoi(Chain[State, Answer]):
    """Move a tower of disks from the first peg to the third."""

    disks: int = Field(10, ge=1, le=64, description="height of the tower; it takes 2**disks - 1 moves")
    views: int = Field(1, ge=1, le=3, description="presentations of each step: rotations of the pegs")
    style: Literal["full", "compact"] = Field("full", description="prompts: compact ones suit tiny models")

    @model_validator(mode="after")
    def _check_letters(self) -> Self:
        if self.style == "compact" and self.disks > compact.MOST_DISKS:
            raise ValueError(f"style=compact takes up to {compact.MOST_DISKS} disks, not {self.disks}")
        return self

    def start(self) -> State:
        """Return the whole tower on the first peg."""
        return State((self._tower(), (), ()), None)

    def step(self, state: State) -> Step[Answer]:
        """Return the question for the next move, whatever the state: `length` ends the run."""
        views = tuple([self._view(state, turns) for turns in range(1, self.views)])
        return Step(user=self._user(state), parse=self.read, system=self._system(2), views=views)

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
        return compact.read(text, self.disks) if self.style == "compact" else prompts.read(text, self.disks)

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
        mistakes = strategy.mistakes(state, truth, self.disks)
        if self.style == "full":
            return mistakes
        said = dict.fromkeys(map(compact.in_order, mistakes))
        return [answer for answer in said if answer != truth]

    def render(self, answer: Answer) -> str:
        """Return a short reply that gives *answer*."""
        return compact.reply(answer) if self.style == "compact" else prompts.reply(answer)

    def _view(self, state: State, turns: int) -> View[Answer]:
        """Return the step as it looks with all pegs moved on by so many places."""

        def read(text: str) -> Answer:
            return turned_answer(self.read(text), -turns)

        def render(answer: Answer) -> str:
            return self.render(turned_answer(answer, turns))

        user = self._user(turned_state(state, turns))
        return View(user, read, self._system((2 + turns) % 3), render)

    def _user(self, state: State) -> str:
        user = compact.user if self.style == "compact" else prompts.user
        return user(state, self.disks)

    def _system(self, goal: int) -> str:
        return compact.SYSTEM if self.style == "compact" else prompts.system(self.disks, goal)

    def _tower(self) -> tuple[int, ...]:
        return tuple(range(self.disks, 0, -1))
