"""Deal the cases of batches to workers: build a session's head, and the messages to its workers."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mdap.cluster.cases import Case, Pool, Shared
from mdap.cluster.head import Head
from mdap.cluster.processes import Processes
from mdap.errors import UsageError
from mdap.plugins import task_name, unfindable
from mdap.records import RunStatus, Solution
from mdap.rules.canonical import canonical
from mdap.rules.parameters import as_resumed, version_of
from mdap.session import working
from mdap.session.identity import RunSpec
from mdap.session.models import SessionSetup
from mdap.session.replay import is_replay
from mdap.session.resources import SessionResources, open_resources
from mdap.session.running import run_task
from mdap.settings import Cluster, Lane
from mdap.tasks import Task


def check_spread(setup: SessionSetup) -> None:
    """Refuse models that a worker cannot load, and jobs of batch APIs."""
    if setup.lane is Lane.BATCH:
        raise UsageError(
            "--lane batch does not go with workers: one process collects all samples of a wave; leave out "
            "--workers and --cluster"
        )
    for model in (*setup.models, *setup.escalate_to):
        if model in setup.objects or is_replay(model):
            raise UsageError(f"{model} cannot be asked from other processes: leave out the workers")


class Dealer:
    """Have workers solve the cases of batches, and the nested tasks of processes."""

    def __init__(self, resources: SessionResources, head: Head, workers: int) -> None:
        self.head = head
        self.workers = workers
        self._resources = resources
        self._batches: dict[int, dict[str, Any]] = {}

    async def solve(self, task: Task, spec: RunSpec) -> Solution:
        """Return the solution of a case; a worker drives it unless the log has it."""
        resources, batch = self._resources, spec.parent
        assert batch is not None
        row = await resources.reader.run(spec.name) if spec.known else None
        refusal = await resources.endpoint_probe.pass_on(batch, {}, part=True)
        if refusal is not None or (row is not None and row.status is RunStatus.FINISHED):
            return await run_task(resources, task, spec)
        why = unfindable(task)
        if why is not None:
            raise UsageError(
                f"class {type(task).__qualname__} {why}, where workers cannot find it: define it at the top "
                "level of a file"
            )
        case = Case(spec.name, batch, await self._about(task, spec, batch), spec.progress)
        if row is not None:
            case.number, case.about["task"] = row.number, row.task
        return await self.head.solve(case)

    async def _about(self, task: Task, spec: RunSpec, batch: int) -> dict[str, Any]:
        """Return the data of a case that a worker needs."""
        if batch not in self._batches:
            await self._resources.writer.flush()
            found = await self._resources.reader.rows("options_found", batch)
            self._batches[batch] = {
                "options": {row["model"]: json.loads(row["options"]) for row in found},
                "voted": sorted(spec.presence.voted),
            }
        return {
            **self._batches[batch],
            "voting": json.loads(canonical(spec.voting)),
            "depth": spec.depth,
            "independent": spec.independent,
            "known": spec.known,
            "task": task_name(task),
            "params": json.loads(canonical(as_resumed(task))),
            "version": version_of(task),
        }


@asynccontextmanager
async def open_with_workers(setup: SessionSetup) -> AsyncIterator[SessionResources]:
    """Open the models and the database of a session, and its workers if it has any."""
    pool = None if setup.cluster is None else _pool_of(setup.cluster)
    async with open_resources(setup) as resources:
        if setup.cluster is None or pool is None:
            yield resources
            return
        head = Head(
            _shared(resources),
            pool,
            setup.cluster.workers,
            resources.breadth,
            _welcome(setup, setup.cluster, resources),
        )
        async with head.serving():
            resources.dealer = Dealer(resources, head, setup.cluster.workers)
            yield resources


def _shared(resources: SessionResources) -> Shared:
    return Shared(
        writer=resources.writer,
        reader=resources.reader,
        runs=resources.runs,
        claims=resources.claims,
        budget=resources.budget_guard,
        gates=resources.models.gates,
        named=resources.named,
        running=resources.limit_changes.running,
    )


def _welcome(setup: SessionSetup, cluster: Cluster, resources: SessionResources) -> dict[str, Any]:
    """Return the first message to each worker."""
    limits = setup.limits
    limited = (limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute) != (None,) * 3
    return {
        "db": str(setup.path),
        "models": setup.models,
        "escalate_to": setup.escalate_to,
        "options": dict(setup.options),
        "prices": {name: price.model_dump() for name, price in setup.prices.items()},
        "limits": limits.model_dump(),
        "budget": setup.budget.model_dump(),
        "speculate": str(setup.speculate),
        "on_dead": str(setup.on_dead),
        "leased": [member.remote or limited for member in resources.models.members],
        "at_home": cluster.on_this_machine,
        **({"path": sys.path} if cluster.on_this_machine else {}),
    }


def _pool_of(cluster: Cluster) -> Pool:
    """Return the pool that starts the workers, each of which runs the module `mdap.session.working`."""
    if cluster.address == "processes":
        return Processes(working.__name__)
    try:
        from mdap.cluster.on_ray import Actors
    except ImportError:
        raise UsageError("a cluster needs Ray: pip install 'mdap[ray]'") from None
    return Actors(cluster, working.__name__)
