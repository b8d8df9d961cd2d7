"""Limits and waits from response headers, as real endpoints send them and as no one should."""

import math
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mdap.rules.headers import LONGEST_WAIT, Told, read_told

WALL = datetime(2026, 9, 1, 12, 0, 0, tzinfo=UTC).timestamp()

OPENAI = {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-limit-tokens": "160000",
    "x-ratelimit-remaining-requests": "4999",
    "x-ratelimit-remaining-tokens": "159976",
    "x-ratelimit-reset-requests": "12ms",
    "x-ratelimit-reset-tokens": "9ms",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "0",
    "anthropic-ratelimit-requests-reset": "2026-09-01T12:00:31Z",
    "anthropic-ratelimit-input-tokens-limit": "80000",
    "anthropic-ratelimit-output-tokens-limit": "16000",
    "retry-after": "28",
}


def wait(text: str) -> float | None:
    return read_told({"retry-after": text}, WALL).retry_after


def test_openai() -> None:
    """Everything that OpenAI sends with a success."""
    assert read_told(OPENAI, WALL) == Told(None, 5000, 160_000, 4999, 159_976, 0.012, 0.009)


def test_anthropic() -> None:
    """Resets are points in time; where prompts and replies have limits of their own, both together count."""
    told = read_told(ANTHROPIC, WALL)
    assert told == Told(28.0, 1000, 96_000, 0, None, 31.0, None)
    assert told.wait == 28.0
    assert (
        read_told(ANTHROPIC | {"anthropic-ratelimit-tokens-limit": "50000"}, WALL).tokens_per_minute == 50_000
    )


def test_azure() -> None:
    """Azure spelt a header otherwise, sends whole seconds, and -1 for no limit."""
    assert read_told({"x-rate-limit-reset-tokens": "55"}, WALL).wait == 55.0
    headers = {
        "x-ratelimit-limit-tokens": "-1",
        "x-ratelimit-remaining-tokens": "-1",
        "x-ratelimit-reset-tokens": "0",
    }
    assert read_told(headers, WALL) == Told(tokens_reset=0.0)
    assert read_told(headers, WALL).wait is None


def test_nothing() -> None:
    """Most self-hosted servers tell nothing."""
    assert read_told({}, WALL) == Told()
    assert read_told({}, WALL).wait is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("20", 20.0),
        (" 1.5 ", 1.5),
        ("6m0s", 360.0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("1d", 86_400.0),
        ("750us", 0.00075),
        ("750µs", 0.00075),
        ("1000000ns", 0.001),
        ("Tue, 01 Sep 2026 12:00:07 GMT", 7.0),
        ("Tue, 01 Sep 2026 14:00:07 +0200", 7.0),
        ("2026-09-01T12:00:07Z", 7.0),
        ("2026-09-01T12:00:07.250+00:00", 7.25),
        ("2026-09-01T12:00:07", 7.0),
        ("Tue, 01 Sep 2026 11:00:00 GMT", 0.0),
        (str(int(WALL) + 9), 9.0),
        (str((int(WALL) + 9) * 1000), 9.0),
        ("999999999", LONGEST_WAIT),
        ("99999h", LONGEST_WAIT),
        ("Tue, 01 Sep 2036 12:00:00 GMT", LONGEST_WAIT),
    ],
)
def test_waits(text: str, seconds: float) -> None:
    """Numbers, durations and points in time, never negative and never beyond the bound."""
    assert wait(text) == pytest.approx(seconds)


GARBAGE = [
    *(
        "",
        " ",
        "\0",
        "-5",
        "nan",
        "inf",
        "1e3",
        "1_000",
        "٣",
        "6m0",
        "m",
        "5 s",
        "s5",
        "soon",
        "0x10",
        "1,5",
        "12:00",
    ),
    *("9" * 400, "1s" * 400, "Tue, 99 Sep 2026 12:00:00 GMT"),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:00"),
]


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_absent(text: str) -> None:
    """What makes no sense is as if it were not there."""
    assert wait(text) is None
    assert read_told(dict.fromkeys(OPENAI, text), WALL) == Told()


def test_milliseconds_come_first() -> None:
    """The finer header wins, unless it is garbage."""
    assert read_told({"retry-after-ms": "1500", "retry-after": "9"}, WALL).retry_after == 1.5
    assert read_told({"retry-after-ms": "soon", "retry-after": "9"}, WALL).retry_after == 9.0
    assert read_told({"retry-after-ms": "9" * 15}, WALL).retry_after == LONGEST_WAIT


@pytest.mark.parametrize(
    ("left", "seconds"),
    [(("0", "5"), 2.0), (("5", "0"), 6.0), (("0", "0"), 6.0), (("5", "5"), None), (None, 6.0)],
)
def test_the_wait_without_retry_after(left: tuple[str, str] | None, seconds: float | None) -> None:
    """Until what is used up is there again; the longer of both where nobody says what is."""
    headers = {"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "6s"}
    if left is not None:
        headers |= dict(
            zip(("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"), left, strict=True)
        )
    assert read_told(headers, WALL).wait == seconds
    assert read_told(headers | {"retry-after": "1"}, WALL).wait == 1.0


@pytest.mark.parametrize(
    ("limit", "left", "reset", "per_minute"),
    [
        ("14400", "14370", "2m59.56s", None),  # Groq: requests a day
        ("14400", "14399", "6s", None),  # the first of the day: 6 s for one of them is a day for all
        ("200", "199", "7m12s", None),  # OpenAI's free tier, a day
        ("60", "59", "1s", 60),
        ("60", "0", "59.9s", 60),
        ("60", "60", "0s", 60),
        ("60", "x", "30s", 60),
        ("60", "61", "1s", 60),
        ("0", "0", "1s", None),
        ("9" * 14, "1", "1s", None),
    ],
)
def test_a_limit_of_a_day_is_none_of_a_minute(
    limit: str, left: str, reset: str, per_minute: int | None
) -> None:
    """Some send a daily limit under the same name: how long it takes to refill tells."""
    headers = {
        "x-ratelimit-limit-requests": limit,
        "x-ratelimit-remaining-requests": left,
        "x-ratelimit-reset-requests": reset,
    }
    assert read_told(headers, WALL).requests_per_minute == per_minute


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from([*OPENAI, *ANTHROPIC, "retry-after-ms"]),
        st.text(max_size=80) | st.from_regex(r"[0-9.:TZhms+\- ]{1,30}", fullmatch=True),
    ),
    st.floats(0, 1e11),
)
@example({"retry-after": "10000-01-01"}, WALL)
@example({"retry-after": "Mon, 00 Jan 0000 00:00:00 -9999"}, WALL)
def test_no_header_can_do_harm(headers: dict[str, str], wall_now: float) -> None:
    """Whatever comes, nothing raises, and what is told is finite, within bounds and not negative."""
    told = read_told(headers, wall_now)
    for seconds in (told.retry_after, told.requests_reset, told.tokens_reset, told.wait):
        assert seconds is None or 0 <= seconds <= LONGEST_WAIT
    for count in (told.requests_per_minute, told.tokens_per_minute):
        assert count is None or 1 <= count <= 2 * 10**12
    for count in (told.requests_left, told.tokens_left):
        assert count is None or 0 <= count <= 10**12


@given(st.integers(0, 86_400), st.booleans())
def test_dates_and_seconds_agree(seconds: int, http: bool) -> None:
    """A wait says the same in every form."""
    moment = datetime.fromtimestamp(WALL + seconds, UTC)
    text = format_datetime(moment, usegmt=True) if http else moment.isoformat()
    assert wait(text) == wait(str(seconds)) == wait(f"{seconds}s") == float(seconds)
    assert math.isclose(read_told({"retry-after-ms": str(seconds * 1000)}, WALL).retry_after or 0.0, seconds)
