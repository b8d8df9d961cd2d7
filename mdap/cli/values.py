"""Types of option values: a margin, a list of numbers, a time."""

import re
from typing import Any, Final

import click

__all__ = ["DURATION", "MARGIN", "NUMBERS"]


class _Margin(click.ParamType[Any]):
    name = "margin"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return *value* as an integer of at least 1, or the word auto or robust."""
        if value in ("auto", "robust") or isinstance(value, int):
            return value
        try:
            margin = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor auto or robust", param, ctx)
        if margin < 1:
            self.fail(f"the margin k must be at least 1, not {margin}", param, ctx)
        return margin


class _Numbers(click.ParamType[Any]):
    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return numbers that are set apart by commas as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 0,0.1", param, ctx)


class _Duration(click.ParamType[Any]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a time such as 90, 30m, 6h or 1d in seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no time such as 90s, 30m, 6h or 1d", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
MARGIN: Final = _Margin()
DURATION: Final = _Duration()
NUMBERS: Final = _Numbers()
