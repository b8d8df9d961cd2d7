"""Large values on one line."""

from typing import Any, Final

__all__ = ["brief_repr"]

_SHOWN: Final = 200


def brief_repr(value: Any, **shown: Any) -> str:
    """Return the *repr* of a large value: what a reader looks for, on one line; None is left out."""
    parts = []
    for name, item in shown.items():
        text = repr(item)
        if item is not None:
            parts.append(f"{name}={text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'}")
    return f"{type(value).__name__}({', '.join(parts)})"
