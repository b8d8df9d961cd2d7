"""The data of a run as a whole, for the pages and the report: its row, verdicts, and prices."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Row
from typing import Final

from mdap.journal.reader import Reader
from mdap.journal.rows import Billed, RunRow, prices_of, run_row
from mdap.records import Certificate, Guarantee, Outcome, RunStatus
from mdap.rules.certificate import JUDGED, certify, doubts, outcome_of
from mdap.rules.ledger import guarantee_of
from mdap.rules.money import Tokens, cost_of, saved_in_batches
from mdap.settings import Price, VotingSettings
from mdap.viewer.summary import Bin, DividedDecision, ModelUse, Summary

_OF_ROW: Final = ("turn", "decided", "opened", "parent_name", "children", "since")


@dataclass(frozen=True, slots=True, kw_only=True)
class About(RunRow):
    """A run, from its row and its events.

    Attributes:
        turn: changes whenever the run starts, resumes, ends or has a step settled.
        dense: whether the decided steps are exactly those with the numbers below *decided*.
        opened: one more than the number of the last step that was opened.
        seconds: running time, over sessions that ended normally.
        undecided: steps of a finished process that found no winner.
        beside: tokens billed outside the samples of its steps and parts.
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
        found: Counter[str] = Counter()
        for one in self.beside:
            found[one.purpose] += one.input_tokens + one.output_tokens
        return found

    @property
    def models(self) -> str:
        """The models, as given on the command line."""
        return " + ".join(self.provider.get("models", ()))


async def about(source: Reader, number: int) -> About | None:
    """Return the run with the number *number*, or None."""
    rows = await source.rows("view_run", number)
    if not rows:
        return None
    row, run = rows[0], run_row(rows[0])
    reason, data = await source.ending(number)
    kinds = {one["kind"]: one["events"] for one in await source.rows("view_event_kinds", number)}
    last = await source.rows("last_decision", number)
    prices = prices_of(await source.value("prices", number))
    voting = VotingSettings.recorded(run.settings)
    return About(
        **run.columns(),
        **{name: row[name] for name in _OF_ROW},
        # As many different steps as the last number allows: none is missing.
        dense=row["last_decided"] is not None and row["last_decided"] + 1 == row["decided"],
        reason=None if run.status in ("running", "finished") else reason,
        result=json.dumps(data.get("result"), ensure_ascii=False) if run.status == "finished" else None,
        seconds=float(await source.value("seconds", number)),
        prices=prices,
        digest=last[0]["digest"] if last else None,
        seal=await source.value("last_seal", number),
        warnings=tuple(one["reason"] for one in await source.rows("view_warnings", number)),
        guarantee=guarantee_of(voting, await source.payments(number)) if voting.robust else None,
        escalated="escalated" in kinds,
        undecided=data.get("undecided", 0),
        failed_attempts=kinds.get("attempt_failed", 0),
        beside=tuple(map(Billed._make, await source.rows("spent_beside", number))),
        saved_in_batches=_saved(await source.rows("batched_usage", number), prices),
    )


def _saved(batched: Sequence[Row], prices: Mapping[str, Price]) -> float:
    known = (row for row in batched if row["model"] in prices)
    return sum(saved_in_batches(prices[row["model"]], Tokens.of(row)) for row in known)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The figures of a run from its samples.

    Attributes:
        outcome: whether its result is good; None if neither its task nor its votes tell.
        doubts: the most doubtful decisions, each with its probability of being wrong; None for one without a
            vote, or if unknown.
        input_tokens: all billed input tokens, of samples or not; *output_tokens* likewise.
        cost_usd: the price of all billed tokens; None if a model has no price.
    """

    outcome: Outcome | None
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
    billed: list[ModelUse | Billed] = [*models.values(), *run.beside]
    costs = [cost_of_bin(Bin(models=models), run.prices), *(one.cost(run.prices) for one in run.beside)]
    known = [cost for cost in costs if cost is not None]
    # Votes of a tier that could not decide tell nothing about the tier that did.
    certificate = None if run.escalated else certify(summary.shapes())
    return Verdicts(
        outcome=run.judged(certificate),
        input_tokens=sum(use.input_tokens for use in billed),
        output_tokens=sum(use.output_tokens for use in billed),
        certificate=certificate,
        doubts=_doubts(summary, certificate),
        cost_usd=sum(known) - run.saved_in_batches if billed and len(known) == len(costs) else None,
    )


def cost_of_bin(part: Bin, prices: Mapping[str, Price]) -> float | None:
    """Return the cost of a stretch's samples in USD; None if a model has no price."""
    if any(model not in prices for model in part.models):
        return None
    return sum(cost_of(prices[model], use) for model, use in part.models.items())


def chances_of(summary: Summary) -> dict[tuple[int, int, int], float]:
    """Return the probability that a winner is wrong, by its votes, its lead and all votes."""
    return {(shape.votes, shape.margin, shape.total): p for shape, p in doubts(summary.shapes())}


def _doubts(summary: Summary, certificate: Certificate | None) -> list[tuple[DividedDecision, float | None]]:
    if certificate is None or not summary.doubts:
        return [(doubt, None) for doubt in summary.doubts]
    wrong = chances_of(summary)
    found = [
        (doubt, None if doubt.author else wrong.get((doubt.votes, doubt.votes - doubt.rival, doubt.total)))
        for doubt in summary.doubts
    ]
    return sorted(found, key=lambda pair: (pair[1] is not None, -(pair[1] or 0)))
