"""Attempts over time: their starts, ends, waits and results."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from sqlite3 import Row
from typing import Final, NamedTuple

from mdap.journal.reader import Reader
from mdap.rules.hidden import plain
from mdap.viewer.wording import seconds

KINDS: Final = {
    "vote": "vote",
    "flag": "red flag",
    "failed": "failed attempt",
    "wait": "waiting to try again",
    "cancelled": "cancelled: not needed",
    "void": "void: on a wrong guess",
}
"""The meaning of a bar, by its class in the style sheet."""

_MOST: Final = 2_000  # maximum number of samples, and of failed attempts, to draw
_WIDTH: Final = 1000
_LANE: Final = 9
_TICKS: Final = 4
_IDLE: Final = 0.2  # share of the busy time: the timeline cuts longer idle gaps
_CUT: Final = 0.04  # share of the busy time: the rest of such a gap


class TimedAttempt(NamedTuple):
    """An attempt or a wait, in milliseconds of Unix time; its *kind* is a key of `KINDS`."""

    step: int
    opening: int
    ordinal: int
    began: float
    ended: float
    kind: str
    said: str

    @property
    def sample(self) -> tuple[int, int, int]:
        """Its sample: step, opening, ordinal."""
        return self.step, self.opening, self.ordinal

    @property
    def seconds(self) -> float:
        """Its duration in milliseconds."""
        return (self.ended - self.began) / 1000


@dataclass(frozen=True, slots=True)
class Track:
    """A line of a timeline."""

    step: int
    label: str
    svg: str
    attempts: list[TimedAttempt]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Attempts, drawn.

    Attributes:
        ticks: seconds since the start, evenly spaced; a later one may lie after a gap.
        began: its start, in milliseconds of Unix time.
        gaps: idle seconds that it cuts out.
        untimed: samples and failed attempts without a time.
    """

    tracks: list[Track]
    ticks: list[str]
    began: float
    seconds: float
    gaps: list[float]
    kinds: list[str]
    untimed: int = 0


def attempts_of(samples: Sequence[Row], failures: Sequence[Row]) -> tuple[list[TimedAttempt], int]:
    """Return the attempts at some steps, with the waits between them, and the number without a time."""
    found = [one for one in (_failed(row) for row in failures) if one is not None]
    ends: dict[tuple[int, int], float] = defaultdict(float)  # time of the step's last counted sample
    for row in samples:
        if row["counted"] is not None and _is_time(row["began"]):
            at = row["step"], row["opening"]
            ends[at] = max(ends[at], row["began"] + _length(row))
    found += [one for one in (_sampled(row, ends) for row in samples) if one is not None]
    untimed = len(samples) + len(failures) - len(found)
    return sorted(
        [*found, *_waits(found)], key=lambda one: (one.step, one.opening, one.ordinal, one.began)
    ), untimed


def _is_time(value: object) -> bool:
    return isinstance(value, int | float)


def _length(row: Row) -> float:
    return row["latency"] * 1000 if _is_time(row["latency"]) else 0.0


def _failed(row: Row) -> TimedAttempt | None:
    if not (_is_time(row["began"]) and _is_time(row["ended"]) and _is_time(row["ordinal"])):
        return None
    where = (row["step"], row["opening"], row["ordinal"])
    return TimedAttempt(*where, row["began"], max(row["began"], row["ended"]), "failed", str(row["kind"]))


def _sampled(row: Row, ends: Mapping[tuple[int, int], float]) -> TimedAttempt | None:
    if not _is_time(row["began"]):
        return None
    began, kind = row["began"], row["verdict"]
    ended = began + _length(row)
    if row["latency"] is None:  # cancelled when the step was decided
        ended = max(began, ends.get((row["step"], row["opening"]), began))
    said = KINDS.get(kind, kind) + (f": {row['flag_reason']}" if row["flag_reason"] else "")
    return TimedAttempt(row["step"], row["opening"], row["ordinal"], began, ended, kind, said)


def _waits(attempts: Iterable[TimedAttempt]) -> Iterator[TimedAttempt]:
    """Yield the waits between a failed attempt and the next one at the same sample."""
    by_sample: dict[tuple[int, int, int], list[TimedAttempt]] = defaultdict(list)
    for one in attempts:
        by_sample[one.sample].append(one)
    for tries in by_sample.values():
        tries.sort(key=lambda one: one.began)
        for one, following in pairwise(tries):
            if one.kind == "failed" and following.began > one.ended:
                yield one._replace(began=one.ended, ended=following.began, kind="wait", said="waiting")


class _Scale:
    """Map times to positions between 0 and `_WIDTH`, without long idle gaps."""

    def __init__(self, attempts: Iterable[TimedAttempt]) -> None:
        merged = _joined(sorted((one.began, one.ended) for one in attempts), 0.0)
        self.busy = _joined(merged, max(_IDLE * _sum(merged), 1000.0))
        self.starts: list[float] = []
        self.gaps: list[float] = []
        self.whole, each = 0.0, _CUT * max(_sum(self.busy), 1.0)
        for place, (began, ended) in enumerate(self.busy):
            if place:
                self.gaps.append((began - self.busy[place - 1][1]) / 1000)
                self.whole += each
            self.starts.append(self.whole)
            self.whole += ended - began
        self.whole = max(self.whole, 1.0)

    def at(self, moment: float) -> float:
        for (began, ended), start in zip(reversed(self.busy), reversed(self.starts), strict=True):
            if moment >= began:
                return (start + min(moment, ended) - began) / self.whole * _WIDTH
        return 0.0

    def moment(self, share: float) -> float:
        """Return the time at a *share* of the width."""
        place = share * self.whole
        for (began, ended), start in zip(reversed(self.busy), reversed(self.starts), strict=True):
            if place >= start:
                return min(began + place - start, ended)
        return self.busy[0][0]

    def cuts(self) -> Iterator[tuple[float, float]]:
        """Yield the ends of the cut gaps."""
        for (_, ended), start in zip(self.busy, self.starts[1:], strict=False):
            yield self.at(ended), start / self.whole * _WIDTH


def _joined(spans: Iterable[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Return *spans*, in order of their starts, as one where they are at most *gap* apart."""
    found: list[tuple[float, float]] = []
    for began, ended in spans:
        if found and began - found[-1][1] <= gap:
            found[-1] = found[-1][0], max(found[-1][1], ended)
        else:
            found.append((began, ended))
    return found


def _sum(spans: Iterable[tuple[float, float]]) -> float:
    return sum(ended - began for began, ended in spans)


async def timeline_of(source: Reader, run: int, start: int, stop: int, *, by_sample: bool) -> Timeline | None:
    """Return the timeline of the steps from *start* to before *stop*; see `timeline`."""
    samples = await source.rows("view_attempts", run, start, stop, _MOST)
    failures = await source.rows("view_failures", run, start, stop, _MOST)
    return timeline(*attempts_of(samples, failures), by_sample=by_sample)


def timeline(attempts: Sequence[TimedAttempt], untimed: int, *, by_sample: bool) -> Timeline | None:
    """Return *attempts*, in the order of their steps, as a timeline with a line for each step or sample."""
    if not attempts:
        return None
    scale = _Scale(attempts)
    groups: dict[tuple[int, ...], list[TimedAttempt]] = {}
    for one in attempts:
        groups.setdefault(one.sample if by_sample else (one.step,), []).append(one)
    several = len({one.opening for one in attempts}) > 1
    tracks = []
    for some in groups.values():
        step, opening, ordinal = some[0].sample
        label = f"Sample {ordinal}" if by_sample else f"Step {step:,}"
        if by_sample and several:
            label += f", opening {opening + 1}"
        tracks.append(Track(step, label, _drawn(label, some, scale), sorted(some, key=lambda one: one.began)))
    first, last = scale.busy[0][0], scale.busy[-1][1]
    ticks = [seconds((scale.moment(place / _TICKS) - first) / 1000) for place in range(_TICKS + 1)]
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in attempts)]
    return Timeline(tracks, ticks, first, (last - first) / 1000, scale.gaps, kinds, untimed)


def _drawn(label: str, attempts: Sequence[TimedAttempt], scale: _Scale) -> str:
    """Return the bars of a line; overlapping samples get lanes below each other."""
    lanes = _lanes(attempts)
    bars = []
    for one in attempts:
        lane = lanes[one.opening, one.ordinal]
        start, end = scale.at(one.began), scale.at(one.ended)
        thin = one.kind == "wait"
        top, tall = lane * _LANE + (3 if thin else 0), 2 if thin else _LANE - 1
        said = f"{label}, sample {one.ordinal}: {one.said}, {seconds(one.seconds)}"
        bars.append(
            f'<rect class="try try-{escape(one.kind)}" x="{start:.1f}" y="{top}" '
            f'width="{max(end - start, 2.0):.1f}" height="{tall}"><title>{escape(plain(said))}</title></rect>'
        )
    height = (max(lanes.values()) + 1) * _LANE
    cuts = "".join(
        f'<rect class="cut-out" x="{start:.1f}" y="0" width="{end - start:.1f}" height="{height}"/>'
        for start, end in scale.cuts()
    )
    grid = "".join(
        f'<path class="grid" d="M{_WIDTH * place / _TICKS:.0f} 0V{height}"/>' for place in range(_TICKS + 1)
    )
    failed = sum(one.kind == "failed" for one in attempts)
    last = max(one.ended for one in attempts) - min(one.began for one in attempts)
    tried = sum(one.kind != "wait" for one in attempts)
    told = f"{tried} attempt{'' if tried == 1 else 's'}, {failed} failed, {seconds(last / 1000)} in all"
    return (
        f'<svg class="lanes" viewBox="0 0 {_WIDTH} {height}" height="{height}" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(told)}">{cuts}{grid}{"".join(bars)}</svg>'
    )


def _lanes(attempts: Sequence[TimedAttempt]) -> dict[tuple[int, int], int]:
    """Return the lane of each sample: the first one that is free for its duration."""
    spans: dict[tuple[int, int], tuple[float, float]] = {}
    for one in attempts:
        began, ended = spans.get((one.opening, one.ordinal), (one.began, one.ended))
        spans[one.opening, one.ordinal] = min(began, one.began), max(ended, one.ended)
    free: list[float] = []
    lanes = {}
    for sample, (began, ended) in sorted(spans.items(), key=lambda item: (item[1], item[0])):
        lane = next((place for place, at in enumerate(free) if at <= began), len(free))
        free[lane : lane + 1] = [ended]
        lanes[sample] = lane
    return lanes
