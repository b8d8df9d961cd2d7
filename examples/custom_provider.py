"""A provider of your own: here, a program on this machine that is asked on its standard input.

A package registers it in the entry point group ``mdap.providers``; otherwise it is ``module:function``.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

import mdap

PROGRAM: Final = """
import json, sys
request = json.load(sys.stdin)
word = request["user"].rpartition(" ")[2]
json.dump([word[::-1]] * request["n"], sys.stdout)
"""


class Piped:
    """A model behind a command: it reads one JSON object and writes a list of replies."""

    nonblocking: Final = False
    max_n: Final = 8

    def __init__(self, command: Sequence[str], name: str) -> None:
        self.name: Final = name
        self._command = command

    async def sample(self, request: mdap.SampleRequest) -> Sequence[mdap.Reply]:
        """Ask the command once for as many replies as are wanted."""
        asked = {"system": request.system, "user": request.user, "n": min(request.n, self.max_n)}
        try:
            ended = await anyio.run_process(self._command, input=json.dumps(asked).encode())
            return [mdap.Reply(text, self.name) for text in json.loads(ended.stdout)]
        except OSError as error:
            raise mdap.UnavailableError(f"the command cannot be run: {error}", kind="no_command") from error
        except Exception as error:
            # A command that broke off, or a reply that is no JSON: another attempt may well work.
            raise mdap.TransientError(f"the command failed: {error}", kind="command") from error

    def describe(self) -> dict[str, Any]:
        """Say what a reader of the log should know; no secrets."""
        return {"command": self._command[0]}

    async def aclose(self) -> None:
        """Release nothing: every request starts a process of its own."""


def create(model: str, options: Mapping[str, Any]) -> mdap.Provider:
    """Return the provider; *model* is what follows the slash, *options* are those of ``-M``."""
    if unknown := set(options):
        raise mdap.UsageError(f"there is no option {sorted(unknown)[0]!r}")
    return Piped([sys.executable, "-c", PROGRAM], model or "piped")


class Backwards(mdap.Chain[int, str]):
    """Write words backwards, one a step."""

    words: list[str] = ["margin", "voting"]

    def start(self) -> int:
        return 0

    def step(self, state: int) -> mdap.Step[str] | None:
        if state == len(self.words):
            return None
        return mdap.Step(user=f"Write backwards, no more: {self.words[state]}", parse=read)

    def advance(self, state: int, answer: str) -> int:
        return state + 1


def read(text: str) -> str:
    """Read a reply that is one word."""
    if not text.isalpha() or len(text) > 50:
        raise mdap.RedFlag("not one word")
    return text


if __name__ == "__main__":
    solution = mdap.solve_sync(Backwards(), model="custom_provider:create", k=3, db="custom_provider.db")
    print(solution.status, solution.steps, "steps")
