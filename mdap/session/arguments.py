"""Check arguments: one sentence per wrong argument says what to write instead."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mdap.engine.config import Progress
from mdap.errors import UsageError
from mdap.settings import Budget, Cluster, Lane, Limits, OnDead, Price, Speculate, VotingSettings, Waves
from mdap.tasks import Chain, Process, Task

__all__ = ["check_cases", "check_run", "check_session", "check_share", "checked_task"]


def check_session(**given: Any) -> None:
    """Check the arguments of a `Session`, except its models.

    Raises:
        UsageError: one is wrong.
    """
    if not isinstance(given["db"], str | Path):
        raise UsageError(f"db takes a path, not {given['db']!r:.60}: write db='mdap.db'")
    if not isinstance(given["options"], Mapping | None):
        raise UsageError(
            f"options takes a dict, not {given['options']!r:.60}: write options={{'temperature': 0.1}}"
        )
    _check_made("limits", given["limits"], Limits, "concurrency=8")
    budget = given["budget"]
    _check_made("budget", budget, Budget, f"usd={budget}" if _is_number(budget) else "usd=5")
    _check_made("cluster", given["cluster"], Cluster, "workers=4")
    _check_prices(given["prices"])
    _check_made("waves", given["waves"], Waves, "max_wait=6 * 3600")
    for name, kind in (("speculate", Speculate), ("on_dead", OnDead), ("lane", Lane)):
        if given[name] not in list(kind):
            known = " or ".join(repr(str(each)) for each in kind)
            raise UsageError(f"{name} takes {known}, not {given[name]!r:.60}")


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
    """Return *task* if mdap can run it.

    Raises:
        UsageError: it cannot.
    """
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
    """Check the arguments of a batch that differ from those of a run.

    Raises:
        UsageError: there is one task instead of many, or a margin for a single run.
    """
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


def check_run(k: Any, voting: Any, run_id: Any, progress: Any) -> None:
    """Check the arguments of a run or a batch.

    Raises:
        UsageError: one is wrong.
    """
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


def check_share(**shares: Any) -> None:
    """Check arguments that are probabilities.

    Raises:
        UsageError: one is not between 0 and 1.
    """
    for name, share in shares.items():
        if not _is_number(share) or not 0 < share < 1:
            instead = share / 100 if _is_number(share) and 1 < share < 100 else 0.95
            raise UsageError(
                f"{name} takes a probability above 0 and below 1, not {share!r:.60}: write {name}={instead:g}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
