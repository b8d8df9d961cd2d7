"""Cancelled at turns of the event loop, and resumed: a small version of `benchmarks/fire/cancel.py`."""

import asyncio
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.fire.cancel import KINDS, WAYS, Counted, Margin, storm
from tests.helpers import mostly_slow

# A process with `-k robust` takes many more turns.
CASES = [(kind, None, 30) for kind in KINDS if kind != "HTTP"] + [
    ("chain, vote", "robust", 30),
    ("process", "robust", 105),
]


@pytest.mark.parametrize(("kind", "k", "every"), mostly_slow(CASES, 2))
def test_whatever_await_is_cancelled_a_resumed_run_is_the_same(
    kind: str, k: Margin, every: int, tmp_path: Path
) -> None:
    """By anyio and by asyncio: the same decisions on the same votes, verified, and no task left behind."""
    with asyncio.Runner(loop_factory=Counted) as runner:
        came = runner.run(storm(kind, tmp_path, None, Namespace(every=every, seed=1, k=k)))

    assert came["wrong"] == []
    assert min(came["cuts"][way] for way in WAYS) > 3
