"""Choose the margin of a run that has none."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from mdap.engine.config import Pilot
from mdap.engine.guarded import length_of
from mdap.errors import FailedError, RunError, StoppedError, UndecidedError, UsageError, own_cause
from mdap.journal.rows import RunRow, run_row
from mdap.plugins import task_name
from mdap.records import SURE, RunStatus, Solution
from mdap.rules.canonical import canonical
from mdap.rules.certificate import error_upper_bound
from mdap.rules.scaling import minimal_k
from mdap.session.identity import RunSpec, lasting
from mdap.session.promising import promising
from mdap.session.resources import SessionResources, pilot_name
from mdap.session.running import WITHHELD, run_task
from mdap.settings import VotingSettings, validated
from mdap.tasks import Task

K = int | Literal["auto", "robust"]
Note = tuple[str, str | None, dict[str, Any]]

_ENDED: Final[dict[RunStatus, type[RunError]]] = {
    RunStatus.UNDECIDED: UndecidedError,
    RunStatus.STOPPED: StoppedError,
    RunStatus.FAILED: FailedError,
}
"""The error for each status of an unfinished run."""

_PILOT_MARGIN: Final = 8
_PILOT_VOTES: Final = 400


def with_k(voting: VotingSettings, k: int) -> VotingSettings:
    """Return *voting* with another margin; refuse one that the allowed samples cannot reach."""
    return validated(VotingSettings, "setting", **{**voting.model_dump(), "k": k})


async def batch_margin(
    resources: SessionResources, tasks: Iterable[Task], name: str, voting: VotingSettings, target: float
) -> int:
    """Return the smallest margin that reaches *target* for all decisions of a batch.

    Pilots of its first tasks bound the error rate; a resumed batch keeps its k.
    """
    begun = await resources.reader.run(name)
    if begun is not None:
        return begun.k
    length = against = votes = 0
    for place, task in enumerate(tasks):
        length += _length(task, "give k")
        if votes < _PILOT_VOTES:
            pilot = await pilot_of(resources, task, f"{name}/{place}", voting, _PILOT_VOTES - votes)
            own = await _polled(resources, pilot)
            votes, against = votes + own[0], against + own[1]
    if not votes:
        raise UsageError("-k auto has nothing to go by: there is no task, or no step in any of them")
    return minimal_k(error_upper_bound(against, votes), length, target)


def _length(task: Task, instead: str) -> int:
    name = task_name(task)
    length = length_of(f"task {name}", task)
    if length is None:
        raise UsageError(
            f"-k auto needs the number of steps, which {name} does not tell: define length(), or {instead}"
        )
    return length


async def _polled(resources: SessionResources, pilot: Solution) -> tuple[int, int]:
    """Return the votes of a pilot, and the number of votes against winners."""
    return await resources.reader.polled((await resources.reader.find(pilot.run_id)).number)


def ended_without_result(solution: Solution, run: str) -> RunError:
    """Return the error for an unfinished run, which the message calls *run*, with its own error as cause."""
    error = _ENDED.get(solution.status, StoppedError)(f"{run}: {solution.reason}", solution)
    if solution.error is not None:
        inner = own_cause(solution.error)
        # A cause with the same sentence would add nothing.
        error.__cause__ = None if isinstance(inner, RunError) else inner
    return error


async def pilot_of(
    resources: SessionResources, task: Task, name: str, voting: VotingSettings, votes: int = _PILOT_VOTES
) -> Solution:
    """Decide the first steps of *task* in a separate run, a pilot of run *name*, until it has these *votes*.

    Its margin is generous, whatever that of *voting*.

    Raises:
        UsageError: a step found no winner.
        StoppedError: a provider failed, or the run reached a limit.
    """
    pilot = with_k(voting.model_copy(update={"max_samples": None}), _PILOT_MARGIN)
    name = pilot_name(name)
    await resources.writer.flush()
    row = await resources.reader.run(name)
    # Votes of open steps count once these are decided.
    shapes = [] if row is None else await resources.reader.tallies(row.number)
    begun = Pilot(votes - sum(shape.steps * shape.total for shape in shapes))
    spec = RunSpec(name=name, voting=pilot, row=row, kind="pilot", pilot=begun, effects=False)
    solution = await run_task(resources, task, spec)
    if solution.status is RunStatus.FAILED and WITHHELD in (solution.reason or ""):
        raise UsageError(f"-k auto cannot try out {solution.task}: {solution.reason}; give k")
    if solution.status is RunStatus.UNDECIDED:
        raise UsageError(
            f"no k can be chosen: in the pilot {solution.reason}; the model is right too seldom to vote"
        )
    if solution.status is not RunStatus.FINISHED:
        raise ended_without_result(solution, f"the pilot {name}")
    return solution


async def with_margin(
    resources: SessionResources, task: Task, spec: RunSpec, k: K | None, goal: tuple[float, float]
) -> RunSpec:
    """Return *spec* with the margin for *k*, and with the events that record the choice.

    Args:
        resources: the resources that all runs of the session share.
        task: the task.
        spec: the other settings of the run.
        k: a margin; None for that of *spec*; ``auto`` for the smallest that reaches *target* at the error
            bound of a calibration or a pilot; ``robust`` for one that adapts to the votes of earlier steps.
        goal: target probability that no decision of the run is wrong, and the floor, for ``robust``.
    """
    target, floor = goal
    if k == "robust":
        terms = {"target": target, "floor": floor, "length": task.length()}
        return await _given(resources, task, replace(spec, voting=promising(spec.voting, terms)), None)
    if spec.voting.robust is not None:
        raise UsageError(f"the settings are for -k robust, not for -k {k}: give k='robust'")
    if spec.row is not None and (k is None or isinstance(k, str)):
        begun = [json.loads(row[0]) for row in await resources.reader.rows("margins", spec.row.number)]
        if begun or k != "auto":
            return _as_begun(spec, spec.row, k, target, begun)
    if not isinstance(k, str):
        return await _given(resources, task, spec, k)
    length = _length(task, "use -k robust")
    known = await matching(resources, task, spec.voting)
    return await _auto(resources, task, spec, known, (length, target))


def _as_begun(
    spec: RunSpec, row: RunRow, k: K | None, target: float, begun: Sequence[Mapping[str, Any]]
) -> RunSpec:
    """Return *spec* with the recorded margin of its run, if that has the same target."""
    if k is None:
        return spec
    if begun and begun[0]["target"] != target:
        raise UsageError(
            f"run {row.run_id} was started for a target of {begun[0]['target']:g}, not {target:g}: "
            "resume it as it was started, or start another run"
        )
    return replace(spec, voting=with_k(spec.voting, row.k))


async def _given(resources: SessionResources, task: Task, spec: RunSpec, k: int | None) -> RunSpec:
    voting = spec.voting if k is None else with_k(spec.voting, k)
    known = None if spec.row is not None else await matching(resources, task, voting)
    notes = () if known is None else (_baseline(known),)
    return replace(spec, voting=voting, notes=notes)


async def _auto(
    resources: SessionResources,
    task: Task,
    spec: RunSpec,
    known: Mapping[str, Any] | None,
    goal: tuple[int, float],
) -> RunSpec:
    if known is None:
        known = await _measured_by_pilot(resources, task, spec)
    k = minimal_k(known["error_bound"], *goal)
    chosen = {"from": 0, "k": k, "target": goal[1], "source": known["run_id"]}
    reason = f"k = {k}, by {known['run_id']}"
    notes: tuple[Note, ...] = (("margin", reason, chosen), _baseline(known), *_doubts(known))
    return replace(spec, voting=with_k(spec.voting, k), notes=notes)


async def _measured_by_pilot(resources: SessionResources, task: Task, spec: RunSpec) -> dict[str, Any]:
    """Return the counts of a pilot. Votes against its winners count as wrong."""
    solution = await pilot_of(resources, task, spec.name, spec.voting)
    votes, against = await _polled(resources, solution)
    if not votes:
        raise UsageError(f"-k auto has nothing to go by: no step of {solution.task} was voted on; give k")
    return {
        "run_id": solution.run_id,
        "wrong": against,
        "votes": votes,
        "flags": solution.totals.red_flags,
        "error_bound": error_upper_bound(against, votes),
        "p_hard": 0.0 if solution.certificate is None else solution.certificate.p_hard,
        "hard_share": 0.0 if solution.certificate is None else solution.certificate.hard_share,
    }


async def matching(resources: SessionResources, task: Task, voting: VotingSettings) -> dict[str, Any] | None:
    """Return the counts of the newest calibration of this task, parameters, models and voting except k."""
    about = json.loads(canonical(resources.models.about))
    asked = _sampled_as(json.loads(canonical(voting)))
    for recorded in await resources.reader.rows("calibrations", task_name(task), canonical(task)):
        row, found = run_row(recorded), json.loads(recorded["result"])
        same = (
            row.task_version == task.version
            and row.provider["models"] == about["models"]
            and lasting(row.provider["about"]) == lasting(about["about"])
            and _sampled_as(row.settings) == asked
        )
        if same and found["votes"]:
            return {**found, "flags": sum(found["red_flags"].values())}
    return None


def _sampled_as(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return settings["max_tokens"], settings.get("max_tokens_given", False), settings["temperatures"]


def _baseline(known: Mapping[str, Any]) -> Note:
    data = {
        "source": known["run_id"],
        "against": known["wrong"],
        "votes": known["votes"],
        "flags": known["flags"],
        "samples": known["votes"] + known["flags"],
    }
    return "baseline", f"compared with {known['run_id']}", data


def _doubts(known: Mapping[str, Any]) -> list[Note]:
    if known["p_hard"] <= SURE:
        return []
    sentence = (
        f"about {known['hard_share']:.2%} of the steps are hard, by {known['run_id']}: one k for all steps "
        "does not reach the target then; use -k robust"
    )
    return [("warning", sentence, {})]
