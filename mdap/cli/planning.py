"""``mdap plan``: estimate a run before you pay for it."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import click

from mdap.cli.options import as_json
from mdap.cli.output import fields, number, print_json, say, table
from mdap.errors import UsageError
from mdap.rules.ledger import RobustEstimate
from mdap.rules.ledger import estimate as estimate_robust
from mdap.rules.planning import Bought, Each, Sample, Way, by_margin, by_subtask, ways, what_buys
from mdap.rules.scaling import Plan
from mdap.rules.scaling import plan as estimate_run
from mdap.settings import Price, Robust, validated

_MILLION = 1e6


class _Amount(click.FloatRange):
    """A finite number from 0 on."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return *value* as a number; refuse infinity, and what is no number."""
        amount = float(super().convert(value, param, ctx))
        if not math.isfinite(amount):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return amount


@click.command()
@click.option("--steps", type=int, required=True, help="Number of steps.")
@click.option(
    "--error-rate", type=float, required=True, help="Probability that a valid sample is wrong (1 - p)."
)
@click.option(
    "--valid-rate",
    type=float,
    default=1.0,
    show_default=True,
    help="Probability that a sample is valid, not red-flagged (v).",
)
@click.option(
    "--target",
    type=float,
    default=0.95,
    show_default=True,
    help="Target probability that every decision is right.",
)
@click.option(
    "-k",
    "margin",
    type=click.IntRange(min=1),
    help="Margin to evaluate. [default: the smallest that reaches the target]",
)
@click.option(
    "--floor",
    type=float,
    default=0.6,
    show_default=True,
    help="Lowest probability on any step that a valid sample is right, to estimate -k robust.",
)
@click.option("--input-tokens", type=_Amount(min=0), help="Prompt tokens of a sample.")
@click.option("--output-tokens", type=_Amount(min=0), help="Reply tokens of a sample.")
@click.option("--input-price", type=_Amount(min=0), help="USD per million prompt tokens.")
@click.option("--output-price", type=_Amount(min=0), help="USD per million reply tokens.")
@click.option("--cached-price", type=_Amount(min=0), help="USD per million tokens read from a cache.")
@click.option(
    "--cache-write-price",
    type=_Amount(min=0),
    help="USD per million tokens written to a cache. [default: --input-price]",
)
@click.option(
    "--shared-tokens",
    type=_Amount(min=0),
    default=0,
    help="Prompt tokens that several steps begin with, such as those of a document.",
)
@click.option(
    "--shared-steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Steps that begin with those tokens.",
)
@click.option("--rpm", type=click.IntRange(min=1), help="Requests a minute, to estimate the duration.")
@click.option(
    "--tpm",
    type=click.IntRange(min=1),
    help="Tokens a minute, prompts and replies, to estimate the duration.",
)
@click.option(
    "--latency",
    type=_Amount(min=0),
    metavar="SECONDS",
    help="Latency of a reply; a chain takes at least this long for each step.",
)
@click.option(
    "--subtask-steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="M",
    help="Steps that one sample answers together; multiplies its output tokens.",
)
@click.option("--budget-usd", type=_Amount(min=0, min_open=True), help="Show what X USD buy.")
@click.option(
    "--table",
    type=click.Choice(["margins", "subtasks", "prices"]),
    help="Also show other lengths and margins, larger subtasks, or the price of a thousand steps with shared "
    "and cached prompts and in batches.",
)
@as_json
def plan(**given: Any) -> None:
    """Estimate k, votes, samples, cost and time of a run.

    The estimates hold if all steps are equally hard; those of -k robust hold without that.
    """
    named = ("steps", "error_rate", "valid_rate", "target", "margin", "subtask_steps")
    estimate = estimate_run(*(given[name] for name in named))
    each = _each(given)
    priced = _ways(given, estimate) if given["table"] == "prices" else []
    bought = None
    if given["budget_usd"] is not None:
        if each is None or sum(each) == 0:
            raise UsageError("what a budget buys depends on tokens and prices: give --input-tokens and so on")
        bought = what_buys(given["budget_usd"], each, estimate)
    robust = _robust(given, estimate)
    if given["json"]:
        print_json(
            {
                **asdict(estimate),
                "robust": None if robust is None else {"floor": given["floor"], **robust._asdict()},
                "cost_usd": None if each is None else each.cost(estimate),
                "seconds": _seconds(given, estimate),
                **({} if bought is None else {"budget": bought._asdict()}),
                **_table(given, estimate, each, priced),
            }
        )
        return
    rows = _rows(given, estimate, each, robust)
    if bought is not None:
        rows.append((f"{given['budget_usd']:g} USD", _buys(bought)))
    fields(rows)
    if given["table"] is not None:
        say()
        table(*_cells(given["table"], estimate, each, priced))


def _table(
    given: dict[str, Any], estimate: Plan, each: Each | None, priced: list[Way]
) -> dict[str, list[dict[str, Any]]]:
    if priced or given["table"] is None:
        return {"table": [way._asdict() for way in priced]} if priced else {}
    rows = by_subtask(estimate) if given["table"] == "subtasks" else chain.from_iterable(by_margin(estimate))
    return {"table": [{**asdict(row), "cost_usd": None if each is None else each.cost(row)} for row in rows]}


def _rows(
    given: dict[str, Any], estimate: Plan, each: Each | None, robust: RobustEstimate | None
) -> list[tuple[str, str]]:
    cut = estimate.steps_per_subtask
    return [
        ("steps", number(estimate.steps) + (f", {cut} by a sample" if cut > 1 else "")),
        ("k", f"{number(estimate.k)}, if all steps are equally hard"),
        ("P(no errors)", f"{estimate.p_zero_errors:.6f}, if all steps are equally hard"),
        (
            "votes",
            f"{number(estimate.votes)}, {estimate.votes_per_step:.3f} a {'subtask' if cut > 1 else 'step'}",
        ),
        ("samples", number(estimate.samples)),
        ("cost", "unknown: give tokens and prices" if each is None else f"{_usd(each.cost(estimate))} USD"),
        ("time", _time(given, estimate)),
        ("-k robust", "for single steps" if robust is None else _robustly(given, robust)),
    ]


def _robust(given: dict[str, Any], planned: Plan) -> RobustEstimate | None:
    """Return the estimate of `-k robust`; None for subtasks of several steps, or if no margin suffices."""
    if planned.steps_per_subtask > 1:
        return None
    terms = validated(Robust, "option", floor=given["floor"], target=given["target"], length=planned.steps)
    return estimate_robust(terms, planned.steps, planned.error_rate)


def _robustly(given: dict[str, Any], made: RobustEstimate) -> str:
    return (
        f"m = {made.m}, D = {made.dissent}, K = {made.lead} at a floor of {given['floor']:g}, however hard "
        f"the steps are: {made.votes_per_step:.3f} votes a step at this rate, {made.contested:.3g} contested "
        f"steps; the budget covers {made.covered} at m = {made.m}, and with more of them m rises"
    )


def _cells(
    which: str, estimate: Plan, each: Each | None, priced: list[Way]
) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return the heads and the rows of a table."""
    if which == "prices":
        cells = [(one.way, _usd(one.usd), _usd(one.batch_usd), f"{one.share:.2f}") for one in priced]
        return ("USD a thousand steps", "requests", "batch", "share of ordinary"), [*cells]
    if which == "subtasks":
        heads = ("steps a sample", "right samples", "k", "samples", "USD")
        return heads, [_subtask(made, each) for made in by_subtask(estimate)]
    rows = by_margin(estimate)
    found = [[number(row[0].steps), *[f"{made.p_zero_errors:.4f}" for made in row]] for row in rows]
    found.append(["samples a step", *[f"{made.samples / made.steps:.2f}" for made in rows[0]]])
    if each is not None:
        costs = [_usd(each.cost(made) / made.steps * _MILLION) for made in rows[0]]
        found.append(["USD a million", *costs])
    return ["steps", *[f"k = {made.k}" for made in rows[0]]], [*found]


def _subtask(made: Plan, each: Each | None) -> tuple[str, ...]:
    right = f"{(1 - made.error_rate) ** made.steps_per_subtask:.4f}"
    cost = "-" if each is None else _usd(each.cost(made))
    return number(made.steps_per_subtask), right, number(made.k), number(made.samples), cost


def _buys(bought: Bought) -> str:
    if bought.k is None:
        return f"not one vote for each of the steps; {number(bought.steps)} steps at this target"
    return (
        f"{'enough' if bought.enough else 'not enough'}: k = {bought.k} for these steps (no error with "
        f"{bought.p_zero_errors:.6f}), or {number(bought.steps)} steps at this target"
    )


def _price(given: dict[str, Any]) -> Price | None:
    needed = ("input_tokens", "output_tokens", "input_price", "output_price")
    if any(given[name] is None for name in needed):
        return None
    return Price(
        input=given["input_price"],
        output=given["output_price"],
        cached_input=given["cached_price"],
        cache_write=given["cache_write_price"],
    )


def _ways(given: dict[str, Any], estimate: Plan) -> list[Way]:
    price = _price(given)
    if price is None:
        raise UsageError(
            "a table of prices depends on tokens and prices: give --input-tokens, --output-tokens, "
            "--input-price and --output-price"
        )
    if given["shared_tokens"] > given["input_tokens"]:
        raise UsageError("--shared-tokens are a part of --input-tokens, and cannot be more")
    tokens = (given["input_tokens"], given["output_tokens"], given["shared_tokens"], given["shared_steps"])
    return ways(estimate, Sample(*tokens), price)


def _each(given: dict[str, Any]) -> Each | None:
    sides = [
        None
        if given[f"{side}_tokens"] is None or given[f"{side}_price"] is None
        else given[f"{side}_tokens"] * given[f"{side}_price"] / _MILLION
        for side in ("input", "output")
    ]
    return None if sides == [None, None] else Each(sides[0] or 0.0, sides[1] or 0.0)


def _seconds(given: dict[str, Any], estimate: Plan) -> float | None:
    """Return the time that the narrowest of what is given allows; None if nothing is."""
    tokens = (given["input_tokens"] or 0) + (given["output_tokens"] or 0) * estimate.steps_per_subtask
    subtasks = estimate.steps / estimate.steps_per_subtask
    known = [
        None if given["rpm"] is None else estimate.samples / given["rpm"] * 60,
        None if given["tpm"] is None or not tokens else estimate.samples * tokens / given["tpm"] * 60,
        None if given["latency"] is None else subtasks * given["latency"],
    ]
    found = [seconds for seconds in known if seconds is not None]
    return max(found) if found else None


def _time(given: dict[str, Any], estimate: Plan) -> str:
    seconds = _seconds(given, estimate)
    if seconds is None:
        return "unknown: give --rpm, --tpm or --latency"
    limits = [
        f"{given['rpm']:,} requests a minute" if given["rpm"] else "",
        f"{given['tpm']:,} tokens a minute" if given["tpm"] else "",
        f"{given['latency']:g} seconds a step" if given["latency"] else "",
    ]
    return f"{number(seconds / 3600, 2)} hours at {', '.join(limit for limit in limits if limit)}"


def _usd(value: float) -> str:
    return number(value, 2) if value < 1e12 else f"{value:.3g}"
