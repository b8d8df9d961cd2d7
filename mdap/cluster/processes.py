"""Workers as processes of this machine, each connected by a private pair of sockets."""

import ctypes
import signal
import socket
import sys
from contextlib import suppress

import anyio
from anyio.abc import Process, SocketStream

from mdap.cluster.cases import WorkersError
from mdap.cluster.channels import Channel, SocketChannel
from mdap.errors import UsageError

_GRACE = 2.0
_PR_SET_PDEATHSIG = 1


class Processes:
    """Start workers as processes. A worker ends when the head's end of its socket closes.

    Args:
        module: the module whose ``main`` a worker runs, with the number of its socket.
    """

    def __init__(self, module: str) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise UsageError("several processes need Unix sockets, which this system does not have")
        self._module = module
        self._processes: dict[Channel, Process] = {}

    async def start(self, name: str) -> Channel:
        """Start a worker; raise WorkersError if the system cannot start another process."""
        here, there = socket.socketpair()
        try:
            # Its own session: Ctrl-C in the terminal goes to the head, which interrupts its workers.
            process = await anyio.open_process(
                [sys.executable, "-c", f"import {self._module} as it; it.main({there.fileno()})"],
                stdout=2,
                stderr=None,
                pass_fds=[there.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            here.close()
            raise WorkersError(f"{name} cannot be started ({error.strerror}): ask for fewer") from None
        finally:
            there.close()
        assert process.stdin is not None
        await process.stdin.aclose()  # a reader there sees the end of the stream
        channel = await channel_of(here)
        self._processes[channel] = process
        return channel

    async def watch(self) -> None:
        """Wait forever: this machine can always start processes."""
        await anyio.sleep_forever()

    async def gone(self, channel: Channel) -> str:
        """Return how the process of a closed channel ended."""
        process = self._processes.pop(channel)
        await channel.aclose()
        code = await _ended(process)
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    async def aclose(self) -> None:
        """End all workers."""
        for channel in self._processes:
            await channel.aclose()
        async with anyio.create_task_group() as group:
            for process in self._processes.values():
                group.start_soon(_ended, process)


async def _ended(process: Process) -> int:
    """Wait briefly for a process with a closed socket to end, then kill it, even if it is stopped."""
    with anyio.move_on_after(_GRACE):
        return await process.wait()
    with suppress(ProcessLookupError):
        process.kill()
    return await process.wait()


async def channel_of(end: socket.socket) -> SocketChannel:
    """Return a channel over a connected socket."""
    end.setblocking(False)
    return SocketChannel(await SocketStream.from_socket(end))


def end_with_parent() -> None:
    """Have Linux kill this process, even if it is stopped, when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
