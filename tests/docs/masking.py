"""What of an output may differ from one run to the next."""

import re
from typing import Final

__all__ = ["is_progress", "masked", "shows", "without_progress"]

# What a run with the same seed prints twice is never masked: figures, digests of prompts and answers.
_VARIES: Final = [
    (re.compile(r"\b([a-z][a-z_]*)-\d{8}-\d{6}-[0-9a-f]{8}\b"), r"\1-ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?"), "WHEN"),
    # A seal covers the moments of events.
    (re.compile(r"(\bseal\b\W+)[0-9a-f]{64}\b"), r"\1SEAL"),
    (re.compile(r"(?<![\w/.])/[\w./@+-]+"), "PATH"),
    (re.compile(r"\b(127\.0\.0\.1|localhost):\d+"), "HOST"),
    (re.compile(r"(?m)^(  time +|  calibration .*, |.* passed in )\d+\.\d+ ?s$"), r"\1TIME"),
    (re.compile(r'"(seconds|latency)": [\d.]+'), r'"\1": TIME'),
    (re.compile(r"[ ─━]+|={4,}"), " "),
]
_NUMBER: Final = re.compile(r"\b[0-9a-f]{64}\b|\d[\d,]*(\.\d+)?%?|> 0")
_PROGRESS: Final = re.compile(r"^\S+: (step|case) [\d,]+ ")


def masked(text: str, *, varies: str = "") -> list[str]:
    """Return the lines of *text*, what varies replaced.

    Args:
        text: an output.
        varies: regular expressions, set apart by commas; numbers in what they match differ from run to run.
    """
    for pattern, word in _VARIES:
        text = pattern.sub(word, text)
    lines = [line.rstrip() for line in without_progress(text).splitlines() if line.strip()]
    for pattern in [re.compile(part.strip()) for part in varies.split(",") if part.strip()]:
        lines = [pattern.sub(lambda found: _NUMBER.sub("N", found[0]), line) for line in lines]
    return lines


def without_progress(text: str) -> str:
    """Return *text* without the lines that come as often as the machine is slow."""
    return "".join(line for line in text.splitlines(keepends=True) if not is_progress(line))


def is_progress(line: str) -> bool:
    """Return whether *line* says how far a run is."""
    return _PROGRESS.match(line) is not None


def shows(output: str, expected: str, *, varies: str = "") -> bool:
    """Return whether *output* has the lines of *expected* in a row; ``...`` stands for any lines."""
    if not expected.strip():
        return False
    there = masked(output, varies=varies)
    at = 0
    for part in re.split(r"^\s*\.\.\.\n", expected, flags=re.MULTILINE):
        wanted = masked(part, varies=varies)
        found = (start for start in range(at, len(there) + 1) if there[start : start + len(wanted)] == wanted)
        place = next(found, None)
        if place is None:
            return False
        at = place + len(wanted)
    return True
