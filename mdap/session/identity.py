"""The identity of a run: its row, and the checks of a resume against it."""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdap._version import __version__
from mdap.engine.config import Pilot, Progress
from mdap.errors import UsageError
from mdap.journal.reader import RunRow
from mdap.plugins import OBJECT, former_name, task_name
from mdap.rules.canonical import canonical
from mdap.rules.parameters import version_of
from mdap.rules.parts import LONGEST_ID
from mdap.rules.presence import Presence
from mdap.session.following import Listener
from mdap.settings import VotingSettings
from mdap.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """The specification of a run.

    Attributes:
        row: the run's row, if it exists already.
        known: whether it probably exists, without a check.
        independent: whether it is a part whose result stays in its own run.
        moved: whether its class has another name than the recorded one.
        effects: whether it may have outside effects.
        pilot: the progress of its own or enclosing pilot; None for none.
        presence: the availability of the models, shared by the run and its parts.
        notes: events to record when the run begins or resumes: kind, reason, data.
    """

    name: str
    voting: VotingSettings
    row: RunRow | None = None
    known: bool = False
    kind: str = "run"
    parent: int | None = None
    depth: int = 0
    independent: bool = False
    moved: bool = False
    effects: bool = True
    pilot: Pilot | None = None
    progress: Progress = field(default_factory=Progress)
    presence: Presence = field(default_factory=Presence)
    notes: tuple[tuple[str, str | None, dict[str, Any]], ...] = ()
    listener: Listener | None = None


def new_run_id(task: Task) -> str:
    """Return a fresh name for a run of *task*."""
    return new_name(task_name(task).rpartition(":")[2].lower())


def new_name(stem: str) -> str:
    """Return a fresh name that begins with *stem*."""
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def checked_run_id(run_id: str) -> str:
    """Return *run_id* if it is a valid run name for the command line and tables; refuse it otherwise."""
    fits = run_id.isprintable() and run_id.strip() == run_id and 0 < len(run_id) <= LONGEST_ID
    if run_id == "latest" or run_id.startswith("-") or not fits:
        raise UsageError(
            f"{run_id!r:.120} cannot name a run: use 1 to {LONGEST_ID} printable characters, no blank or "
            "dash in front, and not the word latest"
        )
    return run_id


def run_columns(task: Task, spec: RunSpec, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a run, by column; *about* are the models, see `Models`."""
    name = task_name(task)
    if spec.row is not None and (spec.moved or spec.row.task == former_name(task)):
        name = spec.row.task
    given = {"task": name, "task_version": version_of(task), "params": canonical(task)}
    return _columns(spec.kind, spec, about) | given


def batch_columns(spec: RunSpec, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a batch, by column. Its cases, which *spec* specifies, have rows of their own."""
    return _columns("batch", spec, about) | {"task": "batch", "task_version": "1", "params": "{}"}


def _columns(kind: str, spec: RunSpec, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run_id": spec.name,
        "kind": kind,
        "parent": spec.parent,
        "settings": canonical(spec.voting),
        "provider": canonical(about),
        "k": spec.voting.k,
        "mdap_version": __version__,
    }


def check_same(row: RunRow, columns: Mapping[str, Any], task: Task | None = None) -> None:
    """Refuse to resume the run in *row* with other settings than it started with.

    The message gives the old and the new value. *columns* are the requested run; a batch has no *task*.
    """
    provider = json.loads(columns["provider"])
    compared = {
        "kind": (row.kind, columns["kind"]),
        "task": (row.task, columns["task"]),
        "task version": (row.task_version, columns["task_version"]),
        "parameters": ({**_added(row, task), **row.params}, json.loads(columns["params"])),
        "settings": (_voting(row.settings), _voting(json.loads(columns["settings"]))),
        "models": (row.provider["models"], provider["models"]),
        "escalation to": (row.provider["escalate_to"], provider["escalate_to"]),
        "model options": (lasting(row.provider["about"]), lasting(provider["about"])),
    }
    for name, (was, now) in compared.items():
        if was == now:
            continue
        if name == "task":
            raise UsageError(
                f"run {row.run_id} was started with task {was}, not {now}: start another run, or if the task "
                f"has moved, `mdap resume {row.run_id} --task NAME`"
            )
        instead = f"go on as it was started {_how(row)}"
        if name == "task version":
            instead = f"install version {_shown(was)} of {row.task} again to go on with it"
        raise UsageError(
            f"run {row.run_id} was started with {_changes(name, was, now)}: give --run-id another name to "
            f"start another run, or {instead}"
        )


def _added(row: RunRow, task: Task | None) -> dict[str, Any]:
    """Return the parameters added to the task since the run began, with their defaults."""
    fields = {} if task is None else type(task).model_fields
    return {
        name: json.loads(canonical(field.get_default(call_default_factory=True, validated_data={})))
        for name, field in fields.items()
        if name not in row.params and not field.is_required()
    }


def _how(row: RunRow) -> str:
    models = (*row.provider["models"], *row.provider["escalate_to"])
    if any(f"{OBJECT}/" in model for model in models):
        return "in its own program, with the same model object"
    return f"with `mdap resume {row.run_id}`"


def as_begun(voting: VotingSettings, row: RunRow | None) -> VotingSettings:
    """Return *voting*; if it does not set `record_prompts`, take the setting of the run in *row*."""
    if row is None or voting.record_prompts is not None:
        return voting
    return voting.model_copy(update={"record_prompts": row.settings.get("record_prompts")})


def _voting(settings: Mapping[str, Any]) -> dict[str, Any]:
    return VotingSettings.recorded(settings).model_dump(mode="json")


def lasting(about: Any) -> Any:
    """Return the descriptions of providers without their addresses: a server may have moved."""
    if isinstance(about, dict):
        return {name: lasting(value) for name, value in about.items() if name != "host"}
    return [lasting(value) for value in about] if isinstance(about, list) else about


def _changes(name: str, was: Any, now: Any) -> str:
    """Return the differences, as in ``k = 3, not 5``."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return f"{name} {_shown(was)}, not {_shown(now)}"
    return "; ".join(
        f"{each} = {_shown(was.get(each))}, not {_shown(now.get(each))}"
        for each in {**was, **now}
        if was.get(each) != now.get(each)
    )


def _shown(value: Any) -> str:
    text = "none" if value is None else canonical(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def not_alone(row: RunRow) -> str:
    """Return why *row*, which is not a run by itself, cannot be resumed by name."""
    if row.kind == "batch":
        again = f"solve its tasks again under its name, `mdap run --inputs ... --run-id {row.run_id}`"
        return f"{row.run_id} is a batch: to go on, {again}"
    return f"{row.run_id} is a {row.kind}: to continue, repeat the command of its run"
