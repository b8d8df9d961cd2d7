"""The models of a session: their names, providers and schedules; and the session's arguments."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mdap.errors import RAISED, PluginError, UsageError
from mdap.plugins import OBJECT, load_provider
from mdap.protocols import Provider
from mdap.providers.gate import Gate
from mdap.providers.paced import Ensemble, Paced
from mdap.providers.prices import price_of
from mdap.rules.canonical import canonical
from mdap.rules.schedule import SampleSchedule, schedule_of, tiers_of
from mdap.session.replay import is_replay
from mdap.settings import Budget, Cluster, Lane, Limits, OnDead, Price, Speculate, VotingSettings, Waves

_MOST_MODELS: Final = 100
_NEEDED: Final = ("name", "nonblocking", "max_n", "sample", "describe", "aclose")
_WANTED: Final = "a name such as 'openai/gpt-4.1-mini', or an object with the attributes of mdap.Provider"
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSetup:
    """The arguments of a `mdap.Session`, documented there; *objects* are the providers among its models."""

    path: Path
    models: tuple[str, ...]
    escalate_to: tuple[str, ...]
    objects: Mapping[str, Provider]
    options: Mapping[str, Any]
    limits: Limits
    budget: Budget
    prices: Mapping[str, Price]
    speculate: Speculate
    on_dead: OnDead
    log: bool = False
    tracer_provider: Any = None
    cluster: Cluster | None = None
    lane: Lane = Lane.REQUESTS
    waves: Waves = field(default_factory=Waves)


def models_of(model: Any, escalate_to: Any) -> dict[str, Any]:
    """Return the names of a caller's models, and those that are objects, by fields of `SessionSetup`."""
    objects: dict[str, Provider] = {}
    models, others = [
        tuple(_named(argument, each, objects) for each in _several(given))
        for argument, given in (("model", model), ("escalate_to", escalate_to))
    ]
    return {"models": models, "escalate_to": others, "objects": objects}


def _several(given: Any) -> Iterable[Any]:
    if isinstance(given, str | Provider | type | Mapping) or not isinstance(given, Iterable):
        return (given,)
    return given


def _named(argument: str, model: Any, objects: dict[str, Provider]) -> str:
    """Return the recorded name of *model*; add it to *objects* if it is an object."""
    if isinstance(model, str):
        return model
    if isinstance(model, type):
        raise UsageError(
            f"{argument} takes {_WANTED}, not the class {model.__name__}: write "
            f"{argument}={model.__name__}(...)"
        )
    missing = [name for name in _NEEDED if not hasattr(model, name)]
    if missing:
        lacks = "" if len(missing) == len(_NEEDED) else f", which lacks {', '.join(missing)}"
        raise UsageError(f"{argument} takes {_WANTED}, not {model!r:.60}{lacks}")
    name = f"{type(model).__module__}.{type(model).__qualname__}{OBJECT}/{_own_name(argument, model)}"
    for other, known in objects.items():
        if known is not model and known.name == model.name:
            raise UsageError(
                f"two different objects are called {model.name!r}, {name} and {other}: give each its own name"
            )
    objects[name] = model
    return name


def _own_name(argument: str, model: Any) -> str:
    name, most = model.name, model.max_n
    who = f"{argument}: the provider of class {type(model).__qualname__}"
    if not (isinstance(name, str) and name.isprintable() and 0 < len(name.strip()) <= _LONGEST):
        raise UsageError(f"{who} needs a name of 1 to {_LONGEST} printable characters, not {name!r:.60}")
    if not isinstance(most, int) or most < 1:
        raise UsageError(f"{who} needs max_n, a whole number of at least 1, not {most!r:.60}")
    if not callable(model.sample):
        raise UsageError(f"{who} needs `async def sample(self, request)`, not sample={model.sample!r:.60}")
    return name


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
    """The models of a session: *names*, *members* and *prices* are in one order.

    Attributes:
        provider: the provider to ask; an ensemble for several models.
        tiers: by tier, the members that take turns.
        about: their description in the run's row.
    """

    provider: Provider
    tiers: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    members: tuple[Paced, ...]
    prices: tuple[Price | None, ...]
    about: dict[str, Any]

    @classmethod
    def load(cls, setup: SessionSetup) -> "Models":
        """Build the providers of a session; refuse models that are not available."""
        models, escalate_to, objects, options = setup.models, setup.escalate_to, setup.objects, setup.options
        if not models or len(models) + len(escalate_to) > _MOST_MODELS:
            raise UsageError(
                f"a session takes 1 to {_MOST_MODELS} models, not {len(models) + len(escalate_to)}"
            )
        specs, tiers = tiers_of(models, escalate_to)
        if options and objects.keys() >= set(specs):
            raise UsageError("options are for models given by name: set those of an object where you make it")
        members = tuple(
            Paced(objects[spec], setup.limits, len(specs), owned=False)
            if spec in objects
            else Paced(_load(spec, options, setup.path), setup.limits, len(specs))
            for spec in specs
        )
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
        prices = tuple(price_of(name, setup.prices) for name in names)
        return cls(provider, tiers, names, members, prices, about)

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates at which requests wait for their limits, by member."""
        return tuple(member.gate for member in self.members)

    @property
    def most(self) -> int:
        """The maximum number of concurrent requests to one of them."""
        return max(gate.most for gate in self.gates)

    def known_prices(self) -> dict[str, Any]:
        """Return the members' prices by name, as far as they are known, as JSON values."""
        return {
            name: price.model_dump()
            for name, price in zip(self.names, self.prices, strict=True)
            if price is not None
        }

    def check_budget(self, budget: Budget) -> None:
        """Refuse a budget in USD for a model without a known price."""
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
        schedule = schedule_of(voting, self.tiers, apart=apart, sent=sent)
        schedule.most = {place: member.max_n for place, member in enumerate(self.members)}
        return schedule
