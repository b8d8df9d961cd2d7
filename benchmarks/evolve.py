"""What a weak model learns from votes, by method and step size, and what it forgets.

    python -m benchmarks.evolve run OUT CONFIGURATION SEED     one training, kept as JSON in the folder OUT
    python -m benchmarks.evolve all OUT                        all of them, with three seeds, if missing
    python -m benchmarks.evolve report OUT                     means and spreads
    python -m benchmarks.evolve plot OUT FILE                  drift at the large step, a mean, as SVG

Votes are drawn as `mdap run` draws them, from the models that ship, at every step of the solutions for 8, 9
and 10 disks: first to lead by k = 3, members in turn, at most 40 votes. Steps without a winner teach nothing.
P(wrong) is exact: by teacher forcing of the oracle's reply at temperature 1, on prompts that are held out.
"""

import json
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from benchmarks.train_micro import Lesson, hanoi_solutions, sums
from mdap.rules.tally import Tally
from mdap_evolve.learning import Evolution, Example, Tuning, likelihoods
from mdap_evolve.recipe import Recipe
from mdap_evolve.showing import plotted
from mdap_local import LocalModel, load_model
from mdap_local.generating import Row, generate

DISKS: Final = (8, 9, 10)
MOST_VOTES: Final = 40
EVERY: Final = 20
SEEDS: Final = (0, 1, 2)
TESTS: Final = ("Hanoi", "multiplication", "addition")

RECIPES: Final[dict[str, dict[str, Any]]] = {
    "es": {},
    "es, large step, anchored": {"alpha": 0.01, "iterations": 60},
    "es, large step, not anchored": {"alpha": 0.01, "anchor": "none", "iterations": 60},
    "es, own votes": {},
    "sft": {"method": "sft", "alpha": 0.0003, "strength": 60},
    "sft, weakly anchored": {"method": "sft", "alpha": 0.0003, "strength": 6},
}


class Vote(NamedTuple):
    lesson: Lesson
    winner: str
    contested: bool


def voted(members: list[LocalModel], lessons: list[Lesson], seed: int) -> list[Vote]:
    """Return what votes decide, all steps side by side."""
    tallies = [Tally(3) for _ in lessons]
    counts: list[Counter[str]] = [Counter() for _ in lessons]
    left = list(range(len(lessons)))
    for turn in range(MOST_VOTES):
        model = members[turn % len(members)]
        rows = {}
        for place in left:
            chance = random.Random(f"{seed}|{place}|{turn}").getrandbits(64)
            rows[Row(tuple(model.chat("", lessons[place].user)), chance, 1.0, 32, lambda: True)] = place
        wanted = list(rows)
        for first in range(0, len(wanted), 64):
            for sampled in generate(model, wanted[first : first + 64]):
                place, text = rows[sampled.row], model.text(sampled.tokens)
                tallies[place].add(text)
                counts[place][text] += 1
        left = [place for place in left if tallies[place].winner is None]
    return [
        Vote(lesson, tally.winner, len(count) > 1)
        for lesson, tally, count in zip(lessons, tallies, counts, strict=True)
        if tally.winner is not None
    ]


def tokens(model: LocalModel, user: str, reply: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(model.chat("", user)), tuple(model.reply(reply))


class Tests:
    """Exact P(wrong) in %, by test."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        solutions = [lesson for disks in DISKS for lesson in hanoi_solutions(disks)]
        found = {
            "Hanoi": [lesson for lesson in solutions if lesson.held_out],
            "multiplication": sums("*", 9),
            "addition": sums("+", 2),
        }
        self._pairs = {
            name: [tokens(model, lesson.user, lesson.reply) for lesson in lessons]
            for name, lessons in found.items()
        }

    def wrong(self) -> dict[str, float]:
        return {
            name: 100 * (1 - statistics.fmean(likelihoods(self._model, pairs)))
            for name, pairs in self._pairs.items()
        }


def kept(folder: Path, names: list[str], lessons: list[Lesson], seed: int) -> list[Vote]:
    """Return the votes of a seed, drawn once for all configurations."""
    file = folder / "votes" / f"{'+'.join(names)}-{seed}.json"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        votes = voted([load_model(name, device="cpu") for name in names], lessons, seed)
        file.write_text(json.dumps(votes))
    return [Vote(Lesson(*lesson), *rest) for lesson, *rest in json.loads(file.read_text())]


def trained(folder: Path, configuration: str, seed: int) -> dict[str, Any]:
    weak = load_model("micro-weak", device="cpu")
    names = ["micro-weak"] if "own" in configuration else ["micro-weak", "micro"]
    lessons = [one for disks in DISKS for one in hanoi_solutions(disks) if not one.held_out]
    votes = kept(folder, names, lessons, seed)
    examples = [Example(*tokens(weak, vote.lesson.user, vote.winner), vote.contested) for vote in votes]
    recipe = Recipe(seed=seed, **RECIPES[configuration])
    learner = (Tuning if recipe.method == "sft" else Evolution)(weak, examples, recipe)
    tests = Tests(weak)
    points = [{"iteration": 0, "distance": 0.0, **tests.wrong()}]
    seconds = 0.0
    while learner.iteration < recipe.iterations:
        started = time.process_time()
        learner.learn()
        seconds += time.process_time() - started
        if learner.iteration % EVERY == 0:
            learner.weights.settle()
            distance = learner.weights.distance
            points.append({"iteration": learner.iteration, "distance": distance, **tests.wrong()})
            print(configuration, seed, points[-1], flush=True)
    learner.finish()
    return {
        "configuration": configuration,
        "seed": seed,
        "prompts": len(lessons),
        "decided": len(votes),
        "contested": sum(vote.contested for vote in votes),
        "wrong_winners": sum(vote.winner != vote.lesson.reply for vote in votes),
        "cpu_seconds": seconds,
        "points": points,
        "averaged": tests.wrong(),
    }


def main() -> None:
    torch.set_num_threads(1)
    task, folder, *given = sys.argv[1:]
    out = Path(folder)
    out.mkdir(exist_ok=True)
    if task == "run":
        file_of(out, given[0], int(given[1])).write_text(json.dumps(trained(out, given[0], int(given[1]))))
    elif task == "all":
        for seed in SEEDS:
            for configuration in RECIPES:
                file = file_of(out, configuration, seed)
                if not file.exists():
                    file.write_text(json.dumps(trained(out, configuration, seed)))
    elif task == "plot":
        Path(given[0]).write_text(plotted("P(wrong) by iteration at a large step", drifts(out)))
    else:
        report(out)


def file_of(out: Path, configuration: str, seed: int) -> Path:
    return out / f"{configuration.replace(', ', '-').replace(' ', '-')}-{seed}.json"


def drifts(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return how P(wrong) went at the large step, mean of the seeds, by test and anchor."""
    lines = {}
    for name in TESTS[:2]:
        for anchor in ("not anchored", "anchored"):
            runs = [
                json.loads(file_of(folder, f"es, large step, {anchor}", seed).read_text())["points"]
                for seed in SEEDS
            ]
            lines[f"{name}, {anchor}"] = [
                (points[0]["iteration"], statistics.fmean(point[name] for point in points))
                for points in zip(*runs, strict=True)
            ]
    return lines


def report(folder: Path) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        one = json.loads(file.read_text())
        found.setdefault(one["configuration"], []).append(one)
    for configuration, runs in found.items():
        print(f"{configuration}: {len(runs)} seeds, {runs[0]['cpu_seconds']:.0f} s of processor time")
        wrong = statistics.fmean(run["wrong_winners"] / run["decided"] for run in runs)
        print(f"  {runs[0]['decided']} prompts decided, {runs[0]['contested']} contested, {wrong:.2%} wrong")
        for name in TESTS:
            for what, values in (
                ("last", [run["points"][-1][name] for run in runs]),
                ("averaged", [run["averaged"][name] for run in runs]),
            ):
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                start = runs[0]["points"][0][name]
                mean = statistics.fmean(values)
                print(f"  {name:<15} {what:<9} {start:6.2f} -> {mean:6.2f} +- {spread:.2f}  {values}")


if __name__ == "__main__":
    main()
