"""Run an evolution from its record to the model that it writes or refuses."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple

from mdap import MdapError, UsageError
from mdap.journal.evolutions import EvolutionRow, IterationRow, Recorder
from mdap.plugins import make_recorded
from mdap_evolve.gathering import Gathered, gather
from mdap_evolve.learning import Example, Learner, Tuning, Update
from mdap_evolve.measuring import GLANCE, Exam, Figures, exam_of_log, exam_of_task, loss_of
from mdap_evolve.population import population
from mdap_evolve.recipe import Recipe
from mdap_local import LocalModel, load_model
from mdap_local.places import check_libraries

HELD_OUT: Final = "held out"
"""The name of the exam on held-out steps of the log."""

_SURE: Final = 2.0


class About(NamedTuple):
    """The recorded specification of an evolution; see the options of ``mdap evolve``.

    The task's *params* are for margin and cost; *lessons* is a digest of the training and held-out prompts.
    """

    task: str
    params: dict[str, Any]
    runs: tuple[str, ...]
    keep: tuple[str, ...]
    lessons: str
    max_loss: float
    target: float
    out: str
    own_votes: bool


class Study(NamedTuple):
    """The inputs of an evolution: the base model, the training examples and the exams."""

    row: EvolutionRow
    about: About
    recipe: Recipe
    model: LocalModel
    lessons: Gathered
    exams: dict[str, Exam]


class Report(NamedTuple):
    """The result of an evolution; without a folder and weights of a new model if it was refused.

    The *gain* in P(right) on held-out steps and what is *lost* on each kept task come with standard errors;
    *before* and *after* are figures by exam, and *lessons* counts prompts.
    """

    evolution_id: str
    method: str
    model: str
    out: str | None
    weights: str | None
    refusal: str | None
    gain: tuple[float, float]
    lost: dict[str, tuple[float, float]]
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]
    lessons: dict[str, int]
    iterations: int
    seconds: float
    distance: float


Watch = Callable[[IterationRow], None]

Measured = dict[str, tuple[Figures, list[float]]]
"""The figures of each exam, and P(right) at each of its steps."""


def base_model(row: EvolutionRow) -> LocalModel:
    """Return the base model of an evolution.

    Raises:
        UsageError: it no longer exists or has changed.
    """
    model = load_base(row.model)
    if model.digest != row.weights:
        raise UsageError(
            f"{row.model} has other weights than {row.evolution_id} began with ({model.digest[:16]}, not "
            f"{row.weights[:16]}): put the same files there"
        )
    return model


def load_base(name: str) -> LocalModel:
    """Return the model called *name*, on one thread of the CPU."""
    name = name.removeprefix("local/")
    check_libraries(name)
    import torch

    torch.set_num_threads(1)  # sums over several threads may differ in their last bits
    return load_model(name, device="cpu", dtype="float32")


def examples_of(model: LocalModel, lessons: Gathered) -> list[Example]:
    """Return the training examples in the model's tokens, without prompts beyond its context."""
    found = []
    for one in lessons.training:
        prompt, reply = model.chat(one.system, one.user), model.reply(one.reply)
        if len(prompt) + len(reply) <= model.context:
            found.append(Example(tuple(prompt), tuple(reply), one.contested))
    if not found:
        raise UsageError(
            f"every prompt is longer than the context of {model.name}: there is nothing to learn"
        )
    return found


def study_of(db: Path, row: EvolutionRow) -> Study:
    """Return the inputs of a recorded evolution.

    Raises:
        UsageError: its model, runs or tasks have changed.
    """
    about = About(**row.about)
    model = base_model(row)
    lessons = gather(db, about.runs, about.task, model)
    if lessons.digest != about.lessons:
        raise UsageError(
            f"{', '.join(about.runs)} give other lessons than when {row.evolution_id} began: start another"
        )
    task = make_recorded(about.task, about.params)
    exams = {HELD_OUT: exam_of_log(lessons.held_out, task, about.target)}
    exams |= {spec: exam_of_task(spec, about.target) for spec in about.keep}
    fitting = {name: exam.fitting(model) for name, exam in exams.items()}
    return Study(row, about, Recipe(**row.recipe), model, lessons, fitting)


def learning(
    model: LocalModel, examples: Sequence[Example], recipe: Recipe, workers: int = 1
) -> AbstractContextManager[Learner]:
    """Return the learner of either method, to use in a `with`; Adam computes in this process alone."""
    if recipe.method == "sft":
        return nullcontext(Tuning(model, examples, recipe))
    return population(model, examples, recipe, workers)


def repeated(learner: Learner, row: EvolutionRow) -> None:
    """Repeat all recorded updates.

    Raises:
        ReplayError: the resulting weights differ from the recorded ones.
    """
    for update in row.iterations:
        learner.repeat(Update(update.rewards, update.coefficients))
        if update.weights and learner.weights.digest != update.weights:
            raise ReplayError(
                f"iteration {update.iteration} of {row.evolution_id} leads to other weights than recorded"
                + (": Adam's arithmetic differs between machines" if row.recipe["method"] == "sft" else "")
            )


class ReplayError(MdapError):
    """Raised when an evolution's record does not reproduce its recorded weights."""


def evolve(db: Path, study: Study, workers: int = 1, watch: Watch | None = None) -> Report:
    """Make the missing updates, write the model unless it lost too much, and report.

    Raises:
        RunBusyError: another process works on it.
        MdapError: the weights diverged, or a worker ended.
    """
    row, model, recipe = study.row, study.model, study.recipe
    recorder = Recorder(db, row)
    try:
        recorder.event("resumed" if row.iterations else "started", {"workers": workers})
        before = _measured(study)
        with learning(model, examples_of(model, study.lessons), recipe, workers) as learner:
            repeated(learner, row)
            seconds = math.fsum(update.seconds for update in row.iterations)
            while learner.iteration < recipe.iterations:
                made = _next(study, learner)
                recorder.append(made)
                seconds += made.seconds
                if watch is not None:
                    watch(made)
            learner.finish()
        report = _judged(study, learner, before, seconds)
        recorder.event("finished" if report.refusal is None else "refused", report._asdict())
        return report
    finally:
        recorder.close()


def _next(study: Study, learner: Learner) -> IterationRow:
    started = time.monotonic()
    update = learner.learn()
    if not all(map(math.isfinite, update.rewards)):
        raise MdapError(
            f"the weights diverged in iteration {learner.iteration}: start again with a smaller --alpha"
        )
    seconds = time.monotonic() - started
    weights = learner.weights
    weights.settle()
    measured = {
        name: statistics.fmean(exam.chances(study.model, GLANCE)) for name, exam in study.exams.items()
    }
    return IterationRow(learner.iteration, *update, weights.distance, seconds, measured, weights.digest)


def _measured(study: Study) -> Measured:
    return {
        name: (exam.figures(study.model, study.recipe.seed), exam.chances(study.model))
        for name, exam in study.exams.items()
    }


def _judged(study: Study, learner: Learner, before: Measured, seconds: float) -> Report:
    """Compare the new model with the base, and write it unless a kept task lost too much."""
    after = _measured(study)
    losses = {name: loss_of(before[name][1], after[name][1]) for name in study.exams}
    gained, error = losses.pop(HELD_OUT)
    refusal = _refusal(losses, study.about.max_loss)
    lessons = study.lessons
    return Report(
        evolution_id=study.row.evolution_id,
        method=study.recipe.method,
        model=study.model.name,
        out=None if refusal else study.about.out,
        weights=None if refusal else _written(study),
        refusal=refusal,
        gain=(-gained, error),
        lost=losses,
        before={name: figures._asdict() for name, (figures, _) in before.items()},
        after={name: figures._asdict() for name, (figures, _) in after.items()},
        lessons={
            "learned": len(lessons.training),
            "contested": sum(one.contested for one in lessons.training),
            "held_out": len(lessons.held_out),
            "helped": lessons.helped,
        },
        iterations=learner.iteration,
        seconds=seconds,
        distance=learner.weights.distance,
    )


def _written(study: Study) -> str:
    """Write the new model, and return the digest of its files."""
    try:
        study.model.save(study.about.out)
    except OSError as error:
        raise MdapError(
            f"{study.about.out} cannot be written ({error.strerror}): make room there, and continue with "
            f"mdap evolve --resume {study.row.evolution_id}"
        ) from None
    return load_model(study.about.out, device="cpu").digest


def _refusal(losses: dict[str, tuple[float, float]], max_loss: float) -> str | None:
    told = [
        f"{name} lost {100 * lost:.1f} points (standard error {100 * error:.1f})"
        for name, (lost, error) in losses.items()
        if 100 * (lost - _SURE * error) > max_loss
    ]
    return f"{'; '.join(told)}, and --max-loss is {max_loss:g}" if told else None
