"""The server of the fire tests: a `FaultyServer` that plays Hanoi, told by standard input what to do.

Given the same seed in a request it says the same, so that faults cannot change what is decided. ``log N``
prints what came from request N on; the end of the input ends it.
"""

import json
import sys
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mdap.testing import Faults, FaultyServer, Served
from tests.acceptance.player import play

ANSWERED = ("ok", "drip", "reset", "truncated", "missing_usage", "content_filter")


class Clocked:
    """The player, and when it was asked, by the clock that all processes share."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, body: dict[str, Any], rng: Any) -> str:
        self.asked.append(time.monotonic())
        return play(body, rng)


class Forgetful(list[Served]):
    """A log that only counts, for runs so long that it would fill the memory."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def append(self, entry: Served) -> None:
        self._count += 1

    def __len__(self) -> int:
        return self._count


def main() -> None:
    faults = json.loads(sys.argv[1])
    forget = faults.pop("forget", False)
    clocked = Clocked()
    answer = play if forget else clocked
    with FaultyServer.in_thread(answer, faults=Faults(**faults), seed=1) as server:
        if forget:
            server.log = Forgetful()
        print(server.base_url, flush=True)
        answered = 0
        for line in sys.stdin:
            entries = server.log[int(line.removeprefix("log ")) :]
            told = []
            for one in entries:
                asked = None
                if one.outcome in ANSWERED:
                    asked = clocked.asked[answered]
                    answered += 1
                body = json.dumps(one.body, sort_keys=True).encode()
                told.append((one.number, one.outcome, asked, blake2b(body, digest_size=12).hexdigest()))
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
