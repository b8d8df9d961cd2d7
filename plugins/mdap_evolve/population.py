"""Spread an iteration's perturbations over processes, sending only seeds, coefficients and rewards."""

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from mdap import MdapError
from mdap_evolve.learning import Evolution, Example, Update
from mdap_evolve.recipe import Recipe
from mdap_local import LocalModel, load_model


class WorkerError(MdapError):
    """Raised when a worker of an evolution ended; recorded updates are safe."""


def shares(pairs: int, workers: int) -> list[range]:
    """Return which pairs each of the *workers* computes."""
    edges = [pairs * worker // workers for worker in range(workers + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


@contextmanager
def population(
    model: LocalModel, examples: Sequence[Example], recipe: Recipe, workers: int
) -> Iterator[Evolution]:
    """Yield an evolution whose rewards *workers* processes compute, including this one.

    Raises:
        WorkerError: one of them ended.
    """
    own, *others = shares(recipe.pairs, workers)
    with ExitStack() as stack:
        helpers = [stack.enter_context(_started(model, examples, recipe)) for _ in others]
        evolution = _Shared(model, examples, recipe)
        evolution.own, evolution.helpers = own, list(zip(helpers, others, strict=True))
        yield evolution


class _Helper:
    """A process with the same weights that takes orders in JSON."""

    def __init__(self, process: SpawnProcess, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe

    def tell(self, what: dict[str, Any]) -> None:
        """Send an order."""
        with self._alive():
            self._pipe.send_bytes(json.dumps(what).encode())

    def rewards(self) -> list[float]:
        """Return the requested rewards."""
        with self._alive():
            return [float(reward) for reward in json.loads(self._pipe.recv_bytes())]

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError):
            self._process.join()
            code = self._process.exitcode
            raise WorkerError(
                f"a worker ended with code {code}, perhaps for lack of memory: use fewer --workers"
            ) from None


class _Shared(Evolution):
    own: range
    helpers: Sequence[tuple[_Helper, range]]

    def all_rewards(self) -> list[float]:
        """Return the rewards of all pairs of the next iteration, each computed by one process."""
        for helper, pairs in self.helpers:
            helper.tell({"rewards": [pairs.start, pairs.stop]})
        found = self.rewards(self.own)
        for helper, _ in self.helpers:
            found += helper.rewards()
        return found

    def repeat(self, update: Update) -> None:
        """Repeat the next recorded update in every process."""
        for helper, _ in self.helpers:
            helper.tell({"coefficients": list(update.coefficients)})
        super().repeat(update)


@contextmanager
def _started(model: LocalModel, examples: Sequence[Example], recipe: Recipe) -> Iterator[_Helper]:
    context = get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=_work, args=(far,), daemon=True)
    process.start()
    far.close()
    try:
        helper = _Helper(process, pipe)
        name = model.name.removeprefix("local/")
        helper.tell({"model": name, "recipe": recipe.model_dump(), "examples": examples})
        yield helper
    finally:
        process.kill()
        process.join()
        pipe.close()


def _work(pipe: Connection) -> None:
    """Compute rewards and make updates, as ordered through the pipe, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    with suppress(EOFError):
        about = json.loads(pipe.recv_bytes())
        import torch

        torch.set_num_threads(1)
        model = load_model(about["model"], device="cpu", dtype="float32")
        examples = [
            Example(tuple(prompt), tuple(reply), contested) for prompt, reply, contested in about["examples"]
        ]
        evolution = Evolution(model, examples, Recipe(**about["recipe"]))
        while True:
            order = json.loads(pipe.recv_bytes())
            if "rewards" in order:
                pipe.send_bytes(json.dumps(evolution.rewards(range(*order["rewards"]))).encode())
            else:
                evolution.repeat(Update((), tuple(order["coefficients"])))
