"""Channels carry messages between the head and one worker, in order, until one end closes."""

import math
from contextlib import suppress
from typing import Any, Final, Protocol

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mdap.cluster.frames import Message, decoded, encoded

_LENGTH: Final = 4
_LONGEST: Final = 2**30
_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class Closed(Exception):
    """Raised by a channel whose other end has closed."""


class Channel(Protocol):
    """One end of a connection: it sends messages to the other end and receives messages from it."""

    async def send(self, messages: list[Message]) -> None:
        """Send *messages*; raise `Closed` if the other end has closed."""

    async def receive(self) -> list[Message]:
        """Wait for messages; raise `Closed` if none will come."""

    async def aclose(self) -> None:
        """End the exchange."""


class SocketChannel:
    """Messages over a connected socket."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._received = BufferedByteReceiveStream(stream)

    async def send(self, messages: list[Message]) -> None:
        """Send *messages*."""
        data = encoded(messages)
        try:
            await self._stream.send(len(data).to_bytes(_LENGTH) + data)
        except _GONE:
            raise Closed from None

    async def receive(self) -> list[Message]:
        """Wait for messages."""
        try:
            length = int.from_bytes(await self._received.receive_exactly(_LENGTH))
            if length > _LONGEST:
                raise Closed
            return decoded(await self._received.receive_exactly(length))
        except (anyio.IncompleteRead, *_GONE):
            raise Closed from None

    async def aclose(self) -> None:
        """Close the socket."""
        with suppress(OSError):
            await self._stream.aclose()


class MemoryChannel:
    """Messages within one event loop, without serialization."""

    def __init__(
        self,
        outgoing: MemoryObjectSendStream[list[Message]],
        incoming: MemoryObjectReceiveStream[list[Message]],
    ) -> None:
        self._outgoing, self._incoming = outgoing, incoming

    async def send(self, messages: list[Message]) -> None:
        """Send *messages*."""
        try:
            await self._outgoing.send(messages)
        except _GONE:
            raise Closed from None

    async def receive(self) -> list[Message]:
        """Wait for messages."""
        try:
            return await self._incoming.receive()
        except _GONE:
            raise Closed from None

    async def aclose(self) -> None:
        """Close both directions."""
        self._outgoing.close()
        self._incoming.close()


def memory_pair() -> tuple[MemoryChannel, MemoryChannel]:
    """Return two ends of a channel."""
    there, here = (anyio.create_memory_object_stream[list[Message]](math.inf) for _ in range(2))
    return MemoryChannel(there[0], here[1]), MemoryChannel(here[0], there[1])


class Link:
    """One end of a channel that sends without waiting and groups messages that gather meanwhile."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._waiting: list[Message] = []
        self._news = anyio.Event()

    def send(self, *message: Any) -> None:
        """Queue one message."""
        self._waiting.append(list(message))
        self._news.set()

    async def serve(self) -> None:
        """Send queued messages until the channel closes."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            messages, self._waiting = self._waiting, []
            try:
                await self.channel.send(messages)
            except Closed:
                return
