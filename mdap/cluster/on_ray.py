"""Workers as actors of a Ray cluster: the only module that knows Ray."""

import asyncio
import importlib
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import anyio

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a package that Ray installs
    import ray
from ray.exceptions import RayError

from mdap.cluster.cases import WorkersError
from mdap.cluster.channels import Channel, Closed, memory_pair
from mdap.cluster.frames import Message
from mdap.errors import UsageError
from mdap.settings import Cluster

T = TypeVar("T")

_QUIET: Final = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise Ray warns of a coming change
    "RAY_USAGE_STATS_ENABLED": "0",
}


# Seconds for a head node that restarts. Ray ends this process after a minute without one.
_PATIENCE: Final = 15.0
_CONNECT: Final = 30.0  # seconds
_END: Final = 10.0  # seconds


_TRIAL: Final = """
import sys, ray
from mdap.cluster.on_ray import _first_of
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
except Exception as error:
    print(_first_of(error))
    sys.exit(1)
"""


class _Actor:
    """One worker, in a process of Ray's."""

    def __init__(self, module: str) -> None:
        self._here, there = memory_pair()
        self._worker: Any = importlib.import_module(module).Worker(there)

    async def work(self) -> None:
        await self._worker.work()

    async def push(self, messages: list[Message]) -> None:
        await self._here.send(messages)

    async def pull(self) -> list[Message] | None:
        try:
            return await self._here.receive()
        except Closed:
            return None


class _ActorChannel:
    """Messages to and from an actor, one call at a time each way: Ray keeps no order between calls."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.why = "it ended"
        self._work = actor.work.remote()  # which ends with the worker

    async def send(self, messages: list[Message]) -> None:
        await self._call(self.actor.push, messages)

    async def receive(self) -> list[Message]:
        found: list[Message] | None = await self._call(self.actor.pull)
        if found is None:
            raise Closed
        return found

    async def _call(self, method: Any, *arguments: Any) -> Any:
        try:
            return await method.remote(*arguments)
        except RayError as error:
            self.why = f"Ray says {type(error).__name__}; its logs on the nodes tell more"
            raise Closed from None

    async def aclose(self) -> None:
        with anyio.move_on_after(_END), suppress(RayError):
            await _apart(partial(ray.kill, self.actor))


class Actors:
    """Start workers as actors, spread over the nodes.

    Args:
        cluster: the address and settings of the Ray cluster.
        module: the module whose ``Worker`` an actor runs.

    Raises:
        UsageError: other people may control the cluster.
    """

    def __init__(self, cluster: Cluster, module: str) -> None:
        if cluster.address != "local" and not cluster.insecure and not _has_token():
            raise UsageError(
                "a Ray cluster runs the code of anybody who reaches it: set RAY_AUTH_MODE=token on every "
                "node and here, or pass --insecure-cluster"
            )
        self._cluster = cluster
        self._module = module
        self._lock = anyio.Lock()
        self._left = threading.Event()

    async def start(self, name: str) -> Channel:
        """Start a worker; raise WorkersError if there is no Ray cluster, or it refuses the connection."""
        async with self._lock:
            if not ray.is_initialized():
                await self._connect()
        here = self._cluster.address == "local"
        options = {"num_cpus": 0 if here else 1, "max_restarts": 0, "max_concurrency": 4}
        made = ray.remote(_Actor).options(scheduling_strategy="SPREAD", **options)
        return _ActorChannel(await _apart(partial(made.remote, self._module)))

    async def _connect(self) -> None:
        address = self._cluster.address
        if address != "local":
            head_node = _head_node(address)
            if not await _answers(head_node):
                raise WorkersError(f"no Ray cluster at {head_node}: no program listens there")
            await _try(head_node)
        # A cluster that it starts ends with the thread that started it.
        await _apart(self._initialize, then=self._left.wait)

    def _initialize(self) -> None:
        for variable, value in _QUIET.items():
            os.environ.setdefault(variable, value)
        _silence()
        local = {"include_dashboard": False} if self._cluster.address == "local" else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(
                    address=self._cluster.address,
                    log_to_driver=False,
                    configure_logging=False,
                    logging_level=logging.CRITICAL,
                    **local,
                )
        except (RayError, OSError, ValueError, RuntimeError) as error:
            raise WorkersError(f"no Ray cluster at {self._cluster.address}: {_first_of(error)}") from None

    async def watch(self) -> None:
        """Wait until the cluster's head node is gone; Ray's calls would wait, and then end this process.

        Raises:
            WorkersError: it has not answered for a while.
        """
        answered = time.monotonic()
        while time.monotonic() - answered < _PATIENCE:
            await anyio.sleep(_PATIENCE / 15)
            if not ray.is_initialized() or await _answers(ray.get_runtime_context().gcs_address):
                answered = time.monotonic()
        told = f"the Ray cluster at {self._cluster.address} is gone"
        raise WorkersError(f"{told}: start it, and solve the batch again to resume")

    async def gone(self, channel: Channel) -> str:
        """Return how the actor of a closed channel ended."""
        assert isinstance(channel, _ActorChannel)
        await channel.aclose()
        return channel.why

    async def aclose(self) -> None:
        """Leave the cluster, which ends all workers."""
        with anyio.move_on_after(_END, shield=True):
            await _apart(ray.shutdown)
        self._left.set()


def _head_node(address: str) -> str:
    """Return the ``HOST:PORT`` that Ray would connect to; raise WorkersError if it finds none."""
    if address != "auto":
        return address
    inside = sys.modules.get("ray._private.services")
    find = getattr(inside, "canonicalize_bootstrap_address_or_die", str)  # not part of its API
    try:
        found: str = find(address)
    except (OSError, ValueError) as error:
        raise WorkersError(f"no Ray cluster found: {_first_of(error)}") from None
    return found


async def _try(address: str) -> None:
    """Connect in a process that may be killed: Ray retries for minutes, and prints at its own will.

    It raises WorkersError if no Ray cluster answers, or it refuses the connection.
    """
    found = None
    with anyio.move_on_after(_CONNECT):
        found = await anyio.run_process([sys.executable, "-c", _TRIAL, address], check=False)
    if found is None:
        raise WorkersError(f"no Ray cluster at {address}: the program that listens there does not answer Ray")
    if found.returncode != 0:
        reason = found.stdout.decode(errors="replace").strip()
        token = "check that it has the token that is set here"
        hint = token if _has_token() else "if it asks for a token, set RAY_AUTH_MODE=token here, too"
        raise WorkersError(f"no Ray cluster at {address}: {reason}; {hint}")


def _has_token() -> bool:
    """Return whether Ray authenticates this process with a token."""
    return os.environ.get("RAY_AUTH_MODE") == "token"


def _first_of(error: Exception) -> str:
    """Return the first sentence of *error*."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0]


async def _apart(call: Callable[[], T], *, then: Callable[[], object] = lambda: None) -> T:
    """Return the result of a call that blocks while there is no head node.

    It runs in a thread that does not keep this process from ending, and that calls *then* afterwards.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except Exception as error:
            tell(found.set_exception, error)
        else:
            tell(found.set_result, result)
            then()

    def tell(how: Callable[[Any], None], what: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if found.done() else how(what))

    threading.Thread(target=run, daemon=True).start()
    return await found


async def _answers(address: str) -> bool:
    """Return whether a server listens at ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    with suppress(OSError), anyio.move_on_after(_PATIENCE / 3):
        await (await anyio.connect_tcp(host.strip("[]"), int(port))).aclose()
        return True
    return False


def _silence() -> None:
    """Keep Ray from printing node errors, and its loggers from logging: mdap itself reports lost workers."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    inside = sys.modules.get("ray._private.worker")
    if hasattr(inside, "print_to_stdstream"):
        setattr(inside, "print_to_stdstream", lambda *_, **__: None)  # noqa: B010 - not part of its API
