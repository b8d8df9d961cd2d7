"""All weights of a network as one vector, and the noise that perturbs it."""

import hashlib
from typing import Any, Final

from mdap_evolve.recipe import Anchor

__all__ = ["Weights", "signs"]

_BLOCK: Final = 1 << 20


def signs(place: tuple[int, int, int], count: int) -> Any:
    """Return *count* random signs, -1 or +1: one stream over all weights.

    They are the bits of SHAKE-128 over a counter, so that every machine and version draws the same ones.

    Args:
        place: seed, iteration and pair.
        count: how many.
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
    """The weights of a network, held in one float32 vector that its parameters are views of.

    Args:
        network: a torch module on the CPU; it is changed so that its parameters lie in the vector.

    Attributes:
        now: the vector, as of the last update.
        start: the vector as it was at first.
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
        """Let the network compute with weights *size* times *noise* away from `now`."""
        self._live.copy_(self.now).add_(noise, alpha=size)

    def settle(self) -> None:
        """Let the network compute with the weights of `now`."""
        self._live.copy_(self.now)

    def take(self) -> None:
        """Make the weights that the network holds those of `now`."""
        self.now.copy_(self._live)

    def pull(self, anchor: Anchor, amount: float) -> None:
        """Pull the weights back to where they began: Anchored Weight Decay.

        Args:
            anchor: in proportion to the distance (``l2``), or by a constant amount (``l1``).
            amount: the share or the amount: step size times strength.
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
        """How far the weights are from where they began: the Euclidean norm of the difference."""
        return float((self.now - self.start).double().norm())

    @property
    def digest(self) -> str:
        """SHA-256 over the bytes of `now`, in hexadecimal."""
        return hashlib.sha256(self.now.numpy()).hexdigest()
