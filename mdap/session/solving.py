"""One call in a session of its own: `solve`, `solve_sync` and `calibrate`."""

import asyncio
from contextlib import suppress
from typing import Any, Final, TypeVar, Unpack, overload

import anyio

from mdap.errors import UsageError
from mdap.records import Calibration, Solution
from mdap.session.arguments import CalibrateSettings, Declaring, SessionSettings, SolveSettings
from mdap.session.session import Session
from mdap.tasks import Task

R = TypeVar("R")

_OF_SESSION: Final = frozenset(("model", *SessionSettings.__annotations__))


@overload
async def solve(task: Declaring[R], **settings: Unpack[SolveSettings]) -> Solution[R]: ...
@overload
async def solve(task: Task, **settings: Unpack[SolveSettings]) -> Solution[Any]: ...
async def solve(task: Any, **settings: Unpack[SolveSettings]) -> Solution[Any]:
    """Run one task in a session of its own; see `Session` and `Session.solve`.

    Args:
        task: the task with its parameters.
        settings: arguments of `Session` (*model*, *db*, *options*, *limits*, *budget*, ...) and of
            `Session.run` (*k*, *target*, *voting*, *run_id*, *progress*).

    Returns:
        The solution of the finished run.
    """
    of_session, others = _parted(settings)
    async with Session(**of_session) as session:
        solution: Solution[Any] = await session.solve(task, **others)
    return solution


async def calibrate(task: Task, **settings: Unpack[CalibrateSettings]) -> Calibration:
    """Calibrate one task in a session of its own; see `Session` and `Session.calibrate`.

    Args:
        task: the chain with its parameters.
        settings: arguments of `Session` (*model*, *db*, *options*, *limits*, *budget*, ...) and of
            `Session.calibrate` (*samples*, *target*, *voting*, *seed*, *run_id*). Several models are
            calibrated as one that takes turns.

    Returns:
        The calibration.
    """
    of_session, others = _parted(settings)
    async with Session(**of_session) as session:
        return await session.calibrate(task, **others)


@overload
def solve_sync(task: Declaring[R], **settings: Unpack[SolveSettings]) -> Solution[R]: ...
@overload
def solve_sync(task: Task, **settings: Unpack[SolveSettings]) -> Solution[Any]: ...
def solve_sync(task: Any, **settings: Unpack[SolveSettings]) -> Solution[Any]:
    """Run one task to its end without an event loop of your own; the arguments are those of `solve`.

    Returns:
        The solution of the finished run.

    Raises:
        UsageError: an event loop is already running, as in a notebook; use ``await mdap.solve(...)``.
    """
    with suppress(RuntimeError):  # there is no loop, as there should be none
        asyncio.get_running_loop()
        raise UsageError(
            "an event loop is running here already, as in a notebook or an async function: write "
            "`await mdap.solve(...)` in place of `mdap.solve_sync(...)`"
        )

    async def call() -> Solution[Any]:
        solution: Solution[Any] = await solve(task, **settings)
        return solution

    return anyio.run(call)


def _parted(settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the session, and the others."""
    of_session = {name: value for name, value in settings.items() if name in _OF_SESSION}
    return of_session, {name: value for name, value in settings.items() if name not in _OF_SESSION}
