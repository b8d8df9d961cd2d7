"""Track which models answer, and decide when a run continues without one, or stops."""

from collections import Counter
from typing import Final, NamedTuple

from mdap.rules.redflags import EMPTY, TOO_LONG, TRUNCATED

# A model that keeps to the form in 1 of 5 replies is given up by chance in 1 of 7,500 runs: 0.8 ** 40.
_REPLIES_WITHOUT_VOTE: Final = 40
_PROMPTS_REFUSED: Final = 10
_SHOWN: Final = 80
_REMEDY: Final = (
    "look at the replies with `mdap show RUN --step N`, and name another model or change the prompt"
)
_REMEDIES: Final = {
    TOO_LONG: "raise --max-tokens, or name another model",
    TRUNCATED: "raise --max-tokens, or name another model",
    EMPTY: "raise --max-tokens if the model reasons before it answers, or name another model",
}


class Absence(NamedTuple):
    """A model, *member*, or a whole *tier* that a run stops asking; the other one is None."""

    member: int | None
    tier: int | None
    reason: str


class _Heard(NamedTuple):
    flags: Counter[str]
    flag: str
    text: str


class Presence:
    """What a run and all its parts know about their models.

    *answered* are the members that have replied to anything, *voted* the tiers with a vote, and *refused* the
    prompts that nobody answers, since the last reply.
    """

    def __init__(self) -> None:
        self.answered: set[int] = set()
        self.voted: set[int] = set()
        self.absences: list[Absence] = []
        self.refused: set[str] = set()
        self._heard: dict[int, _Heard] = {}

    def flag(self, tier: int, reason: str, text: str) -> None:
        """Note a reply of a *tier* that was flagged for a *reason*; not those that come after its end."""
        if tier not in self.voted and not self.formless(tier):
            heard = self._heard.setdefault(tier, _Heard(Counter(), reason, text))
            heard.flags[reason] += 1

    def formless(self, tier: int) -> bool:
        """Return whether a *tier* has given so many replies without a vote that mdap gives it up."""
        heard = self._heard.get(tier)
        return heard is not None and tier not in self.voted and heard.flags.total() >= _REPLIES_WITHOUT_VOTE

    def formless_sentence(self, tier: int, models: str) -> str:
        """Return the sentence that says why mdap gives up a *tier* of these *models*, and what to do."""
        heard = self._heard[tier]
        [(flag, count)] = heard.flags.most_common(1)
        shown = " ".join(heard.text.split())
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        return (
            f"not one of the first {heard.flags.total()} replies of {models} could vote: {count} were "
            f"red-flagged {flag!r}; the first one, {heard.flag!r}, begins {shown!r}; "
            + _REMEDIES.get(flag, _REMEDY)
        )

    @property
    def sure(self) -> bool:
        """Whether there is a vote, and the last prompt was answered."""
        return bool(self.voted) and not self.refused

    def holds(self, in_flight: int) -> bool:
        """Return whether to send nothing more while this many samples are in flight."""
        return self.strange or (not self.voted and in_flight >= _REPLIES_WITHOUT_VOTE)

    @property
    def strange(self) -> bool:
        """Whether the refusals in a row are too many to be the prompts' fault."""
        return len(self.refused) >= _PROMPTS_REFUSED


def refused_sentence(step: int, model: str, reason: str) -> str:
    """Return the sentence that says why a refused step is undecided: part of what processes see."""
    return f"step {step} was refused by {model}: {reason}"
