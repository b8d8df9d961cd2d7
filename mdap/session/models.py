"""Who votes: the providers behind a session's models, and the turns they take."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdap.errors import RAISED, PluginError, UsageError
from mdap.plugins import load_provider
from mdap.protocols import Provider
from mdap.providers.ensemble import Ensemble
from mdap.providers.gate import Gate
from mdap.providers.paced import Paced
from mdap.providers.prices import price_of
from mdap.rules.canonical import canonical
from mdap.rules.schedule import SampleSchedule, schedule_of, tiers_of
from mdap.session.replay import is_replay
from mdap.session.roster import Roster
from mdap.settings import Budget, Limits, Price, VotingSettings

__all__ = ["Models"]

_MOST_MODELS: Final = 100


def _load(spec: str, options: Mapping[str, Any], path: Path) -> Provider:
    provider: Any = load_provider(spec, {"db": str(path), **options} if is_replay(spec) else options)
    if not isinstance(provider, Provider):
        what = TypeError(f"it must have all attributes and methods of mdap.Provider: {provider!r:.60}")
        raise PluginError(f"model provider {spec}", "being made", what)
    return provider


def _check_described(spec: str, provider: Provider) -> None:
    try:
        about = provider.describe()
        if not isinstance(about, dict):
            raise TypeError(f"describe must return a dict, not {about!r:.60}")
        canonical(about)
    except RAISED as error:
        raise PluginError(f"model provider {spec}", "describing itself", error) from error


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a session.

    Attributes:
        provider: whom to ask; an ensemble if there is more than one model.
        tiers: by tier, the members that take turns.
        names: the members' names.
        prices: the members' prices; None where unknown.
        members: the models, each within its limits.
        about: what the run's row says of them.
    """

    provider: Provider
    tiers: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    members: tuple[Paced, ...]
    prices: tuple[Price | None, ...]
    about: dict[str, Any]

    @classmethod
    def load(
        cls,
        roster: Roster,
        options: Mapping[str, Any],
        limits: Limits,
        prices: Mapping[str, Price],
        path: Path,
    ) -> "Models":
        """Build the providers.

        Args:
            roster: the models.
            options: options of all providers that are named.
            limits: limits of each provider.
            prices: the user's own, by model.
            path: the database of the session, which recorded runs are taken from.

        Raises:
            UsageError: there is no model, or one of them is not to be had.
        """
        models, escalate_to, objects = roster
        if not models or len(models) + len(escalate_to) > _MOST_MODELS:
            raise UsageError(
                f"a session takes 1 to {_MOST_MODELS} models, not {len(models) + len(escalate_to)}"
            )
        specs, tiers = tiers_of(models, escalate_to)
        if options and objects.keys() >= set(specs):
            raise UsageError("options are for models given by name: set those of an object where you make it")
        members = [
            Paced(objects[spec], limits, len(specs), owned=False)
            if spec in objects
            else Paced(_load(spec, options, path), limits, len(specs))
            for spec in specs
        ]
        for spec, member in zip(specs, members, strict=True):
            _check_described(spec, member)
        provider = members[0] if len(members) == 1 else Ensemble(members)
        about = {
            "models": list(models),
            "escalate_to": list(escalate_to),
            "options": dict(options),
            "about": provider.describe(),
        }
        names = tuple(member.name for member in members)
        return cls(
            provider=provider,
            tiers=tiers,
            names=names,
            members=tuple(members),
            prices=tuple(price_of(name, prices) for name in names),
            about=about,
        )

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Where requests wait for their limits, by member."""
        return tuple(member.gate for member in self.members)

    @property
    def most(self) -> int:
        """The most requests that may ever be in flight at one of them."""
        return max(gate.most for gate in self.gates)

    def known_prices(self) -> dict[str, Any]:
        """Return the members' prices by name, as far as they are known, as JSON values."""
        return {
            name: price.model_dump()
            for name, price in zip(self.names, self.prices, strict=True)
            if price is not None
        }

    def check_budget(self, budget: Budget) -> None:
        """Refuse a budget in USD for a model whose price is not known."""
        unknown = [name for name, price in zip(self.names, self.prices, strict=True) if price is None]
        if budget.usd is not None and unknown:
            raise UsageError(
                f"no price is known for {', '.join(unknown)}: pass --prices FILE, or --budget-tokens instead"
            )

    def schedule(self, voting: VotingSettings) -> SampleSchedule:
        """Return the schedule of samples under *voting*."""
        apart = any(member.uses_temperature for member in self.members)
        sent = {
            place: tuple(map(member.sent_temperature, voting.temperatures))
            for place, member in enumerate(self.members)
            if member.dialect is not None
        }
        return schedule_of(voting, self.tiers, apart=apart, sent=sent)
