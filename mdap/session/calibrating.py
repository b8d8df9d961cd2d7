"""Calibrate: sample steps of a task, and report the rates, a projection for a run, and findings in words."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

from mdap.engine.calibrate import CalibrationSampler, Subjects
from mdap.engine.config import Progress, RunConfig
from mdap.engine.guarded import length_of
from mdap.engine.scheduler import decide
from mdap.errors import UsageError
from mdap.journal.runs import RunStart
from mdap.plugins import task_name
from mdap.records import Calibration, Projection, StopCause
from mdap.rules.calibration import (
    Measured,
    Poll,
    VoteCounts,
    estimated_samples,
    estimated_seconds,
    measure,
    scaled,
    spread_of,
)
from mdap.rules.declared import check_methods
from mdap.rules.ledger import Ledger, law
from mdap.rules.parameters import as_resumed
from mdap.rules.scaling import minimal_k, run_success
from mdap.session.ending import Ending
from mdap.session.identity import RunSpec, run_columns
from mdap.session.resources import SessionResources
from mdap.settings import Robust, VotingSettings
from mdap.tasks import Task

CONSENSUS_MARGIN: Final = 8
"""The lead at which a race's winner counts as the right answer."""

SAMPLES_PER_STEP: Final = 4
"""Samples of a step with a known right answer: few, so that they cover many steps."""

_COUNTED: Final = {field.name for field in fields(Calibration)} & {*Measured._fields}
_MANY_FLAGS: Final = 0.2
_HALF: Final = 0.5
# The assumed p of hard steps: anything above a half.
_HARD: Final = (0.55, 0.65, 0.75, 0.85, 0.95)


@dataclass(frozen=True, slots=True)
class CalibrationRequest:
    """A request for a calibration: its id, about how many samples, the target, and the seed for the steps."""

    name: str
    samples: int
    target: float
    seed: int


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is calibrated: a task, how it is sampled, whether it has an oracle, and the steps' source."""

    request: CalibrationRequest
    name: str
    task: Task
    voting: VotingSettings
    oracle: bool
    source: str


async def calibrate_task(
    resources: SessionResources, task: Task, request: CalibrationRequest, voting: VotingSettings
) -> Calibration:
    """Calibrate *task* under *voting*; see `Session.calibrate`."""
    check_methods(type(task), type(task).__qualname__)
    task = as_resumed(task)
    await resources.writer.flush()
    taken = UsageError(f"there is a run {request.name} already: give the calibration another name")
    if await resources.reader.run(request.name) is not None:
        raise taken
    from mdap.session.surveying import subjects_of  # this import takes a while, and only processes need it

    steps, source, oracle = await subjects_of(
        resources, task, (request.name, request.samples, request.seed), voting
    )
    sampled = _sampled(voting, oracle=oracle)
    subject = _Subject(request, task_name(task), task, sampled, oracle, source)
    spec = RunSpec(name=request.name, voting=subject.voting, kind="calibration")
    columns = run_columns(task, spec, resources.models.about)
    start = await resources.runs.begin(columns, known=False)
    if start.row is not None:
        if start.record is None:
            await resources.runs.release(start.number)
        raise taken
    ended = Ending(resources, start, request.name)
    async with ended.recorded(record=False):
        ended.begin()
        made = await _calibrate(resources, start, subject, steps, ended)
    if ended.error is not None and "result" not in ended.data:
        raise ended.error
    return made


def _sampled(voting: VotingSettings, *, oracle: bool) -> VotingSettings:
    """Return the sampling settings for runs with *voting*."""
    if oracle:
        return voting.model_copy(update={"k": SAMPLES_PER_STEP, "max_samples": SAMPLES_PER_STEP})
    return voting.model_copy(update={"k": CONSENSUS_MARGIN, "max_samples": None})


async def _calibrate(
    resources: SessionResources, start: RunStart, subject: _Subject, steps: Subjects, ended: Ending
) -> Calibration:
    """Sample, record and return the calibration."""
    progress, number = Progress(), start.number
    resources.limit_changes.running.add(number)
    refusal = await resources.endpoint_probe.pass_on(number, start.options)
    config = RunConfig(
        run=number,
        voting=subject.voting,
        max_n=resources.models.provider.max_n,
        models=resources.models.names,
        schedule=resources.models.schedule(subject.voting),
        record_prompts=subject.voting.records_prompts(process=False),
        task=subject.name,
        progress=progress,
    )
    work = CalibrationSampler(
        steps,
        config,
        resources.writer,
        samples=subject.request.samples,
        width=resources.lane.width,
        oracle=subject.oracle,
    )
    if refusal is not None:
        ended.stop(refusal, StopCause.PROVIDER)
    else:
        provider = await resources.lane.provider(number, resources.models.provider)
        limits = resources.lane.limits()
        await decide(work, provider, limits, resources.writer, resources.budget_guard)
        ended.take(work)
    await resources.writer.flush()
    seconds = ended.data["seconds"] = ended.seconds
    made = replace(
        await _calibration(resources, number, subject, work.polls),
        status=ended.status,
        reason=ended.reason,
        failed_attempts=progress.failed_attempts,
        seconds=seconds,
    )
    ended.data["result"] = made.to_dict()
    return made


async def _calibration(
    resources: SessionResources, number: int, subject: _Subject, polls: Sequence[Poll]
) -> Calibration:
    """Return the figures and findings that *polls* give, without how the calibration ended."""
    found = measure(polls, None if subject.oracle else CONSENSUS_MARGIN)
    made = _counted(resources, subject, found)
    if not found.votes:
        return replace(made, findings=("no valid sample came: there is nothing to tell",))
    cost = await resources.reader.cost(number)
    drawn = [one for poll in polls for one in poll.drawn]
    took = {
        name: [value for one in drawn if (value := getattr(one, name)) is not None]
        for name in ("input_tokens", "output_tokens", "latency")
    }
    made = replace(
        made,
        input_tokens=spread_of(took["input_tokens"]),
        output_tokens=spread_of(took["output_tokens"]),
        latency=spread_of(took["latency"]),
        projection=_projection(resources, made, found, took, cost),
        cost_usd=cost,
    )
    return replace(made, findings=(*_hopes(made, found), *_doubts(made, found)))


def _projection(
    resources: SessionResources,
    made: Calibration,
    found: Measured,
    took: Mapping[str, Sequence[float]],
    cost: float | None,
) -> Projection | None:
    length = made.length
    if not length or found.error_bound >= 0.5:
        return None
    k = minimal_k(found.error_bound, length, made.target)
    counts = VoteCounts(found.wrong, found.votes, sum(found.flags.values()), found.clumping)
    samples = estimated_samples(length, k, counts)
    tokens = (sum(took["input_tokens"]) + sum(took["output_tokens"])) / found.samples
    return Projection(
        k=k,
        p_zero_errors=run_success(found.error_bound, k, length),
        samples=samples,
        cost_usd=None
        if cost is None
        else scaled(samples, cost / found.samples, _relative_error(took["output_tokens"])),
        seconds=estimated_seconds(length, k, samples, resources.setup.limits, tokens, took["latency"]),
    )


def _relative_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean, divided by the mean."""
    mean = statistics.fmean(values) if values else 0.0
    return statistics.stdev(values) / mean / len(values) ** 0.5 if len(values) > 1 and mean else 0.0


def _counted(resources: SessionResources, subject: _Subject, found: Measured) -> Calibration:
    """Return the figures that follow from counts alone."""
    return Calibration(
        run_id=subject.request.name,
        task=subject.name,
        models=tuple(resources.models.about["models"]),
        truth="oracle" if subject.oracle else "consensus",
        consensus_k=None if subject.oracle else CONSENSUS_MARGIN,
        source=subject.source,
        red_flags=found.flags,
        target=subject.request.target,
        length=length_of(f"task {subject.name}", subject.task),
        **{name: getattr(found, name) for name in _COUNTED},
    )


# -- conclusions in words, most serious first -------------------------------------------------


def _hopes(made: Calibration, found: Measured) -> Iterator[str]:
    """Yield what voting can reach."""
    if made.error_bound >= _HALF:
        yield (
            f"no k reaches the target: {made.error_rate.value:.1%} of the votes are wrong, and it may be "
            f"{made.error_bound:.1%}; voting only helps below half, so take a better model, smaller steps, "
            "or more samples to know it better"
        )
    uneven = f"steps are not equally hard: about {max(found.hard_share, 1e-4):.2%} of them are hard"
    if not found.uneven:
        yield "errors look independent: no step stands out as harder than others"
    elif made.length is None:
        yield f"{uneven}, and on a hard step voting can agree on a wrong answer"
    else:
        yield (
            f"{uneven}, some {found.hard_share * made.length:,.0f} of {made.length:,}; one k for all steps "
            "does not reach the target then: use -k robust, and views of the step, another model beside this "
            "one, or smaller steps"
        )
    if found.minority:
        are = "step has" if found.minority == 1 else "steps have"
        yield (
            f"{found.minority:,} of {found.steps:,} {are} more wrong votes than right ones, and may be below "
            "any floor of -k robust: votes cannot see a step on which the model is wrong more often than "
            "right"
        )
    if made.length is not None and made.error_rate.value < _HALF:
        yield _robust(made, made.length, found)


def _doubts(made: Calibration, found: Measured) -> Iterator[str]:
    """Yield what makes the figures less certain."""
    if found.collide:
        yield (
            f"on {made.collisions:,} steps the first two votes agree on a wrong answer, where independent "
            f"errors would do so on {made.collisions_expected:.2g} at most"
        )
    if made.truth != "oracle":
        undecided = f"; {made.undecided:,} steps found no winner and are left out" if made.undecided else ""
        yield (
            "the task has no oracle, so winners of races stand for the truth: agreement on a wrong answer is "
            f"not seen; with independent errors that hides at most {made.bias_bound:.2%} of the votes"
            f"{undecided}"
        )
    if made.length is None:
        yield "the task's length is unknown: for k, cost and time give it to `mdap plan` with these rates"
    if made.valid_rate.value < 1 - _MANY_FLAGS:
        reason = next(iter(made.red_flags))
        yield f"{1 - made.valid_rate.value:.0%} of the samples are red-flagged, most for: {reason}"
    if made.source.startswith("pilot"):
        yield "only the first steps were seen: calibrate after a run, or define sample_state for a chain"


def _robust(made: Calibration, length: int, found: Measured) -> str:
    rung = Ledger(Robust(target=made.target, length=length)).ladder.first
    hard = sum(law(rung, p).contested for p in _HARD) / len(_HARD)
    usual = law(rung, 1 - max(made.error_rate.value - found.hard_share / 4, 0.0)).contested
    share = (1 - found.hard_share) * usual + found.hard_share * hard
    return (
        f"with -k robust and a floor of 0.6, about {share * length:,.1f} of {length:,} steps would "
        f"be contested, from m = {rung.margin}"
    )
