"""Waves: names of rows that every vendor takes, jobs within limits, and chains that would take too long."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mdap.rules.waves import Room, custom_id, parts_of, too_many_waves


@given(st.text(max_size=80), st.integers(0, 10**6), st.text(max_size=200))
def test_rows_have_names_that_every_vendor_takes(token: str, place: int, key: str) -> None:
    """Anthropic takes 64 letters, digits, dashes and underscores, whatever a step's key holds."""
    name = custom_id(token, place, key)
    assert re.fullmatch(r"mdap-[0-9a-f]{40}", name)
    assert name == custom_id(token, place, key) != custom_id(token, place + 1, key)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=60),
    st.integers(1, 9),
    st.integers(1, 120),
    st.none() | st.integers(1, 120),
)
def test_jobs_hold_every_row_once_and_no_more_than_they_may(
    sizes: list[tuple[int, int]], requests: int, size: int, tokens: int | None
) -> None:
    """Only a row that is too large by itself makes a job that is."""
    parts = parts_of(sizes, Room(requests, size, tokens))
    assert [place for part in parts for place in part] == list(range(len(sizes)))
    for part in parts:
        assert 1 <= len(part) <= requests
        if len(part) > 1:
            assert sum(sizes[place][0] for place in part) <= size
            assert tokens is None or sum(sizes[place][1] for place in part) <= tokens


def test_a_long_chain_is_refused_with_the_arithmetic() -> None:
    """As many steps as waves are allowed may go; one more is refused."""
    assert too_many_waves(12, 12) is None
    assert "13 x 24 h = 13 days" in str(too_many_waves(13, 12))
    assert "3 x 24 h = 72 hours" in str(too_many_waves(3, 2))
