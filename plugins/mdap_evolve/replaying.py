"""Rebuild a model from the base and the record, and prove that the record leads to it."""

import base64
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from mdap import UsageError
from mdap.errors import DatabaseError
from mdap.journal.evolutions import EvolutionRow, IterationRow, read_evolution
from mdap_evolve.evolving import ReplayError, Study, base_model, examples_of, learning, repeated, study_of
from mdap_evolve.learning import Evolution, Example, Learner, coefficients
from mdap_evolve.recipe import Recipe
from mdap_local import load_model

SHARED: Final = "evolution.json"
"""The file beside a new model that rebuilds it from the base model."""

_NEAR: Final = 1e-4


def share(db: Path, evolution_id: str, folder: Path) -> None:
    """Write the replay file, a few kilobytes, into the new model's folder."""
    row = read_evolution(db, evolution_id)
    if row.recipe["method"] == "sft" or row.ended is None:
        return
    flat = [each for update in row.iterations for each in update.coefficients]
    updates = struct.pack(f"<{len(flat)}e", *flat)
    held = {
        "evolution_id": row.evolution_id,
        "model": row.model,
        "weights": row.weights,
        "recipe": row.recipe,
        "coefficients": base64.b64encode(updates).decode(),
        "result": row.ended[1]["weights"],
    }
    (folder / SHARED).write_text(json.dumps(held) + "\n")


def check_free(out: Path) -> None:
    """Refuse a folder that holds anything, or a file."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} exists already: name a new folder")


def replay(db: Path, name: str, out: Path) -> dict[str, Any]:
    """Rebuild the model of an evolution, named by its id or by a file `SHARED`, bit for bit.

    Raises:
        UsageError: there is no such evolution or file, it has not finished, or *out* exists already.
        ReplayError: the resulting weights differ from the recorded ones.
    """
    check_free(out)
    row = _of_file(Path(name)) if Path(name).is_file() else read_evolution(db, name)
    if row.ended is None:
        raise UsageError(f"{row.evolution_id} has not finished: continue it with --resume {row.evolution_id}")
    if row.ended[0] == "refused":
        raise UsageError(f"{row.evolution_id} wrote no model: {row.ended[1]['refusal']}")
    model = base_model(row)
    recipe = Recipe(**row.recipe)
    examples: list[Example] = []
    if recipe.method == "sft":  # its gradients are not on record
        examples = examples_of(model, study_of(db, row).lessons)
    with learning(model, examples, recipe) as learner:
        repeated(learner, row)
        learner.finish()
    model.save(out)
    weights = load_model(str(out), device="cpu").digest
    if weights != row.ended[1]["weights"]:
        raise ReplayError(f"{row.evolution_id}: the replay has weights {weights[:16]}, the record other ones")
    made = {"evolution_id": row.evolution_id, "iterations": len(row.iterations)}
    return {**made, "out": str(out), "weights": weights}


def _of_file(path: Path) -> EvolutionRow:
    """Return the evolution in a shared file, without the data that only its database has."""
    try:
        held = json.loads(path.read_bytes())
        recipe = Recipe(**held["recipe"])
        updates = base64.b64decode(held["coefficients"], validate=True)
        rows = [
            IterationRow(place, (), each, 0.0, 0.0, {}, "")
            for place, each in enumerate(struct.iter_unpack(f"<{recipe.pairs}e", updates), start=1)
        ]
        ended = ("finished", {"weights": str(held["result"])})
        evolution_id, model, weights = [str(held[name]) for name in ("evolution_id", "model", "weights")]
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        raise UsageError(f"{path} is not a {SHARED} that mdap wrote: copy it again") from None
    if len(rows) != recipe.iterations:
        raise UsageError(f"{path} has {len(rows)} of {recipe.iterations} iterations: copy it again")
    return EvolutionRow(0, evolution_id, model, weights, recipe.model_dump(), {}, tuple(rows), ended)


@dataclass(frozen=True, slots=True)
class Verified:
    """The number of repeated updates, the digest of a finished model, and a sentence for each mismatch."""

    evolution_id: str
    iterations: int
    weights: str | None
    mismatches: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything matches."""
        return not self.mismatches

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``mdap audit verify --json`` prints."""
        return {"verdict": "verified" if self.ok else "mismatch", **asdict(self)}

    def lines(self) -> list[tuple[str, str]]:
        """Return the names and values to print."""
        return [
            ("iterations", f"{self.iterations} made again from the base model and the record"),
            ("weights", self.weights or "-"),
            *[("mismatch", each) for each in self.mismatches],
        ]


def verify(db: Path, name: str) -> Verified:
    """Check that an evolution's record is unchanged, follows from its runs, and leads to its model.

    It repeats every update and recomputes the rewards of three iterations.

    Raises:
        UsageError: there is no such evolution, or its base model or its runs are missing.
    """
    try:
        row = read_evolution(db, name)
    except DatabaseError as error:
        return Verified(name, 0, None, (str(error),))
    study = study_of(db, row)
    recipe = study.recipe
    found: list[str] = []
    weights = None
    with learning(study.model, examples_of(study.model, study.lessons), recipe) as learner:
        try:
            found += _updates(learner, study)
            if row.ended is not None:
                learner.finish()
                weights = row.ended[1]["weights"]
                found += _result(study)
        except ReplayError as error:
            found.append(str(error))
    return Verified(row.evolution_id, learner.iteration, weights, tuple(found))


def _updates(learner: Learner, study: Study) -> list[str]:
    """Repeat the recorded updates, and return the mismatches."""
    found = []
    rows = study.row.iterations
    looked_at = {0, len(rows) // 2, len(rows) - 1}
    for place, row in enumerate(rows):
        if isinstance(learner, Evolution):
            if coefficients(row.rewards) != row.coefficients:
                found.append(f"iteration {row.iteration}: its coefficients do not follow from its rewards")
            if place in looked_at and not _same(learner.all_rewards(), row.rewards):
                found.append(f"iteration {row.iteration}: its rewards are not those of its batch")
        repeated(learner, replace(study.row, iterations=(row,)))
    return found


def _result(study: Study) -> list[str]:
    """Return the differences between the report and the rebuilt weights."""
    assert study.row.ended is not None
    kind, report = study.row.ended
    found = [
        f"P(right) of {name} is {right:.4f}, and the report says {report['after'][name]['right']:.4f}"
        for name, exam in study.exams.items()
        if abs((right := exam.figures(study.model, study.recipe.seed).right) - report["after"][name]["right"])
        > _NEAR
    ]
    if kind == "finished":
        with TemporaryDirectory() as folder:
            study.model.save(folder)
            made = load_model(folder, device="cpu").digest
        if made != report["weights"]:
            found.append(
                f"the updates lead to weights {made[:16]}, and the report says {report['weights'][:16]}"
            )
    return found


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether rewards are the same, as far as rounding on different machines allows."""
    near = [math.isclose(*pair, rel_tol=0, abs_tol=_NEAR) for pair in zip(one, other, strict=False)]
    return len(one) == len(other) and all(near)
