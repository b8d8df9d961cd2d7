"""Canonical JSON: one spelling for a value, whatever it is made of."""

import json
import math
import random
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from mdap.rules.canonical import canonical

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same value, its objects' keys in another order."""
    if isinstance(value, list):
        return [shuffled(each, rng) for each in value]
    if isinstance(value, dict):
        keys = rng.sample(list(value), len(value))
        return {key: shuffled(value[key], rng) for key in keys}
    return value


@given(values)
def test_it_is_json_for_the_value(value: Any) -> None:
    """Reading it back gives the value."""
    assert json.loads(canonical(value)) == value


@pytest.mark.slow
@given(values, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: Any, rng: random.Random) -> None:
    """Equal values have one spelling; and what was spelled is spelled the same again."""
    spelled = canonical(value)
    assert canonical(shuffled(value, rng)) == spelled
    assert canonical(json.loads(spelled)) == spelled


@pytest.mark.slow
@given(values, values)
def test_different_values_have_different_spellings(one: Any, other: Any) -> None:
    """Two answers share votes only if they are the same JSON value."""
    assert (canonical(one) == canonical(other)) is (as_json(one) == as_json(other))


def as_json(value: Any) -> Any:
    """*value* in a form that Python does not take for equal too easily: True is not 1, nor is 1.0."""
    if isinstance(value, list):
        return [as_json(each) for each in value]
    if isinstance(value, dict):
        return {key: as_json(each) for key, each in value.items()}
    return type(value).__name__, repr(value)


@given(values)
def test_it_can_be_stored_and_hashed(value: Any) -> None:
    """Whatever text a value holds, its spelling is UTF-8 without NUL or line breaks."""
    spelled = canonical(value)
    assert not {"\0", "\n", "\r"} & set(spelled)
    assert spelled.encode().decode() == spelled


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        ({"b": 1, "a": [1, 2.5, None, True]}, '{"a":[1,2.5,null,true],"b":1}'),
        ("naïve ☃ 🗼", '"naïve ☃ 🗼"'),
        ("\ud800", '"\\ud800"'),
        (["\udfff", "é"], '["\\udfff","\\u00e9"]'),
        ('\0\n"\\', '"\\u0000\\n\\"\\\\"'),
        ({}, "{}"),
        ((1, (2,)), "[1,[2]]"),
        (10**30, "1" + "0" * 30),
    ],
)
def test_spellings(value: Any, spelled: str) -> None:
    """No blanks, keys sorted, text as it is where it can be; a lone surrogate as its escape."""
    assert canonical(value) == spelled


@dataclass(frozen=True)
class Pair:
    b: int
    a: tuple[int, ...]


class Model(BaseModel):
    b: int
    a: Pair


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        (Pair(1, (2, 3)), '{"a":[2,3],"b":1}'),
        (Model(b=1, a=Pair(2, ())), '{"a":{"a":[],"b":2},"b":1}'),
        ([Pair(1, ())], '[{"a":[],"b":1}]'),
        ({3, 1, 2}, "[1,2,3]"),
        (frozenset({"b", "a"}), '["a","b"]'),
        ({frozenset({2, 1}), frozenset({10})}, "[[1,2],[10]]"),
        (Colour.RED, '"red"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (Decimal("1.50"), '"1.50"'),
    ],
)
def test_answers_may_be_models_dataclasses_and_sets(value: Any, spelled: str) -> None:
    """What a task may return as state or answer has a JSON form; sets have one order."""
    assert canonical(value) == spelled


@pytest.mark.slow
@given(st.sets(st.integers() | st.text(), max_size=20), st.randoms(use_true_random=False))
def test_a_set_has_one_spelling(value: set[Any], rng: random.Random) -> None:
    """However it was built."""
    assert canonical(set(rng.sample(sorted(value, key=str), len(value)))) == canonical(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, -math.inf], {"a": math.nan}])
def test_numbers_that_json_does_not_know_are_refused(value: Any) -> None:
    """NaN equals nothing, so it could not be voted for."""
    with pytest.raises(ValueError, match="NaN and infinity have no JSON form: return None"):
        canonical(value)


@pytest.mark.parametrize("value", [object(), [object()], {"a": lambda: None}])
def test_values_without_a_json_form_are_refused(value: Any) -> None:
    """An answer must be comparable by its spelling."""
    with pytest.raises((TypeError, ValueError)):
        canonical(value)


def by_the_standard_library(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


@given(values)
def test_it_is_spelled_as_the_standard_library_does(value: Any) -> None:
    """Whatever writes it: who knows nothing of mdap can compare answers and digests."""
    assert canonical(value) == by_the_standard_library(value)


@given(
    st.floats(allow_nan=False, allow_infinity=False) | st.integers().map(lambda power: 10.0 ** (power % 300))
)
@example(1e16)
@example(5e-324)
@example(1e-5)
@example(-0.0)
def test_numbers_are_spelled_as_the_standard_library_does(number: float) -> None:
    """Also those with an exponent, which can be written in several ways."""
    for value in (number, {"e": [number]}, Held(number)):
        assert canonical(value) == by_the_standard_library(plainly(value))


def test_every_character_is_spelled_as_the_standard_library_does() -> None:
    """Control characters, those beyond ASCII, and those beyond the first plane."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 4096):
        text = "".join(characters[start : start + 4096])
        assert canonical([text]) == by_the_standard_library([text])


@dataclass
class Held:
    """Something in a dataclass."""

    value: Any


class Name(str):
    """Text of its own kind, which says otherwise when it is shown."""

    __slots__ = ()

    def __str__(self) -> str:
        return "other"


class Few(IntEnum):
    ONE = 1


class Point(NamedTuple):
    x: int
    y: Any


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def plainly(value: Any) -> Any:
    """*value* without dataclasses."""
    return {"value": plainly(value.value)} if isinstance(value, Held) else value


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (Held(Held([1, "a"])), {"value": {"value": [1, "a"]}}),
        (Held({"b": Held(None), "a": {3, 1}}), {"value": {"a": [1, 3], "b": {"value": None}}}),
        (Held(2**64), {"value": 2**64}),
        ([-(2**63) - 1, 2**64 - 1], [-(2**63) - 1, 2**64 - 1]),
        ({1: "a", 10: "b", 2: "c"}, {1: "a", 10: "b", 2: "c"}),
        ({"z": 1, "é": 2, "\U0001f5fc": 3, "\uffff": 4}, {"z": 1, "é": 2, "\U0001f5fc": 3, "\uffff": 4}),
        (Name("own"), "own"),
        ({Name("own"): [Name("own")]}, {"own": ["own"]}),
        ([Few.ONE, Colour.RED], [1, "red"]),
        (Point(1, Held(2)), [1, {"value": 2}]),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (datetime(2026, 1, 2, 3, 4, 5, 600, UTC), "2026-01-02T03:04:05.000600Z"),
        (nested(400), nested(400)),
    ],
)
def test_kinds_of_values_with_one_spelling(value: Any, same: Any) -> None:
    """However a value comes, its spelling is that of the plain value it stands for."""
    assert canonical(value) == by_the_standard_library(same)


@dataclass
class Kept(dict[str, int]):
    """A dataclass that is an object already."""

    note: str = ""


@dataclass
class Interrupted:
    """Something that Ctrl-C comes upon."""

    value: int = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            raise KeyboardInterrupt
        return object.__getattribute__(self, name)


class Labelled(StrEnum):
    """Its member is one text as it is, and another by its value."""

    ONE = "x"

    def __new__(cls, text: str) -> "Labelled":
        member = str.__new__(cls, text)
        member._value_ = "label"
        return member


def test_a_member_of_an_enumeration_is_its_value() -> None:
    """By which pydantic reads it back, unlike the text that the standard library would write."""
    assert canonical([Labelled.ONE]) == '["label"]'


def test_a_dataclass_that_is_an_object_is_that_object() -> None:
    """The standard library writes what it knows, and asks nobody."""
    kept = Kept("note")
    kept["a"] = 1
    assert canonical([kept]) == '[{"a":1}]'


def test_ctrl_c_is_not_lost() -> None:
    """It may come while a value is being looked at."""
    with pytest.raises(KeyboardInterrupt):
        canonical([Interrupted()])


@pytest.mark.parametrize("held", [math.nan, math.inf, "\ud800"])
def test_what_stands_in_a_dataclass_is_no_exception(held: Any) -> None:
    """NaN is refused there too, and a lone surrogate is escaped."""
    if isinstance(held, str):
        assert canonical(Held(held)) == '{"value":"\\ud800"}'
    else:
        with pytest.raises(ValueError, match="JSON"):
            canonical(Held(held))
