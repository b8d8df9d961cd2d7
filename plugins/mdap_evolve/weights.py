"""All weights of a network as one vector, and the noise that perturbs it."""

import hashlib
from typing import Any, Final

from mdap_evolve.recipe import Anchor

__all__ = ["Weights", "signs"]

_BLOCK: Final = 1 << 20


def signs(place: tuple[int, int, int], count: int) -> Any:
    """Return *count* random signs, -1 or +1: one stream over all weights.

    The signs are the bits of SHAKE-128 over a counter, the same on every machine and version.

    Args:
        place: seed, iteration and pair.
        count: the number of signs.
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
        network: a torch module on the CPU; its parameters become views of the vector.

    Attributes:
        now: the vector after the last update.
        start: the vector at the start.
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
        """The distance of the weights from their start values, as a Euclidean norm."""
        return float((self.now - self.start).double().norm())

    @property
    def digest(self) -> str:
        """SHA-256 over the bytes of `now`, in hexadecimal."""
        return hashlib.sha256(self.now.numpy()).hexdigest()
