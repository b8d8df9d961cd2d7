"""Format numbers for people; a dash for none."""

import math
from typing import Final

_NONE: Final = "—"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with separated thousands."""
    return _NONE if value is None else f"{value:,.{digits}f}"


def whole(value: float) -> str:
    """Return a whole number; an empty text for any other, such as a tick between two."""
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else ""


def usd(value: float | None) -> str:
    """Return an amount in USD; a small one with more digits."""
    if value is None:
        return _NONE
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.3g}"


def duration(milliseconds: float) -> str:
    """Return a short time, given in milliseconds."""
    return f"{milliseconds:.3g} ms" if milliseconds < 999.5 else f"{milliseconds / 1000:.3g} s"


def seconds(value: float | None) -> str:
    """Return a time, given in seconds."""
    if value is None:
        return _NONE
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 100:
        return f"{value:.1f} s"
    hours, rest = divmod(round(value), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def chance(value: float | None) -> str:
    """Return a probability that never reads as 0 or 1."""
    if value is None:
        return _NONE
    return "> 0.9999" if value > 0.9999 else f"{value:.4f}"


def few(value: float) -> str:
    """Return a mean of few things: small ones with more digits."""
    if value < 0.0001:
        return "< 0.0001"
    return f"{value:.2g}" if value < 1 else f"{value:,.1f}"


def percent(value: float) -> str:
    """Return a share of 1 in per cent."""
    if value <= 0:
        return "0 %"
    hundredths = value * 100
    if hundredths >= 1e-4:
        return f"{hundredths:.3g} %" if hundredths >= 1e-3 else f"{hundredths:.4f} %"
    return f"1e{math.floor(math.log10(hundredths) + 1e-9)} %"


def share(part: float, all_: float) -> str:
    """Return a part of all in per cent."""
    return percent(part / all_) if all_ else "0 %"


def when(moment: str | None) -> str:
    """Return a time of the log to the second; the log's clock is UTC."""
    return moment[:19].replace("T", " ") if moment else _NONE
