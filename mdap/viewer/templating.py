"""Templates and their filters; they escape everything and show hidden characters."""

import json
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mdap._version import __version__
from mdap.rules.hidden import hidden_parts, plain
from mdap.viewer.wording import chance, few, number, percent, seconds, share, usd, when

_LONGEST_JSON: Final = 20_000
_BRIEF: Final = 40
_WORDINGS: Final = (chance, few, number, percent, seconds, share, usd, when)


@cache
def environment() -> Environment:
    """Return the templates of the pages and of the report."""
    made = Environment(
        loader=PackageLoader("mdap.viewer", "templates"),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = (shown, moment, written, brief, pretty)
    made.filters |= {one.__name__: one for one in (*_WORDINGS, *own)} | {"svg": Markup}
    made.globals["version"] = __version__
    return made


def static(name: str) -> bytes:
    """Return the static file *name*."""
    return (files("mdap.viewer") / "static" / name).read_bytes()


def _finalized(value: Any) -> Any:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def shown(text: str) -> Markup:
    """Return *text* escaped, with hidden characters named."""
    return Markup("").join(
        Markup('<span class="hidden-character">{}</span>').format(part) if hidden else escape(part)
        for part, hidden in hidden_parts(text)
    )


def moment(seconds: float) -> str:
    """Return a Unix time in the format of the log's events."""
    return when(datetime.fromtimestamp(seconds, UTC).isoformat())


def written(value: Any) -> str:
    """Return a setting or a parameter: text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_JSON else f"{text[:_LONGEST_JSON]} …"


def brief(value: Any) -> str:
    """Return the beginning of a parameter, for one line."""
    text = written(value)
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"


def pretty(text: str | None) -> str:
    """Return JSON with its parts on separate lines, unless it is too long."""
    if text is None:
        return "—"
    if len(text) > _LONGEST_JSON:
        return f"{text[:_LONGEST_JSON]} … ({len(text):,} characters in all)"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _laid_out(value, "")


def _laid_out(value: Any, indent: str) -> str:
    """Return *value* as JSON, with parts that fit, or are nested too deeply to indent, on one line."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= 88 or not isinstance(value, dict | list) or len(indent) > 32:
        return line
    deeper = indent + "  "
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(name, ensure_ascii=False)}: {_laid_out(one, deeper)}" for name, one in value.items()
        ]
        return "{\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _laid_out(one, deeper) for one in value) + f"\n{indent}]"
