"""The task: a daybook, posted entry by entry."""

from typing import Any

from pydantic import Field

from mdap import Chain, Step, View
from mdap_ledger import words
from mdap_ledger.book import ACCOUNTS, Answer, State, after, amount_of, invented, written


class Ledger(Chain[State, Answer]):
    """Post the entries of a daybook to accounts, one after the other."""

    entries: tuple[str, ...] = Field(
        (), max_length=100_000, description="the daybook; none for a made-up one"
    )
    made_up: int = Field(100, ge=1, le=100_000, description="entries of the made-up daybook")
    seed: int = Field(0, description="which made-up daybook")
    views: int = Field(1, ge=1, le=2, description="presentations of each step: 2 also turns its order round")

    def start(self) -> State:
        """Return accounts with nothing in them."""
        return State(0, dict.fromkeys(ACCOUNTS, 0))

    def step(self, state: State) -> Step[Answer]:
        """Return the question what the next entry does to the balances."""
        entry = self._text(state.posted)
        turned = View(words.user(state, entry, turned=True), words.read, words.SYSTEM)
        views = (turned,) if self.views == 2 else ()
        return Step(words.user(state, entry), words.read, words.SYSTEM, max_tokens=500, views=views)

    def advance(self, state: State, answer: Answer) -> State:
        """Return the balances with the two that the answer gives."""
        changed = {answer.debit: answer.debit_after, answer.credit: answer.credit_after}
        return State(state.posted + 1, {**state.balances, **changed})

    def length(self) -> int:
        """Return the number of entries."""
        return len(self.entries) or self.made_up

    def result(self, state: State) -> dict[str, Any]:
        """Return the balances, whether they add up to nothing and, if made up, whether they are right."""
        balances = {name: written(cents) for name, cents in state.balances.items()}
        result = {"balanced": sum(state.balances.values()) == 0, "balances": balances}
        if self.entries:
            return result
        right = self.start()
        while right.posted < self.made_up:
            right = self.advance(right, self.oracle(right))
        return {"solved": state == right, **result}

    def outcome(self, result: dict[str, Any]) -> bool | None:
        """Return whether the balances are right, which only a made-up daybook can tell."""
        return result.get("solved")

    def oracle(self, state: State) -> Answer:
        """Return the right posting of a made-up entry."""
        if self.entries:
            raise NotImplementedError(
                "the right postings are known of a made-up daybook only: give a --model"
            )
        entry = invented(self.made_up, self.seed)[state.posted]
        return after(state, entry.debit, entry.credit, amount_of(entry, state))

    def mistakes(self, state: State, truth: Answer) -> list[Answer]:
        """Return wrong postings as a model would make them."""
        others = ("receivables", "bank", "cash")
        other = next(name for name in others if name not in (truth.debit, truth.credit))
        candidates = [
            after(state, truth.credit, truth.debit, truth.amount),  # the wrong way round
            after(state, other, truth.credit, truth.amount),  # the wrong account
            after(state, truth.debit, truth.credit, truth.amount + 900),  # digits mixed up
            Answer(truth.debit, truth.credit, truth.amount, truth.debit_after + 100, truth.credit_after),
        ]
        return [answer for answer in candidates if answer != truth]

    def render(self, answer: Answer) -> str:
        """Return a short reply that gives *answer*."""
        return words.reply(answer)

    def _text(self, place: int) -> str:
        return self.entries[place] if self.entries else invented(self.made_up, self.seed)[place].text
