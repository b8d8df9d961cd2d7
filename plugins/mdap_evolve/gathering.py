"""Gather lessons from runs: training prompts and held-out prompts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from mdap import UsageError
from mdap.audit.runs import find_number
from mdap.audit.training import lessons
from mdap.journal.logfile import reading
from mdap.plugins import make_recorded
from mdap_local import LocalModel, is_held_out

__all__ = ["Gathered", "Question", "gather"]

_TREE: Final = """WITH RECURSIVE tree(run) AS (SELECT ?1
    UNION SELECT r.id FROM runs r JOIN tree ON r.parent = tree.run) """
_VOTERS: Final = f"""{_TREE} SELECT r.run_id, s.step, s.model, max(p.input) FROM samples s
    JOIN runs r ON r.id = s.run JOIN steps p ON p.run = s.run AND p.step = s.step AND p.opening = s.opening
    WHERE s.run IN tree AND s.verdict = 'vote' GROUP BY 1, 2, 3"""
_WEIGHTS: Final = f"""{_TREE} SELECT value ->> 'model', value ->> 'weights' FROM runs, json_tree(provider)
    WHERE runs.id IN tree AND type = 'object' AND value ->> 'weights' IS NOT NULL"""


class Question(NamedTuple):
    """A prompt, the reply that won its vote, and its origin.

    Attributes:
        digest: the prompt's digest.
        system: the system message; empty for none.
        user: the user message.
        reply: the first reply that voted for the winner.
        contested: whether a vote went against the winner.
        task: the run's task, by its name and parameters as JSON.
        input: the step's input, in canonical JSON.
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
    """The lessons of some runs.

    Attributes:
        runs: the runs' ids.
        training: the training prompts.
        held_out: prompts used only to measure: one in eight, by digest. The shipped models have not seen
            those either.
        helped: the number of prompts on which a model other than the learner voted.
    """

    runs: tuple[str, ...]
    training: tuple[Question, ...]
    held_out: tuple[Question, ...]
    helped: int

    @property
    def digest(self) -> str:
        """SHA-256 over all questions and winners, in hexadecimal."""
        rows = [list(question[:5]) for question in (*self.training, *self.held_out)]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


def gather(db: Path, names: Sequence[str], task: str, learner: LocalModel) -> Gathered:
    """Return the lessons of the decided steps of some runs; of equal prompts, the first.

    Args:
        db: the database.
        names: runs, each by its id, a unique prefix of it, or ``latest``.
        task: the required task, as runs record it.
        learner: the model that learns.

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
    """The data of a run other than its lessons.

    Attributes:
        helped: steps on which a model other than the learner voted, including its parts.
        inputs: the inputs of its steps.
    """

    def __init__(self, db: Path, name: str, learner: LocalModel) -> None:
        self.helped: set[tuple[str, int]] = set()
        self.inputs: dict[tuple[str, int], str] = {}
        with reading(db) as connection:
            number = find_number(connection, name)
            sql = "SELECT run_id, task, params FROM runs WHERE id = ?1"
            self.run_id, task, params = connection.execute(sql, (number,)).fetchone()
            self.task: tuple[str, str] = (task, params)
            # A copy of the learner under another name does not count as another model.
            known: dict[str, Any] = dict(map(tuple, connection.execute(_WEIGHTS, (number,))))
            for run_id, step, model, about in connection.execute(_VOTERS, (number,)):
                self.inputs[run_id, step] = about
                if model != learner.name and known.get(model) != learner.digest:
                    self.helped.add((run_id, step))
