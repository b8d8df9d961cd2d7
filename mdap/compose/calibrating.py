"""Calibration: choose the steps, sample them, and say what the samples tell."""

import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import anyio

from mdap.compose.ending import Ending
from mdap.compose.findings import findings_of
from mdap.compose.identity import Start, run_columns
from mdap.compose.margins import pilot_of
from mdap.compose.running import Workshop, begin_or_find
from mdap.engine.authored import Authored, length_of
from mdap.engine.calibrate import Survey, Wanted
from mdap.engine.opening import Progress
from mdap.engine.recording import Rules
from mdap.engine.run import decide
from mdap.errors import RAISED, DatabaseError, PluginError, UsageError
from mdap.journal.reader import Reader, RunRow
from mdap.plugins import task_name
from mdap.records import Calibration, Projection, RunEvent, StopCause
from mdap.rules.calibration import Measured, Poll, measure, spread_of
from mdap.rules.canonical import canonical
from mdap.rules.methods import check_methods
from mdap.rules.parameters import check_parameters
from mdap.rules.projection import Counts, foreseen_samples, foreseen_seconds, scaled
from mdap.rules.scaling import minimal_k, run_success
from mdap.settings import VotingSettings
from mdap.tasks import Chain, Task

__all__ = ["Wish", "calibrate_task", "has_oracle", "states_of_run", "states_of_task"]

CONSENSUS_MARGIN: Final = 8
"""The lead by which a race must be won for its winner to stand for the truth."""

SAMPLES_PER_STEP: Final = 4
"""Samples of a step whose right answer is known: few, so that many steps are seen."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a calibration.

    Attributes:
        name: its id in the database.
        samples: about how many samples to take.
        target: wanted chance of a run without one wrong decision.
        seed: which random steps.
    """

    name: str
    samples: int
    target: float
    seed: int


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is calibrated: a task, how its steps are sampled, whether it has an oracle, and their source."""

    name: str
    task: Chain[Any, Any]
    voting: VotingSettings
    oracle: bool
    source: str


async def calibrate_task(shop: Workshop, task: Task, wish: Wish, voting: VotingSettings) -> Calibration:
    """Calibrate *task* under *voting*; see `Session.calibrate`."""
    if not isinstance(task, Chain):
        raise UsageError(
            f"{type(task).__name__} is no chain: only the steps of a mdap.Chain can be calibrated"
        )
    check_methods(type(task), type(task).__qualname__)
    check_parameters(task)
    await shop.writer.flush()
    taken = UsageError(f"there is a run {wish.name} already: give the calibration another name")
    if await shop.reader.run(wish.name) is not None:
        raise taken
    oracle = has_oracle(task_name(task), task)
    states, source = await _states(shop, task, wish, voting)
    subject = _Subject(task_name(task), task, _sampled(voting, oracle=oracle), oracle, source)
    start = Start(name=wish.name, voting=subject.voting, kind="calibration")
    number, other = await begin_or_find(shop, run_columns(task, start, shop.crew.about))
    if other is not None:
        raise taken
    shop.claims.take(number, wish.name)
    shop.named[number] = wish.name
    try:
        return await _calibrate(shop, number, wish, subject, states)
    finally:
        with anyio.CancelScope(shield=True), suppress(DatabaseError):
            await shop.writer.flush()
        shop.claims.drop(number)
        del shop.named[number]


def _sampled(voting: VotingSettings, *, oracle: bool) -> VotingSettings:
    """Return how the steps are sampled, for runs that are voted as *voting* says."""
    if oracle:
        return voting.model_copy(update={"k": SAMPLES_PER_STEP, "max_samples": SAMPLES_PER_STEP})
    return voting.model_copy(update={"k": CONSENSUS_MARGIN, "max_samples": None})


async def _states(
    shop: Workshop, task: Chain[Any, Any], wish: Wish, voting: VotingSettings
) -> tuple[Iterator[Any], str]:
    """Return the inputs of the steps to sample, and where they come from."""
    own = states_of_task(task_name(task), task, wish.seed)
    if own is not None:
        return own, "sample_state"
    found = await shop.reader.latest_of(task_name(task), canonical(task))
    if found is None:
        found = (await pilot_of(shop, task, wish.name, voting)).run_id
    row = await shop.reader.find(found)
    return await states_of_run(shop.reader, row, task, wish), f"{row.kind} {found}"


def has_oracle(name: str, task: Chain[Any, Any]) -> bool:
    """Return whether *task* knows its right answers.

    Raises:
        PluginError: its oracle fails.
    """
    try:
        task.oracle(task.start())
    except NotImplementedError:
        return False
    except RAISED as error:
        raise PluginError(f"task {name}", "giving its first right answer", error) from error
    return True


def states_of_task(name: str, task: Chain[Any, Any], seed: int) -> Iterator[Any] | None:
    """Return states that the task samples itself; None if it does not.

    Raises:
        PluginError: the task's code failed.
    """
    rng = random.Random(seed)

    def sampled() -> Any:
        try:
            return task.sample_state(rng)
        except RAISED as error:
            raise PluginError(f"task {name}", "sampling a state", error) from error

    first = sampled()
    return None if first is None else itertools.chain([first], iter(sampled, None))


async def states_of_run(reader: Reader, row: RunRow, task: Chain[Any, Any], wish: Wish) -> Iterator[Any]:
    """Return the inputs of random decided steps of an earlier run, and then the same again."""
    rng = random.Random(wish.seed)
    decided = await reader.count_decisions(row.number)
    places = rng.sample(range(decided), min(wish.samples, decided))
    states = Authored(row.task, task).states
    inputs = [await reader.input_at(row.number, place) for place in places]
    return itertools.cycle([states.read(text) for text in inputs])


async def _calibrate(
    shop: Workshop, number: int, wish: Wish, subject: _Subject, states: Iterator[Any]
) -> Calibration:
    """Sample, record, and return what comes of it."""
    progress = Progress()
    shop.bulletin.running.add(number)
    shop.writer.append(RunEvent(number, "started", data=shop.about()))
    ended = Ending()
    try:
        refusal = await shop.inspection.pass_on(number)
        wanted = Wanted(wish.samples, shop.crew.most, subject.oracle)
        rules = _rules(shop, number, subject)
        work = Survey((subject.name, subject.task), states, wanted, rules, shop.writer, progress)
        if refusal is not None:
            ended.stop(refusal, StopCause.PROVIDER)
        else:
            await _surveyed(shop, work, ended)
        await shop.writer.flush()
        seconds = ended.data["seconds"] = ended.seconds
        made = await _calibration(shop, number, wish, subject, work.polls)
        made = replace(
            made,
            status=ended.status,
            reason=ended.reason,
            failed_attempts=progress.failed_attempts,
            seconds=seconds,
        )
        ended.data["result"] = made.to_dict()
        return made
    except PluginError as error:
        ended.fail(error)
        raise
    except Exception as error:
        ended.crash(error)
        raise
    finally:
        shop.bulletin.tell()
        shop.bulletin.running.discard(number)
        if shop.writer.usable:
            shop.writer.append(ended.event(number))
            with suppress(DatabaseError):
                await shop.sealer.seal(number)


def _rules(shop: Workshop, number: int, subject: _Subject) -> Rules:
    return Rules(
        run=number,
        voting=subject.voting,
        max_n=shop.crew.provider.max_n,
        models=shop.crew.names,
        casting=shop.crew.casting(subject.voting),
        record_prompts=subject.voting.records_prompts(process=False),
    )


async def _surveyed(shop: Workshop, work: Survey, ended: Ending) -> None:
    """Take the samples, as far as model and budget allow, and note how that ended."""
    with anyio.move_on_after(shop.budget.seconds):
        await decide(work, shop.crew.provider, shop.limits, shop.writer, shop.purse)
        ended.take(work)
        return
    ended.stop(f"the {shop.budget.seconds:g} seconds allowed are over", StopCause.DEADLINE)


async def _calibration(
    shop: Workshop, number: int, wish: Wish, subject: _Subject, polls: Sequence[Poll]
) -> Calibration:
    found = measure(polls, None if subject.oracle else CONSENSUS_MARGIN)
    length = length_of(f"task {subject.name}", subject.task)
    made = _counted(shop, wish, subject, found)
    if not found.votes:
        return replace(made, length=length, findings=("no valid sample came: there is nothing to tell",))
    cost = await shop.reader.cost(number)
    took = _Took.of(polls)
    made = replace(
        made,
        input_tokens=spread_of(took.inputs),
        output_tokens=spread_of(took.outputs),
        latency=spread_of(took.latencies),
        length=length,
        projection=_projection(shop, made, found, took, (length, cost)),
        cost_usd=cost,
    )
    return replace(made, findings=findings_of(made, found))


class _Took(NamedTuple):
    """What the samples took: tokens and seconds, one by one, as far as they are known."""

    inputs: Sequence[int]
    outputs: Sequence[int]
    latencies: Sequence[float]

    @classmethod
    def of(cls, polls: Sequence[Poll]) -> "_Took":
        drawn = [one for poll in polls for one in poll.drawn]
        return cls(
            [one.input_tokens for one in drawn if one.input_tokens is not None],
            [one.output_tokens for one in drawn if one.output_tokens is not None],
            [one.latency for one in drawn if one.latency is not None],
        )


def _projection(
    shop: Workshop, made: Calibration, found: Measured, took: _Took, known: tuple[int | None, float | None]
) -> Projection | None:
    length, cost = known
    if not length or found.error_bound >= 0.5:
        return None
    k = minimal_k(found.error_bound, length, made.target)
    counts = Counts(found.wrong, found.votes, sum(found.flags.values()), found.clumping)
    samples = foreseen_samples(length, k, counts)
    tokens = (sum(took.inputs) + sum(took.outputs)) / found.samples
    return Projection(
        k=k,
        p_zero_errors=run_success(found.error_bound, k, length),
        samples=samples,
        cost_usd=None
        if cost is None
        else scaled(samples, cost / found.samples, _relative_error(took.outputs)),
        seconds=foreseen_seconds(length, k, samples, shop.limits, tokens, took.latencies),
    )


def _relative_error(values: Sequence[int]) -> float:
    """Return the standard error of a mean, over the mean."""
    mean = statistics.fmean(values) if values else 0.0
    return statistics.stdev(values) / mean / len(values) ** 0.5 if len(values) > 1 and mean else 0.0


def _counted(shop: Workshop, wish: Wish, subject: _Subject, found: Measured) -> Calibration:
    """Return what counts alone tell."""
    return Calibration(
        run_id=wish.name,
        task=subject.name,
        models=tuple(shop.crew.about["models"]),
        truth="oracle" if subject.oracle else "consensus",
        consensus_k=None if subject.oracle else CONSENSUS_MARGIN,
        source=subject.source,
        steps=found.steps,
        undecided=found.undecided,
        samples=found.samples,
        votes=found.votes,
        wrong=found.wrong,
        red_flags=found.flags,
        error_rate=found.error_rate,
        error_bound=found.error_bound,
        bias_bound=found.bias_bound,
        valid_rate=found.valid_rate,
        collisions=found.collisions,
        collisions_expected=found.collisions_expected,
        duplicates=found.duplicates,
        p_hard=found.p_hard,
        hard_share=found.hard_share,
        target=wish.target,
    )
