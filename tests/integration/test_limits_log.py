"""What becomes of limits, in the record of the runs that were going on."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

import mdap
from mdap.records import Reply, SampleRequest
from mdap.rules.headers import Told
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED, Model, Walk

UNPROBED = mdap.Limits(probe=False)


class Telling(ScriptedProvider):
    """An endpoint whose headers tell another limit with each reply."""

    remote = True

    def __init__(self, limits: Sequence[int], *, together: int = 1) -> None:
        super().__init__(lambda request, n: Model(Walk()).says(request.user, n), nonblocking=False)
        self.told = Told()
        self._limits = list(limits)
        self._missing = together  # requests that must be there before it replies to any
        self._complete = anyio.Event()

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        self._missing -= 1
        if self._missing <= 0:
            self._complete.set()
        await self._complete.wait()
        self.told = Told(requests_per_minute=self._limits[len(self.requests) % len(self._limits)])
        return await super().sample(request)


def limits_of(db: Path, run: str) -> list[tuple[str, dict[str, Any]]]:
    with closing(sqlite3.connect(db)) as connection:
        found = connection.execute(
            """SELECT e.reason, e.data FROM run_events e JOIN runs r ON r.id = e.run
            WHERE e.kind = 'limits' AND r.run_id = ? ORDER BY e.id""",
            (run,),
        ).fetchall()
    return [(reason, json.loads(data)) for reason, data in found]


@pytest.fixture(autouse=True)
def _no_providers_left() -> None:
    PROVIDED.clear()


async def test_a_changed_limit_is_an_event_of_every_run_that_is_going_on(tmp_path: Path) -> None:
    """With model, limit, from where to where, and why."""
    PROVIDED["it"] = Telling([90_000], together=4)  # the first two of each run
    db, limits = tmp_path / "a.db", mdap.Limits(probe=False, concurrency=8)
    async with (
        mdap.Session("tests.helpers:provided/it", db=db, limits=limits) as session,
        anyio.create_task_group() as group,
    ):
        for name in ("one", "two"):
            group.start_soon(lambda name: session.solve(Walk(), k=2, run_id=name), name)
    for name in ("one", "two"):
        told = {reason: data for reason, data in limits_of(db, name) if data["what"] != "concurrency"}
        reason = "scripted: requests per minute from no limit to 90,000: told in the headers of the endpoint"
        assert told == {
            reason: {
                "model": "scripted",
                "what": "requests_per_minute",
                "limit_before": None,
                "limit_after": 90_000,
                "reason": "told in the headers of the endpoint",
            }
        }


async def test_a_wild_endpoint_does_not_flood_the_record(tmp_path: Path) -> None:
    """Two hundred changes within seconds are a handful of events, the last of which is how it ended."""
    PROVIDED["it"] = provider = Telling([90_000, 80_000, 70_000])
    db = tmp_path / "a.db"
    async with mdap.Session("tests.helpers:provided/it", db=db, limits=UNPROBED) as session:
        await session.solve(Walk(steps=60), k=3, run_id="one")
    assert len(provider.requests) > 180
    told = [data for _, data in limits_of(db, "one") if data["what"] == "requests_per_minute"]
    assert 1 <= len(told) <= 3
    assert told[-1]["limit_after"] == provider.told.requests_per_minute
