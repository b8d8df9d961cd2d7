"""The settings of a run: read once, validated, frozen, stored with the run."""

import re
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mdap.errors import UsageError, slipped_at

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Made = TypeVar("Made")
Temperature = Annotated[float, Field(ge=0.0, le=2.0)]


class Robust(BaseModel):
    """The promise of `-k robust`, and how it draws samples.

    Attributes:
        floor: the lowest probability that a valid sample is right, on any step that right decisions
            reach.
        target: probability that every voted decision of the run is right, if the floor holds.
        contested: `decide`: votes decide contested steps too, by a wider lead; `stop`: such a step goes to
            the next models, or to a person.
        seed: draws each sample's model and view.
        length: the steps of the run, if known; mdap fills it in.
    """

    model_config = _FROZEN

    floor: float = Field(0.6, gt=0, lt=1)
    target: float = Field(0.95, gt=0, lt=1)
    contested: Literal["decide", "stop"] = "decide"
    seed: int = Field(0, ge=0)
    length: int | None = Field(None, ge=0)


class VotingSettings(BaseModel):
    """How every step of a run is decided.

    These settings are part of the run: mdap refuses to resume it with others.

    Attributes:
        k: the margin by which a winner must lead every other candidate; with *robust*, m of the first step.
        max_samples: samples of one tier of models that a step may take before it goes to the next tier,
            or is undecided; None stands for ``100 + 20 k``.
        max_tokens: maximum output tokens of a reply. If you set it, it holds for every step; a step's own
            limit overrides the default of 750 (paper section 4).
        max_tokens_given: whether *max_tokens* was set rather than left at its default; follows from that.
        temperatures: sampling temperatures by the sample's ordinal; the last one repeats for all later
            samples (paper section 4: the first sample at 0, the others at 0.1).
        hedge: extra samples in flight, so that no step waits for a slow one. Those that arrive after
            their step is decided are recorded as cancelled and paid for; and since the first to arrive
            count, it favours quick answers over slow ones.
        robust: the promise of `-k robust`, by which each step is decided; None for one k throughout.
        record_prompts: whether the log keeps the text of every prompt; None keeps those of processes only,
            since mdap rebuilds a chain's from its inputs. Votes do not depend on it.
    """

    model_config = _FROZEN

    k: int = Field(3, ge=1, le=1000)
    max_samples: int | None = Field(None, ge=1)
    max_tokens: int = Field(750, ge=1)
    max_tokens_given: bool = False
    temperatures: tuple[Temperature, ...] = Field((0.0, 0.1), min_length=1)
    hedge: int = Field(0, ge=0, le=1000)
    robust: Robust | None = None
    record_prompts: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _note_what_is_given(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "max_tokens" in given:
            return {"max_tokens_given": True, **given}
        return given

    @classmethod
    def recorded(cls, settings: Mapping[str, Any]) -> Self:
        """Return the settings that a run's row holds; earlier versions did not note what was given.

        Raises:
            UsageError: the run was started with ``-k adaptive``.
        """
        if not isinstance(settings, Mapping):
            raise TypeError(settings)
        known = {name: value for name, value in settings.items() if name != "adaptive_target"}
        if settings.get("adaptive_target") is not None:
            raise UsageError("a run of -k adaptive can only be read by the version that made it")
        return cls(**{"max_tokens_given": False, **known})

    def tokens_allowed(self, own: int | None) -> int:
        """Return the maximum output tokens of a reply, for a step with *own* or no limit of its own."""
        return self.max_tokens if self.max_tokens_given or own is None else own

    def records_prompts(self, *, process: bool) -> bool:
        """Return whether the prompts of a run are recorded: of a *process*, or else of a chain."""
        return process if self.record_prompts is None else self.record_prompts

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.samples_allowed < self.k:
            raise ValueError(f"max_samples={self.max_samples} can never give a lead of k={self.k}")
        return self

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if self.robust is not None and self.hedge:
            raise ValueError(
                "-k robust cannot go with hedging: samples that arrive first would count first, so a step's "
                "samples would not be drawn alike"
            )
        given = "temperatures" in self.model_fields_set
        if self.robust is not None and given and len(self.temperatures) > 1:
            raise ValueError(
                "-k robust draws a step's samples alike: give one temperature, such as --temperatures 0.1"
            )
        return self

    @property
    def samples_allowed(self) -> int:
        """The maximum samples of a step in one tier."""
        return 100 + 20 * self.k if self.max_samples is None else self.max_samples


class Limits(BaseModel):
    """Rates, timeouts and retries of requests. They may change from one resume to the next.

    Attributes:
        concurrency: concurrent requests to each model at most, over all runs of a session; None to discover
            how many its endpoint can serve from latency and refusals.
        requests_per_minute: requests started in any window of 60 seconds; None to learn the limit from the
            endpoint's headers.
        tokens_per_minute: tokens of prompts and replies in any window of 60 seconds; None to learn the limit
            from the endpoint's headers. mdap estimates a request from earlier replies, then
            corrects by its actual usage.
        reserve_max_tokens: count a request's maximum output tokens instead of its actual ones, as some
            endpoints do.
        warm_cache: whether one request goes ahead of others that begin with the same text, such as the
            samples of a step, so that they read it from the endpoint's cache. They wait until its reply
            arrives. None: in processes only, since each step of a chain would take twice as long.
        probe: whether to send a few small requests on start that detect which options each endpoint
            supports, and whether it repeats itself.
        attempt_timeout: seconds after which an attempt is abandoned and drawn again.
        max_attempts: attempts at one sample before the run stops.
        max_retry_seconds: seconds spent on one sample's attempts before the run stops.
        max_silence: seconds without any answer from the provider before the run stops.
        max_nesting: maximum depth of nested tasks, which stops a task that never ends.
        wait_for_person: seconds that an undecided step waits for a person before the run ends
            undecided.
    """

    model_config = _FROZEN

    concurrency: int | None = Field(None, ge=1, le=100_000)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    reserve_max_tokens: bool = False
    warm_cache: bool | None = None
    probe: bool = True
    attempt_timeout: float = Field(120.0, gt=0)
    max_attempts: int = Field(20, ge=1)
    max_retry_seconds: float = Field(600.0, gt=0)
    max_silence: float = Field(300.0, gt=0)
    max_nesting: int = Field(32, ge=1, le=1000)
    wait_for_person: float = Field(0.0, ge=0)


class Price(BaseModel):
    """The price of a model, in USD per million tokens.

    Attributes:
        input: for prompts.
        output: for replies, reasoning included.
        cached_input: for prompts read from the provider's cache; None for the price of other prompts.
        cache_write: for prompts written to the provider's cache; None for the price of other prompts.
        batch: the share of all these that the vendor's batch API charges.
    """

    model_config = _FROZEN

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)
    cache_write: float | None = Field(None, ge=0)
    batch: float = Field(0.5, ge=0, le=1)


class Budget(BaseModel):
    """Spending limits that stop runs resumably. They are not part of a run: raise them to resume.

    Attributes:
        usd: USD over all samples of the run, earlier sessions included; needs a price for every model.
        tokens: tokens of prompts and replies, earlier sessions included.
        seconds: maximum duration of this session.
    """

    model_config = _FROZEN

    usd: float | None = Field(None, gt=0)
    tokens: int | None = Field(None, gt=0)
    seconds: float | None = Field(None, gt=0)


class Cluster(BaseModel):
    """Where the cases of batches are worked on; this process keeps the log, the limits and the budget.

    Attributes:
        address: ``processes`` for processes of this machine; ``local`` for a Ray cluster that mdap starts on
            it; ``auto`` for the Ray cluster that this machine is a part of, or the address of one.
        workers: the number of workers.
        insecure: whether a Ray cluster may do without token authentication.
    """

    model_config = _FROZEN

    address: str = "processes"
    workers: int = Field(2, ge=1, le=1000)
    insecure: bool = False

    @field_validator("address")
    @classmethod
    def _names_a_place(cls, address: str) -> str:
        port = re.fullmatch(r"[^\s/]+:(\d{1,5})", address)
        if address in ("processes", "local", "auto") or (port is not None and int(port[1]) < 2**16):
            return address
        raise ValueError("give local, auto, or HOST:PORT of the Ray cluster's head node")

    @property
    def on_this_machine(self) -> bool:
        """Whether all workers are on this machine."""
        return self.address in ("processes", "local")


class Lane(StrEnum):
    """How samples travel: as ordinary requests, or collected in jobs of the vendors' batch APIs."""

    REQUESTS = "requests"
    BATCH = "batch"


class Waves(BaseModel):
    """How samples are collected in jobs of a batch API. May differ from one resume to the next.

    Attributes:
        max_wait: seconds after which a job is cancelled, and what it did not answer is sent as ordinary
            requests; None waits for as long as the vendor takes.
        max_waves: waves that a step may be part of; samples that it still needs go as ordinary requests.
        detach: whether runs stop, resumably, once all their samples wait in jobs.
        width: samples that may be wanted at a time, over all runs of the session.
        queued_tokens: prompt tokens that may wait in jobs of one model at a time; None to learn the limit
            from the vendor's refusals.
        quiet: seconds without a newly wanted sample after which a wave leaves.
        poll: seconds between two looks at a job.
        settle: seconds after which a job that the vendor does not list was never created.
    """

    model_config = _FROZEN

    max_wait: float | None = Field(None, gt=0)
    max_waves: int = Field(12, ge=1)
    detach: bool = False
    width: int = Field(20_000, ge=1)
    queued_tokens: int | None = Field(None, ge=1)
    quiet: float = Field(3.0, gt=0)
    poll: float = Field(30.0, gt=0)
    settle: float = Field(60.0, ge=0)


class Speculate(StrEnum):
    """On what a step is opened before the one before it is decided."""

    OFF = "off"
    VOTE = "vote"
    GUESS = "guess"


class OnDead(StrEnum):
    """What a run does when one of several models is gone: out of quota, or without an answer."""

    STOP = "stop"
    CONTINUE = "continue"


class Speculation(BaseModel):
    """How far ahead of its decisions a chain is sampled: *depth* steps beyond the first undecided one.

    Modes are `off`; `vote`, on the leading candidate; `guess`, also on the task's guess.
    """

    model_config = _FROZEN

    mode: Speculate = Speculate.OFF
    depth: int = Field(0, ge=0)


def complaint(error: ValidationError) -> Exception:
    """Return the first error that a user's validator raised; *error* itself if none did."""
    raised = error.errors(include_url=False, include_input=False)[0].get("ctx", {}).get("error")
    return raised if isinstance(raised, Exception) else error


def suggestion(name: str, known: Collection[str]) -> str:
    """Return the end of a sentence that says which of the *known* names an unknown *name* may mean."""
    near = get_close_matches(name, known, 1)
    return (
        f": did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}" if known else ""
    )


def explain(what: str, error: ValidationError, known: Collection[str] = ()) -> str:
    """Return the first of pydantic's complaints as one sentence; it may suggest one of the *known* fields.

    *what* is the user's word for the fields, such as "parameter" or "sim option".
    """
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"there is no {what} {name!r}{suggestion(name, known)}"
    message = first["msg"].removeprefix("Value error, ")
    raised = complaint(error)
    # What pydantic itself complains of is about the value; where its model was made does not matter.
    place = None if raised is error else slipped_at(raised)
    message = f"{place}: {message}" if place else message
    given = "" if first["type"] == "missing" else f" (given {first['input']!r:.60})"
    return f"{what} {name}: {message}{given}" if name else message


def validated(kind: Callable[..., Made], what: str, /, **values: Any) -> Made:
    """Return an object of pydantic's *kind* with these *values*; *what* is the user's word for its fields.

    Raises:
        UsageError: they are not valid.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise UsageError(explain(what, error)) from None
