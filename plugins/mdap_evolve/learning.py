"""Change weights, one update at a time, to make winning replies more likely."""

import hashlib
import math
import random
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from mdap_evolve.recipe import Anchor, Recipe
from mdap_local import LocalModel

_AT_ONCE: Final = 256
_BLOCK: Final = 1 << 20


class Example(NamedTuple):
    """A prompt and the reply that won its vote, in tokens, and whether a vote went against it."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    contested: bool


class Update(NamedTuple):
    """The data of an iteration.

    The *rewards* are the mean P(winner) on the batch: with ES, under each perturbation, the two opposite ones
    of a pair next to each other; with Adam, before the update. The *coefficients* of ES, 16-bit floats, say
    how far the update goes along each pair's noise, in units of alpha over the population.
    """

    rewards: tuple[float, ...]
    coefficients: tuple[float, ...] = ()


def signs(place: tuple[int, int, int], count: int) -> Any:
    """Return *count* random signs, -1 or +1: one stream over all weights, for a seed, iteration and pair.

    The signs are the bits of SHAKE-128 over a counter, the same on every machine and version.
    """
    import numpy
    import torch

    blocks = []
    for first in range(0, count, _BLOCK):
        bits = min(_BLOCK, count - first)
        counter = f"mdap-evolve|{place[0]}|{place[1]}|{place[2]}|{first // _BLOCK}"
        drawn = hashlib.shake_128(counter.encode()).digest((bits + 7) // 8)
        blocks.append(numpy.unpackbits(numpy.frombuffer(drawn, numpy.uint8))[:bits])
    return torch.from_numpy(numpy.concatenate(blocks)).float().mul_(2).sub_(1)


class Weights:
    """The weights of a network on the CPU, in one float32 vector that its parameters are views of.

    *now* is that vector after the last update, *start* before the first.
    """

    def __init__(self, network: Any) -> None:
        import torch

        parameters = list(network.parameters())
        self.now = torch.cat([each.detach().reshape(-1).float() for each in parameters])
        self.start = self.now.clone()
        self._live = self.now.clone()
        first = 0
        for each in parameters:
            each.data = self._live[first : first + each.numel()].view(each.shape)
            first += each.numel()

    def __len__(self) -> int:
        return len(self.now)

    def perturb(self, noise: Any, size: float) -> None:
        """Set the network's weights to `now` plus *size* times *noise*."""
        self._live.copy_(self.now).add_(noise, alpha=size)

    def settle(self) -> None:
        """Set the network's weights to `now`."""
        self._live.copy_(self.now)

    def take(self) -> None:
        """Set `now` to the network's weights."""
        self.now.copy_(self._live)

    def pull(self, anchor: Anchor, amount: float) -> None:
        """Pull the weights back to their start values: Anchored Weight Decay.

        The *amount*, step size times strength, is a share of the distance (``l2``), or constant (``l1``).
        """
        if anchor == "none" or amount == 0:
            return
        away = self.now - self.start
        if anchor == "l2":
            away.mul_(1 - amount)
        else:
            away = away.sign() * (away.abs() - amount).clamp_(min=0)
        self.now.copy_(self.start).add_(away)

    @property
    def distance(self) -> float:
        """The distance of the weights from their start values, as a Euclidean norm."""
        return float((self.now - self.start).double().norm())

    @property
    def digest(self) -> str:
        """SHA-256 over the bytes of `now`, in hexadecimal."""
        return hashlib.sha256(self.now.numpy()).hexdigest()


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


class Learner(ABC):
    """A training method that changes a model on the CPU, in float32, one update after the other."""

    def __init__(self, model: LocalModel, examples: Sequence[Example], recipe: Recipe) -> None:
        import torch

        self.weights = Weights(model.network)
        self.iteration = 0
        self._model = model
        self._recipe = recipe
        self._contested = [one for one in examples if one.contested]
        self._others = [one for one in examples if not one.contested]
        self._sum = torch.zeros(len(self.weights), dtype=torch.float64)

    @abstractmethod
    def learn(self) -> Update:
        """Make the next update, and return its data."""

    @abstractmethod
    def repeat(self, update: Update) -> None:
        """Repeat the next recorded update."""

    def finish(self) -> None:
        """Set the network's weights to their average over the last half of the iterations."""
        mean = self._sum / (self.iteration - self._recipe.averaged_from + 1)
        self.weights.now.copy_(mean.half())  # in the precision of the written files
        self.weights.settle()

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


class Evolution(Learner):
    """Evolution strategies: the rewards of perturbed weights give the direction, without a gradient."""

    def rewards(self, pairs: Sequence[int]) -> list[float]:
        """Return the rewards of some pairs of the next iteration, two for each."""
        batch, found = self._batch(), list[float]()
        for pair in pairs:
            noise = self._noise(pair)
            for size in (self._recipe.sigma, -self._recipe.sigma):
                self.weights.perturb(noise, size)
                found.append(math.fsum(likelihoods(self._model, batch)) / len(batch))
        return found

    def all_rewards(self) -> Sequence[float]:
        """Return the rewards of all pairs of the next iteration."""
        return self.rewards(range(self._recipe.pairs))

    def learn(self) -> Update:
        """Make the next update, and return its data."""
        rewards = tuple(self.all_rewards())
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


class Tuning(Learner):
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
