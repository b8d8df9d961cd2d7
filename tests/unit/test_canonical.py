"""Canonical JSON: one spelling for a value, whatever it is made of."""

import json
import math
import random
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mdap.rules.canonical import canonical, json_encoder

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


@given(values, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: Any, rng: random.Random) -> None:
    """Equal values have one spelling; and what was spelled is spelled the same again."""
    spelled = canonical(value)
    assert canonical(shuffled(value, rng)) == spelled
    assert canonical(json.loads(spelled)) == spelled


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


@given(st.sets(st.integers() | st.text(), max_size=20), st.randoms(use_true_random=False))
def test_a_set_has_one_spelling(value: set[Any], rng: random.Random) -> None:
    """However it was built."""
    assert canonical(set(rng.sample(sorted(value, key=str), len(value)))) == canonical(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, -math.inf], {"a": math.nan}])
def test_numbers_that_json_does_not_know_are_refused(value: Any) -> None:
    """NaN equals nothing, so it could not be voted for."""
    with pytest.raises(ValueError, match="JSON"):
        canonical(value)


@pytest.mark.parametrize("value", [object(), [object()], {"a": lambda: None}])
def test_values_without_a_json_form_are_refused(value: Any) -> None:
    """An answer must be comparable by its spelling."""
    with pytest.raises((TypeError, ValueError)):
        canonical(value)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("sort_keys", [True, False])
def test_the_encoder_spells_as_the_standard_library_does(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, ascii_only: bool, sort_keys: bool
) -> None:
    """With its part in C and without, for values of every kind."""
    if not compiled:
        monkeypatch.setattr("json.encoder.c_make_encoder", None)
    encode = json_encoder(ascii_only=ascii_only, sort_keys=sort_keys)
    kinds: list[Any] = [
        "é\ud800\n",
        None,
        True,
        0,
        -0.0,
        1e300,
        2**70,
        (),
        {},
        [1, ("b", {"z": 1, "a": [None]})],
    ]
    for value in kinds:
        expected = json.dumps(
            value, ensure_ascii=ascii_only, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False
        )
        assert encode(value) == expected
    for refused in (math.nan, math.inf, [-math.inf]):
        with pytest.raises(ValueError, match="not JSON compliant"):
            encode(refused)
    with pytest.raises(TypeError):
        encode(object())
