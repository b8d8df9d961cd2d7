"""Values come back from their JSON as what they were, or a sentence says what to write instead."""

import json
import os
import random
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, TypeVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PrivateAttr, SecretStr, TypeAdapter, computed_field, field_validator

import mdap
from mdap.errors import UsageError
from mdap.rules.canonical import canonical
from mdap.rules.declared import types_of
from mdap.rules.parameters import as_resumed, version_of
from mdap.rules.values import (
    Kind,
    SpellingError,
    difference,
    kinds_of,
    refuse_rivals,
)
from tests.spellings import Colour, Level, Point, Wine, Word, drawn, kind_of, spelled

_ROOT = Path(__file__).parents[3]
A = TypeVar("A")
B = TypeVar("B")


@given(st.integers(min_value=0))
def test_values_share_a_spelling_only_if_they_are_the_same(seed: int) -> None:
    """Of any type: what is spelled is read back as it was; only equal values are one candidate."""
    rng = random.Random(seed)
    declared, draw = drawn(rng)
    kind = kind_of(declared)
    values = [draw(rng) for _ in range(4)]
    texts = [spelled(kind, value) for value in values]
    for value, text in zip(values, texts, strict=True):
        if text is not None:
            assert difference(value, kind.read(text)) is None
            assert canonical(kind.read(text)) == text
        for other, its in zip(values, texts, strict=True):
            if text is not None and its is not None:
                assert (text == its) is (difference(value, other) is None)


@pytest.mark.slow
@given(st.integers(min_value=0))
def test_a_race_never_merges_unequal_answers(seed: int) -> None:
    """Whether or not a type is declared: answers of one spelling are the same, or refused by name."""
    rng = random.Random(seed)
    _, draw = drawn(rng)
    one, other = draw(rng), draw(rng)
    try:
        text, again = canonical(one), canonical(other)
    except TypeError:
        return
    if text == again and difference(one, other) is not None:
        with pytest.raises(SpellingError, match="would share their votes"):
            refuse_rivals(one, other, text)
    elif text == again:
        refuse_rivals(one, other, text)


@pytest.mark.slow
def test_processes_of_other_hash_seeds_spell_alike() -> None:
    """Sets and dicts have one order, wherever they stand."""
    spelled_in = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(_ROOT)}
        command = [sys.executable, "-m", "tests.spellings", "5", "150"]
        spelled_in.append(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert spelled_in[0] == spelled_in[1]
    texts = [json.loads(line) for line in spelled_in[0].splitlines()]
    assert len(texts) == 150
    assert sum(text is not None for four in texts for text in four) > 400


class Tags(BaseModel):
    tags: frozenset[str]
    deep: list[dict[str, set[frozenset[int]]]] = []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Tags(tags=frozenset("bca")), '{"deep":[],"tags":["a","b","c"]}'),
        (
            Tags(tags=frozenset(), deep=[{"x": {frozenset({9, 1}), frozenset({2})}}]),
            '{"deep":[{"x":[[1,9],[2]]}],"tags":[]}',
        ),
        ({Colour.RED: 1, "a": 2}, '{"a":2,"red":1}'),
        ({2: "b", None: "n"}, '{"2":"b","null":"n"}'),
    ],
)
def test_sets_and_keys_inside_of_anything(value: Any, text: str) -> None:
    """A set in a model is ordered as any set is; keys are written as their values are."""
    assert canonical(value) == text


class Rows(BaseModel):
    rows: Any


@pytest.mark.parametrize(
    "value",
    [
        (part for part in "ab"),
        [map(str, [1])],
        {"rows": iter([1])},
        Rows(rows=(part for part in "ab")),
        Point(1, zip([1])),  # type: ignore[arg-type] # what it is about
    ],
)
def test_what_can_be_read_only_once_is_refused(value: Any) -> None:
    """To spell it would leave nothing of it for the task."""
    with pytest.raises(TypeError, match="can be read only once: return a list of its items"):
        canonical(value)


def test_keys_that_have_no_json_or_share_it_are_refused() -> None:
    """A dict must not lose an entry."""
    with pytest.raises(TypeError, match="keys of class tuple has no JSON form: write it as a list of pairs"):
        canonical({(1, 2): 3})
    with pytest.raises(TypeError, match="two keys of a dict have one JSON form"):
        canonical({1: "a", "1": "b"})


@dataclass(frozen=True)
class Accept:
    amount: int


@dataclass(frozen=True)
class Reject:
    amount: int


@dataclass(frozen=True)
class Large(Accept):
    pass


class Hidden(BaseModel):
    shown: int
    hidden: int = Field(0, exclude=True)


class Doubled(BaseModel, extra="forbid"):
    n: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        """Twice as much."""
        return 2 * self.n


@pytest.mark.parametrize(
    ("declared", "value", "sentence"),
    [
        (
            Accept | Reject,
            Accept(5),
            r"Accept\(amount=5\) has the JSON that Reject\(amount=5\) has: give each class",
        ),
        (Accept, Large(5), r"comes back from its JSON as Accept\(amount=5\): give each class"),
        (list[Accept | Reject], [Reject(5)], r"as \[Accept\(amount=5\)\], at \[0\]: give each class"),
        (Any, Accept(5), r"derive the task from mdap.Chain\[..., Accept\]"),
        (Any, (1, 2), r"derive the task from mdap.Chain\[..., tuple\]"),
        (tuple[int, ...], [1, 2], "name list in the type of the answer, or return a tuple"),
        (str, Word.YES, "name Word in the type of the answer, or return a str"),
        (dict[str, Any], {"a": {"b": (1,)}}, r"at \['a'\]\['b'\]: name tuple in the type of this part"),
        (Colour | Wine, Wine.RED, "name Wine in the type of the answer, or return a Colour"),
        (int, Level.LOW, "name Level in the type of the answer, or return a int"),
        (
            Doubled,
            Doubled(n=1),
            "double: Extra inputs are not permitted; make a computed field a plain property",
        ),
        (int, "a", "cannot be read back from its JSON as int"),
    ],
    ids=repr,
)
def test_what_does_not_come_back_is_refused(declared: Any, value: Any, sentence: str) -> None:
    """In one sentence that has the value, the place, and what to write."""
    with pytest.raises(SpellingError, match=sentence):
        Kind("answer", TypeAdapter(declared)).compare(value, canonical(value))


def test_an_answer_may_carry_what_is_excluded_from_its_vote() -> None:
    """Such as the quote it rests on; a state may not, since a resumed run would lose it."""
    one, other = Hidden(shown=1, hidden=2), Hidden(shown=1, hidden=3)
    refuse_rivals(one, other, canonical(one))
    kind_of(Hidden).compare(one, canonical(one))
    with pytest.raises(SpellingError, match="at hidden: a field must be written as it is read: exclude none"):
        Kind("state", TypeAdapter(Hidden)).compare(one, canonical(one))


class Carrying(BaseModel):
    n: int
    _sum: int = PrivateAttr(default=0)


def test_a_state_keeps_nothing_in_private() -> None:
    """A resumed run would lose it; an answer may, as it may have what is excluded from its vote."""
    value = Carrying(n=1)
    kind = Kind("state", TypeAdapter(list[Carrying]))
    kind.compare([value], canonical([value]))
    value._sum = 5
    kind_of(Carrying).compare(value, canonical(value))
    with pytest.raises(SpellingError, match=r"at \[0\]._sum: .*let none be private"):
        kind.compare([value], canonical([value]))


def test_a_time_that_comes_back_otherwise_is_to_be_in_utc() -> None:
    """An hour that is there twice is not equal to itself in another zone."""
    night = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    with pytest.raises(SpellingError, match=r"turn a time into UTC, by astimezone\(UTC\)"):
        kind_of(datetime).compare(night, canonical(night))
    kind_of(datetime).compare(night.astimezone(UTC), canonical(night.astimezone(UTC)))


def test_numbers_written_in_several_ways_are_several_answers() -> None:
    """By their spelling: 1 and 1.0, and 1.0 and 1.00 as decimals."""
    assert difference(Decimal("1.0"), Decimal("1.00")) is not None
    assert difference({Decimal("1.0")}, {Decimal("1.00")}) is not None
    assert difference(1, True) is not None
    assert difference(0.0, -0.0) is not None


@pytest.mark.parametrize(
    ("declared", "value", "sentence"),
    [
        (deque[int], deque([1], maxlen=2), "JSON does not keep the maxlen of a deque: return a list"),
        (OrderedDict[str, int], OrderedDict(b=1, a=2), "the order of a OrderedDict: return a list of pairs"),
        (defaultdict[str, int], defaultdict(lambda: 5), "default_factory of a defaultdict: return a dict"),
    ],
    ids=["deque", "OrderedDict", "defaultdict"],
)
def test_what_a_collection_has_beside_its_items_is_not_lost(declared: Any, value: Any, sentence: str) -> None:
    """A resumed run would go on without it."""
    with pytest.raises(SpellingError, match=sentence):
        kind_of(declared).compare(value, canonical(value))
    assert difference(value, value.copy()) is None


def test_a_zone_with_summer_time_is_refused() -> None:
    """It comes back as the offset of that moment: hours later would be another time of day."""
    moment = datetime(2026, 3, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    with pytest.raises(SpellingError, match=r"turn a time into UTC, by astimezone\(UTC\)"):
        kind_of(datetime).compare(moment, canonical(moment))
    assert difference(moment, moment) is None
    kind_of(datetime).compare(moment.astimezone(), canonical(moment.astimezone()))


@pytest.mark.parametrize(
    ("declared", "value", "shown"),
    [
        (dict[str, int], {"b": 1, "a": 2}, "{'a': 2, 'b': 1}"),
        (
            list[Point | dict[str, Any]],
            [{"y": 1, "x": {"b": 1, "a": 1}}],
            "[{'x': {'a': 1, 'b': 1}, 'y': 1}]",
        ),
        (Any, {"b": 1, "a": 2}, "{'a': 2, 'b': 1}"),
        (float, 1, "1.0"),
        (set[int], {8, 0}, repr({0, 8})),
        (Counter[str], Counter(b=1, a=1), "Counter({'a': 1, 'b': 1})"),
    ],
    ids=str,
)
def test_a_run_has_the_values_of_its_resume(declared: Any, value: Any, shown: str) -> None:
    """In the order, and with the numbers, that their JSON has."""
    assert repr(kind_of(declared).settled(value, canonical(value))) == shown


def test_most_values_need_not_be_read_back() -> None:
    """What holds neither dicts nor sets, floats nor times stays the object that it is."""
    kept: list[tuple[Any, Any]] = [
        (Reject, Reject(1)),
        (Point, Point(1, "a")),
        (tuple[int, str], (1, "a")),
        (list[Colour], [Colour.RED]),
        (Decimal, Decimal("1.0")),
    ]
    for declared, value in kept:
        assert kind_of(declared).settled(value, canonical(value)) is value


@dataclass
class Held(Generic[A]):
    value: A


class Common(mdap.Chain[Held[A], B], Generic[B, A]):
    pass


class Middle(Common[B, int], Generic[B]):
    pass


class Last(Middle[list[str]]):
    pass


def test_a_base_of_ones_own_may_be_generic() -> None:
    """The types of states and answers are found through any number of them."""
    for_last: Any = Last
    assert types_of(for_last) == (Held[int], list[str])
    for_common: Any = Common[str, bytes]
    assert types_of(for_common) == (Held[bytes], str)
    bare: Any = mdap.Chain
    assert types_of(bare) == (Any, Any)


class Opaque:
    pass


class OfOpaque(mdap.Chain[Opaque, int]):
    def start(self) -> Opaque:
        return Opaque()

    def step(self, state: Opaque) -> mdap.Step[int] | None:
        return None

    def advance(self, state: Opaque, answer: int) -> Opaque:
        return state


def test_a_type_without_json_is_refused_at_once() -> None:
    """Whatever its values would be."""
    with pytest.raises(UsageError, match=r"the type of the states of OfOpaque.*has no JSON form"):
        kinds_of(OfOpaque())


# --- parameters


class Rule(BaseModel):
    pass


class Most(Rule):
    limit: int = 3


class Params(mdap.Process[None]):
    async def solve(self, ask: mdap.Ask) -> None:
        pass


class Secret(Params):
    key: SecretStr = SecretStr("hunter2")


class Excluded(Params):
    token: str = Field("abc", exclude=True)


class Aliased(Params):
    size: int = Field(1, serialization_alias="Size")


class Computed(Params):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        """Two."""
        return 2


class Splitting(Params):
    tags: list[str] = Field(default_factory=lambda: ["a"])

    @field_validator("tags", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.split(",")


class Counted(Params):
    count: int = 1

    @field_validator("count")
    @classmethod
    def _more(cls, value: int) -> int:
        return value + 1


class Sub(Params):
    rule: Rule = Most()


class Bytes(Params):
    blob: bytes = b"\xff"


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (
            Secret(),
            "parameter key of Secret is a secret, which mdap does not record: let the task read it from",
        ),
        (
            Excluded(token="secret"),
            "parameter token of Excluded comes back from the record with another value",
        ),
        (Aliased(), "there is no parameter 'Size', when the parameters of Aliased are read back"),
        (Computed(), "there is no parameter 'double', when the parameters of Computed are read back"),
        (Splitting(), "the parameters of Splitting cannot be read back from the record .AttributeError"),
        (Counted(count=1), "parameter count of Counted comes back from the record with another value"),
        (Sub(), "parameter rule of Sub comes back from the record as Rule instead of Most"),
        (Bytes(), "parameter blob of Bytes cannot be recorded: bytes that are no UTF-8 text"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameters_that_do_not_come_back_are_refused(task: mdap.Task, sentence: str) -> None:
    """By name and without their values, before anything is sampled."""
    with pytest.raises(UsageError, match=sentence) as caught:
        as_resumed(task)
    assert "hunter2" not in str(caught.value)
    assert "secret" not in str(caught.value).replace("is a secret", "")


class Fine(Params):
    tags: frozenset[str] = frozenset("abc")
    rate: float = 1
    sizes: tuple[int, ...] = (1, 2)


def test_other_parameters_are_fine() -> None:
    """Sets have one order, and an integer may stand for a float."""
    assert as_resumed(Fine()) == Fine()


class Ordered(Params):
    weights: dict[str, int] = Field(default_factory=lambda: {"b": 1, "a": 2})
    rate: float = 1
    _names: list[str] = PrivateAttr(default_factory=list)

    def model_post_init(self, context: Any) -> None:
        self._names += self.weights


def test_a_run_has_the_parameters_of_its_resume() -> None:
    """Dicts in the order of their JSON, floats as floats, and what the task has made of both."""
    task = as_resumed(Ordered())
    assert repr(task) == "Ordered(weights={'a': 2, 'b': 1}, rate=1.0)"
    assert task._names == ["a", "b"]
    assert as_resumed(task) is task


@pytest.mark.parametrize(
    ("version", "recorded"),
    [("2", "2"), (2, "int 2"), (2.0, "float 2.0"), ((1, 2), "tuple [1,2]"), (None, "NoneType null")],
)
def test_a_version_is_compared_as_what_it_is(version: Any, recorded: str) -> None:
    """Text is recorded as it is, anything else with its class."""
    task = type("Versioned", (Params,), {"version": version, "__module__": __name__})()
    assert version_of(task) == recorded
