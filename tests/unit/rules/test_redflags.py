"""What is discarded before it can vote, and that what is recorded is what was judged."""

import sqlite3
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mdap.rules.redflags import EMPTY, MAX_CHARS_PER_TOKEN, REFUSED, TOO_LONG, TRUNCATED, clean, precheck
from mdap.tasks import RedFlag

COMPLETE = ["stop", "end_turn", "stop_sequence", "eos", "complete"]

nasty = st.sampled_from(
    "\0\ud800\udbff\udc00\udfff\ufffd\uffff\U0010ffff\x1b\x7f\x85\u2028\u202e\u200b\ufeff a1\n\t"
)
texts = (
    st.text(st.characters() | nasty, max_size=200)
    | st.text(nasty, max_size=200)
    | st.text(" \n\t\u3000", max_size=80)
)
allowances = st.integers(1, 3)
reasons = st.sampled_from([*COMPLETE, "length", "content_filter"]) | st.text(max_size=60)
token_counts = st.none() | st.integers(0, 5)


def stored(text: str) -> str:
    """Return *text* as SQLite gives it back."""
    with sqlite3.connect(":memory:") as connection:
        (back,) = connection.execute("SELECT ?", (text,)).fetchone()
    connection.close()
    assert isinstance(back, str)
    return back


# --- precheck


@pytest.mark.parametrize("finish_reason", COMPLETE)
def test_a_complete_reply_may_be_parsed(finish_reason: str) -> None:
    assert precheck("move = [1, 0, 2]", finish_reason, 12, 750) is None


@pytest.mark.parametrize(
    "finish_reason",
    [
        *("length", "max_tokens", "MAX_TOKENS", "model_length", "limit", "max_output_tokens", "token_limit"),
        *("model_context_window_exceeded", "incomplete", "Length", "FinishReason.MAX_TOKENS"),
    ],
)
def test_a_reply_cut_at_its_limit_is_truncated(finish_reason: str) -> None:
    assert precheck("move = [1, 0, 2]", finish_reason, 750, 750) == TRUNCATED


@pytest.mark.parametrize(
    "finish_reason",
    [
        *("content_filter", "SAFETY", "RECITATION", "sensitive", "guardrail_intervened", "error", "abort"),
        *(
            "cancelled",
            "insufficient_system_resource",
            "content-filter",
            "network_error",
            "PROHIBITED_CONTENT",
        ),
    ],
)
def test_a_reply_that_was_filtered_or_broke_says_how(finish_reason: str) -> None:
    assert precheck("move = [1, 0, 2]", finish_reason, 12, 750) == f"ended by {finish_reason}"


@pytest.mark.parametrize(
    "finish_reason",
    [
        *("eos_token", "STOP", "stop ", "", "end_turn", "eos", "</s>", "tool_calls", "STOP!", "word"),
        *(
            "stop_sequence",
            "COMPLETE",
            "completed",
            "FINISH_REASON_STOP",
            "done",
            "load",
            "pause_turn",
            "ünbekannt",
        ),
    ],
)
def test_an_unknown_end_discards_nothing(finish_reason: str) -> None:
    """Servers have words of their own for a reply that is whole."""
    assert precheck("move = [1, 0, 2]", finish_reason, 12, 750) is None


@pytest.mark.parametrize("finish_reason", ["refusal", "REFUSAL", "model_refusal"])
def test_a_refusal_is_called_one(finish_reason: str) -> None:
    assert precheck("I can't help with that.", finish_reason, 12, 750) == REFUSED
    assert precheck("", finish_reason, 0, 750) == REFUSED


def test_an_endpoints_word_is_capped() -> None:
    assert precheck("x", "error" * 1_000, 1, 750) == "ended by " + ("error" * 8)


def test_a_reply_over_its_tokens_is_too_long() -> None:
    """An endpoint that ignores max_tokens and says "stop" is caught by its own count."""
    assert precheck("text", "stop", 750, 750) is None
    assert precheck("text", "stop", 751, 750) == TOO_LONG


@pytest.mark.parametrize("output_tokens", [None, 1, 10])
def test_a_reply_over_its_characters_is_too_long(output_tokens: int | None) -> None:
    """An endpoint that counts no tokens, or counts them wrongly, is caught by the length of its text."""
    most = 10 * MAX_CHARS_PER_TOKEN
    assert precheck("x" * most, "stop", output_tokens, 10) is None
    assert precheck("x" * (most + 1), "stop", output_tokens, 10) == TOO_LONG


def test_a_text_of_which_no_tokens_are_known_may_be_parsed() -> None:
    assert precheck("text", "stop", None, 750) is None


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n", "\u00a0\u2003\u3000", " " * 64])
def test_a_reply_without_a_word_is_empty(text: str) -> None:
    assert precheck(text, "stop", 1, 1) == EMPTY


@pytest.mark.parametrize("text", ["0", " .", "\ufffd", "\u200b"])
def test_a_reply_with_anything_visible_or_odd_is_not_empty(text: str) -> None:
    assert precheck(text, "stop", 1, 1) is None


def test_the_end_is_looked_at_before_the_text() -> None:
    """A reply cut before its first word is truncated, not empty: that is what to act on."""
    assert precheck("", "length", 750, 750) == TRUNCATED
    assert precheck("", "content_filter", 0, 750) == "ended by content_filter"
    assert precheck(" " * 1000, "stop", None, 1) == TOO_LONG


def test_blanks_count_towards_the_length() -> None:
    assert precheck(" " * MAX_CHARS_PER_TOKEN + "x", "stop", None, 1) == TOO_LONG


# --- clean


@pytest.mark.parametrize(
    "text",
    [
        "",
        "move = [1, 0, 2]",
        "naïve — ünïcode",
        "\U0001f600 \U0010ffff",
        "\x1b[31mred\x07",
        "\ufffd",
        "a\r\nb\x7f",
    ],
)
def test_what_can_be_stored_stays_as_it_came(text: str) -> None:
    """The record is what the model wrote, control sequences included; whoever shows it makes it safe."""
    assert clean(text, 750) == text


@pytest.mark.parametrize("code", [0, 0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_what_cannot_be_stored_is_replaced_one_for_one(code: int) -> None:
    bad = chr(code)
    assert clean(f"a{bad}b{bad}{bad}", 750) == "a\ufffdb\ufffd\ufffd"


@pytest.mark.parametrize("good", ["\x01", "\ud7ff", "\ue000", "\uffff", "\U00010000"])
def test_the_neighbours_of_what_cannot_be_stored_stay(good: str) -> None:
    assert clean(good, 750) == good


def test_surrogates_side_by_side_are_not_made_a_character() -> None:
    """Joining them would be a repair."""
    assert clean("\ud83d\ude00", 750) == "\ufffd\ufffd"


def test_an_overlong_reply_keeps_only_the_proof() -> None:
    """P7: a hostile endpoint cannot fill the disk, nor a parser's time; one character too many suffices."""
    most = 10 * MAX_CHARS_PER_TOKEN
    kept = clean("x" * 20_000_000, 10)
    assert kept == "x" * (most + 1)
    assert precheck(kept, "stop", None, 10) == TOO_LONG
    assert clean("x" * most, 10) == "x" * most
    assert clean("\0" * 20_000_000, 10) == "\ufffd" * (most + 1)


def test_every_character_there_is_can_be_stored() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    cleaned = clean(everything, len(everything))
    assert len(cleaned) == len(everything)
    assert [i for i, (a, b) in enumerate(zip(everything, cleaned, strict=True)) if a != b] == [
        0,
        *range(0xD800, 0xE000),
    ]
    assert stored(cleaned) == cleaned


@given(texts, allowances)
def test_cleaning_is_done_once_and_for_all(text: str, max_tokens: int) -> None:
    """A fixed point: an audit that cleans what is stored finds what is stored."""
    once = clean(text, max_tokens)
    assert clean(once, max_tokens) == once


@given(texts, allowances)
def test_what_is_cleaned_can_be_stored_and_comes_back(text: str, max_tokens: int) -> None:
    cleaned = clean(text, max_tokens)
    assert len(cleaned) == min(len(text), max_tokens * MAX_CHARS_PER_TOKEN + 1)
    assert cleaned.encode().decode() == cleaned
    assert stored(cleaned) == cleaned


@given(texts, allowances, reasons, token_counts)
def test_the_verdict_can_be_found_again_from_the_record(
    text: str, max_tokens: int, finish_reason: str, output_tokens: int | None
) -> None:
    """P4: as it came, cleaned, and stored, a reply gets one and the same verdict."""
    cleaned = clean(text, max_tokens)
    verdict = precheck(cleaned, finish_reason, output_tokens, max_tokens)
    assert verdict == precheck(stored(cleaned), finish_reason, output_tokens, max_tokens)
    assert verdict == precheck(text, finish_reason, output_tokens, max_tokens)


@given(texts, allowances)
def test_a_reply_within_its_bounds_is_kept_character_by_character(text: str, max_tokens: int) -> None:
    assume(len(text) <= max_tokens * MAX_CHARS_PER_TOKEN)
    for came, kept in zip(text, clean(text, max_tokens), strict=True):
        assert kept == ("\ufffd" if came == "\0" or "\ud800" <= came <= "\udfff" else came)


@given(texts, reasons, token_counts, allowances)
def test_a_verdict_is_short_and_never_fails(
    text: str, finish_reason: str, output_tokens: int | None, max_tokens: int
) -> None:
    verdict = precheck(clean(text, max_tokens), finish_reason, output_tokens, max_tokens)
    assert verdict is None or 0 < len(verdict) <= 60


def test_a_reason_is_a_text() -> None:
    """Whatever an author gives, the statistics count by it."""
    assert RedFlag(5).reason == "5"  # type: ignore[arg-type]
