"""Types of option values: a margin, a list of numbers, a duration in seconds."""

import re
from collections.abc import Callable
from typing import Any, Final

import click

__all__ = ["DURATION", "MARGIN", "NUMBERS"]


class _Type(click.ParamType[Any]):
    """The type of a text that *read* turns into a value, or refuses with a ValueError."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a text; anything else is one already."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _margin(text: str) -> int | str:
    if text in ("auto", "robust"):
        return text
    try:
        margin = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a whole number nor auto or robust") from None
    if margin < 1:
        raise ValueError(f"the margin k must be at least 1, not {margin}")
    return margin


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is no list of numbers such as 0,0.1") from None


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None or not float(found[1]):
        raise ValueError(f"{text!r} is no time such as 90s, 30m, 6h or 1d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


MARGIN: Final = _Type("margin", _margin)
NUMBERS: Final = _Type("numbers", _numbers)
DURATION: Final = _Type("duration", _seconds)
