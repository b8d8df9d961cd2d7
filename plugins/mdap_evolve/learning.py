"""Change weights, one update at a time, to make winning replies more likely."""

import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from mdap_evolve.recipe import Recipe
from mdap_evolve.weights import Weights, signs
from mdap_local import LocalModel

__all__ = ["Evolution", "Example", "Learner", "Rewards", "Tuning", "Update", "coefficients", "likelihoods"]

_AT_ONCE: Final = 256


class Example(NamedTuple):
    """A prompt and the reply that won its vote, in tokens, and whether a vote went against it."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    contested: bool


class Update(NamedTuple):
    """The data of an iteration.

    Attributes:
        rewards: with ES, the mean P(winner) on the batch under each perturbation, the two opposite ones of a
            pair next to each other; with Adam, that of the weights before the update.
        coefficients: with ES, how far the update goes along each pair's noise, in units of alpha over the
            population; each is a 16-bit float.
    """

    rewards: tuple[float, ...]
    coefficients: tuple[float, ...] = ()


Rewards = Callable[[], Sequence[float]]
"""A source of the rewards of the next iteration."""


class Learner(Protocol):
    """A training method, one update after the other.

    Attributes:
        weights: the weights as of the last update.
        iteration: the number of updates made.
    """

    weights: Weights
    iteration: int

    def learn(self) -> Update:
        """Make the next update, and return its data."""

    def repeat(self, update: Update) -> None:
        """Repeat the next recorded update."""

    def finish(self) -> None:
        """Set the network's weights to their average over the last half of the iterations."""


def likelihoods(model: LocalModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
    """Return P(reply | prompt) at temperature 1 of each pair of tokens, by teacher forcing."""
    import torch

    found: list[float] = []
    with torch.inference_mode():
        for first in range(0, len(pairs), _AT_ONCE):
            found += model.log_likelihoods(pairs[first : first + _AT_ONCE]).double().exp().tolist()
    return found


def coefficients(rewards: Sequence[float]) -> tuple[float, ...]:
    """Return for each pair the difference of its two z-scores, as 16-bit floats."""
    mean = math.fsum(rewards) / len(rewards)
    spread = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    if spread == 0:
        return (0.0,) * (len(rewards) // 2)
    differences = [(up - down) / spread for up, down in zip(rewards[::2], rewards[1::2], strict=True)]
    return struct.unpack(f"<{len(differences)}e", struct.pack(f"<{len(differences)}e", *differences))


class _Learner:
    """The common base of both methods: batches, and the average of the last half."""

    def __init__(self, model: LocalModel, examples: Sequence[Example], recipe: Recipe) -> None:
        import torch

        self.weights = Weights(model.network)
        self.iteration = 0
        self._model = model
        self._recipe = recipe
        self._contested = [one for one in examples if one.contested]
        self._others = [one for one in examples if not one.contested]
        self._sum = torch.zeros(len(self.weights), dtype=torch.float64)

    def _batch(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return the pairs of tokens of the next iteration; steps that were contested come first."""
        recipe = self._recipe
        rng = random.Random(f"{recipe.seed}|{self.iteration}")
        wanted = max(recipe.contested, recipe.batch - len(self._others))
        hard = rng.sample(self._contested, min(wanted, len(self._contested)))
        easy = rng.sample(self._others, min(recipe.batch - len(hard), len(self._others)))
        return [(one.prompt, one.reply) for one in (*hard, *easy)]

    def _moved(self) -> None:
        """Anchor the updated weights, and add them to the average."""
        recipe = self._recipe
        self.weights.pull(recipe.anchor, recipe.alpha * recipe.strength)
        self.iteration += 1
        if self.iteration >= recipe.averaged_from:
            self._sum += self.weights.now

    def finish(self) -> None:
        """Set the network's weights to their average over the last half of the iterations."""
        mean = self._sum / (self.iteration - self._recipe.averaged_from + 1)
        self.weights.now.copy_(mean.half())  # in the precision of the written files
        self.weights.settle()


class Evolution(_Learner):
    """Evolution strategies: the rewards of perturbed weights give the direction, without a gradient.

    Args:
        model: the model to change; on the CPU, in float32.
        examples: the training examples.
        recipe: the settings.
        rewards: the source of an iteration's rewards; None to compute them here.
    """

    def __init__(
        self,
        model: LocalModel,
        examples: Sequence[Example],
        recipe: Recipe,
        rewards: Rewards | None = None,
    ) -> None:
        super().__init__(model, examples, recipe)
        self._rewards = rewards or (lambda: self.rewards(range(recipe.pairs)))

    def rewards(self, pairs: Sequence[int]) -> list[float]:
        """Return the rewards of some pairs of the next iteration, two for each."""
        batch, found = self._batch(), list[float]()
        for pair in pairs:
            noise = self._noise(pair)
            for size in (self._recipe.sigma, -self._recipe.sigma):
                self.weights.perturb(noise, size)
                found.append(math.fsum(likelihoods(self._model, batch)) / len(batch))
        return found

    def learn(self) -> Update:
        """Make the next update, and return its data."""
        rewards = tuple(self._rewards())
        update = Update(rewards, coefficients(rewards))
        self.repeat(update)
        return update

    def repeat(self, update: Update) -> None:
        """Repeat the next recorded update."""
        scale = self._recipe.alpha / self._recipe.population
        for pair, coefficient in enumerate(update.coefficients):
            self.weights.now.add_(self._noise(pair), alpha=scale * coefficient)
        self._moved()

    def _noise(self, pair: int) -> Any:
        return signs((self._recipe.seed, self.iteration, pair), len(self.weights))


class Tuning(_Learner):
    """Supervised fine-tuning with Adam: the gradient of log P(winner) gives the direction."""

    def __init__(self, model: LocalModel, examples: Sequence[Example], recipe: Recipe) -> None:
        import torch

        super().__init__(model, examples, recipe)
        self._parameters = list(model.network.requires_grad_(True).parameters())
        self._adam = torch.optim.Adam(self._parameters, lr=recipe.alpha, betas=(0.9, 0.98))

    def learn(self) -> Update:
        """Make the next update, and return its data."""
        self.weights.settle()
        chances = self._model.log_likelihoods(self._batch())
        self._adam.zero_grad()
        (-chances.mean()).backward()
        self._adam.step()
        self.weights.take()
        self._moved()
        return Update((float(chances.detach().exp().mean()),))

    def repeat(self, update: Update) -> None:
        """Repeat the next update by computing it: its gradient is not on record."""
        self.learn()
