"""Workers in the loop of the test, for `mdap.cluster.head.Head`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from mdap.cluster.cases import WorkersError
from mdap.cluster.channels import Channel, Closed, MemoryChannel, memory_pair
from mdap.cluster.frames import Message, decoded, encoded, facts_of
from mdap.records import SampleTaken
from mdap.session.working import Worker


class Breakable:
    """A worker's end of a channel, which may freeze or die before it sends a second batch of facts.

    Args:
        inner: the channel.
        fate: ``freezes`` or ``dies``, or nothing.
        whole: whether it carries objects, as Ray does, instead of bytes.

    Attributes:
        unsent: the number of samples in the batch before which it died.
    """

    def __init__(self, inner: MemoryChannel, fate: str, *, whole: bool) -> None:
        self.inner = inner
        self._whole = whole
        self._fate = fate
        self._batches = 2 if fate else -1
        self._flowing = anyio.Event()
        self._flowing.set()
        self.unsent = 0

    def thaw(self) -> None:
        self._flowing.set()

    async def send(self, messages: list[Message]) -> None:
        self._batches -= sum(message[0] == "call" and message[2] == "facts" for message in messages)
        if self._batches == 0:
            self._flowing, self._batches = anyio.Event(), -1
            if self._fate == "dies":
                sent = [message[4] for message in messages if message[0] == "call" and message[2] == "facts"]
                self.unsent = sum(
                    isinstance(fact, SampleTaken) for values in sent for fact in facts_of(values)
                )
                await self.aclose()
                raise Closed
        await self._flowing.wait()
        await self.inner.send(messages if self._whole else decoded(encoded(messages)))

    async def receive(self) -> list[Message]:
        messages = await self.inner.receive()
        await self._flowing.wait()
        return messages if self._whole else decoded(encoded(messages))

    async def aclose(self) -> None:
        await self.inner.aclose()


class LoopPool:
    """Starts workers as tasks.

    Attributes:
        channels: the workers' ends of their channels, in order.
        over: for each of them, set once the worker has ended.
        lost: set to have the pool fail.
        fate: of the first one: ``never joins``, or see `Breakable`.
        whole: whether objects are carried; see `Breakable`.
    """

    def __init__(self, group: TaskGroup) -> None:
        self.channels: list[Breakable] = []
        self.over: list[anyio.Event] = []
        self.fate, self.whole = "", False
        self.lost = anyio.Event()
        self._group = group
        self._heads: list[Channel] = []

    async def start(self, name: str) -> Channel:
        here, there = memory_pair()
        channel, over = Breakable(there, "" if self.channels else self.fate, whole=self.whole), anyio.Event()
        self.channels.append(channel)
        self.over.append(over)
        self._heads.append(here)
        if self.fate == "never joins" and len(self.channels) == 1:
            await channel.aclose()
        else:
            self._group.start_soon(self._work, channel, over)
        return here

    async def _work(self, channel: Breakable, over: anyio.Event) -> None:
        await Worker(channel).work()
        over.set()

    async def kill(self, place: int) -> None:
        """Cut a worker off, and end it before it can do anything more."""
        await self.channels[place].aclose()

    async def watch(self) -> None:
        await self.lost.wait()
        raise WorkersError("the pool is gone")

    async def gone(self, channel: Channel) -> str:
        await channel.aclose()
        return "killed"

    async def aclose(self) -> None:
        """Close the heads' ends, which ends all workers but frozen ones."""
        for channel in self._heads:
            await channel.aclose()


@asynccontextmanager
async def loop_pool() -> AsyncIterator[LoopPool]:
    async with anyio.create_task_group() as group:
        yield LoopPool(group)
