"""The ready-made canonical forms, and votes that are counted by them."""

import json
import runpy
from datetime import date as Date
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mdap
from mdap import canonical
from mdap.testing import check_task
from tests.unit.test_conformance import Place, Sum


@pytest.mark.parametrize(
    ("written", "more", "expected"),
    [
        ("1,200.50", {}, 1200.5),
        (" 1200.500 ", {}, 1200.5),
        (1200.5, {}, 1200.5),
        (Decimal("1200.50"), {}, 1200.5),
        ("1 200", {}, 1200),
        ("1'234'567", {}, 1234567),
        ("1.200,50", {"decimal": ","}, 1200.5),
        ("7.0", {}, 7),
        (7.0, {}, 7),
        ("-0", {}, 0),
        ("\u22123", {}, -3),
        (".5", {}, 0.5),
        ("2e3", {}, 2000),
        ("12345678901234567890", {}, 12345678901234567890),
        ("2.345", {"places": 2}, 2.34),
        ("2.355", {"places": 2}, 2.36),
        (2.5, {"places": 0}, 2),
        ("123456789012345678901234567890.126", {"places": 2}, 123456789012345678901234567890.13),
    ],
)
def test_a_number_has_one_form(written: Any, more: dict[str, Any], expected: float) -> None:
    """However it is written, the number is the same, and of the same type."""
    form = canonical.number(written, **more)
    assert (form, type(form)) == (expected, type(expected))


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            " ",
            "twelve",
            "1,20",
            "1,2000",
            "1 000,000",
            "1.2.3",
            "--1",
            "12 or so",
            "1e999999999",
            "NaN",
            "inf",
        ),
        *(
            "٣",
            "²",
            "0x10",
            "1_000",
            "9" * 200,
            float("nan"),
            float("inf"),
            True,
            None,
            [1],
            "1,200.5,0",
            ".",
        ),
    ],
    ids=repr,
)
def test_what_is_no_number_is_refused(written: Any) -> None:
    """It is not guessed at."""
    with pytest.raises(mdap.RedFlag):
        canonical.number(written)


@pytest.mark.parametrize(
    ("written", "order"),
    [
        *(
            (text, None)
            for text in ("2026-11-25", "2026-11-25T10:00:00Z", "2026-11-25 10:00", "25 Nov. 2026")
        ),
        *((text, None) for text in ("25th of November, 2026", "November 25, 2026", "Nov 25th 2026")),
        *((text, None) for text in ("25.11.2026", "11/25/2026", "2026/11/25", " 25  november 2026 ")),
        *(("25-11-2026", order) for order in (None, "DMY")),
        ("11-25-2026", "MDY"),
    ],
)
def test_a_date_has_one_form(written: str, order: Any) -> None:
    """Every usual way to write a day that can be meant in one way only."""
    assert canonical.date(written, order=order) == "2026-11-25"


@pytest.mark.parametrize(
    "written",
    [
        *("", "today", "03/04/2026", "2026-02-30", "31.04.2026", "25 Foo 2026", "25.11.26", "13/13/2026"),
        *("2026-11-25 and later", "\u0662\u0665.\u0661\u0661.2026", "x" * 1000, "2026", "0000-01-01"),
    ],
)
def test_what_is_no_day_is_refused(written: str) -> None:
    """So is a day that could be another one."""
    with pytest.raises(mdap.RedFlag):
        canonical.date(written)


def test_an_order_settles_what_is_ambiguous() -> None:
    """The same text, meant otherwise."""
    assert canonical.date("03/04/2026", order="DMY") == "2026-04-03"
    assert canonical.date("03/04/2026", order="MDY") == "2026-03-04"


@given(st.dates(min_value=Date(1000, 1, 1)), st.sampled_from(["%Y-%m-%d", "%d.%m.%Y", "%Y/%m/%d"]))
def test_dates_that_python_writes_are_read(day: Date, pattern: str) -> None:
    """The form is Python's own ISO form."""
    assert canonical.date(day.strftime(pattern), order="DMY") == day.isoformat()


def test_text_has_one_form() -> None:
    """Blanks and compatible characters never matter; case and punctuation do if they are to."""
    assert canonical.text("  \uff21cme\u00a0 Inc.\n") == "Acme Inc."
    assert canonical.text("ACME, Inc.", case=False) == "acme, inc."
    assert canonical.text("ACME, Inc.", case=False, punctuation=False) == "acme inc"
    assert canonical.text("Straße", case=False) == canonical.text("STRASSE", case=False)


@pytest.mark.parametrize("text", ["10⁶ m²", "½", "1½ l", "CO₂", "x ⁿ", "Acme™", "① ⑴", "2ª"])
def test_what_changes_the_meaning_of_a_text_stays(text: str) -> None:
    """A power is no digit, and a fraction no two numbers."""
    assert canonical.text(text) == text


@pytest.mark.parametrize(
    "written",
    [
        *(
            "2026-05-01T10:00:00.5Z",
            "2026-05-01 10:00:00.500+00:00",
            "2026-05-01T12:00:00,5+02",
            " 2026-05-01t10:00:00.5z",
        ),
        *(
            "2026-05-01T04:30:00.5-0530",
            "2026-05-02T00:00:00.50000000000+14:00",
            "2026-05-01T10:00:00.5 +00:00",
        ),
    ],
)
def test_an_instant_has_one_form_in_any_zone(written: str) -> None:
    """Whatever the zone, the decimals, and what stands between day and time."""
    assert canonical.instant(written) == "2026-05-01T10:00:00.5Z"


def test_a_time_without_a_zone_is_another_one() -> None:
    """Nobody knows in which zone it was meant."""
    assert canonical.instant("2026-05-01T10:00") == "2026-05-01T10:00:00"
    assert canonical.instant("2026-05-01T10:00Z") == "2026-05-01T10:00:00Z"


@pytest.mark.parametrize(
    "written",
    [
        *("", "2026-05-01", "10:00", "2026-05-01T25:00:00Z", "2026-02-30T10:00Z", "2026-05-01T10:00+99:00"),
        *("0001-01-01T00:00+02:00", "2026-05-01T10:00Zx", "2026-05-01T10:00:00." + "1" * 99, None, 7),
    ],
)
def test_what_is_no_instant_is_refused(written: Any) -> None:
    """So is a day without a time."""
    with pytest.raises(mdap.RedFlag):
        canonical.instant(written)


@given(st.datetimes(timezones=st.timezones() | st.none()))
def test_instants_that_python_writes_are_read(moment: datetime) -> None:
    """Equal ones have one form, which is its own."""
    try:
        form = canonical.instant(moment.isoformat())
    except mdap.RedFlag:
        # Beyond the first or last year in UTC, or a zone with seconds, as some had long ago.
        assert moment.year in (1, 9999) or moment.utcoffset().seconds % 60  # type: ignore[union-attr]
        return
    assert canonical.instant(form) == form
    assert datetime.fromisoformat(form) == datetime.fromisoformat(moment.isoformat())


@given(st.text(), st.booleans(), st.booleans())
def test_the_form_of_a_text_is_its_own(value: str, case: bool, punctuation: bool) -> None:
    """Whatever the text, a second time changes nothing."""
    form = canonical.text(value, case=case, punctuation=punctuation)
    assert canonical.text(form, case=case, punctuation=punctuation) == form


@given(st.one_of(st.integers(-(10**50), 10**50), st.floats(-1e50, 1e50)), st.none() | st.integers(0, 5))
def test_the_form_of_a_number_is_its_own(value: float, places: int | None) -> None:
    """As a number and as text, a second time changes nothing."""
    try:
        form = canonical.number(value, places=places)
    except mdap.RedFlag:
        assert 0 < abs(value) < 1e-60  # smaller than the digits allowed
        return
    assert canonical.number(form, places=places) == form
    assert places is not None or float(form) == float(value)


@given(st.lists(st.integers(0, 5)))
def test_a_set_has_one_order(values: list[int]) -> None:
    """The order of members does not matter, nor how often they are named, unless it is to."""
    assert canonical.members(values) == sorted(set(values))
    assert canonical.members(values, duplicates=True) == sorted(values)


def test_members_are_brought_into_form_first() -> None:
    """Two ways to write a member are one member."""
    assert canonical.members([" B", "a", "b"], each=lambda value: canonical.text(value, case=False)) == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    "values", ["abc", 3, None, [float("nan")], [object()]], ids=["a", "3", "none", "nan", "object"]
)
def test_what_is_no_set_is_refused(values: Any) -> None:
    """A text is no list of letters."""
    with pytest.raises(mdap.RedFlag):
        canonical.members(values)


@pytest.mark.parametrize(
    "reply",
    [
        *('{"a": [1, null]}', ' {"a":[1,null]}\n', "\ufeff{\"a\": [1, null]}"),
        *(f'{fence}JSON\n{{"a": [1, null]}}\n{fence}' for fence in ("```", "~~~", "`````")),
        *(f'```{name}\n{{"a": [1, null]}}\n```' for name in ("", "json", " Json", "json5", "jsonc title=x")),
        *('```JSON\r\n{"a": [1, null]}\r\n```\r\n', "\ufeff```json\n\ufeff{\"a\": [1, null]}\n```"),
        *('```{"a": [1, null]}```', '```json {"a": [1, null]} ```', '```json\n{"a":\n[1,\nnull]}```'),
        '~~~json\n{"a": [1, null]}\n~~~~~',
    ],
)  # fmt: skip
def test_json_may_stand_alone_or_in_a_block(reply: str) -> None:
    """Of any fence, language, and end of line; nothing else may stand around it."""
    assert canonical.json_value(reply) == {"a": [1, None]}


@pytest.mark.parametrize(
    "reply",
    [
        *("", "Here: {}", '{"a": 1} {}', "NaN", "[1e999]", "[-Infinity]", '{"a": 1, "a": 2}', "{'a': 1}"),
        *("[" * 100 + "]" * 100, "[" * 50_000, "9" * 5_000, "```json\n{}\n```\nThat is it.", '{"a": 1,}'),
        *(
            '["\\ud800"]',
            '{"\\udfff": 1}',
            "```json\n{}\n```\n```json\n{}\n```",
            "```json\n{}\n",
            "````\n{}\n```",
        ),
        *("Sure:\n```json\n{}\n```", "```json\n{}\n~~~", "`{}`", "```\n```", "```", "```json\nso: {}\n```"),
    ],
    ids=lambda reply: reply[:20],
)
def test_what_is_not_quite_json_is_refused(reply: str) -> None:
    """Nothing is repaired."""
    with pytest.raises(mdap.RedFlag):
        canonical.json_value(reply)


# --- votes


class Rounded(Sum):
    """Its replies write numbers as they like; votes are for their values."""

    def read(self, text: str) -> Any:
        return text.rpartition("=")[2]

    def canonical(self, answer: Any) -> Any:
        return canonical.number(answer, places=0)

    def render(self, answer: int) -> str:
        return f"sum={answer:,}.00" if answer % 2 else f"sum={answer}"


class Modulo(Sum):
    """Answers that differ by a multiple of seven mean the same."""

    def canonical(self, answer: int) -> int:
        return answer % 7

    def oracle(self, state: Place) -> int:
        return state.total + 7 * (state.at % 3)

    def result(self, state: Place) -> Any:
        return state.total

    def outcome(self, result: Any) -> None:
        return None


def test_a_task_may_say_which_answers_are_one() -> None:
    """The kit accepts such a task: reading undoes rendering up to the canonical form."""
    assert check_task(Modulo()).steps == 9
    assert check_task(Rounded()).steps == 9


def test_votes_are_counted_by_the_canonical_form(tmp_path: Path) -> None:
    """The decision is the canonical form, on which the next step goes on."""
    solution = mdap.solve_sync(
        Rounded(numbers=60), k=2, db=tmp_path / "a.db", options={"error_rate": 0.0, "flag_rate": 0.0}
    )
    assert solution.result == {"solved": True, "total": 1830}
    assert solution.totals.votes == 120


def test_equal_answers_win_together(tmp_path: Path) -> None:
    """Without the form there would be no winner: no two replies are spelled alike."""

    class Scattered(Modulo):
        def step(self, state: Place) -> mdap.Step[int] | None:
            step = super().step(state)
            return step and mdap.Step(user=step.user, parse=step.parse)

        def mistakes(self, state: Place, truth: int) -> list[int]:
            return [truth + 7 * times for times in range(1, 400)]

    options = {"error_rate": 1.0, "flag_rate": 0.0}
    solution = mdap.solve_sync(Scattered(numbers=5), k=3, db=tmp_path / "a.db", options=options)
    assert (solution.result, solution.totals.votes) == (0, 15)
    with pytest.raises(mdap.UndecidedError):
        mdap.solve_sync(
            type("Plain", (Scattered,), {"canonical": mdap.Task.canonical, "__module__": __name__})(
                numbers=5
            ),
            k=3,
            db=tmp_path / "b.db",
            options=options,
            voting=mdap.VotingSettings(k=3, max_samples=20),
        )


def test_a_person_may_write_the_answer_otherwise() -> None:
    """A step that is settled by hand is settled with the canonical form."""
    from mdap.engine.guarded import GuardedTask

    guarded = GuardedTask("t", Rounded())
    step = guarded.step(0, Place(0, 0))
    assert step is not None
    assert guarded.checked_answer(step, json.dumps(1)) == 1


def test_programs_that_do_the_same_are_one_answer() -> None:
    """The documented pattern: what is compared is what a program does, in a language that can do no harm."""
    example = runpy.run_path(str(Path(mdap.__file__).parents[1] / "docs" / "examples" / "by_behaviour.py"))
    read, task = example["read"], example["Program"]()
    assert read("3 x * 2 +") == read(" x 3 * 2 +\n") == read("x x + x + 2 +") == [-7, 2, 5, 23, 302]
    assert read("3 x * 3 +") != read("3 x * 2 +")
    for text in ("3 x +  *", "__import__", "x " * 60, "9 " + "9 * " * 20, "3 * x + 2"):
        with pytest.raises(mdap.RedFlag):
            read(text)
    assert check_task(task).steps == 1
