"""A simulated model without a key: it replies with the task's oracle, and with errors drawn from a seed.

A reply depends only on the seed, the step, the prompt and the sample's ordinal, not on time, order, or the
number of samples in flight.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b
from statistics import NormalDist
from struct import Struct
from typing import Any, Final

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mdap.errors import RejectedError, TransientError, UsageError
from mdap.records import Reply, SampleRequest, Subject
from mdap.settings import explain

_UNIT: Final = 2.0**-64
_WORDS: Final = Struct(">5Q").unpack
_NORMAL: Final = NormalDist()
_RAMBLING: Final = "Let me think about that once more, step by step, before I answer. " * 12
_CHARS_PER_TOKEN: Final = 4
_TOGETHER: Final = 1024


class SimulatedSettings(BaseModel):
    """How the simulated model behaves; each is set with ``-M NAME=VALUE``.

    Attributes:
        error_rate: chance that a valid sample is wrong, independently of all others.
        flag_rate: chance that a reply is overlong, malformed or truncated.
        hard_rate: share of prompts that are hard, chosen by their digest.
        hard_error_rate: chance that a valid sample of a hard prompt is wrong, always the same way.
        latency: median seconds a reply takes; 0 for none.
        latency_sigma: spread of the latency: standard deviation of its logarithm.
        fault_rate: chance that an attempt fails in transport.
        refuse_rate: share of prompts that are refused, chosen by their digest.
        seed: where all the draws come from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    error_rate: float = Field(0.01, ge=0, le=1)
    flag_rate: float = Field(0.005, ge=0, lt=1)
    hard_rate: float = Field(0.0, ge=0, le=1)
    hard_error_rate: float = Field(0.8, ge=0, le=1)
    latency: float = Field(0.0, ge=0, le=3600)
    latency_sigma: float = Field(0.5, ge=0, le=5)
    fault_rate: float = Field(0.0, ge=0, lt=1)
    refuse_rate: float = Field(0.0, ge=0, le=1)
    seed: int = 0


class Simulated:
    """A `mdap.protocols.Provider` over the oracle of whatever task asks."""

    uses_temperature: Final = False

    def __init__(self, settings: SimulatedSettings, name: str = "sim") -> None:
        self.name = name
        self.settings = settings
        self.nonblocking = settings.latency == 0
        # What every request looks up: that takes several times as long where pydantic holds it.
        self._fault_rate, self._flag_rate = settings.fault_rate, settings.flag_rate
        self._refuse_rate = settings.refuse_rate
        self._error_rate, self._hard_rate = settings.error_rate, settings.hard_rate
        # Latency and faults belong to a sample: asked for together, they would depend on the company.
        self.max_n = _TOGETHER if self.nonblocking and not settings.fault_rate else 1
        self._key = b"%d" % settings.seed
        self._begun = blake2b(digest_size=40, key=self._key)
        self._last: tuple[str, Any, str] = ("", None, "")
        self._failing: dict[tuple[str, str, int], int] = {}

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Return a reply for each wanted ordinal; see `mdap.protocols.Provider.sample`."""
        subject = request.subject
        if subject is None:
            raise UsageError("the simulated model needs to know what a step is about: ask through a task")
        if self._refuse_rate:
            refused = blake2b(f"refused {request.prompt_digest}".encode(), digest_size=8, key=self._key)
            if int.from_bytes(refused.digest()) * _UNIT < self._refuse_rate:
                raise RejectedError("the simulated endpoint refuses this prompt, as refuse_rate wants")
        draws = self._draws(request)
        if self._fault_rate:
            self._maybe_fail(request, draws[0][4])
        latency = 0.0
        if not self.nonblocking:
            normal = _NORMAL.inv_cdf(min(max(draws[0][3] * _UNIT, 1e-12), 1 - 1e-12))
            latency = self.settings.latency * math.exp(normal * self.settings.latency_sigma)
            await anyio.sleep(latency)
        try:
            return self._replies(request, subject, draws, latency)
        except NotImplementedError as error:
            raise UsageError(f"the simulated model cannot answer: {error}") from error

    def _replies(
        self, request: SampleRequest, subject: Subject, draws: list[tuple[int, ...]], latency: float
    ) -> list[Reply]:
        digest, truth, right = self._last
        if digest != request.prompt_digest:  # a step's requests come close together
            truth = subject.truth()
            right = subject.render(truth)
            self._last = (request.prompt_digest, truth, right)
        asked = (len(request.system) + len(request.user)) // _CHARS_PER_TOKEN + 1
        usual = Reply(right, self.name, "stop", asked, _tokens(right), 0, latency)
        error_rate, favourite = self._difficulty(request.prompt_digest)
        replies = []
        for flag, wrong, which, _, _ in draws:
            reply = usual
            if wrong * _UNIT < error_rate:
                mistakes = subject.mistakes(truth)
                choice = favourite if favourite is not None else int(which * _UNIT * len(mistakes))
                text = subject.render(mistakes[choice % len(mistakes)])
                reply = usual._replace(text=text, output_tokens=_tokens(text))
            if flag * _UNIT < self._flag_rate:
                reply = _spoiled(reply, flag * _UNIT / self._flag_rate, request.max_tokens)
            replies.append(reply)
        return replies

    def describe(self) -> dict[str, Any]:
        """Return name and settings."""
        # What logs of before this setting do not have is left out where it is not used.
        unused = set() if self._refuse_rate else {"refuse_rate"}
        return {"model": self.name, **self.settings.model_dump(exclude=unused)}

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""

    def _draws(self, request: SampleRequest) -> list[tuple[int, ...]]:
        """Return for each ordinal five numbers below 2**64 that belong to this very sample."""
        begun = self._begun.copy()
        begun.update(f"{request.key}|{request.prompt_digest}|".encode())
        draws = []
        for ordinal in request.ordinals:
            draw = begun.copy()
            draw.update(b"%d" % ordinal)
            draws.append(_WORDS(draw.digest()))
        return draws

    def _maybe_fail(self, request: SampleRequest, draw: int) -> None:
        """Fail the first attempts at a sample, as many as its draw says."""
        rate = self._fault_rate
        sample = (request.prompt_digest, request.key, request.ordinals[0])
        fails = int(math.log(max(draw * _UNIT, 1e-300)) / math.log(rate))
        failed = self._failing.get(sample, 0)
        if failed < fails:
            self._failing[sample] = failed + 1
            raise TransientError("the simulated endpoint failed, as fault_rate wants", kind="simulated")
        self._failing.pop(sample, None)

    def _difficulty(self, digest: str) -> tuple[float, int | None]:
        """Return a prompt's error rate, and its favourite mistake if it is a hard one."""
        if self._hard_rate:
            bits = blake2b(digest.encode(), digest_size=16, key=self._key).digest()
            if int.from_bytes(bits[:8]) * _UNIT < self._hard_rate:
                return self.settings.hard_error_rate, int.from_bytes(bits[8:])
        return self._error_rate, None


def _tokens(text: str) -> int:
    return len(text) // _CHARS_PER_TOKEN + 1


def _spoiled(reply: Reply, draw: float, max_tokens: int) -> Reply:
    """Return a reply gone wrong in one of three ways."""
    if draw < 1 / 3:
        return reply._replace(text=_RAMBLING + reply.text, finish_reason="stop", output_tokens=max_tokens + 1)
    cut = reply.text[: max(1, len(reply.text) * 2 // 3)]
    if draw < 2 / 3:
        return reply._replace(text=cut, finish_reason="length", output_tokens=max_tokens)
    return reply._replace(text=cut, finish_reason="stop", output_tokens=_tokens(cut))


def create(model: str, options: dict[str, Any]) -> Simulated:
    """Build the simulated model.

    Raises:
        UsageError: an option is unknown or out of range.
    """
    try:
        return Simulated(SimulatedSettings(**options), f"sim/{model}" if model else "sim")
    except ValidationError as error:
        raise UsageError(explain("sim option", error, SimulatedSettings.model_fields)) from None


create.settings = SimulatedSettings  # type: ignore[attr-defined] # `mdap models` lists them
