"""Detect an endpoint that returns a cached response instead of a new one, by response ids."""

from collections import OrderedDict
from typing import Final

__all__ = ["Repeats"]

# Some servers number their responses, or draw a number below a thousand: those meet again honestly.
_SHORTEST_ID: Final = 16


class Repeats:
    """Remember the latest responses by id.

    An id that comes again with the same text is a response that was kept, by a cache on the way for
    instance, and no second draw. An id that comes again with another text shows that this server's ids
    mean nothing, and then nothing is concluded from them any more; nor is it while only one was seen.

    Args:
        keep: how many responses are remembered.
    """

    def __init__(self, keep: int = 4_096) -> None:
        self._keep = keep
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._trusted = True

    def again(self, response_id: object, text: str) -> bool:
        """Return whether this very response came before, and remember it.

        Args:
            response_id: what the response gives as its id.
            text: something that is the same for the same response, such as a digest of it.
        """
        if not self._trusted or not isinstance(response_id, str) or len(response_id) < _SHORTEST_ID:
            return False
        earlier = self._texts.get(response_id)
        if earlier is None:
            self._texts[response_id] = text
            if len(self._texts) > self._keep:
                self._texts.popitem(last=False)
            return False
        if earlier != text:
            self._trusted = False
            self._texts.clear()
            return False
        return len(self._texts) > 1
