"""The data of a run as a whole, for the pages and the report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from sqlite3 import Row
from typing import Any

from mdap.journal.reader import Reader
from mdap.journal.rows import Billed, RunRow, run_row
from mdap.records import Certificate, Guarantee, Outcome, RunStatus
from mdap.rules.certificate import JUDGED, certify, doubts, outcome_of
from mdap.rules.ledger import guarantee_of
from mdap.rules.money import Tokens, saved_in_batches
from mdap.settings import Price, VotingSettings
from mdap.viewer.summary import Bin, DividedDecision, Summary
from mdap.viewer.trends import cost_of_bin

__all__ = ["About", "Verdicts", "about", "spent", "verdicts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class About(RunRow):
    """A run, from its row and its events.

    Attributes:
        turn: changes whenever the run starts, resumes, ends or has a step settled.
        decided: decisions so far.
        dense: whether the decided steps are exactly those with the numbers below *decided*.
        opened: one more than the number of the last step that was opened.
        reason: the reason why it did not finish.
        result: its result, as JSON; None unless finished.
        seconds: running time, over sessions that ended normally.
        since: when its last session began.
        prices: the prices of its last session, by model.
        digest: head of the digest chain.
        seal: digest over all of its rows at the end of its last session.
        guarantee: the guarantee of `-k robust`; None for another k.
        escalated: whether a step escalated.
        undecided: steps of a finished process that found no winner.
        beside: tokens billed outside the samples of its steps and parts.
        saved_in_batches: USD that its samples cost less in jobs of batch APIs.
        alive: whether a process works on it; None if unknown.
    """

    turn: int
    decided: int
    dense: bool
    opened: int
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
    undecided: int
    beside: tuple[Billed, ...] = ()
    saved_in_batches: float = 0.0
    alive: bool | None = None

    @property
    def running(self) -> bool:
        """Whether its last session has not ended; it may have been killed."""
        return self.status is RunStatus.RUNNING

    @property
    def end(self) -> int:
        """The end of the rows to count, before undecided steps."""
        return self.decided if self.running else max(self.decided, self.opened)

    def judged(self, certificate: Certificate | None = None) -> Outcome | None:
        """Return whether its result is good, given its *certificate*; None if unknown."""
        if self.status != "finished" or self.kind not in JUDGED:
            return None
        return outcome_of(self.outcome, certificate, self.undecided)

    @property
    def beside_tokens(self) -> dict[str, int]:
        """Input and output tokens billed outside the samples, by purpose."""
        found: dict[str, int] = {}
        for one in self.beside:
            found[one.purpose] = found.get(one.purpose, 0) + one.input_tokens + one.output_tokens
        return found

    @property
    def models(self) -> str:
        """The models, as given on the command line."""
        return " + ".join(self.provider.get("models", ()))


async def about(source: Reader, number: int) -> About | None:
    """Return the run with the number *number*, or None."""
    rows = await source.rows("view_run", number)
    return await _about(source, rows[0]) if rows else None


async def _about(source: Reader, row: Row) -> About:
    run = run_row(row)
    number, status = run.number, run.status
    ending = await source.rows("last_ended", number)
    data = json.loads(ending[0]["data"] or "{}") if ending else {}
    kinds = {one["kind"]: one["events"] for one in await source.rows("view_event_kinds", number)}
    last = await source.rows("last_decision", number)
    seals = await source.rows("last_seal", number)
    prices = await _prices(source, number)
    return About(
        **run.columns(),
        turn=row["last_turn"] or 0,
        decided=row["decided"],
        # As many different steps as the last number allows: none is missing.
        dense=row["last_decided"] is not None and row["last_decided"] + 1 == row["decided"],
        opened=row["opened"],
        parent_name=row["parent_name"],
        children=row["children"],
        reason=None if status in ("running", "finished") or not ending else ending[0]["reason"],
        result=json.dumps(data.get("result"), ensure_ascii=False) if status == "finished" else None,
        seconds=float((await source.rows("seconds", number))[0][0]),
        since=row["since"],
        prices=prices,
        digest=last[0]["digest"] if last else None,
        seal=seals[0][0] if seals else None,
        warnings=tuple(one["reason"] for one in await source.rows("view_warnings", number)),
        guarantee=await _guarantee(source, run),
        escalated="escalated" in kinds,
        undecided=data.get("undecided", 0),
        failed_attempts=kinds.get("attempt_failed", 0),
        beside=tuple(map(Billed._make, await source.rows("spent_beside", number))),
        saved_in_batches=sum(
            saved_in_batches(prices[row["model"]], Tokens.of(row))
            for row in await source.rows("batched_usage", number)
            if row["model"] in prices
        ),
    )


async def _guarantee(source: Reader, run: RunRow) -> Guarantee | None:
    voting = VotingSettings.recorded(run.settings)
    return guarantee_of(voting, await source.payments(run.number)) if voting.robust else None


async def _prices(source: Reader, number: int) -> dict[str, Price]:
    rows = await source.rows("prices", number)
    found: Mapping[str, Any] = json.loads(rows[0][0] or "{}") if rows else {}
    return {model: Price(**price) for model, price in found.items()}


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The figures of a run from its samples.

    Attributes:
        outcome: whether its result is good; None if neither its task nor its votes tell.
        certificate: confidence in the decisions; None if the votes do not tell.
        doubts: the most doubtful decisions, each with its probability of being wrong; None for one without a
            vote, or if unknown.
        input_tokens: all billed input tokens, of samples or not; *output_tokens* likewise.
        cost_usd: the price of all billed tokens; None if a model has no price.
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
    doubts: list[tuple[DividedDecision, float | None]]
    cost_usd: float | None

    @property
    def p_zero_errors(self) -> float | None:
        """Probability that every decision is right; None if the votes do not tell."""
        return None if self.certificate is None else self.certificate.p_zero_errors


def verdicts(run: About, summary: Summary) -> Verdicts:
    """Return the figures of *run* from the samples counted so far."""
    models = summary.models
    # Votes of a tier that could not decide tell nothing about the tier that did.
    certificate = None if run.escalated else certify(summary.shapes())
    return Verdicts(
        outcome=run.judged(certificate),
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
    """Return the total cost of *run* in USD; None if a model has no price."""
    models = summary.models
    beside = [one.cost(run.prices) for one in run.beside]
    of_samples = cost_of_bin(Bin(models=models), run.prices)
    costs = [cost for cost in (of_samples, *beside) if cost is not None]
    known = (models or run.beside) and len(costs) == 1 + len(beside)
    return sum(costs) - run.saved_in_batches if known else None


def _doubts(summary: Summary, certificate: Certificate | None) -> list[tuple[DividedDecision, float | None]]:
    if certificate is None or not summary.doubts:
        return [(doubt, None) for doubt in summary.doubts]
    chances = {(shape.votes, shape.runner_up, shape.total): p for shape, p in doubts(summary.shapes())}
    found = [
        (doubt, None if doubt.author else chances.get((doubt.votes, doubt.rival, doubt.total)))
        for doubt in summary.doubts
    ]
    return sorted(found, key=lambda pair: (pair[1] is not None, -(pair[1] or 0)))
