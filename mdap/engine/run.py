"""Drive one run: ask what its race wants, hand it what comes, until it is over."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel

from mdap.engine.budget_guard import BudgetGuard
from mdap.engine.opening import Opening
from mdap.engine.policy import Effect, Policy
from mdap.engine.recording import RUNNING
from mdap.engine.scheduler import Outcome, SamplerPool
from mdap.groups import gathered
from mdap.protocols import Journal, Provider
from mdap.records import SampleRequest
from mdap.settings import Limits

__all__ = ["decide"]

# With an instant provider nothing else would ever get the loop's attention. Not more often: each time the
# interpreter's lock is let go for a moment, and whoever waits for it begins the 5 ms anew after which it
# must be handed over, so that the thread that writes would never get it.
_TURNS_WITHOUT_YIELDING: Final = 64

_DRAIN_SECONDS: Final = 10.0


async def decide(
    race: Policy,
    provider: Provider,
    limits: Limits,
    journal: Journal,
    budget_guard: BudgetGuard | None = None,
    beside: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
) -> None:
    """Decide *race* until it is finished, undecided or stopped.

    Args:
        race: the run, already begun.
        provider: where samples come from.
        limits: how often and how long to try.
        journal: where facts go; waited for when it falls behind.
        budget_guard: what pays for every attempt; None for no budget.
        beside: what runs beside it, never raises, and is cancelled when the race is over.

    Raises:
        PluginError: the task's own code failed.
        DatabaseError: the journal cannot write.
    """
    async with gathered() as group:
        samplers: SamplerPool[Opening] = SamplerPool(provider, limits, group, budget_guard)
        race.decider.news = samplers.wake
        scope = anyio.CancelScope()
        if beside:
            group.start_soon(_within, scope, beside)
        turn = 0
        await _bring_about(race.effects(), journal)
        while race.decider.status is RUNNING:
            await _send(race, samplers, race.decider.wanted())
            if race.stalled:
                # A cancelled run ends here, or it would take the cancelled askers for ones that gave up.
                in_flight = race.decider.in_flight
                await (anyio.lowlevel.checkpoint if in_flight else anyio.wait_all_tasks_blocked)()
                race.pass_over()
            else:
                _take(race, samplers, await samplers.arrived())
            effects = race.effects()
            if effects:
                await _bring_about(effects, journal)
            turn += 1
            if turn % _TURNS_WITHOUT_YIELDING == 0:
                await anyio.lowlevel.checkpoint()
            if journal.behind or turn % _TURNS_WITHOUT_YIELDING == 0:
                await journal.wait_for_room()
        scope.cancel()
        await _drain(race, samplers)
        await _bring_about(race.effects(), journal)
        group.cancel_scope.cancel()


async def _within(scope: anyio.CancelScope, works: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    with scope:
        async with gathered() as group:
            for work in works:
                group.start_soon(work)


async def _send(
    race: Policy, samplers: SamplerPool[Opening], wanted: list[tuple[Opening, SampleRequest]]
) -> None:
    _drop(race, samplers)
    for place, (opening, request) in enumerate(wanted):
        if place and not samplers.nonblocking:
            # A client may put what it has to send on the wire a turn of the loop later: let the one before
            # leave first, or it would wait until the last of them is put together.
            await anyio.lowlevel.checkpoint()
        # Meanwhile a process may have stopped, or given up what it had asked.
        if race.decider.status is RUNNING and opening.flying.get(request.ordinals) is request:
            samplers.ask(opening, request)


async def _bring_about(effects: list[Effect], journal: Journal) -> None:
    for effect in effects:
        await journal.flush()
        await effect.perform()
        journal.append(effect.done)


def _take(race: Policy, samplers: SamplerPool[Opening], arrived: list[Outcome[Opening]]) -> None:
    for outcome in arrived:
        race.decider.take(outcome)
    _drop(race, samplers)


def _drop(race: Policy, samplers: SamplerPool[Opening]) -> None:
    for trace in race.decider.dropped():
        samplers.drop(trace)


async def _drain(race: Policy, samplers: SamplerPool[Opening]) -> None:
    """Take in what has been sent before the run was over: it is paid for, and a resume can use it."""
    race.decider.withdraw_unsent()
    _drop(race, samplers)
    try:
        with anyio.move_on_after(_DRAIN_SECONDS):
            while race.decider.in_flight:
                _take(race, samplers, await samplers.arrived())
    finally:
        race.decider.give_up_void()
