"""The findings of a conformance check: breaches with their step and property."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from mdap.errors import RAISED, UsageError
from mdap.rules.canonical import canonical
from mdap.tasks import Step

T = TypeVar("T")

_SHOWN: Final = 5
_CHARS: Final = 160


@dataclass(frozen=True, slots=True)
class Breach:
    """A property that a task does not have.

    Attributes:
        step: where it was missed, such as ``step 3``; empty for the task as a whole.
        property: the property, in a few words.
        what: what was seen instead.
    """

    step: str
    property: str
    what: str

    def __str__(self) -> str:
        return f"{self.step + ', ' if self.step else ''}{self.property}: {self.what}"


@dataclass(frozen=True, slots=True)
class Conformance:
    """What `check_task` looked at.

    Attributes:
        task: the name of the task's class.
        steps: how many steps were walked through.
        texts: how many hostile texts the parsers were given.
        breaches: what was found, the first of each property at a step.
        skipped: what could not be looked at, a sentence each.
    """

    task: str
    steps: int
    texts: int
    breaches: tuple[Breach, ...]
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        looked = f"{self.steps} steps and {self.texts} hostile texts looked at"
        if not self.breaches:
            return "\n".join([f"{self.task} conforms: {looked}", *(f"  skipped: {s}" for s in self.skipped)])
        counted: Counter[str] = Counter()
        count = "1 breach" if len(self.breaches) == 1 else f"{len(self.breaches)} breaches"
        lines = [f"{self.task} does not conform, {count}; {looked}:"]
        for breach in self.breaches:
            counted[breach.property] += 1
            if counted[breach.property] <= _SHOWN:
                lines.append(f"  {self.task}, {breach}")
        more = [f"  and {n - _SHOWN} more of: {name}" for name, n in counted.items() if n > _SHOWN]
        return "\n".join([*lines, *more])


class NonconformingError(AssertionError):
    """Raised when a task breaks a promise that the engine relies on; its text names every breach.

    Attributes:
        conformance: what was looked at and found.
    """

    def __init__(self, conformance: Conformance) -> None:
        super().__init__(str(conformance))
        self.conformance = conformance


class AbandonedError(Exception):
    """Raised to leave a step that cannot be looked at any further; its breach is noted."""


@dataclass(slots=True)
class Breaches:
    """Breaches as they are found, each property once a step; by part, which is empty for the task itself."""

    part: str = ""
    breaches: list[Breach] = field(default_factory=list)
    skipped: dict[str, None] = field(default_factory=dict)
    texts: int = 0
    step: str = ""
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def add(self, name: str, what: str) -> None:
        """Note that property *name* does not hold here."""
        step = ", ".join(filter(None, (self.part, self.step)))
        if (step, name) not in self._seen:
            self._seen.add((step, name))
            self.breaches.append(Breach(step, name, what))

    def has(self, name: str) -> bool:
        """Return whether a breach of property *name* is noted, at whatever step."""
        return any(breach.property == name for breach in self.breaches)

    def usage(self, name: str, check: Callable[[Any], object], task: Any) -> None:
        """Note what *check* says is wrong with a task's parameters or types."""
        try:
            check(task)
        except UsageError as error:
            self.add(name, str(error))

    def same(self, name: str, what: str, expected: Any, found: Any) -> bool:
        """Note a breach unless two values have one canonical JSON; return whether they have."""
        one, other = self.spelled(what, expected), self.spelled(what, found)
        if one != other:
            self.add(name, f"{what} is {_from_difference(other, one)}, not {_from_difference(one, other)}")
        return one == other

    def spelled(self, what: str, value: Any) -> str:
        """Return the canonical JSON of *value*."""
        try:
            return canonical(value)
        except RAISED as error:
            self.add("states and answers are JSON values", f"{what} {_short(repr(value))}: {_said(error)}")
            raise AbandonedError from error

    def call(self, name: str, function: Callable[..., T], *args: Any) -> T:
        """Call the author's code; whatever it raises is a breach, and the end of this step."""
        try:
            return function(*args)
        except RAISED as error:
            self.add("methods raise nothing", f"{name} raised {_said(error)}")
            raise AbandonedError from error

    def pure(self, name: str, function: Callable[..., T], *args: Any) -> T:
        """Call the author's code twice; note where the results differ or an argument has changed."""
        before = [self.spelled(f"an argument of {name}", words(argument)) for argument in args]
        first = self.call(name, function, *args)
        second = self.call(name, function, *args)
        if before != [self.spelled(f"an argument of {name}", words(argument)) for argument in args]:
            self.add("methods change no argument", f"{name} changed what it was given")
        self.same("methods are pure", f"the second result of {name}", words(first), words(second))
        return first


def words(value: Any) -> Any:
    """Return what of a step can be compared: its prompts and limits; any other value as it is."""
    if not isinstance(value, Step):
        return value
    views = [[view.system, view.user] for view in value.views]
    return [
        value.key,
        value.system,
        value.user,
        value.max_tokens,
        str(value.schema),
        views,
        value.input,
        value.proposal,
    ]


def _short(text: str) -> str:
    return text if len(text) <= _CHARS else f"{text[:_CHARS]}... ({len(text)} characters)"


def _from_difference(text: str, other: str) -> str:
    """Return *text* from a little before the place where it is not like *other*."""
    if len(text) <= _CHARS:
        return text
    pairs = enumerate(zip(text, other, strict=False))
    parting = next((place for place, (one, two) in pairs if one != two), min(len(text), len(other)))
    start = max(0, parting - _CHARS // 4)
    return f"{'...' if start else ''}{_short(text[start:])}"


def _said(error: BaseException) -> str:
    return _short(f"{type(error).__name__}: {error}")
