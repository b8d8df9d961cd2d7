"""What of an output may differ from one run to the next."""

import re
from typing import Final

__all__ = ["is_progress", "masked", "shows", "without_progress"]

_VARIES: Final = [
    (re.compile(r"\b([a-z][a-z_]*)-\d{8}-\d{6}-[0-9a-f]{8}\b"), r"\1-ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?"), "WHEN"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "DIGEST"),
    (re.compile(r"(?<![\w/.])/[\w./@+-]+"), "PATH"),
    (re.compile(r"\b(127\.0\.0\.1|localhost):\d+"), "HOST"),
    (re.compile(r"\b\d+\.\d+ ?(s|seconds|ms)\b"), "TIME"),
    (re.compile(r'"(seconds|latency)": [\d.]+'), r'"\1": TIME'),
    # Estimates of the certificate: what they are is for its own tests to say.
    (re.compile(r"(?m)(?<=^  )(P\(no errors\)|errors|error rate) .*$"), r"\1"),
    (re.compile(r"[ =─━]+"), " "),
]
_NUMBER: Final = re.compile(r"\d[\d,]*(\.\d+)?%?|> 0")
_PROGRESS: Final = re.compile(r"^\S+: (step|case) [\d,]+ ")


def masked(text: str, *, numbers: bool = False) -> list[str]:
    """Return the lines of *text*, what varies replaced.

    Args:
        text: an output.
        numbers: whether all numbers vary.
    """
    for pattern, word in [*_VARIES, *([(_NUMBER, "N")] if numbers else [])]:
        text = pattern.sub(word, text)
    return [line.rstrip() for line in without_progress(text).splitlines() if line.strip()]


def without_progress(text: str) -> str:
    """Return *text* without the lines that come as often as the machine is slow."""
    return "".join(line for line in text.splitlines(keepends=True) if not is_progress(line))


def is_progress(line: str) -> bool:
    """Return whether *line* says how far a run is."""
    return _PROGRESS.match(line) is not None


def shows(output: str, expected: str, *, numbers: bool = False) -> bool:
    """Return whether *output* has the lines of *expected* in a row; ``...`` stands for any lines."""
    if not expected.strip():
        return False
    there = masked(output, numbers=numbers)
    at = 0
    for part in re.split(r"^\s*\.\.\.\n", expected, flags=re.MULTILINE):
        wanted = masked(part, numbers=numbers)
        found = (start for start in range(at, len(there) + 1) if there[start : start + len(wanted)] == wanted)
        place = next(found, None)
        if place is None:
            return False
        at = place + len(wanted)
    return True
