"""The arguments of a session, a run and a calibration: their types for editors, and their checks.

One sentence per wrong argument says what to write instead.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar

from mdap.engine.config import Progress
from mdap.errors import UsageError
from mdap.protocols import Provider
from mdap.providers.prices import read_prices
from mdap.records import Event
from mdap.session.dealing import check_spread
from mdap.session.margins import K
from mdap.session.models import SessionSetup, models_of
from mdap.settings import (
    Budget,
    Cluster,
    Lane,
    Limits,
    OnDead,
    Price,
    Robust,
    Speculate,
    VotingSettings,
    Waves,
)
from mdap.tasks import Ask, Chain, Process, Task

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


Declaring = Solving[R_co] | Resulting[R_co]
"""A task that declares the type of its result."""


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
    target: float | None
    floor: float | None
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


def setup_of(model: Any, escalate_to: Any, **given: Any) -> SessionSetup:
    """Return the setup of a `Session` with these arguments; refuse wrong ones."""
    db, options, budget, prices = given.pop("db"), given.pop("options"), given["budget"], given["prices"]
    if not isinstance(db, str | Path):
        raise UsageError(f"db takes a path, not {db!r:.60}: write db='mdap.db'")
    if "\0" in str(db):
        raise UsageError(f"db takes the path of a file, not {str(db)!r:.60}: no path has a NUL in it")
    if not isinstance(options, Mapping | None):
        raise UsageError(f"options takes a dict, not {options!r:.60}: write options={{'temperature': 0.1}}")
    _check_made("limits", given["limits"], Limits, "concurrency=8")
    _check_made("budget", budget, Budget, f"usd={budget}" if _is_number(budget) else "usd=5")
    _check_made("cluster", given["cluster"], Cluster, "workers=4")
    _check_prices(prices)
    _check_made("waves", given["waves"], Waves, "max_wait=6 * 3600")
    for name, flag in (("log", given["log"]), ("record_prompts", given.pop("record_prompts"))):
        if not isinstance(flag, bool | None):
            raise UsageError(f"{name} takes True or False, not {flag!r:.60}")
    if not hasattr(given["tracer_provider"], "get_tracer") and given["tracer_provider"] is not None:
        raise UsageError(f"tracer_provider takes a TracerProvider, not {given['tracer_provider']!r:.60}")
    for name, kind in (("speculate", Speculate), ("on_dead", OnDead), ("lane", Lane)):
        if given[name] not in list(kind):
            known = " or ".join(repr(str(each)) for each in kind)
            raise UsageError(f"{name} takes {known}, not {given[name]!r:.60}")
        given[name] = kind(given[name])
    for name, default in (("limits", Limits()), ("budget", Budget()), ("waves", Waves())):
        given[name] = given[name] or default
    named = models_of(model, escalate_to)
    given["prices"] = read_prices(Path(prices)) if isinstance(prices, str | Path) else dict(prices or {})
    setup = SessionSetup(path=Path(db), options=dict(options or {}), **named, **given)
    if setup.cluster is not None:
        check_spread(setup)
    return setup


def _check_made(name: str, value: Any, kind: type, example: str) -> None:
    """Refuse a value that is neither None nor of its settings class; show a dict as that class."""
    if value is None or isinstance(value, kind):
        return
    if isinstance(value, Mapping) and value:
        example = ", ".join(f"{key}={item!r:.40}" for key, item in value.items())
    instead = f"write {name}=mdap.{kind.__name__}({example})"
    raise UsageError(f"{name} takes an mdap.{kind.__name__}, not {value!r:.60}: {instead}")


def _check_prices(prices: Any) -> None:
    if prices is None or isinstance(prices, str | Path):
        return
    wrong = prices
    if isinstance(prices, Mapping):
        wrong = next((item for item in prices.items() if not isinstance(item[1], Price)), None)
    if wrong is not None:
        raise UsageError(
            f"prices takes a dict of mdap.Price by model, or the path of a file, not {wrong!r:.60}: write "
            "prices={'openai/gpt-4.1-mini': mdap.Price(input=0.4, output=1.6)}"
        )


def checked_task(task: Any) -> Chain[Any, Any] | Process[Any]:
    """Return *task* if mdap can run it; say otherwise what to write instead."""
    if isinstance(task, Chain | Process):
        return task
    if isinstance(task, type) and issubclass(task, Task):
        raise UsageError(f"{task.__name__} is the class of a task, not a task: write {task.__name__}(...)")
    if isinstance(task, str):
        raise UsageError(
            f"{task!r:.60} is a text, not a task: import the task's class and make one, such as "
            "`from mdap_hanoi import Hanoi` and Hanoi(disks=5)"
        )
    raise UsageError(
        f"{type(task).__name__} is no task that can be run: derive it from mdap.Chain or mdap.Process"
    )


def check_cases(tasks: Any, k: Any, voting: VotingSettings | None = None) -> None:
    """Refuse arguments of a batch that are those of a single run."""
    if isinstance(tasks, Task | str | type) or not isinstance(tasks, Iterable):
        raise UsageError(
            f"tasks takes a list of tasks or the like, not {tasks!r:.60}: for one, write session.solve(task)"
        )
    if isinstance(k, str):
        raise UsageError(
            f"k={k!r} is for one run, not for many: give a number, such as that of session.choose_k(...)"
        )
    if voting is not None and voting.robust is not None:
        raise UsageError("-k robust is for one run, not for many: give k")


def check_run(k: Any, voting: Any, run_id: Any, progress: Any = None, **shares: Any) -> None:
    """Refuse wrong arguments of a run, a batch or a calibration; *shares* are probabilities."""
    if not (k is None or k in ("auto", "robust") or (isinstance(k, int) and not isinstance(k, bool))):
        raise UsageError(f"k takes a whole number, 'auto' or 'robust', not {k!r:.60}: write k=3")
    _check_made("voting", voting, VotingSettings, "max_tokens=1500")
    if run_id is not None and not isinstance(run_id, str):
        raise UsageError(f"run_id takes a text, not {run_id!r:.60}: write run_id={str(run_id)!r:.60}")
    if progress is not None and not isinstance(progress, Progress):
        raise UsageError(
            f"progress takes an mdap.Progress, not {progress!r:.60}: write progress=mdap.Progress(), and "
            "read its counters"
        )
    _check_shares(shares)


def checked_goal(k: Any, target: Any, floor: Any) -> tuple[float, float]:
    """Return the target and the floor of a run with this *k*.

    Raises:
        UsageError: one is no probability, or *k* makes no use of it.
    """
    given = {name: share for name, share in (("target", target), ("floor", floor)) if share is not None}
    _check_shares(given)
    if floor is not None and k != "robust":
        raise UsageError(f"floor goes with k='robust', not with k={k!r:.60}")
    if target is not None and k not in ("auto", "robust"):
        raise UsageError(f"target goes with k='auto' and k='robust', not with k={k!r:.60}")
    goal = Robust(**given)
    return goal.target, goal.floor


def _check_shares(shares: Mapping[str, Any]) -> None:
    for name, share in shares.items():
        if not _is_number(share) or not 0 < share < 1:
            instead = share / 100 if _is_number(share) and 1 < share < 100 else 0.95
            raise UsageError(
                f"{name} takes a probability above 0 and below 1, not {share!r:.60}: write {name}={instead:g}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
