"""Types of option values, as functions of their text: a margin, a list of numbers, a duration in seconds."""

import re

import click

__all__ = ["duration", "margin", "numbers"]


def margin(text: str) -> int | str:
    """Return a margin k, or the name of a way to choose one."""
    if text in ("auto", "robust"):
        return text
    try:
        k = int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a whole number nor auto or robust") from None
    if k < 1:
        raise click.BadParameter(f"the margin k must be at least 1, not {k}")
    return k


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a list such as 0,0.1."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 0,0.1") from None


def duration(text: str) -> float:
    """Return the seconds of a time such as 90s or 6h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{text!r} is no time such as 90s, 30m, 6h or 1d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
