"""Which model, which view of the step and which temperature each sample of a step gets.

All three follow from the sample's ordinal, and where they are drawn from the run's seed and the step, so that
they are the same in every session, in every order of arrival, and for whoever audits the run afterwards.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

from mdap.settings import VotingSettings

__all__ = ["Casting", "Part", "casting_of", "lineups_of"]


def lineups_of(
    models: Sequence[str], escalate_to: Sequence[str]
) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Return each model once, and by tier the places of those that take turns."""
    tiers = [tuple(models), *[(model,) for model in escalate_to]]
    specs = list(dict.fromkeys(spec for tier in tiers for spec in tier))
    return specs, tuple(tuple(specs.index(spec) for spec in tier) for tier in tiers)


class Part(NamedTuple):
    """How one sample is drawn.

    Attributes:
        member: which model of the ensemble, from 0.
        view: which presentation of the step, from 0.
        temperature: sampling temperature.
    """

    member: int
    view: int
    temperature: float


Group: TypeAlias = tuple[Part, tuple[int, ...]]
"""What one request asks for: samples, by ordinal, that are drawn alike."""

# What steps ask for first is always the same; after failures it may be anything.
_REMEMBERED: Final = 256


class _Schedule(dict[int, float]):
    """Temperatures by ordinal, looked up for every sample."""

    __slots__ = ("_per_tier", "_temperatures")

    def __init__(self, temperatures: tuple[float, ...], per_tier: int) -> None:
        self._temperatures = temperatures
        self._per_tier = per_tier

    def __missing__(self, ordinal: int) -> float:
        place = min(ordinal % self._per_tier, len(self._temperatures) - 1)
        temperature = self._temperatures[place]
        if len(self) < _REMEMBERED:
            self[ordinal] = temperature
        return temperature


class Casting:
    """The schedule of a run's samples.

    Args:
        lineups: for each tier the members that take turns; a member that stands twice has twice the
            weight. The first tier votes first; a step that it leaves undecided goes to the next.
        temperatures: by ordinal within the tier; the last one serves for all later samples.
        samples_per_tier: samples a tier may take.
        apart: whether samples of different temperatures need requests of their own.
        seed: from which each sample's model and view are drawn, so that all samples of a step are drawn
            alike; None: they take turns.

    Attributes:
        temperatures: of each sample, looked up by its ordinal; only the first are ever stored.
    """

    __slots__ = ("_alone", "_apart", "_known", "_lineups", "_seed", "samples_per_tier", "temperatures")

    def __init__(
        self,
        lineups: tuple[tuple[int, ...], ...] = ((0,),),
        temperatures: tuple[float, ...] = (0.0, 0.1),
        samples_per_tier: int = 160,
        *,
        apart: bool = True,
        seed: int | None = None,
    ) -> None:
        self._apart = apart
        # With one model and one view there is nothing to draw.
        self._seed = seed
        self._alone = all(len(lineup) == 1 for lineup in lineups)
        self._lineups = lineups
        self.temperatures: Mapping[int, float] = _Schedule(temperatures, samples_per_tier)
        self.samples_per_tier = samples_per_tier
        # Every step asks for the same few.
        self._known: dict[tuple[tuple[int, ...], int, int], list[Group]] = {}

    @property
    def tiers(self) -> int:
        """How many tiers there are."""
        return len(self._lineups)

    def tier(self, ordinal: int) -> int:
        """Return the tier to which sample *ordinal* belongs."""
        return ordinal // self.samples_per_tier

    def part(self, ordinal: int, views: int, key: str) -> Part:
        """Return how sample *ordinal* of the step called *key*, which has so many *views*, is drawn.

        Models take turns first and views second, so that every model meets every view.
        """
        place = ordinal % self.samples_per_tier
        lineup = self._lineups[self.tier(ordinal)]
        if self._seed is None:
            member, view = lineup[place % len(lineup)], place // len(lineup) % views
        else:
            first, second = _drawn(self._seed, key, ordinal)
            member, view = lineup[first * len(lineup) >> 64], second * views >> 64
        return Part(member, view, self.temperatures[ordinal])

    def groups(self, ordinals: tuple[int, ...], views: int, most: int, key: str) -> list[Group]:
        """Return the requests for samples *ordinals* of the step called *key*, which has so many *views*.

        A request asks one model for one presentation, and at one temperature unless that makes no
        difference: then its part is that of its first sample.

        Args:
            ordinals: the samples.
            views: how many presentations the step has.
            most: the most samples that one request may ask for.
            key: what the step is known by in its run.
        """
        if self._seed is not None and not (self._alone and views == 1):
            return self._grouped(ordinals, views, most, key)
        found = self._known.get((ordinals, views, most))
        if found is None:
            found = self._grouped(ordinals, views, most, key)
            if len(self._known) < _REMEMBERED:
                self._known[ordinals, views, most] = found
        return found

    def _grouped(self, ordinals: tuple[int, ...], views: int, most: int, key: str) -> list[Group]:
        groups: list[tuple[Part, list[int]]] = []
        alike: dict[tuple[int, ...] | Part, list[int]] = {}
        for ordinal in ordinals:
            part = self.part(ordinal, views, key)
            kind = part if self._apart else part[:2]
            group = alike.get(kind)
            if group is None or len(group) == most:
                group = alike[kind] = []
                groups.append((part, group))
            group.append(ordinal)
        return [(part, tuple(group)) for part, group in groups]


def casting_of(
    voting: VotingSettings, lineups: tuple[tuple[int, ...], ...] = ((0,),), *, apart: bool = True
) -> Casting:
    """Return the schedule of samples under *voting*; see `Casting` for the others."""
    seed = None if voting.robust is None else voting.robust.seed
    return Casting(lineups, voting.temperatures, voting.samples_allowed, apart=apart, seed=seed)


def _drawn(seed: int, key: str, ordinal: int) -> tuple[int, int]:
    """Return two random numbers below 2^64, the same whenever they are asked for."""
    drawn = blake2b(f"{seed}/{ordinal}/{key}".encode(errors="surrogatepass"), digest_size=16).digest()
    return int.from_bytes(drawn[:8]), int.from_bytes(drawn[8:])
