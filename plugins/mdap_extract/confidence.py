"""The confidence of a decision, from its votes and those on the same field of other documents."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["Pool", "confidence", "votes_on"]

_WEIGHT: Final = 4.0
"""Votes for which the field as a whole counts in the estimate for one document."""


class Pool:
    """The votes on each field over all documents."""

    def __init__(self) -> None:
        self._for: defaultdict[str, int] = defaultdict(int)
        self._against: defaultdict[str, int] = defaultdict(int)

    def add(self, field: str, votes: Iterable[int]) -> None:
        """Count the candidates' votes on one field of one document."""
        counts = sorted(votes)
        if counts:
            self._for[field] += counts[-1]
            self._against[field] += sum(counts[:-1])

    def agreement(self, field: str) -> float:
        """Return the share of votes that went to winners, so estimated that it is never 0 or 1."""
        return (self._for[field] + 1) / (self._for[field] + self._against[field] + 2)


def votes_on(field: str, votes: Mapping[str, int]) -> dict[str, int]:
    """Return the votes on one field: candidates that have it alike count together.

    Args:
        field: the field's name.
        votes: each candidate's votes, by the canonical JSON of all its fields.
    """
    counted: Counter[str] = Counter()
    for candidate, count in votes.items():
        counted[json.dumps(json.loads(candidate).get(field), ensure_ascii=False)] += count
    return dict(counted)


def confidence(votes: Mapping[str, int], agreement: float) -> float:
    """Return the chance that the leader of a vote is right.

    The chance p that a vote is right is estimated from the votes on this very question, drawn towards how
    voters agree on the field elsewhere. With a lead of k the leader is then right with the chance
    ``1 / (1 + ((1 - p) / p)^k)`` (paper, section 3.2). It rests on votes that err independently.

    Args:
        votes: each candidate's votes.
        agreement: the share of votes on this field that went to winners, over all documents.
    """
    counts = sorted(votes.values())
    if not counts:
        return 0.0
    lead = counts[-1] - (counts[-2] if len(counts) > 1 else 0)
    p = (counts[-1] + _WEIGHT * agreement) / (sum(counts) + _WEIGHT)
    return 1.0 / (1.0 + ((1.0 - p) / p) ** lead) if lead else 1.0 / len(counts)
