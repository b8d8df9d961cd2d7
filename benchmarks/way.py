"""The way of a task from `Session.run` to its first request: functions, modules, depth, climbs and names.

A Hanoi run with a provider that never waits is traced with `sys.setprofile`. Seven stations are looked at,
each when it is first reached: the run gets its row and its race, the author is asked for the step, the
step's votes are set up, the step is opened, the request is made, the provider is asked. The functions of mdap
that are on the stack there are on the way.

  functions  on the way, in the order in which they are met
  modules    that they are in
  depth      functions on the stack when the provider is asked
  climbs     calls on the way from a module to one that was met before it: it comes back up
  names      classes of mdap of what was made since `Session.run` was called and is handed to them
"""

import gc
import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import anyio

import mdap
from benchmarks.common import finish, parser, scratch
from mdap.records import SampleRequest
from mdap_hanoi import Hanoi

_ROOT: Final = Path(mdap.__file__).parent
_CALLS: Final = {
    "Writer.begin_run",
    "Recorder.__init__",
    "Hanoi.step",
    "Race.__init__",
    "Opening.__init__",
    "Simulated.sample",
}
_LAST: Final = "Simulated.sample"


class Way:
    """What is met on the way of a task.

    Attributes:
        functions: by module and name, in the order in which they are met.
        climbs: calls from a module to one that was met before it.
        names: the classes of what is made and handed on.
        depth: functions on the stack when the provider is asked.
    """

    def __init__(self) -> None:
        self.functions: dict[tuple[str, str], None] = {}
        self.climbs: dict[tuple[str, str], None] = {}
        self.names: dict[str, None] = {}
        self.depth = 0
        self._before = {id(each) for each in gc.get_objects()}
        self._modules: dict[str, int] = {}
        self._passed: set[str] = set()

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        """Look at one event of the interpreter."""
        station = frame.f_code.co_qualname if event == "call" else type(value).__name__
        wanted = station in _CALLS if event == "call" else event == "return" and type(value) is SampleRequest
        if not wanted or station in self._passed:
            return
        self._passed.add(station)
        self.depth = self._meet(frame)
        if station == _LAST:
            sys.setprofile(None)

    def _meet(self, frame: FrameType | None) -> int:
        """Take in the stack of a station; return how many functions of mdap are on it."""
        stack: list[tuple[str, str]] = []
        while frame is not None:
            if module := _module(frame):
                stack.insert(0, (module, frame.f_code.co_qualname))
                self.names.update(dict.fromkeys(self._handed(frame)))
            frame = frame.f_back
        for module, name in stack:
            self.functions.setdefault((module, name))
            self._modules.setdefault(module, len(self._modules))
        for caller, called in pairwise(stack):
            if self._modules[called[0]] < self._modules[caller[0]]:
                self.climbs.setdefault((caller[1], called[1]))
        return len(stack)

    def _handed(self, frame: FrameType) -> list[str]:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        values = [frame.f_locals.get(name) for name in names]
        kinds = [type(each) for each in values if id(each) not in self._before]
        return [kind.__name__ for kind in kinds if kind.__module__.startswith("mdap.")]

    def figures(self) -> dict[str, int]:
        """Return the figures by their names."""
        return {
            "functions": len(self.functions),
            "modules": len(self._modules),
            "depth": self.depth,
            "climbs": len(self.climbs),
            "names": len(self.names),
        }


def _module(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return path.relative_to(_ROOT).with_suffix("").as_posix() if path.is_relative_to(_ROOT) else ""


async def traced() -> Way:
    """Return the way of a tower of three disks."""
    with scratch() as folder:
        async with mdap.Session(db=folder / "way.db") as session:
            await session.run(Hanoi(disks=2), k=2)  # what is imported and kept on the first call
            way = Way()
            sys.setprofile(way)
            await session.run(Hanoi(disks=3), k=3)
    return way


def main() -> None:
    """Print the way and its figures."""
    arguments = parser(__doc__).parse_args()
    way = anyio.run(traced)
    for module, name in way.functions:
        print(f"  {module:<28} {name}")
    for caller, called in way.climbs:
        print(f"  climbs: {caller} -> {called}")
    print(f"  names: {', '.join(way.names)}")
    print(", ".join(f"{count} {name}" for name, count in way.figures().items()))
    finish(arguments, {}, way.figures())


if __name__ == "__main__":
    main()
