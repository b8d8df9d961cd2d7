"""The perturbations of an iteration, over processes: only seeds, coefficients and rewards travel."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import IO, Any

from mdap import MdapError
from mdap_evolve.learning import Evolution, Example, Update
from mdap_evolve.recipe import Recipe
from mdap_local import LocalModel, load_model

__all__ = ["WorkerError", "population", "shares"]


class WorkerError(MdapError):
    """A worker of an evolution ended; what was recorded is safe."""


def shares(pairs: int, workers: int) -> list[range]:
    """Return which pairs each of the *workers* computes."""
    edges = [pairs * worker // workers for worker in range(workers + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


@contextmanager
def population(
    model: LocalModel, examples: Sequence[Example], recipe: Recipe, workers: int
) -> Iterator[Evolution]:
    """Yield an evolution whose rewards so many processes compute, this one included.

    Raises:
        WorkerError: one of them ended.
    """
    own, *others = shares(recipe.pairs, workers)
    with ExitStack() as stack:
        helpers = [stack.enter_context(_started(model, examples, recipe)) for _ in others]
        evolution = _Shared(model, examples, recipe, (own, list(zip(helpers, others, strict=True))))
        yield evolution


class _Helper:
    """A process that has the same weights, and is told in lines of JSON what to do."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def tell(self, what: dict[str, Any]) -> None:
        """Send a line.

        Raises:
            WorkerError: nobody reads it.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def rewards(self) -> list[float]:
        """Return the rewards that it was asked for.

        Raises:
            WorkerError: it ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._gone()
        return [float(reward) for reward in json.loads(line)]

    def _gone(self) -> WorkerError:
        code = self._process.wait()
        return WorkerError(
            f"a worker ended with code {code}, perhaps for lack of memory: use fewer --workers"
        )


class _Shared(Evolution):
    def __init__(
        self,
        model: LocalModel,
        examples: Sequence[Example],
        recipe: Recipe,
        shared: tuple[range, list[tuple[_Helper, range]]],
    ) -> None:
        super().__init__(model, examples, recipe, self._all_rewards)
        self._own, self._helpers = shared

    def _all_rewards(self) -> list[float]:
        for helper, pairs in self._helpers:
            helper.tell({"rewards": [pairs.start, pairs.stop]})
        found = self.rewards(self._own)
        for helper, _ in self._helpers:
            found += helper.rewards()
        return found

    def repeat(self, update: Update) -> None:
        """Make the next update as it was recorded, in every process."""
        for helper, _ in self._helpers:
            helper.tell({"coefficients": list(update.coefficients)})
        super().repeat(update)


@contextmanager
def _started(model: LocalModel, examples: Sequence[Example], recipe: Recipe) -> Iterator[_Helper]:
    command = [sys.executable, "-m", "mdap_evolve.population"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            helper = _Helper(process)
            name = model.name.removeprefix("local/")
            helper.tell({"model": name, "recipe": recipe.model_dump(), "examples": examples})
            yield helper
        finally:
            process.kill()


def work(lines: IO[str], out: IO[str]) -> None:
    """Do what the lines say: compute rewards, or make an update."""
    import torch

    torch.set_num_threads(1)
    about = json.loads(lines.readline() or "null")
    if about is None:
        return
    model = load_model(about["model"], device="cpu", dtype="float32")
    examples = [
        Example(tuple(prompt), tuple(reply), contested) for prompt, reply, contested in about["examples"]
    ]
    evolution = Evolution(model, examples, Recipe(**about["recipe"]))
    for line in lines:
        told = json.loads(line)
        if "rewards" in told:
            out.write(json.dumps(evolution.rewards(range(*told["rewards"]))) + "\n")
            out.flush()
        else:
            evolution.repeat(Update((), tuple(told["coefficients"])))


if __name__ == "__main__":
    work(sys.stdin, sys.stdout)
