"""Sample replies to several prompts together, each with its own random numbers."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Final

from mdap import UnavailableError
from mdap_local.model import LocalModel, is_out_of_memory

_COLDEST: Final = 1e-6
_SMALL: Final = 20_000_000


@dataclass(slots=True, eq=False)
class Row:
    """One requested sample, with the seed of its random numbers, and whether a caller waits for it."""

    prompt: tuple[int, ...]
    seed: int
    temperature: float
    max_tokens: int
    wanted: Callable[[], bool]
    said: list[int] = field(default_factory=list)
    chance: random.Random = field(default_factory=random.Random)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A finished sample: its tokens without the one that ended it, and how many were made in all."""

    row: Row
    tokens: Sequence[int]
    made: int
    finish_reason: str


def generate(model: LocalModel, rows: Sequence[Row]) -> Iterator[Sampled]:
    """Yield the samples of *rows* as they finish, without those no longer wanted.

    If memory runs out, it samples them again in two halves.

    Raises:
        UnavailableError: there is not enough memory for a single one, or the model's output is not finite.
    """
    done: set[Row] = set()
    try:
        with _threads(model):
            for sampled in _together(model, rows):
                done.add(sampled.row)
                yield sampled
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    rest = [row for row in rows if row not in done and row.wanted()]
    if len(rest) == 1:
        raise UnavailableError(
            f"{model.name} has not enough memory for a prompt of {len(rest[0].prompt)} tokens and its reply: "
            "choose a smaller model",
            kind="out_of_memory",
        )
    for half in filter(None, (rest[: len(rest) // 2], rest[len(rest) // 2 :])):
        yield from generate(model, half)


@contextmanager
def _threads(model: LocalModel) -> Iterator[None]:
    """Compute a small model on one thread: distributing its work takes longer than doing it."""
    import torch

    is_small = model.network.device.type == "cpu" and model.network.num_parameters() <= _SMALL
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if is_small else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _together(model: LocalModel, rows: Sequence[Row]) -> Iterator[Sampled]:
    for row in rows:
        row.chance, row.said = random.Random(row.seed), []
    batch, live = _Batch(model, [row.prompt for row in rows]), list(rows)
    while True:
        tokens, going_on = batch.drawn(live), []
        for place, (row, token) in enumerate(zip(live, tokens, strict=True)):
            row.said.append(token)
            if token in model.ends:
                yield Sampled(row, row.said[:-1], len(row.said), "stop")
            elif len(row.said) >= min(row.max_tokens, model.context - len(row.prompt)):
                yield Sampled(row, row.said, len(row.said), "length")
            elif row.wanted():
                going_on.append(place)
        if not going_on:
            return
        live = [live[place] for place in going_on]
        batch.go_on(going_on, [row.said[-1] for row in live])


class _Batch:
    """Prompts, one for each sample, that a model reads and continues together; it reads equal ones once."""

    def __init__(self, model: LocalModel, prompts: Sequence[tuple[int, ...]]) -> None:
        import torch

        self._torch, self._network = torch, model.network
        self._name, self._device = model.name, model.network.device
        self._takes = frozenset(signature(model.network.forward).parameters)
        # Earlier versions of transformers call it past_key_values.
        self._cache_name = "cache" if "cache" in self._takes else "past_key_values"
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        width = max(map(len, places))
        tokens = torch.zeros((len(places), width), dtype=torch.long)
        self._seen = torch.zeros((len(places), width), dtype=torch.long)
        for prompt, place in places.items():
            tokens[place, width - len(prompt) :] = torch.tensor(prompt)
            self._seen[place, width - len(prompt) :] = 1
        self._cache: Any = None
        self._seen = self._seen.to(self._device)
        self._read(tokens.to(self._device))
        self._select([places[prompt] for prompt in prompts])

    def drawn(self, rows: Sequence[Row]) -> list[int]:
        """Return the next token of each row, sampled with the row's own random number."""
        torch = self._torch
        heat = torch.tensor([max(row.temperature, _COLDEST) for row in rows], dtype=torch.float64)
        logits = self._logits.double()
        chances = ((logits - logits.amax(-1, keepdim=True)) / heat[:, None].to(self._device)).softmax(-1)
        heights = chances.cumsum(-1)
        draws = torch.tensor([row.chance.random() for row in rows], dtype=torch.float64).to(self._device)
        found = torch.searchsorted(heights, draws[:, None] * heights[:, -1:], right=True)[:, 0]
        cold = torch.tensor([row.temperature <= 0 for row in rows]).to(self._device)
        found = torch.where(cold, logits.argmax(-1), found.clamp(max=logits.shape[-1] - 1))
        if not bool(torch.isfinite(heights[:, -1]).all()):
            raise UnavailableError(
                f"{self._name} computes no numbers: try -M dtype=float32", kind="not_a_number"
            )
        tokens: list[int] = found.tolist()
        return tokens

    def go_on(self, places: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep the rows at *places*, and read each one's new token."""
        if len(places) < len(self._seen):
            self._select(places)
        new = self._torch.tensor(tokens, device=self._device)[:, None]
        self._seen = self._torch.cat([self._seen, self._torch.ones_like(new)], dim=1)
        self._read(new)

    def _read(self, tokens: Any) -> None:
        positions = (self._seen.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        given = {"attention_mask": self._seen, "position_ids": positions, self._cache_name: self._cache}
        taken = {name: value for name, value in given.items() if name in self._takes}
        with self._torch.no_grad():
            read = self._network(input_ids=tokens, use_cache=True, logits_to_keep=1, **taken)
        self._cache, self._logits = getattr(read, self._cache_name), read.logits[:, -1]

    def _select(self, places: Sequence[int]) -> None:
        chosen = self._torch.tensor(places, device=self._device)
        self._cache.batch_select_indices(chosen)
        self._seen, self._logits = self._seen[chosen], self._logits[chosen]
