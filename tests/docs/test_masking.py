"""What the documentation may show that a reader's own run does not: times and places, and no figure."""

import pytest

from tests.docs.masking import masked, shows
from tests.docs.pages import blocks_of, pages


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("run hanoi-20261129-204535-6d021437", "run hanoi-20251201-000000-00000000"),
        ("2026-11-29T20:45:35  started", "2025-12-01T00:00:00  started"),
        ("  time          0.3 s", "  time  12.1 s"),
        ("8 passed in 0.74s", "8 passed in 12.01s"),
        (f"  seal  {'a' * 64}", f"  seal  {'b' * 64}"),
        ("  log  /home/ada/mdap.db, run a", "  log  /tmp/x/mdap.db, run a"),
    ],
)
def test_moments_places_and_names_may_differ(one: str, other: str) -> None:
    assert shows(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("  P(no errors)  0.9956, if", "  P(no errors)  0.9957, if"),
        ("  errors  0.0050 wrong decisions expected", "  errors  0.0060 wrong decisions expected"),
        ("  error rate  1.240% of the votes", "  error rate  1.241% of the votes"),
        (f"  digest  {'a' * 64}", f"  digest  {'b' * 64}"),
        (f"  prompt digest  {'a' * 32}", f"  prompt digest  {'b' * 32}"),
        ("sample 0: vote for 82c621df22891816", "sample 0: vote for 82c621df22891817"),
        ("  time  10.53 hours at 5,000 requests", "  time  10.54 hours at 5,000 requests"),
        ("k = 3", "k 3"),
    ],
)
def test_figures_may_not(one: str, other: str) -> None:
    """A run with a seed prints the same ones each time."""
    assert not shows(one, other)


def test_only_what_a_page_names_varies() -> None:
    """Numbers within the match, and no others of the line."""
    assert masked("votes  3,145 of 3,218 samples", varies="of .* samples") == ["votes 3,145 of N samples"]
    assert masked("a 1 b 2\nc 3", varies="b .*, c") == ["a 1 b N", "c 3"]


def test_a_block_that_varies_names_what_does() -> None:
    blocks = [block for page in pages() for block in blocks_of(page) if "varies" in block.said]
    assert all(block.said["varies"] for block in blocks), [b.where for b in blocks if not b.said["varies"]]
