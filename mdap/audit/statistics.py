"""Statistics of the models in a run: agreement, red flags, tokens, cost and latency."""

import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from mdap.audit.runs import find_number, plain_reading
from mdap.journal.rows import Billed, prices_of, run_numbered
from mdap.journal.statements import query
from mdap.rules.digests import answer_key
from mdap.rules.money import Tokens, cost_of, saved_in_batches
from mdap.rules.scaling import likely_error_rate, race_lengths

_COUNTS: Final = ("decided", "divided", "settled", "noted", "escalated")
_QUANTILES: Final = ("median", "p95", "p99", "longest")


@dataclass(slots=True)
class Use:
    """Samples of one model, one temperature or one ordinal.

    Attributes:
        void: samples on an input that turned out wrong.
        cancelled: samples that their step was decided without.
        decided_votes: votes in races decided by vote.
        for_winner: the part of *decided_votes* for the winner.
        cached_tokens: the part of *input_tokens* read from a cache.
        cache_write_tokens: the part of *input_tokens* written to a cache.
    """

    samples: int = 0
    votes: int = 0
    red_flags: int = 0
    void: int = 0
    cancelled: int = 0
    decided_votes: int = 0
    for_winner: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def agreement(self) -> float | None:
        """The share of votes for the winner in decided races."""
        return self.for_winner / self.decided_votes if self.decided_votes else None

    @property
    def valid_rate(self) -> float | None:
        """The share of valid samples among all judged samples."""
        judged = self.votes + self.red_flags
        return self.votes / judged if judged else None

    def add(self, other: Self) -> None:
        """Add the samples that *other* counts."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "agreement": self.agreement, "valid_rate": self.valid_rate}


class Beside(NamedTuple):
    """Tokens billed outside the samples.

    Attributes:
        kind: ``probe``, or ``attempt_failed`` for answers that cannot be read.
        cost_usd: its price in USD; None if unknown.
    """

    kind: str
    model: str | None
    samples: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


@dataclass(slots=True)
class Statistics:
    """The output of `mdap audit stats`.

    Attributes:
        run_id: the run; its parts count too.
        temperatures: by temperature; None where none was sent.
        ordinals: by the sample's place in its race, from 0.
        costs: USD by model, where its price is known.
        beside: tokens billed outside the samples: for probes and unreadable replies.
        latency: seconds by model: median, 95th and 99th percentile, longest; to the millisecond.
        flags: model, reason and number of red flags, most first.
        decided: steps decided by vote.
        settled: decisions by a person.
        noted: results without a vote: of parts and of `once` calls.
        escalated: the number of escalations.
        failed_attempts: attempts that failed in transport.
        entropy: mean entropy of the votes of a step, in bits.
        collisions: steps whose first two votes were both against the winner.
        pairs: for two models (or one twice): pairs of votes against a winner in one race, and how many of
            them were for the same answer.
        lengths: the number of steps by the number of votes.
        theory: the expected numbers, for two candidates at the best-fitting error rate.
    """

    run_id: str
    models: dict[str, Use] = field(default_factory=lambda: defaultdict(Use))
    temperatures: dict[float | None, Use] = field(default_factory=lambda: defaultdict(Use))
    ordinals: dict[int, Use] = field(default_factory=lambda: defaultdict(Use))
    costs: dict[str, float] = field(default_factory=dict)
    beside: list[Beside] = field(default_factory=list)
    latency: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    flags: list[tuple[str, str, int]] = field(default_factory=list)
    decided: int = 0
    divided: int = 0
    settled: int = 0
    noted: int = 0
    escalated: int = 0
    failed_attempts: int = 0
    entropy: float | None = None
    collisions: int = 0
    pairs: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    theory: dict[int, float] = field(default_factory=dict)

    def usage(self) -> tuple[int, int]:
        """Return all billed input and output tokens, of samples or not."""
        uses = [(use.input_tokens, use.output_tokens) for use in self.models.values()]
        uses += [(one.input_tokens, one.output_tokens) for one in self.beside]
        return sum(given for given, _ in uses), sum(made for _, made in uses)

    def undecided(self) -> list[tuple[int, float, float]]:
        """Return the share of steps undecided after each number of votes, measured and in theory."""
        left, expected = self.decided, float(self.decided)
        found = []
        for votes in sorted(set(self.lengths) | set(self.theory)):
            left -= self.lengths.get(votes, 0)
            expected -= self.theory.get(votes, 0.0)
            found.append((votes, left / self.decided, max(expected, 0.0) / self.decided))
        return found

    def by_temperature(self) -> list[tuple[float | None, Use]]:
        """Return the samples by temperature, those without one first."""
        return sorted(self.temperatures.items(), key=lambda item: -1.0 if item[0] is None else item[0])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``mdap audit stats --json`` prints."""
        return {
            "run_id": self.run_id,
            "steps": {
                **{name: getattr(self, name) for name in _COUNTS},
                "entropy_bits": self.entropy,
                "collisions": self.collisions,
            },
            "failed_attempts": self.failed_attempts,
            "usage": dict(zip(("input_tokens", "output_tokens"), self.usage(), strict=True)),
            "beside": [one._asdict() for one in self.beside],
            "models": [
                {
                    "model": model,
                    **use.to_dict(),
                    "latency": dict(zip(_QUANTILES, self.latency.get(model, (None,) * 4), strict=True)),
                    "cost_usd": self.costs.get(model),
                }
                for model, use in sorted(self.models.items())
            ],
            "temperatures": [{"temperature": value, **use.to_dict()} for value, use in self.by_temperature()],
            "ordinals": [{"ordinal": value, **use.to_dict()} for value, use in sorted(self.ordinals.items())],
            "flags": [{"model": model, "reason": why, "samples": n} for model, why, n in self.flags],
            "wrong_pairs": [
                {"models": list(models), "pairs": pairs, "same_answer": same}
                for models, (pairs, same) in sorted(self.pairs.items())
            ],
            "votes_needed": [
                {"votes": votes, "steps": self.lengths.get(votes, 0), "expected": self.theory.get(votes, 0.0)}
                for votes in sorted(set(self.lengths) | set(self.theory))
            ],
            "undecided": [
                {"votes": votes, "share": share, "expected": expected}
                for votes, share, expected in self.undecided()
            ],
        }


def statistics(db: str | Path, run_id: str) -> Statistics:
    """Return statistics of a run and of all its parts.

    Raises:
        UsageError: there is no such run.
        DatabaseError: the log cannot be read.
    """
    with plain_reading(Path(db)) as connection:
        connection.create_function("key_of", 1, lambda text: text and answer_key(text), deterministic=True)
        run = find_number(connection, run_id)
        found = Statistics(run_numbered(connection, run).run_id)
        _cells(connection, run, found)
        found.flags = query(connection, "red_flags", run).fetchall()
        found.latency = dict(_latencies(query(connection, "latencies", run)))
        prices = prices_of(*query(connection, "prices", run).fetchone() or (None,))
        found.costs = {
            model: cost_of(prices[model], use) for model, use in found.models.items() if model in prices
        }
        for model, *tokens in query(connection, "batched_usage", run):
            if model in found.costs:
                found.costs[model] -= saved_in_batches(prices[model], Tokens(*tokens))
        for billed in map(Billed._make, query(connection, "spent_beside", run)):
            used = (billed.samples, billed.input_tokens, billed.output_tokens)
            found.beside.append(Beside(billed.kind, billed.model, *used, billed.cost(prices)))
        counts = query(connection, "counts_beside_votes", run).fetchone()
        found.settled, found.noted, found.escalated, found.failed_attempts = counts
        _tallies(connection, run, found)
        _divided(connection, run, found)
    return found


_COLUMN_OF: Final = {"vote": "votes", "flag": "red_flags", "void": "void", "cancelled": "cancelled"}


def _cells(connection: sqlite3.Connection, run: int, found: Statistics) -> None:
    for model, temperature, ordinal, verdict, decided, count, right, *tokens in query(
        connection, "samples_by_cell", run
    ):
        cell = Use(samples=count)
        setattr(cell, _COLUMN_OF[verdict], count)
        if verdict == "vote" and decided:
            cell.decided_votes, cell.for_winner = count, right
        cell.input_tokens, cell.output_tokens, cell.cached_tokens, cell.cache_write_tokens = tokens
        for use in (found.models[model], found.temperatures[temperature], found.ordinals[ordinal]):
            use.add(cell)


def _latencies(
    rows: Iterator[tuple[str, int, int]],
) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """Yield quantiles by model from counts by millisecond, in order."""
    counts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for model, milliseconds, count in rows:
        counts[model].append((milliseconds, count))
    for model, histogram in counts.items():
        median, p95, p99 = (quantile(histogram, share) / 1000 for share in (0.5, 0.95, 0.99))
        yield model, (median, p95, p99, histogram[-1][0] / 1000)


def quantile(histogram: Sequence[tuple[int, int]], share: float) -> int:
    """Return the quantile of that *share* from ascending values and their counts, at least one."""
    wanted, seen = share * sum(count for _, count in histogram), 0
    for value, count in histogram:
        seen += count
        if seen >= wanted:
            return value
    return histogram[-1][0]


def _tallies(connection: sqlite3.Connection, run: int, found: Statistics) -> None:
    """Add up the votes that steps needed, in fact and in theory, and their disagreement."""
    bits = 0.0
    races: Counter[tuple[int, int]] = Counter()
    lengths: Counter[int] = Counter()
    margins: Counter[int] = Counter()
    for margin, signature, votes, steps in query(connection, "votes_by_margin", run):
        counts = [int(part) for part in str(signature).split(",")]
        taken = sum(counts)
        lengths[taken] += steps
        margins[margin] += steps
        races[margin, taken - votes] += steps
        found.divided += steps * (taken > votes)
        bits -= steps * sum(count / taken * math.log2(count / taken) for count in counts if count < taken)
    found.decided = races.total()
    if not found.decided:
        return
    found.entropy = bits / found.decided
    found.lengths = dict(sorted(lengths.items()))
    rate = likely_error_rate(races)
    for margin, steps in margins.items():
        for votes, chance in enumerate(race_lengths(rate, margin, max(found.lengths))):
            if chance > 0:
                found.theory[votes] = found.theory.get(votes, 0.0) + steps * chance


def _divided(connection: sqlite3.Connection, run: int, found: Statistics) -> None:
    """Count wrong first votes and pairs of wrong votes, in the races that were not unanimous."""
    pairs: Counter[tuple[str, str]] = Counter()
    same: Counter[tuple[str, str]] = Counter()
    for winner, *place in query(connection, "divided", run):
        right = answer_key(winner)
        votes = query(connection, "votes_of_opening", *place).fetchall()
        found.collisions += all(key != right for _, key in votes[:2])
        wrong = [(model, key) for model, key in votes if key != right]
        for (model, key), (other, other_key) in combinations(wrong, 2):
            names = (model, other) if model <= other else (other, model)
            pairs[names] += 1
            same[names] += key == other_key
    found.pairs = {names: (count, same[names]) for names, count in pairs.items()}
