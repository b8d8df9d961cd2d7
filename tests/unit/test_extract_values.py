"""Values as models write them: which are one answer, which are not, and what goes into the output."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

import mdap
from mdap_extract.documents import Document
from mdap_extract.forms import Forms, Value
from mdap_extract.reading import Asking
from mdap_extract.schema import Field, fields_of, read_schema
from mdap_extract.texts import folded, squeezed


def field(schema: Any) -> Field:
    """Return a required field with *schema*, or with the type of pydantic that it is."""
    if not isinstance(schema, dict | bool):
        schema = TypeAdapter(schema).json_schema()
    return fields_of(read_schema({"properties": {"f": schema}, "required": ["f"]}))[0]


def value(schema: Any, raw: Any, forms: Forms | None = None) -> Value:
    return (forms or Forms()).value(field(schema), raw)


def written(schema: Any, *raws: Any) -> list[Any]:
    return [value(schema, raw).written for raw in raws]


# --- enumerations


@pytest.mark.parametrize(
    ("choices", "raw", "chosen"),
    [
        (["mW", "MW"], "MW", "MW"),
        (["mW", "MW"], "mW", "mW"),
        (["mg", "Mg", "MG"], " Mg ", "Mg"),
        (["a ", "a", "B"], "a ", "a "),
        (["a ", "a", "B"], "a", "a"),
        (["a ", "a", "B"], "b", "B"),
        (["\ufb01ne", "fine"], "fine", "fine"),
        (["\ufb01ne", "fine"], "\ufb01ne", "\ufb01ne"),
        (["m²", "m2"], "M2", "m2"),
        (["Late fee", "Other"], "LATE  FEE", "Late fee"),
        ([1, 2, 3], 1.0, 1),
        ([1, 2, 3], "1.0", 1),
        ([1.5, "x"], "1.5", 1.5),
        (["1", "2"], 1.0, "1"),
        ([True, 1], 1, 1),
        ([{"a": 1}, [1.0]], {"a": 1.0}, {"a": 1}),
    ],
)
def test_the_exact_member_of_an_enumeration_comes_first(choices: list[Any], raw: Any, chosen: Any) -> None:
    """Capitals, blanks and the type of a number only matter where there is a member for each."""
    found = value({"enum": choices}, raw)
    assert (found.written, type(found.written)) == (chosen, type(chosen))
    assert found.form == found.written


@pytest.mark.parametrize(
    ("choices", "raw"),
    [
        (["mW", "MW"], "mw"),
        (["a ", "a"], "A"),
        ([1, 2], True),
        ([True, False], 1),
        ([1, "1 "], "01"),
        (["a"], "b"),
    ],
)
def test_what_could_be_two_members_is_none(choices: list[Any], raw: Any) -> None:
    """It is not guessed."""
    with pytest.raises(mdap.RedFlag, match="not a value of f"):
        value({"enum": choices}, raw)


# --- texts


@pytest.mark.parametrize(
    "text", ["10⁶ cells/m² ½", "5·10⁻³ mol", "\ufb01ne", "CO₂", "Acme™", "① Ⅳ", "\uff21cme"]
)
def test_a_text_goes_into_the_output_as_it_was_written(text: str) -> None:
    """But for blanks, and in the form NFC."""
    assert value({"type": "string"}, f" {text}\n").written == text
    assert value({}, {"any": [text]}).written == {"any": [text]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\ufb01ne", "fine"),
        ("\uff21\uff43\uff4d\uff45 \uff11\uff12", "Acme 12"),
        ("Lund\u200b Gm\u00adbH\ufeff", "Lund GmbH"),
        ("John\u2019s \u201cBar\u201d", 'John\'s "Bar"'),
        ("2020\u20132024", "2020-2024"),
        ("re\u0301sume\u0301", "r\u00e9sum\u00e9"),
        ("a\u00a0b", "a  b"),
    ],
)
def test_what_only_looks_otherwise_is_one_answer(one: str, other: str) -> None:
    """It votes together, and each is written as it was."""
    assert value({"type": "string"}, one).form == value({"type": "string"}, other).form


@pytest.mark.parametrize(
    ("one", "other"),
    [("10⁶", "106"), ("1½", "11/2"), ("1½", "11\u20442"), ("x²", "x2"), ("3①", "31"), ("2ⁿ", "2n")],
)
def test_another_meaning_is_another_answer(one: str, other: str) -> None:
    """Votes for a power are none for a number without it."""
    assert value({"type": "string"}, one).form != value({"type": "string"}, other).form


@given(st.text(), st.booleans(), st.booleans())
def test_the_form_of_a_text_is_its_own_form(text: str, case: bool, punctuation: bool) -> None:
    """So that a person may give it, and a simulated model write it."""
    form = folded(text, case=case, punctuation=punctuation)
    assert folded(form, case=case, punctuation=punctuation) == form


# --- numbers


@pytest.mark.parametrize(
    ("unit", "good", "bad"),
    [
        (0.01, [19.99, 1.11, 0.3, 7, 123456789.12, 1e20, -4.35], [0.001, 19.995]),
        (0.1, [0.3, 1.1, -0.7], [0.35]),
        (1e-3, [0.001, 2.675], [0.0001]),
        (1e-7, [1e-7, 0.3], [1e-8]),
        (0.3, [0.9, 9], [1]),
        (2.5, [7.5, 10], [4]),
        (3, [9, 9.0], [10, 0.3]),
        (1e300, [0], [1]),
    ],
)
def test_multiples_of_decimals_are_told_as_they_are_written(
    unit: float, good: list[Any], bad: list[Any]
) -> None:
    """In a list of them too."""
    schema = {"type": "number", "multipleOf": unit}
    assert written(schema, *good) == good
    assert value({"type": "array", "items": schema}, good).written == good
    for each in bad:
        with pytest.raises(mdap.RedFlag):
            value(schema, each)


# --- equal values


@pytest.mark.parametrize(
    ("schema", "alike"),
    [
        ("decimal.Decimal", ["1204.50", 1204.5, "1204.5"]),
        ("decimal.Decimal | None", ["7.0", 7, "7"]),
        ("tuple[float, str]", [[1.0, "a"], [1, "a"], ["1", "a"]]),
        ("dict[str, float]", [{"a": 1.0}, {"a": 1}, {"a": "1"}]),
        ("dict[str, tuple[float, decimal.Decimal]]", [{"a": [1.0, "2.50"]}, {"a": [1, 2.5]}]),
        ("list[dict[str, decimal.Decimal]]", [[{"a": "1.0"}], [{"a": 1}]]),
        ("set[decimal.Decimal]", [["2.0", 1], [1, 2, "2"]]),
        ("typing.Literal[1, 2]", [1, 1.0, "1"]),
        ("datetime.date | str", ["2026-11-25", "25 Nov. 2026"]),
        ("str | datetime.date", ["2026-11-25", "25 Nov. 2026"]),
        ("datetime.date | str", ["until further\u00a0notice", "until  further notice"]),
        ("datetime.date | None", ["2026-11-25", "25.11.2026"]),
        (
            "datetime.datetime",
            [
                "2026-05-01T10:00:00Z",
                "2026-05-01T10:00:00+00:00",
                "2026-05-01T12:00:00+02:00",
                "2026-05-01T04:30:00-0530",
                "2026-05-01 10:00:00.000z",
                "2026-05-01T10:00Z",
            ],
        ),
        ("datetime.datetime | str", ["2026-05-01T10:00:00.50Z", "2026-05-01T12:00:00.5+02:00"]),
        ("datetime.time", ["10:00:00Z", "10:00:00+00:00"]),
        ("datetime.timedelta", ["PT60M", "PT1H"]),
        ("uuid.UUID", ["6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"]),
        ("ipaddress.IPv6Address", ["::1", "0:0:0:0:0:0:0:1"]),
        ("str | float", ["5", 5, 5.0]),
        ("typing.Any", ["5", 5, 5.0]),
        ("typing.Any", [[1.0, {"a": 2.0}], [1, {"a": 2}]]),
        ("list[typing.Any]", [[1.0], [1]]),
        ({"type": "object", "patternProperties": {"^d": {"type": "string", "format": "date"}}},
         [{"d1": "25 Nov. 2026"}, {"d1": "2026-11-25"}]),
        ({"oneOf": [
            {"properties": {"kind": {"const": "a"}, "n": {"type": "number"}}, "required": ["kind", "n"]},
            {"properties": {"kind": {"const": "b"}, "d": {"format": "date"}}, "required": ["kind", "d"]},
        ]}, [{"kind": "b", "d": "25 Nov. 2026"}, {"kind": "b", "d": "2026-11-25"}]),
        ({"properties": {"a": {"type": "number"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
         [{"a": "1.0"}, {"a": 1}]),
    ],
    ids=str,
)  # fmt: skip
def test_equal_values_are_one_candidate(schema: Any, alike: list[Any]) -> None:
    """However they are written, and wherever they stand."""
    namespace = {name: __import__(name) for name in ("decimal", "typing", "datetime", "uuid", "ipaddress")}
    schema = eval(schema, namespace) if isinstance(schema, str) else schema
    found = [value(schema, raw).form for raw in alike]
    assert found == [found[0]] * len(found)
    assert value(schema, found[0]).form == found[0]


@pytest.mark.parametrize(
    ("schema", "one", "other"),
    [
        ({"type": ["string", "number"]}, "007", 7),
        ({"type": ["string", "number"]}, "12345678901234567.89", 12345678901234567.89),
        ({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^\\+?\\d+$"}]}, "0049", 49),
        ({"type": "string", "format": "date-time"}, "2026-05-01T10:00:00", "2026-05-01T10:00:00Z"),
        (
            {"type": "string", "format": "date-time"},
            "2026-05-01T10:00:00.1Z",
            "2026-05-01T10:00:00.10000001Z",
        ),
        ({"type": "string", "format": "duration"}, "P1M", "P30D"),
        ({"type": ["boolean", "number"]}, True, 1),
    ],
)
def test_values_that_differ_stay_apart(schema: Any, one: Any, other: Any) -> None:
    """A text that is a name for something is not the number that it looks like."""
    assert json.dumps(value(schema, one).form) != json.dumps(value(schema, other).form)


# --- quotes


@pytest.mark.parametrize(
    ("document", "quote"),
    [
        ("Rechnungs\u00adnummer 5", "Rechnungsnummer 5"),
        ("Rechnungs-\nnummer 5", "Rechnungsnummer 5"),
        ("Rechnungs-\r\n  nummer 5", "Rechnungs-nummer 5"),
        ("E-Mail-\nAdresse", "E-Mail-Adresse"),
        ("Haus- und Hof", "Haus- und Hof"),
        ("John\u2019s Bar", "John's Bar"),
        ("\u201eLund\u201c \u2013 \u00abKiel\u00bb", '"Lund" - "Kiel"'),
        ("Lund\u200b GmbH", "Lund GmbH"),
        ("Lund GmbH", "Lund\u200b\ufeff GmbH"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("a\u00a0b\n\nc", "a b c"),
        ("\u682a\u5f0f\n\u4f1a\u793e", "\u682a\u5f0f\u4f1a\u793e"),
        ("o\ufb03ce", "office"),
    ],
)
def test_a_quote_is_found_however_lines_and_quotes_were_set(document: str, quote: str) -> None:
    """A soft hyphen or a line break between is none of the model's making."""
    asking = Asking(Forms(), True, "", 1)
    step = asking.step(Document("d", f"x {document} y"), [field({"type": "string"})], "d/f")
    reply = json.dumps({"f": {"value": "v", "quote": quote}})
    assert step.parse(reply).quotes == {"f": quote}


@pytest.mark.parametrize("quote", ["-5 EUR", "Rechnungsnummer 6", "\u200b", "JOHN"])
def test_a_quote_that_says_otherwise_is_not_found(quote: str) -> None:
    """Neither a sign nor a digit, nor a capital, nor nothing."""
    assert squeezed(quote) not in squeezed("5 EUR, Rechnungs-\nnummer 5, John") or not squeezed(quote)
