"""Gather lessons from runs: training prompts and held-out prompts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mdap import UsageError
from mdap.audit.runs import find_number
from mdap.audit.training import lessons
from mdap.journal.logfile import reading
from mdap.journal.rows import run_numbered
from mdap.journal.statements import query
from mdap.plugins import make_recorded
from mdap.rules.canonical import canonical
from mdap_local import LocalModel, is_held_out


class Question(NamedTuple):
    """A prompt and its origin: the run's task, by name and parameters as JSON, and the step's input.

    The *reply* is the first one that voted for the winner; *contested* if a vote went against that.
    """

    digest: str
    system: str
    user: str
    reply: str
    contested: bool
    task: tuple[str, str]
    input: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """The training prompts and the held-out prompts of some runs.

    One prompt in eight, by digest, is held out to measure. The shipped models have not seen those either.
    *helped* counts the prompts on which a model other than the learner voted.
    """

    runs: tuple[str, ...]
    training: tuple[Question, ...]
    held_out: tuple[Question, ...]
    helped: int

    @property
    def digest(self) -> str:
        """SHA-256 over all questions and winners, in hexadecimal."""
        rows = [
            (one.digest, one.system, one.user, one.reply, one.contested)
            for one in (*self.training, *self.held_out)
        ]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


def gather(db: Path, names: Sequence[str], task: str, learner: LocalModel) -> Gathered:
    """Return the lessons of the decided steps of some runs; of equal prompts, the first.

    Each run is named by its id, a unique prefix of it, or ``latest``.

    Raises:
        UsageError: a run is missing or of another task, or there are no training or held-out prompts.
    """
    found: dict[str, Question] = {}
    helped: set[str] = set()
    runs = []
    for name in names:
        run = _Run(db, name, learner)
        if run.task[0] != task:
            raise UsageError(f"{run.run_id} is a run of {run.task[0]}, not of {task}: name a run of {task}")
        runs.append(run.run_id)
        for lesson in lessons(db, run.run_id, make_recorded):
            place = (lesson.run_id, lesson.step)
            text = (lesson.prompt_digest, lesson.system, lesson.user, lesson.chosen, lesson.contested)
            found.setdefault(lesson.prompt_digest, Question(*text, run.task, run.inputs.get(place, "")))
            if place in run.helped:
                helped.add(lesson.prompt_digest)
    held_out = tuple(one for one in found.values() if is_held_out(one.digest))
    training = tuple(one for one in found.values() if not is_held_out(one.digest))
    if not training or not held_out:
        raise UsageError(
            f"{', '.join(runs)}: {len(training)} prompts to learn from and {len(held_out)} to measure by, of "
            "which one in eight is held out: give more runs, or longer ones"
        )
    return Gathered(tuple(runs), training, held_out, len(helped))


class _Run:
    """The inputs of a run's steps, parts included, and the steps on which another model voted."""

    def __init__(self, db: Path, name: str, learner: LocalModel) -> None:
        self.helped: set[tuple[str, int]] = set()
        self.inputs: dict[tuple[str, int], str] = {}
        with reading(db) as connection:
            row = run_numbered(connection, find_number(connection, name))
            self.run_id = row.run_id
            self.task: tuple[str, str] = (row.task, canonical(row.params))
            # A copy of the learner under another name does not count as another model.
            known: dict[str, Any] = dict(map(tuple, query(connection, "weights_of_models", row.number)))
            for run_id, step, model, about in query(connection, "voters_of_steps", row.number):
                self.inputs[run_id, step] = about
                if model != learner.name and known.get(model) != learner.digest:
                    self.helped.add((run_id, step))
