"""What the pages and the report say of a run as a whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from mdap.audit.source import Row, Source
from mdap.audit.summary import Bin, Doubt, Summary
from mdap.audit.trends import cost_of_bin
from mdap.records import Certificate, Guarantee, Outcome
from mdap.rules.certificate import certify, doubts
from mdap.rules.ledger import guarantee_of
from mdap.rules.money import cost_of
from mdap.rules.outcomes import JUDGED, outcome_of
from mdap.settings import Price, VotingSettings

__all__ = ["About", "Beside", "Verdicts", "about", "spent", "status_of", "verdicts"]

_ENDED: Final = ("finished", "undecided", "stopped", "failed")


def status_of(last_event: str | None) -> str:
    """Return how a run stands, from the last event that changed it."""
    return last_event if last_event in _ENDED else "running"


class Beside(NamedTuple):
    """What events say was billed beside the samples of steps.

    Attributes:
        kind: of the events.
        samples: replies; 0 where they are no samples.
    """

    kind: str
    model: str | None
    samples: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int

    @property
    def what(self) -> str:
        """What it was for, in a few words."""
        return "for the probe" if self.kind == "probe" else "in answers that cannot be read"


@dataclass(frozen=True, slots=True)
class About:
    """A run, from its row and its events.

    Attributes:
        number: its key in the other tables.
        turn: changes whenever the run is started, resumed, settled or ended.
        decided: decisions so far.
        dense: whether the decided steps are exactly those with the numbers below *decided*.
        opened: one more than the number of the last step that was opened.
        reason: why it did not finish.
        result: what it came to, as JSON; None unless finished.
        seconds: time it was running, in sessions that ended in order.
        since: when its last session began.
        prices: by model, those of its last session.
        digest: head of the digest chain.
        seal: digest over all that the log holds of it, as of the end of its last session.
        guarantee: what `-k robust` says of it; None for another k.
        escalated: whether a step went to another tier of models.
        said: what its task said of its result: ``solved`` or ``unsolved``; None for nothing.
        undecided: steps of a finished process that found no winner.
        beside: what was billed beside the samples of its steps and parts.
        alive: whether a process is at work on it; None where that cannot be told.
    """

    number: int
    run_id: str
    kind: str
    task: str
    task_version: str
    params: dict[str, Any]
    settings: dict[str, Any]
    provider: dict[str, Any]
    k: int
    mdap_version: str
    created_at: str
    status: str
    turn: int
    decided: int
    dense: bool
    opened: int
    parent: int | None
    parent_name: str | None
    children: int
    reason: str | None
    result: str | None
    seconds: float
    since: str | None
    prices: dict[str, Price]
    digest: str | None
    seal: str | None
    warnings: tuple[str, ...]
    guarantee: Guarantee | None
    escalated: bool
    failed_attempts: int
    said: str | None
    undecided: int
    beside: tuple[Beside, ...] = ()
    alive: bool | None = None

    @property
    def running(self) -> bool:
        """Whether its last session has not ended; it may have been killed."""
        return self.status == "running"

    @property
    def end(self) -> int:
        """Where counting its rows ends: what is still being decided is left out."""
        return self.decided if self.running else max(self.decided, self.opened)

    def outcome(self, certificate: Certificate | None = None) -> Outcome | None:
        """Return whether its result is good, as far as its *certificate* is known; None if nothing tells."""
        if self.status != "finished" or self.kind not in JUDGED:
            return None
        return outcome_of(self.said, certificate, self.undecided)

    @property
    def beside_tokens(self) -> dict[str, int]:
        """Tokens in and out that were billed beside the samples, by what they were for."""
        found: dict[str, int] = {}
        for one in self.beside:
            found[one.what] = found.get(one.what, 0) + one.input_tokens + one.output_tokens
        return found

    @property
    def models(self) -> str:
        """The models, as given on the command line."""
        return " + ".join(self.provider.get("models", ()))


async def about(source: Source, number: int) -> About | None:
    """Return the run with the number *number*, or None."""
    rows = await source.rows("view_run", number)
    return await _about(source, rows[0]) if rows else None


async def _about(source: Source, row: Row) -> About:
    number = row["id"]
    status = status_of(row["last_event"])
    ending = await source.rows("view_ending", number)
    data = json.loads(ending[0]["data"] or "{}") if ending else {}
    kinds = {one["kind"]: one["events"] for one in await source.rows("view_event_kinds", number)}
    last = await source.rows("last_decision", number)
    seals = await source.rows("last_seal", number)
    return About(
        number=number,
        run_id=row["run_id"],
        kind=row["kind"],
        task=row["task"],
        task_version=row["task_version"],
        params=json.loads(row["params"]),
        settings=json.loads(row["settings"]),
        provider=json.loads(row["provider"]),
        k=row["k"],
        mdap_version=row["mdap_version"],
        created_at=row["created_at"],
        status=status,
        turn=row["last_turn"] or 0,
        decided=row["decided"],
        # So many different steps, none beyond the last: that leaves none out.
        dense=row["last_decided"] is not None and row["last_decided"] + 1 == row["decided"],
        opened=row["opened"],
        parent=row["parent"],
        parent_name=row["parent_name"],
        children=row["children"],
        reason=None if status in ("running", "finished") or not ending else ending[0]["reason"],
        result=json.dumps(data.get("result"), ensure_ascii=False) if status == "finished" else None,
        seconds=float((await source.rows("seconds", number))[0][0]),
        since=row["since"],
        prices=await _prices(source, number),
        digest=last[0]["digest"] if last else None,
        seal=seals[0][0] if seals else None,
        warnings=tuple(one["reason"] for one in await source.rows("view_warnings", number)),
        guarantee=await _guarantee(source, number, row["settings"]),
        escalated="escalated" in kinds,
        said=row["outcome"],
        undecided=data.get("undecided", 0),
        failed_attempts=kinds.get("attempt_failed", 0),
        beside=await _beside(source, number),
    )


async def _beside(source: Source, number: int) -> tuple[Beside, ...]:
    rows = await source.rows("spent_beside", number)
    return tuple(Beside(*(row[name] for name in Beside._fields)) for row in rows)


async def _guarantee(source: Source, number: int, settings: str) -> Guarantee | None:
    voting = VotingSettings.recorded(json.loads(settings))
    return guarantee_of(voting, [json.loads(row["data"]) for row in await source.rows("paid", number)])


async def _prices(source: Source, number: int) -> dict[str, Price]:
    rows = await source.rows("prices", number)
    found: Mapping[str, Any] = json.loads(rows[0][0] or "{}") if rows else {}
    return {model: Price(**price) for model, price in found.items()}


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the samples of a run came to.

    Attributes:
        outcome: whether its result is good; None if neither its task nor its votes tell.
        certificate: how sure one can be of the decisions; None where nothing can be said.
        doubts: the most doubtful decisions, each with the chance that it is wrong; None for one that was
            not voted, and where nothing can be said.
        input_tokens: of all that was billed, samples or not; so are *output_tokens*.
        cost_usd: price of all that; None where a model has none.
    """

    outcome: Outcome | None
    samples: int
    votes: int
    red_flags: int
    void: int
    cancelled: int
    input_tokens: int
    output_tokens: int
    certificate: Certificate | None
    doubts: list[tuple[Doubt, float | None]]
    cost_usd: float | None

    @property
    def p_zero_errors(self) -> float | None:
        """Chance that every decision is right; None where nothing can be said."""
        return None if self.certificate is None else self.certificate.p_zero_errors


def verdicts(run: About, summary: Summary) -> Verdicts:
    """Return what the samples of *run* came to, as far as they are counted."""
    models = summary.models
    # Votes of a tier that could not decide say nothing of the one that did.
    certificate = None if run.escalated else certify(summary.shapes())
    return Verdicts(
        outcome=run.outcome(certificate),
        samples=summary.samples,
        votes=summary.verdicts["vote"],
        red_flags=summary.verdicts["flag"],
        void=summary.verdicts["void"],
        cancelled=summary.verdicts["cancelled"],
        input_tokens=sum(use.input_tokens for use in models.values())
        + sum(one.input_tokens for one in run.beside),
        output_tokens=sum(use.output_tokens for use in models.values())
        + sum(one.output_tokens for one in run.beside),
        certificate=certificate,
        doubts=_doubts(summary, certificate),
        cost_usd=spent(run, summary),
    )


def spent(run: About, summary: Summary) -> float | None:
    """Return what was billed for *run* in USD; None where a model has no price."""
    models = summary.models
    if not (models or run.beside) or any(one.model not in run.prices for one in run.beside):
        return None
    of_samples = cost_of_bin(Bin(models=models), run.prices)
    return (
        None
        if of_samples is None
        else of_samples + sum(cost_of(run.prices[str(one.model)], one) for one in run.beside)
    )


def _doubts(summary: Summary, certificate: Certificate | None) -> list[tuple[Doubt, float | None]]:
    if certificate is None or not summary.doubts:
        return [(doubt, None) for doubt in summary.doubts]
    chances = {(shape.votes, shape.runner_up, shape.total): p for shape, p in doubts(summary.shapes())}
    found = [
        (doubt, None if doubt.author else chances.get((doubt.votes, doubt.rival, doubt.total)))
        for doubt in summary.doubts
    ]
    return sorted(found, key=lambda pair: (pair[1] is not None, -(pair[1] or 0)))
