"""Detect that a run deviates from its calibration, with a bounded probability of a false alarm.

Each of four tests (votes against winners, red flags; too many, too few) compares what is seen with the nearer
end of a band in which the calibration puts the rate with 99.8 %. If the rate is within the band, the mean
likelihood ratio of a few rates beyond it is a supermartingale that starts at 1: it ever reaches 400 with a
chance of 1/400 at most (Ville). So all four together raise a false alarm in one of a hundred runs at most.
"""

import math
from typing import Final, NamedTuple

from mdap.rules.calibration import consensus_rate
from mdap.rules.certificate import jeffreys

_LIMIT: Final = math.log(400)
_OUTSIDE: Final = 0.002
_TIMES: Final = (1.25, 1.5, 2.0, 4.0, 8.0)


class Baseline(NamedTuple):
    """Counts of a calibration or a pilot: *against* are votes that were wrong, or against the winner."""

    source: str
    against: int
    votes: int
    flags: int
    samples: int


class Drift:
    """Watch a run's votes and red flags; raise one alarm for each kind that leaves its band.

    *k* is the smallest margin of the run, since votes against winners are fewer than wrong ones, by the law.
    Kinds in *raised* were said before.
    """

    def __init__(self, baseline: Baseline, k: int, raised: frozenset[str] = frozenset()) -> None:
        self.raised = set(raised)
        self._source = baseline.source
        _, *against = jeffreys(baseline.against, baseline.votes, _OUTSIDE)
        _, *flags = jeffreys(baseline.flags, baseline.samples, _OUTSIDE)
        self._bands = {"disagreement": against, "red flags": flags}
        low = consensus_rate(min(against[0], 0.5), k) if against[0] > 0 else 0.0
        self._edges = {"disagreement": [low, against[1]], "red flags": flags}
        self._counts = {kind: [0, 0] for kind in self._bands}

    def hear(self, against: int, votes: int, flags: int) -> list[tuple[str, str]]:
        """Add new counts and return the alarms they raise: kind and sentence."""
        found = []
        for kind, hits, trials in (("disagreement", against, votes), ("red flags", flags, votes + flags)):
            counts = self._counts[kind]
            counts[0] += hits
            counts[1] += trials
            edges = enumerate(self._edges[kind])
            if kind not in self.raised and any(_leaves(edge, above, *counts) for above, edge in edges):
                self.raised.add(kind)
                found.append((kind, self._sentence(kind)))
        return found

    def _sentence(self, kind: str) -> str:
        hits, trials = self._counts[kind]
        low, high = self._bands[kind]
        what = "votes are against the winner" if kind == "disagreement" else "samples are red-flagged"
        return (
            f"drift: {hits / trials:.2%} of the {what} so far, where {self._source} leads to expect "
            f"{low:.2%} to {high:.2%}; the model, the endpoint or the kind of step has changed, "
            "so k may no longer fit"
        )


def _leaves(edge: float, above: int, hits: int, trials: int) -> bool:
    """Return whether a rate of *edge* or less cannot explain the hits; of *edge* or more, if not *above*."""
    if not 0 < edge < 1:
        return False
    terms = []
    for times in _TIMES:
        odds = edge / (1 - edge) * times if above else edge / (1 - edge) / times
        rate = odds / (1 + odds)
        terms.append(hits * math.log(rate / edge) + (trials - hits) * math.log((1 - rate) / (1 - edge)))
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms) / len(terms)) >= _LIMIT
