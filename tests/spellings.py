"""Types as authors write them, drawn at random with values of each, and how mdap spells those.

``python -m tests.spellings SEED COUNT`` prints one JSON line for each of COUNT types: the spelling of each of
its values, or null where mdap refuses it. Another process must print the same, whatever its hash seed.
"""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import make_dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter, create_model

from mdap.rules.canonical import canonical
from mdap.rules.values import Kind, SpellingError

Drawn = tuple[Any, Callable[[random.Random], Any]]
"""A type, and what draws a value of it."""


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Wine(Enum):
    """Its members have the values of colours."""

    RED = "red"
    WHITE = "white"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = "yes"
    NO = "no"


class Point(NamedTuple):
    x: int
    y: str


_TEXTS = ("", "a", "b", "1", "1.0", "red", "yes", "2026-01-02", "é", "null", '"')


def _text(rng: random.Random) -> str:
    return rng.choice(_TEXTS)


def _day(rng: random.Random) -> date:
    return date(2026, 1, rng.randint(1, 3))


_SCALARS: tuple[Drawn, ...] = (
    (int, lambda rng: rng.randint(-2, 12)),
    (bool, lambda rng: rng.random() < 0.5),
    (str, _text),
    (float, lambda rng: rng.choice((0.0, 1.0, -2.5, 1e300, 1e-7))),
    (bytes, lambda rng: _text(rng).encode()),
    (date, _day),
    (datetime, lambda rng: datetime(2026, 1, rng.randint(1, 3), tzinfo=UTC)),
    (timedelta, lambda rng: timedelta(seconds=rng.randint(0, 3))),
    (Decimal, lambda rng: Decimal(rng.choice(("1", "1.0", "1.50", "-3")))),
    (Colour, lambda rng: rng.choice(list(Colour))),
    (Wine, lambda rng: rng.choice(list(Wine))),
    (Level, lambda rng: rng.choice(list(Level))),
    (Word, lambda rng: rng.choice(list(Word))),
    (Point, lambda rng: Point(rng.randint(0, 1), _text(rng))),
)


def drawn(rng: random.Random, depth: int = 3) -> Drawn:
    """Return a type and what draws values of it."""
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(_SCALARS)
    return rng.choice(_SHAPES)(rng, depth - 1)


def _list(rng: random.Random, depth: int) -> Drawn:
    kind, draw = drawn(rng, depth)
    listed: Any = list
    return listed[kind], lambda rng: [draw(rng) for _ in range(rng.randint(0, 3))]


def _tuple(rng: random.Random, depth: int) -> Drawn:
    parts = [drawn(rng, depth) for _ in range(rng.randint(1, 3))]
    made: Any = tuple
    return made[tuple(kind for kind, _ in parts)], lambda rng: tuple(draw(rng) for _, draw in parts)


def _set(rng: random.Random, depth: int) -> Drawn:
    kind, draw = rng.choice(_SCALARS)
    of: Any = rng.choice((set, frozenset))
    return of[kind], lambda rng: of(draw(rng) for _ in range(rng.randint(0, 8)))


def _dict(rng: random.Random, depth: int) -> Drawn:
    keys, key = rng.choice([one for one in _SCALARS if one[0] in (int, str, Colour, Level)])
    kind, draw = drawn(rng, depth)
    made: Any = dict
    return made[keys, kind], lambda rng: {key(rng): draw(rng) for _ in range(rng.randint(0, 4))}


def _optional(rng: random.Random, depth: int) -> Drawn:
    kind, draw = drawn(rng, depth)
    return kind | None, lambda rng: None if rng.random() < 0.3 else draw(rng)


def _union(rng: random.Random, depth: int) -> Drawn:
    (one, draw), (other, again) = drawn(rng, depth), drawn(rng, depth)
    return one | other, lambda rng: rng.choice((draw, again))(rng)


def _names(rng: random.Random) -> tuple[str, ...]:
    return rng.choice((("a",), ("a", "b"), ("b", "c")))


def _dataclass(rng: random.Random, depth: int) -> Drawn:
    parts = {name: drawn(rng, depth) for name in _names(rng)}
    frozen = rng.random() < 0.5
    made = make_dataclass("Data", [(name, kind) for name, (kind, _) in parts.items()], frozen=frozen)
    return made, lambda rng: made(**{name: draw(rng) for name, (_, draw) in parts.items()})


def _model(rng: random.Random, depth: int) -> Drawn:
    parts = {name: drawn(rng, depth) for name in _names(rng)}
    fields: dict[str, Any] = {name: (kind, ...) for name, (kind, _) in parts.items()}
    made = create_model("Model", __config__=ConfigDict(frozen=rng.random() < 0.5), **fields)
    # As it is, whatever its validators would make of it: an author may construct one so.
    return made, lambda rng: made.model_construct(**{name: draw(rng) for name, (_, draw) in parts.items()})


def _nested_base(rng: random.Random, depth: int) -> Drawn:
    """A field that is declared as a base class, and holds one of two subclasses of like shape."""
    base = make_dataclass("Base", [("a", int)])
    one, other = (make_dataclass(name, [], bases=(base,)) for name in ("One", "Other"))
    holder = make_dataclass("Holder", [("held", base)])
    return holder, lambda rng: holder(rng.choice((base, one, other))(rng.randint(0, 2)))


_SHAPES = (_list, _tuple, _set, _dict, _optional, _union, _dataclass, _model, _nested_base)


def spelled(kind: Kind, value: Any) -> str | None:
    """Return how *value* is spelled; None where it is refused."""
    try:
        text = canonical(value)
        kind.compare(value, text)
    except (SpellingError, TypeError, ValueError):
        return None
    return text


def kind_of(declared: Any) -> Kind:
    return Kind("answer", TypeAdapter(declared))


def main(seed: int, count: int) -> None:
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        declared, draw = drawn(rng)
        kind = kind_of(declared)
        sys.stdout.write(json.dumps([spelled(kind, draw(rng)) for _ in range(4)]) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
