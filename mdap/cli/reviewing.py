"""``mdap audit review``: doubtful decisions on a terminal, their candidates side by side."""

import json
import re
from collections import Counter
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mdap.audit.review import Candidate, Doubtful
from mdap.cli.output import chance, number, say
from mdap.rules.hidden import plain

__all__ = ["describe_doubtful"]

_INPUT_SHOWN: Final = 500
_TEXT_SHOWN: Final = 1_200
_MOST_SHOWN: Final = 4
_DIGEST: Final = re.compile("[0-9a-f]{32}")


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
    return f"wrong with a chance of {_small(one.doubt)}"


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


def _small(doubt: float) -> str:
    return chance(doubt) if doubt >= 0.001 else f"{doubt:.2g}"
