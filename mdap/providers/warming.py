"""Send one request ahead of others with the same beginning, so that these find it in the endpoint's cache.

An endpoint caches the beginning of a prompt only once it has read it, so each of several concurrent requests
would pay for its whole prompt.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Final

import anyio

from mdap.records import Reply, SampleRequest

# The shortest beginning that any vendor keeps has 512 tokens, of about four characters each.
_LEAST_CHARS = 512 * 4
# Vendors keep a beginning for five minutes after it was last used.
_SECONDS: Final = 240.0
_MOST: Final = 4096
# So many requests in a row that waited and read nothing from the cache are no accident.
_IN_VAIN: Final = 8


def repeated(request: SampleRequest) -> tuple[int, ...]:
    """Return where in the user message the beginnings end that further requests will repeat, smallest first.

    One is what the step's author says that further steps share. All of the message is another, since each
    sample of the step repeats it, unless what it adds to the first one is too short to be kept. Without
    *warm*, nothing says that there will be more requests.
    """
    if not request.warm:
        return ()
    whole, head = len(request.user), len(request.system)
    if request.shared == 0:
        return (whole,) if head + whole >= _LEAST_CHARS else ()
    ends = (request.shared, whole) if whole - request.shared >= _LEAST_CHARS else (request.shared,)
    return tuple(end for end in ends if head + end >= _LEAST_CHARS)


class Warmer:
    """Hold requests back while another one brings their beginning into the endpoint's cache."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, anyio.Event] = {}
        self._warm: OrderedDict[bytes, float] = OrderedDict()
        self._in_vain = 0
        self._useless = 0  # characters of the longest beginning that was waited for in vain so often

    async def sample(
        self, request: SampleRequest, send: Callable[[SampleRequest], Awaitable[Sequence[Reply]]]
    ) -> Sequence[Reply]:
        """Send *request* as soon as what it shares with others is warm, or nobody else warms it."""
        ends = [end for end in repeated(request) if len(request.system) + end > self._useless]
        keys = [_key(request, end) for end in ends]
        while busy := next(filter(None, map(self._under_way.get, keys)), None):
            await busy.wait()
        since = time.monotonic() - _SECONDS
        cold = [key for key in keys if self._warm.get(key, since) <= since]
        event = anyio.Event()
        self._under_way |= dict.fromkeys(cold, event)
        try:
            replies = await send(request)
        finally:
            for key in cold:
                del self._under_way[key]
            event.set()
        for key in keys:
            self._warm[key] = time.monotonic()
            self._warm.move_to_end(key)
        while len(self._warm) > _MOST:
            self._warm.popitem(last=False)
        if keys and not cold:
            self._learn(len(request.system) + ends[0], replies)
        return replies

    def _learn(self, chars: int, replies: Sequence[Reply]) -> None:
        """Wait no more for beginnings of some length that the endpoint does not keep, whatever the reason."""
        if any(reply.cached_tokens for reply in replies):
            self._in_vain = 0
            return
        self._in_vain += 1
        if self._in_vain >= _IN_VAIN:
            self._in_vain, self._useless = 0, max(self._useless, chars)


def _key(request: SampleRequest, end: int) -> bytes:
    # A schema stands in front of the prompt where an endpoint is sent one.
    begins = f"{json.dumps(request.schema)}\n{len(request.system)}\n{request.system}{request.user[:end]}"
    return blake2b(begins.encode(errors="surrogatepass"), digest_size=16).digest()
