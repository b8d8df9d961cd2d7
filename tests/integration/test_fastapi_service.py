"""The service of docs/how-to/embed-in-an-application.md under many requests, some of which are cancelled."""

import importlib.util
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import mdap
from mdap.journal.claims import Claims
from tests.docs.pages import ROOT


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Any]:
    """The example, with a session whose model takes its time."""
    spec = importlib.util.spec_from_file_location("service", ROOT / "examples" / "fastapi_service.py")
    assert spec is not None
    assert spec.loader is not None
    service = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(service)
    async with mdap.Session("sim", db=tmp_path / "service.db", options={"latency": 0.001}) as session:
        service.app.state.session = session
        yield service.app


async def post(app: Any, name: str, disks: int) -> tuple[int, Any]:
    """Post as a client does; return status and body."""
    sent: list[Any] = []
    path, query = f"/towers/{name}", f"disks={disks}".encode()
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": query, "headers": [], "scheme": "http", "server": ("test", 80)}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent[1:]))


def query(app: Any, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(app.state.session.path)) as connection:
        return connection.execute(sql).fetchall()


async def test_fifty_posts_of_five_names_make_five_runs(app: Any) -> None:
    """Nobody gets an error, and everybody the result of the run of that name."""
    answers: list[tuple[int, Any]] = []

    async def ask(number: int) -> None:
        answers.append(await post(app, f"tower-{number % 5}", 5))

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(ask, number)
    assert Counter(status for status, _ in answers) == {200: 50}
    assert Counter(body["run"] for _, body in answers) == {f"tower-{number}": 10 for number in range(5)}
    assert query(app, "SELECT count(*) FROM runs") == [(5,)]
    assert query(app, "SELECT count(*) FROM run_events WHERE kind IN ('resumed', 'stopped')") == [(0,)]
    assert query(app, "SELECT count(*) FROM decisions") == [(5 * 31,)]


async def begun(app: Any, name: str) -> None:
    """Return once the run of that name is on record."""
    while await app.state.session.find(name) is None:
        await anyio.lowlevel.checkpoint()


async def test_requests_that_are_cancelled_leave_the_others_served(app: Any) -> None:
    """Also where the cancelled one was at work on the run: it goes on, and no step is decided twice."""
    answers: list[int] = []

    async def ask() -> None:
        answers.append((await post(app, "tower", 6))[0])

    async def give_up() -> None:
        await post(app, "tower", 6)

    async with anyio.create_task_group() as kept, anyio.create_task_group() as cancelled:
        cancelled.start_soon(give_up)
        await begun(app, "tower")
        for _ in range(5):
            cancelled.start_soon(give_up)
            kept.start_soon(ask)
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        cancelled.cancel_scope.cancel()
    assert answers == [200] * 5
    assert query(app, "SELECT count(*), count(DISTINCT step) FROM decisions") == [(63, 63)]


@pytest.mark.slow
async def test_other_parameters_and_other_processes_are_no_internal_errors(app: Any) -> None:
    """A conflict is 409, and a run that another process is working on 503."""
    async with anyio.create_task_group() as group:
        group.start_soon(post, app, "tower", 8)
        await begun(app, "tower")
        status, body = await post(app, "tower", 4)
        group.cancel_scope.cancel()
    assert status == 409
    assert "was started with disks = 8, not 4" in body["detail"]
    claims = Claims(app.state.session.path)  # on Linux, another one counts as another process
    claims.take(1, "tower")
    status, body = await post(app, "tower", 8)
    claims.close()
    assert status == 503
    assert "run tower is being worked on already" in body["detail"]
    assert (await post(app, "tower", 8))[0] == 200
