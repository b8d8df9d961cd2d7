"""What ``mdap audit`` prints for people: a verification, statistics, doubtful decisions."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mdap.audit import Signature, Verification
from mdap.audit.review import Candidate, Doubtful
from mdap.audit.statistics import Statistics, Use
from mdap.cli.output import chance, fields, number, say, table
from mdap.rules.hidden import plain

_MISMATCHES: Final = 20
_INPUT_SHOWN: Final = 500
_TEXT_SHOWN: Final = 1_200
_MOST_SHOWN: Final = 4
_DIGEST: Final = re.compile("[0-9a-f]{32}")
_MOST_ROWS: Final = 16
_HEADS: Final = ("samples", "votes", "flags", "void", "cancelled", "valid", "agreement", "tokens in", "out")


def describe_verification(came: Verification) -> None:
    """Print the verdict, what was checked, and what does not match."""
    say(f"{came.run_id}: {came.verdict}")
    rows = [
        ("run", f"{came.task}, {came.status}" + (f", {came.outcome}" if came.outcome else "")),
        ("decisions", f"{number(came.decisions)} recounted"),
        ("samples", f"{number(came.samples)} read again, {number(came.votes)} votes"),
        ("digest", came.digest or "-"),
        ("seal", came.seal or "-"),
        *[("signed by", _signer(signature)) for signature in came.signatures],
        *[("note", note) for note in came.notes],
    ]
    fields(rows)
    for mismatch in came.mismatches[:_MISMATCHES]:
        say(f"  {mismatch.kind}: {mismatch}")
    total = sum(came.counts.values())
    if total > _MISMATCHES:
        say(f"  ... {number(total)} in all; the first {len(came.mismatches)} with --json")


def _signer(signature: Signature) -> str:
    if signature.key is None:
        return "nobody: the signature is not valid"
    return f"{signature.key}{', an allowed signer' if signature.allowed else ''}"


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
    flags = [(model, why, number(count)) for model, why, count in found.flags]
    _section(("model", "red flag", "samples"), flags)
    pairs = [
        (" + ".join(models), number(pairs), number(same), number(same / pairs, 3))
        for models, (pairs, same) in sorted(found.pairs.items())
    ]
    _section(("wrong in one race", "pairs of votes", "same answer", "share"), pairs)
    if found.lengths:
        _section(("votes", "steps", "in theory", "undecided after", "in theory"), _lengths(found))


def _section(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        say()
        table(heads, rows[:_MOST_ROWS])


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
    if not found.beside:
        return
    say()
    words = {"probe": "probe", "attempt_failed": "unreadable answers"}
    rows = [
        (
            f"{one.model or '—'}, {words.get(one.kind, one.kind)}",
            *map(number, (one.samples, one.input_tokens, one.output_tokens)),
            number(one.cost_usd, 4),
        )
        for one in found.beside
    ]
    table(("billed beside the samples", "samples", "tokens in", "out", "USD"), rows)
    given, made = found.usage()
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


def _lengths(found: Statistics) -> list[tuple[str, ...]]:
    return [
        (
            str(votes),
            number(found.lengths.get(votes, 0)),
            number(found.theory.get(votes, 0.0), 1),
            f"{left:.6f}",
            f"{expected:.6f}",
        )
        for votes, left, expected in found.undecided()
    ]


def describe_doubtful(found: list[Doubtful]) -> None:
    """Print each decision: its input, and its candidates side by side."""
    if not found:
        say("no step was decided by vote yet")
    console = Console()
    for one in found:
        say(f"{one.run_id}, step {one.step}{_called(one)}: {_told(one)}")
        say(f"  input   {_short(one.input, _INPUT_SHOWN)}")
        shown = one.candidates[:_MOST_SHOWN]
        table = Table(show_lines=True, expand=True)
        for candidate in shown:
            mark = ", decided" if candidate.won else ""
            votes = "1 vote" if candidate.votes == 1 else f"{number(candidate.votes)} votes"
            table.add_column(Text(f"{votes}{mark}"), ratio=1, overflow="fold")
        if one.doubt is not None:
            table.add_row(*[Text(plain(_short(candidate.answer, _INPUT_SHOWN))) for candidate in shown])
        table.add_row(*[Text(plain(_replies(candidate))) for candidate in shown])
        if shown:
            console.print(table)
        if len(one.candidates) > len(shown):
            say(f"  {number(len(one.candidates) - len(shown))} more candidates with --json")
        for (model, why), count in Counter((model, why) for model, why, _ in one.flags).items():
            say(f"  {count} red flags: {why} ({model})")
        say()


def _called(one: Doubtful) -> str:
    """Return the step's key, where its author gave it one: by it, too, `mdap decide` finds the step."""
    return "" if one.key == str(one.step) or _DIGEST.fullmatch(one.key) else f" ({plain(one.key)})"


def _told(one: Doubtful) -> str:
    if one.doubt is None:
        return f"UNDECIDED, {plain(one.reason or 'without a winner')}"
    return f"wrong with a chance of {chance(one.doubt) if one.doubt >= 0.001 else f'{one.doubt:.2g}'}"


def _replies(candidate: Candidate) -> str:
    """Return each different text once, with who wrote it how often."""
    texts = Counter(candidate.replies)
    parts = []
    for (model, text), count in texts.most_common(_MOST_SHOWN):
        rest = "..." if len(text) > _TEXT_SHOWN else ""
        parts.append(f"{count} x {model}:\n{text[:_TEXT_SHOWN]}{rest}")
    if len(texts) > _MOST_SHOWN:
        parts.append(f"... and {len(texts) - _MOST_SHOWN} other texts, with --json")
    return "\n\n".join(parts)


def _short(value: Any, most: int) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]}..."
