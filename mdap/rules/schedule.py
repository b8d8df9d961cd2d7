"""The sample schedule: the model, view and temperature of each sample of a step.

All three follow from the sample's ordinal, or are drawn from the run's seed and the step, so they are the
same in every session, in every order of arrival, and in an audit.
If a model refuses a step in some view, or has left the run, the others take its samples. Which one does
follows from the ordinal and from the recorded refusals and departures.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

from mdap.settings import VotingSettings


def tiers_of(
    models: Sequence[str], escalate_to: Sequence[str]
) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Return each model once, and by tier the places of those that take turns."""
    tiers = [tuple(models), *[(model,) for model in escalate_to]]
    specs = list(dict.fromkeys(spec for tier in tiers for spec in tier))
    return specs, tuple(tuple(specs.index(spec) for spec in tier) for tier in tiers)


class Assignment(NamedTuple):
    """How one sample is drawn: model and view, each from 0, and temperature; None where none is sent."""

    member: int
    view: int
    temperature: float | None


Turn: TypeAlias = tuple[int, int]
"""A member of the ensemble, and the view of the step that it is shown."""

NOBODY: Final[frozenset[Turn]] = frozenset()

Group: TypeAlias = tuple[Assignment, tuple[int, ...]]
"""What one request asks for: samples, by ordinal, that are drawn alike."""

Sent: TypeAlias = Mapping[int, tuple[float | None, ...]]
"""Temperatures by member, of those to which others are sent than are scheduled."""

# What steps ask for first is always the same; after failures it may be anything.
_REMEMBERED: Final = 256


class SampleSchedule:
    """The schedule of a run's samples.

    Args:
        tiers: for each tier the members that take turns; a member that stands twice has twice the
            weight. The first tier votes first; a step that it leaves undecided goes to the next.
        temperatures: by ordinal within the tier; the last one serves for all later samples.
        samples_per_tier: samples a tier may take.
        apart: whether samples of different temperatures need requests of their own.
        seed: from which each sample's model and view are drawn, so that all samples of a step are drawn
            alike; None: they take turns.
        sent: of members to which other temperatures are sent, or none: those, in place of *temperatures*.

    Attributes:
        most: the most samples that one request may ask of a member, where there is a limit.
        gone: members that have left the run.
        over: tiers that have left the run.
    """

    def __init__(
        self,
        tiers: tuple[tuple[int, ...], ...] = ((0,),),
        temperatures: tuple[float, ...] = (0.0, 0.1),
        samples_per_tier: int = 160,
        *,
        apart: bool = True,
        seed: int | None = None,
        sent: Sent | None = None,
    ) -> None:
        self._apart = apart
        self.most: Mapping[int, int] = {}
        self._seed = seed
        self._alone = all(len(tier_members) == 1 for tier_members in tiers)
        self._tiers = tiers
        self.samples_per_tier = samples_per_tier
        self.gone: set[int] = set()
        self.over: set[int] = set()
        self._sent = sent or {}
        self._temperatures: tuple[float | None, ...] = temperatures
        # Every step asks for the same few.
        self._known: dict[tuple[tuple[int, ...], int, int, frozenset[Turn]], list[Group]] = {}

    @property
    def tier_count(self) -> int:
        """How many tiers there are."""
        return len(self._tiers)

    def tier(self, ordinal: int) -> int:
        """Return the tier to which sample *ordinal* belongs."""
        return ordinal // self.samples_per_tier

    def tier_members(self, tier: int) -> tuple[int, ...]:
        """Return the members of a *tier*, in their turns."""
        return self._tiers[tier]

    def leave_out(self, member: int | None, tier: int | None) -> None:
        """Ask a *member* no more, or a whole *tier*."""
        self.gone |= set() if member is None else {member}
        self.over |= set() if tier is None else {tier}
        self._known.clear()

    def turns(self, tier: int, views: int, refused: frozenset[Turn] = NOBODY) -> list[Turn]:
        """Return who can be asked in a *tier*, and in which of so many *views*, but for what is *refused*."""
        if tier in self.over:
            return []
        able = [member for member in self._tiers[tier] if member not in self.gone]
        return [(member, view) for view in range(views) for member in able if (member, view) not in refused]

    def closed(self, tier: int, views: int, refused: frozenset[Turn]) -> bool:
        """Return whether nobody of a *tier* can be asked."""
        reduced = refused or self.gone or self.over
        return bool(reduced) and not self.turns(tier, views, refused)

    def part(self, ordinal: int, views: int, refused: frozenset[Turn] = NOBODY, key: str = "") -> Assignment:
        """Return how sample *ordinal* of a step is drawn; *views* is its number of views.

        Models take turns first and views second, so that every model meets every view. Where both are drawn,
        that depends on the step's *key* in its run.
        """
        place, tier = ordinal % self.samples_per_tier, self.tier(ordinal)
        tier_members = self._tiers[tier]
        if self._draws(views):
            able = self.turns(tier, views, refused) or self.turns(tier, views) or [(tier_members[0], 0)]
            named = f"{self._seed}/{ordinal}/{key}".encode(errors="surrogatepass")
            # A random number below 2^64, the same whenever it is asked for.
            drawn = int.from_bytes(blake2b(named, digest_size=8).digest())
            turn = able[drawn * len(able) >> 64]
            return Assignment(*turn, self.temperature(ordinal, turn[0]))
        turn = tier_members[place % len(tier_members)], place // len(tier_members) % views
        if refused or self.gone:
            able = self.turns(tier, views, refused)
            if able and turn not in able:
                turn = able[place % len(able)]
        return Assignment(*turn, self.temperature(ordinal, turn[0]))

    def _draws(self, views: int) -> bool:
        """Return whether models and views are drawn: there must be several."""
        return self._seed is not None and not (self._alone and views == 1)

    def temperature(self, ordinal: int, member: int) -> float | None:
        """Return the temperature at which sample *ordinal* is asked of *member*; None if none is sent."""
        sent = self._sent.get(member, self._temperatures)
        return sent[min(ordinal % self.samples_per_tier, len(sent) - 1)]

    def possible_temperatures(self, ordinal: int) -> set[float | None]:
        """Return the temperatures at which sample *ordinal* may be asked of any member of its tier."""
        return {self.temperature(ordinal, member) for member in self._tiers[self.tier(ordinal)]}

    def groups(
        self,
        ordinals: tuple[int, ...],
        views: int,
        most: int,
        refused: frozenset[Turn] = NOBODY,
        key: str = "",
    ) -> list[Group]:
        """Return the requests, of at most *most* samples each, for the samples *ordinals* of a step.

        A request asks one model for one presentation, and at one temperature unless that makes no
        difference: then its part is that of its first sample.
        """
        drawn, asked = self._draws(views), (ordinals, views, most, refused)
        if not drawn and asked in self._known:
            return self._known[asked]
        found: list[tuple[Assignment, list[int]]] = []
        alike: dict[tuple[int, ...] | Assignment, list[int]] = {}
        for ordinal in ordinals:
            part = self.part(ordinal, views, refused, key)
            kind = part if self._apart else part[:2]
            group = alike.get(kind)
            if group is None or len(group) == min(most, self.most.get(part.member, most)):
                group = alike[kind] = []
                found.append((part, group))
            group.append(ordinal)
        groups = [(part, tuple(group)) for part, group in found]
        if not drawn and len(self._known) < _REMEMBERED:
            self._known[asked] = groups
        return groups


def schedule_of(
    voting: VotingSettings,
    tiers: tuple[tuple[int, ...], ...] = ((0,),),
    *,
    apart: bool = True,
    sent: Sent | None = None,
) -> SampleSchedule:
    """Return the schedule of samples under *voting*; see `SampleSchedule` for the others."""
    seed = None if voting.robust is None else voting.robust.seed
    return SampleSchedule(
        tiers, voting.temperatures, voting.samples_allowed, apart=apart, seed=seed, sent=sent
    )
