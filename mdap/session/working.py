"""A worker: mdap's own engine, with the head's journal, gates and budget in place of its own."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mdap._version import __version__
from mdap.cluster.channels import Channel, Closed, Link
from mdap.cluster.frames import told
from mdap.cluster.gates import LeasedGate
from mdap.cluster.head import COUNTERS, PYTHON
from mdap.cluster.processes import channel_of, end_with_parent
from mdap.cluster.remote import Caller, LeasedBudget, RemoteClaims, RemoteReader, RemoteRuns, RemoteWriter
from mdap.engine.config import Progress
from mdap.errors import MdapError, UsageError
from mdap.errors import told as told_of
from mdap.groups import of_its_own
from mdap.journal.reader import Reader, open_log
from mdap.journal.runs import Runs
from mdap.plugins import make_recorded
from mdap.providers.gate import Gate
from mdap.rules.parameters import version_of
from mdap.rules.presence import Presence
from mdap.session.identity import RunSpec
from mdap.session.models import Models, SessionSetup
from mdap.session.resources import SessionResources
from mdap.session.running import run_task
from mdap.settings import Budget, Limits, OnDead, Price, Speculate, VotingSettings
from mdap.tasks import Task


class Worker:
    """Drive the cases that the head deals, until the connection closes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._link = Link(channel)
        self._caller = Caller(self._link.send)
        self._gates: list[Gate] = []
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._batches: dict[int, tuple[Progress, Presence]] = {}

    async def work(self) -> None:
        """Join the head and handle its messages."""
        try:
            [[_, welcome]] = await self._channel.receive()
            async with anyio.create_task_group() as group:
                group.start_soon(self._link.serve)
                await self._join(welcome)
                group.cancel_scope.cancel()
        except Closed:
            pass  # the connection to the head is closed
        finally:
            await self._channel.aclose()

    async def _join(self, welcome: dict[str, Any]) -> None:
        if "path" in welcome:
            sys.path[:] = welcome["path"]
        try:
            setup = _setup(welcome)
            models = Models.load(setup)
        except MdapError as error:
            await self._channel.send([["unable", str(error)]])
            return
        async with self._resources(setup, models, welcome) as resources, anyio.create_task_group() as group:
            self._link.send("join", __version__, PYTHON)
            group.start_soon(self._beat, welcome["beat"])
            try:
                await self._listen(resources, group)
            finally:  # else what is shielded would wait for answers that nobody reads any more
                self._caller.close()
            group.cancel_scope.cancel()

    async def _listen(self, resources: SessionResources, group: TaskGroup) -> None:
        with suppress(Closed):
            while True:
                for kind, *rest in await self._channel.receive():
                    if kind == "grant":
                        gate = self._gates[rest[0]]
                        assert isinstance(gate, LeasedGate)
                        gate.grant(rest[1])
                    elif kind == "answer":
                        self._caller.answered(*rest)
                    elif kind == "case":
                        group.start_soon(self._solve, resources, *rest)
                    elif kind == "cancel" and rest[0] in self._scopes:
                        self._scopes[rest[0]].cancel()
                    elif kind == "fenced":
                        return

    async def _beat(self, every: float) -> None:
        """Report the progress of the cases; this also shows that this worker is alive."""
        while True:
            counted = [
                (batch, [getattr(progress, name) for name in COUNTERS])
                for batch, (progress, _) in self._batches.items()
            ]
            self._link.send("beat", counted)
            await anyio.sleep(every)

    async def _solve(self, resources: SessionResources, name: str, batch: int, about: dict[str, Any]) -> None:
        """Drive one case and report its end to the head."""
        scope = self._scopes[name] = anyio.CancelScope()
        try:
            with scope:
                task = _task_of(about)
                # The head has probed the endpoints for their options.
                await resources.endpoint_probe.pass_on(batch, about["options"], part=True)
                spec = self._spec(name, batch, about)
                solution = await run_task(resources, task, spec)
                self._link.send("ended", name, told(solution))
            if scope.cancelled_caught:
                self._link.send("failed", name, "StoppedError", "interrupted")
        except MdapError as error:
            self._link.send("failed", name, type(error).__name__, str(error))
        except BaseException as error:
            if not of_its_own(error):
                raise
            self._link.send("failed", name, "", f"unexpected {told_of(error)}; this is a bug")
        finally:
            del self._scopes[name]

    def _spec(self, name: str, batch: int, about: dict[str, Any]) -> RunSpec:
        if batch not in self._batches:
            presence = Presence()
            presence.voted.update(about["voted"])
            self._batches[batch] = Progress(), presence
        progress, presence = self._batches[batch]
        return RunSpec(
            name=name,
            voting=VotingSettings.recorded(about["voting"]),
            known=about["known"],
            parent=batch,
            depth=about["depth"],
            independent=about["independent"],
            progress=progress,
            presence=presence,
        )

    @asynccontextmanager
    async def _resources(
        self, setup: SessionSetup, models: Models, welcome: dict[str, Any]
    ) -> AsyncIterator[SessionResources]:
        path = setup.path
        for place, member in enumerate(models.members):
            if welcome["leased"][place]:
                member.gate = LeasedGate(member.gate, self._sender(place))
        self._gates = list(models.gates)
        writer = RemoteWriter(path, self._caller)
        try:
            async with AsyncExitStack() as stack:
                claims = RemoteClaims(path, self._link.send)
                reader: Reader = RemoteReader(path, self._caller)
                runs: Runs = RemoteRuns(writer, claims, self._caller)
                if welcome["at_home"]:
                    reader = await stack.enter_async_context(open_log(path))
                    runs = Runs(writer, await stack.enter_async_context(open_log(path)), claims)
                group = await stack.enter_async_context(anyio.create_task_group())
                for gate in models.gates:
                    group.start_soon(gate.serve)
                group.start_soon(writer.serve)
                yield SessionResources(
                    setup=setup,
                    group=group,
                    models=models,
                    budget_guard=LeasedBudget(setup.budget, models.prices, self._caller),
                    writer=writer,
                    reader=reader,
                    runs=runs,
                    claims=claims,
                    named={},
                    worker=welcome["name"],
                )
                writer.close()
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await models.provider.aclose()

    def _sender(self, place: int) -> Any:
        return lambda kind, *rest: self._link.send(kind, place, *rest)


def _setup(welcome: dict[str, Any]) -> SessionSetup:
    """Return the arguments of the head's session, as far as a worker needs them."""
    return SessionSetup(
        path=Path(welcome["db"]),
        models=tuple(welcome["models"]),
        escalate_to=tuple(welcome["escalate_to"]),
        objects={},
        options=welcome["options"],
        limits=Limits(**welcome["limits"]),
        budget=Budget(**welcome["budget"]),
        prices={name: Price(**price) for name, price in welcome["prices"].items()},
        speculate=Speculate(welcome["speculate"]),
        on_dead=OnDead(welcome["on_dead"]),
    )


def _task_of(about: dict[str, Any]) -> Task:
    """Return the task of a case, if it is installed here as at the head."""
    try:
        task = make_recorded(about["task"], about["params"])
    except UsageError as error:
        raise UsageError(f"install the task's package where workers run: at the worker, {error}") from None
    if version_of(task) != about["version"]:
        raise UsageError(
            f"{about['task']} has version {version_of(task)} at the worker, not {about['version']}: install "
            "the same version everywhere"
        )
    return task


def main(descriptor: int) -> None:
    """Work for the head at the other end of the worker's socket."""
    end_with_parent()
    end = socket.socket(fileno=descriptor)

    async def work() -> None:
        await Worker(await channel_of(end)).work()

    try:
        # Not anyio.run: it would wait for the head's answers after a task's code raised KeyboardInterrupt.
        asyncio.new_event_loop().run_until_complete(work())
    except (KeyboardInterrupt, SystemExit):
        os._exit(1)
