"""What a vendor would charge: a price sheet, a cache of beginnings that is really kept, and the bill."""

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

_CHARS: Final = 4  # in a token: near enough, and the same everywhere
_MARKS: Final = ("cache_control", "prompt_cache_breakpoint")


class PriceSheet(BaseModel):
    """What a vendor charges, in USD per million tokens, and what it keeps in its cache.

    Attributes:
        input: for prompts.
        output: for replies.
        cached_input: for prompts read from the cache.
        cache_write: for prompts written to it.
        least: tokens of the shortest beginning that is kept.
        step: beginnings are kept at multiples of so many tokens, where nothing is marked.
        marked: whether only beginnings are kept that a request marks.
        seconds: how long a beginning is kept after it was last used.
        batch: the share of these prices that rows of batch jobs pay; they read no cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float = Field(ge=0)
    cache_write: float = Field(ge=0)
    least: int = Field(1024, ge=1)
    step: int = Field(128, ge=1)
    marked: bool = False
    seconds: float = Field(300.0, gt=0)
    batch: float = Field(0.5, ge=0, le=1)


OPENAI_SHEET: Final = PriceSheet(input=0.4, output=1.6, cached_input=0.1, cache_write=0.4)
"""gpt-4.1-mini: beginnings of 1,024 tokens and more are kept by themselves, for nothing extra."""

ANTHROPIC_SHEET: Final = PriceSheet(input=3.0, output=15.0, cached_input=0.3, cache_write=3.75, marked=True)
"""claude-sonnet-4-5: what is marked is kept for five minutes."""


class Ledger:
    """Bill requests by a price sheet.

    Args:
        sheet: the vendor's.

    Attributes:
        requests: that were billed.
        input_tokens: tokens of their prompts.
        cached_tokens: the part of those that was read from the cache.
        written_tokens: the part of those that was written to the cache for its own price.
        output_tokens: tokens of all replies.
        usd: all that was charged, in USD.
    """

    def __init__(self, sheet: PriceSheet) -> None:
        self.sheet = sheet
        self.requests = 0
        self.input_tokens = 0
        self.cached_tokens = 0
        self.written_tokens = 0
        self.output_tokens = 0
        self.usd = 0.0
        self._kept: dict[bytes, tuple[float, float]] = {}  # from when on, and when last used

    def bill(self, body: dict[str, Any], texts: Sequence[str], at: float, ready: float) -> dict[str, Any]:
        """Charge a request and return its usage, as the Chat Completions API words it.

        Args:
            body: the request.
            texts: its replies.
            at: when it came, in seconds.
            ready: when its reply leaves, and its prompt is in the cache.
        """
        beginnings = dict(self._beginnings(body))
        prompt = sum(len(text) for text, _ in _blocks(body)) // _CHARS + 1
        read = new = 0
        for key, tokens in beginnings.items():
            since, used = self._kept.get(key, (ready, ready))
            if at > used + self.sheet.seconds:
                since = ready
            elif key in self._kept and since <= at:
                read = max(read, tokens)
            new = max(new, tokens)
            self._kept[key] = (min(since, ready), max(used, ready))
        written = max(0, new - read) if self.sheet.marked else 0
        return self._charge((prompt, read, written), texts, 1.0)

    def bill_row(self, body: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
        """Charge a row of a batch job and return its usage; see `bill`.

        Args:
            body: the row's request.
            texts: its replies.
        """
        prompt = sum(len(text) for text, _ in _blocks(body)) // _CHARS + 1
        return self._charge((prompt, 0, 0), texts, self.sheet.batch)

    def _charge(self, prompts: tuple[int, int, int], texts: Sequence[str], share: float) -> dict[str, Any]:
        (prompt, read, written), sheet = prompts, self.sheet
        made = sum(1 + len(text) // _CHARS for text in texts)
        self.requests += 1
        self.input_tokens += prompt
        self.cached_tokens += read
        self.written_tokens += written
        self.output_tokens += made
        kept = read * sheet.cached_input + written * sheet.cache_write
        full = (prompt - read - written) * sheet.input + kept + made * sheet.output
        self.usd += full * share / 1e6
        return {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
            "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        }

    def _beginnings(self, body: dict[str, Any]) -> Iterator[tuple[bytes, int]]:
        """Yield each beginning of a prompt that is kept, as a key, and its tokens."""
        read, chars = blake2b(digest_size=16), 0
        for text, marked in _blocks(body):
            for cut in range(0, len(text), self.sheet.step * _CHARS):
                piece = text[cut : cut + self.sheet.step * _CHARS]
                read.update(piece.encode())
                chars += len(piece)
                if not self.sheet.marked and chars >= self.sheet.least * _CHARS:
                    yield read.digest(), chars // _CHARS
            if marked and chars >= self.sheet.least * _CHARS:
                yield read.digest(), chars // _CHARS


def _blocks(body: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the texts of a prompt in the order in which a model reads them, and whether each is marked."""
    # A schema stands in front of the prompt.
    yield json.dumps(body.get("response_format") or ""), False
    for content in (body.get("system") or "", *(message.get("content") for message in body["messages"])):
        if isinstance(content, str):
            yield content, False
            continue
        for block in content or ():
            yield block.get("text", ""), any(mark in block for mark in _MARKS)
