"""Cancelled at turns of the event loop, and resumed: a small version of `benchmarks/fire/cancel.py`."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.fire.cancel import KINDS, WAYS, Counted, storm


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "HTTP"])
def test_whatever_await_is_cancelled_a_resumed_run_is_the_same(kind: str, tmp_path: Path) -> None:
    """By anyio and by asyncio: the same decisions on the same votes, verified, and no task left behind."""
    with asyncio.Runner(loop_factory=Counted) as runner:
        came = runner.run(storm(kind, tmp_path, None, 70, 1))

    assert came["wrong"] == []
    assert min(came["cuts"][way] for way in WAYS) > 3
