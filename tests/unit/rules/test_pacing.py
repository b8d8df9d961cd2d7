"""How long to wait before trying again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdap.rules.limiter import backoff

ATTEMPTS = st.integers(1, 10_000)
JITTERS = st.floats(0, 1, exclude_max=True)
KINDS = st.sampled_from(["http_500", "timeout", "disconnected", "garbled_body"])


@given(ATTEMPTS, JITTERS, KINDS)
def test_no_wait_is_endless(attempt: int, jitter: float, kind: str) -> None:
    """However often it failed: at most 20 seconds, and never less than none."""
    assert 0 <= backoff(attempt, jitter, None, kind) <= 20


@given(ATTEMPTS, JITTERS, st.floats(0, 1e6), KINDS)
def test_never_sooner_than_the_endpoint_asked(attempt: int, jitter: float, asked: float, kind: str) -> None:
    """What the endpoint asks for is kept, with the jitter on top."""
    assert backoff(attempt, jitter, asked, kind) == asked + backoff(attempt, jitter, None, kind)


@given(st.integers(1, 6), JITTERS, KINDS)
def test_waits_double(attempt: int, jitter: float, kind: str) -> None:
    """Each failure in a row doubles the range of the wait."""
    once, again = (backoff(number, jitter, None, kind) for number in (attempt, attempt + 1))
    assert again == pytest.approx(2 * once)


@pytest.mark.parametrize("kind", ["disconnected", "garbled_body", "wrong_type", "empty_choices", "no_reply"])
def test_after_an_accident_the_first_waits_are_short(kind: str) -> None:
    """A broken answer says nothing of the load; an endpoint that only breaks is spared all the same."""
    assert backoff(1, 0.99, None, kind) < 0.02 < 0.2 < backoff(1, 0.99, None, "http_503")
    assert backoff(12, 0.99, None, kind) > 19
