"""Typed keyword arguments that several public functions share, for editors and type checkers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar

from mdap.engine.config import Progress
from mdap.protocols import Provider
from mdap.records import Event
from mdap.session.margins import K
from mdap.settings import Budget, Cluster, Lane, Limits, OnDead, Price, Speculate, VotingSettings, Waves
from mdap.tasks import Ask

__all__ = [
    "CalibrateSettings",
    "CalibrationSettings",
    "Model",
    "Resulting",
    "RunSettings",
    "SessionSettings",
    "SolveSettings",
    "Solving",
]

Model = str | Provider
"""A model by its name, ``provider`` or ``provider/model``, or as an object that is an `mdap.Provider`."""

R_co = TypeVar("R_co", covariant=True)


class Solving(Protocol[R_co]):
    """A process that declares the type of its result."""

    async def solve(self, ask: Ask, /) -> R_co:
        """See `mdap.Process.solve`."""


class Resulting(Protocol[R_co]):
    """A chain that declares the type of its result."""

    def result(self, state: Any, /) -> R_co:
        """See `mdap.Chain.result`."""


class SessionSettings(TypedDict, total=False):
    """Keyword arguments of `mdap.Session`, documented there."""

    escalate_to: Model | Sequence[Model]
    db: str | Path
    options: Mapping[str, Any] | None
    limits: Limits | None
    budget: Budget | None
    prices: Mapping[str, Price] | str | Path | None
    speculate: Speculate | str
    on_dead: OnDead | str
    record_prompts: bool | None
    log: bool
    tracer_provider: Any
    cluster: Cluster | None
    lane: Lane | str
    waves: Waves | None


class RunSettings(TypedDict, total=False):
    """Keyword arguments of `mdap.Session.run`, documented there."""

    k: K | None
    target: float
    floor: float
    voting: VotingSettings | None
    run_id: str | None
    progress: Progress | None
    on_event: Callable[[Event], object] | None


class CalibrationSettings(TypedDict, total=False):
    """Keyword arguments of `mdap.Session.calibrate`, documented there."""

    samples: int
    target: float
    voting: VotingSettings | None
    seed: int
    run_id: str | None


class SolveSettings(SessionSettings, RunSettings, total=False):
    """Keyword arguments of `mdap.solve`: those of a session and of a run."""

    model: Model | Sequence[Model]


class CalibrateSettings(SessionSettings, CalibrationSettings, total=False):
    """Keyword arguments of `mdap.calibrate`: those of a session and of a calibration."""

    model: Model | Sequence[Model]
