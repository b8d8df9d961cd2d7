"""Statistics of a run, as tables for people."""

from collections.abc import Iterable
from typing import Any, Final

from mdap.audit.statistics import Statistics, Use
from mdap.cli.output import number, say, table

__all__ = ["describe_statistics"]

_MOST_ROWS: Final = 16
_HEADS: Final = ("samples", "votes", "flags", "void", "cancelled", "valid", "agreement", "tokens in", "out")


def describe_statistics(found: Statistics) -> None:
    """Print *found* as tables."""
    entropy = number(found.entropy, 3)
    say(
        f"{found.run_id}: {number(found.decided)} steps decided by vote, {number(found.divided)} of them "
        f"divided, {number(found.collisions)} with two wrong votes first; {entropy} bits of entropy a step"
    )
    say(
        f"  {number(found.settled)} settled by a person, {number(found.noted)} results without a vote, "
        f"{number(found.escalated)} escalations, "
        f"{number(found.failed_attempts)} failed attempts"
    )
    _models(found)
    _beside(found)
    _uses("temperature", (("none" if t is None else f"{t:g}", use) for t, use in found.by_temperature()))
    _uses("ordinal", ((str(value), use) for value, use in sorted(found.ordinals.items())))
    if found.flags:
        say()
        rows = [(model, why, number(count)) for model, why, count in found.flags[:_MOST_ROWS]]
        table(("model", "red flag", "samples"), rows)
    _pairs(found)
    _lengths(found)


def _models(found: Statistics) -> None:
    _uses("model", sorted(found.models.items()))
    say()
    rows = []
    cached = any(use.cached_tokens or use.cache_write_tokens for use in found.models.values())
    for model, use in sorted(found.models.items()):
        latency = found.latency.get(model, (None, None, None, None))
        cost = found.costs.get(model)
        kept = (number(use.cached_tokens), number(use.cache_write_tokens)) if cached else ()
        rows.append((model, *[number(value, 3) for value in latency], number(cost, 4), *kept))
    heads = ("model", "median s", "p95 s", "p99 s", "longest s", "USD")
    table((*heads, *(("tokens read from cache", "written to it") if cached else ())), rows)


def _beside(found: Statistics) -> None:
    given, made = found.usage()
    if not found.beside:
        return
    say()
    words = {"probe": "probe", "attempt_failed": "unreadable answers"}
    rows = [
        (
            f"{one.model or '—'}, {words.get(one.kind, one.kind)}",
            number(one.samples),
            number(one.input_tokens),
            number(one.output_tokens),
            number(one.cost_usd, 4),
        )
        for one in found.beside
    ]
    table(("billed beside the samples", "samples", "tokens in", "out", "USD"), rows)
    say(f"With the samples: {number(given)} tokens in, {number(made)} out")


def _uses(name: str, uses: Iterable[tuple[str, Use]]) -> None:
    rows = [(label, *_cells(use)) for label, use in uses]
    say()
    table((name, *_HEADS), rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        say(f"... {len(rows)} in all, with --json")


def _cells(use: Use) -> list[str]:
    counts: list[Any] = [use.samples, use.votes, use.red_flags, use.void, use.cancelled]
    shares = [number(use.valid_rate, 4), number(use.agreement, 4)]
    return [*map(number, counts), *shares, number(use.input_tokens), number(use.output_tokens)]


def _pairs(found: Statistics) -> None:
    rows = [
        (" + ".join(models), number(pairs), number(same), number(same / pairs, 3))
        for models, (pairs, same) in sorted(found.pairs.items())
    ]
    if rows:
        say()
        table(("wrong in one race", "pairs of votes", "same answer", "share"), rows[:_MOST_ROWS])


def _lengths(found: Statistics) -> None:
    if not found.lengths:
        return
    say()
    rows = [
        (
            str(votes),
            number(found.lengths.get(votes, 0)),
            number(found.theory.get(votes, 0.0), 1),
            f"{left:.6f}",
            f"{expected:.6f}",
        )
        for votes, left, expected in found.undecided()
    ]
    table(("votes", "steps", "in theory", "undecided after", "in theory"), rows[:_MOST_ROWS])
