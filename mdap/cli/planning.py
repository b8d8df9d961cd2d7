"""``mdap plan``: what a run will take, before anything is spent."""

from dataclasses import asdict
from itertools import chain
from typing import Any

import click
from pydantic import ValidationError

from mdap.cli.options import as_json
from mdap.cli.output import fields, number, print_json, say, table
from mdap.errors import UsageError
from mdap.rules.foresight import Foreseen
from mdap.rules.foresight import foreseen as robust
from mdap.rules.planning import Bought, Each, by_margin, by_subtask, what_buys
from mdap.rules.scaling import Plan
from mdap.rules.scaling import plan as foresee
from mdap.settings import Robust, explain

__all__ = ["plan"]

_MILLION = 1e6


@click.command()
@click.option("--steps", type=int, required=True, help="Steps of the task.")
@click.option("--error-rate", type=float, required=True, help="Chance that a valid sample is wrong (1 - p).")
@click.option(
    "--valid-rate",
    type=float,
    default=1.0,
    show_default=True,
    help="Chance that a sample is not red-flagged (v).",
)
@click.option(
    "--target", type=float, default=0.95, show_default=True, help="Wanted chance that no decision is wrong."
)
@click.option(
    "-k",
    "margin",
    type=click.IntRange(min=1),
    help="A margin to judge, instead of the smallest that reaches the target.",
)
@click.option(
    "--floor",
    type=float,
    default=0.6,
    show_default=True,
    help="The least chance that a valid sample is right, on any step; for what -k robust would take.",
)
@click.option("--input-tokens", type=click.FloatRange(min=0), help="Prompt tokens of a sample.")
@click.option("--output-tokens", type=click.FloatRange(min=0), help="Reply tokens of a sample.")
@click.option("--input-price", type=click.FloatRange(min=0), help="USD per million prompt tokens.")
@click.option("--output-price", type=click.FloatRange(min=0), help="USD per million reply tokens.")
@click.option("--rpm", type=click.IntRange(min=1), help="Requests a minute, to foresee the time that takes.")
@click.option("--tpm", type=click.IntRange(min=1), help="Tokens a minute, prompts and replies, likewise.")
@click.option(
    "--latency",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Time a reply takes: a chain needs that for each step at least, one after the other.",
)
@click.option(
    "--subtask-steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="M",
    help="Steps that one sample answers at once; its reply is so many times as long.",
)
@click.option("--budget-usd", type=click.FloatRange(min=0, min_open=True), help="Tell what so many USD buy.")
@click.option(
    "--table",
    type=click.Choice(["margins", "subtasks"]),
    help="Also show other lengths and margins, or the task cut into larger subtasks.",
)
@as_json
def plan(**given: Any) -> None:
    """Estimate k, votes, samples, cost and time of a run.

    The estimates hold if all steps are equally hard; those of -k robust hold without that.
    """
    foreseen = foresee(
        given["steps"],
        given["error_rate"],
        given["valid_rate"],
        given["target"],
        given["margin"],
        given["subtask_steps"],
    )
    each = _each(given)
    bought = None
    if given["budget_usd"] is not None:
        if each is None or sum(each) == 0:
            raise UsageError("what a budget buys depends on tokens and prices: give --input-tokens and so on")
        bought = what_buys(given["budget_usd"], each, foreseen)
    if given["json"]:
        _print(given, foreseen, each, bought)
    else:
        _show(given, foreseen, each, bought)


def _print(given: dict[str, Any], foreseen: Plan, each: Each | None, bought: Bought | None) -> None:
    robustly = _robust(given, foreseen)
    made: dict[str, Any] = {
        **asdict(foreseen),
        "robust": None if robustly is None else {"floor": given["floor"], **robustly._asdict()},
        "cost_usd": None if each is None else each.cost(foreseen),
        "seconds": _seconds(given, foreseen),
    }
    if bought is not None:
        made["budget"] = bought._asdict()
    if given["table"] is not None:
        rows = (
            by_subtask(foreseen)
            if given["table"] == "subtasks"
            else [*chain.from_iterable(by_margin(foreseen))]
        )
        made["table"] = [
            {**asdict(row), "cost_usd": None if each is None else each.cost(row)} for row in rows
        ]
    print_json(made)


def _show(given: dict[str, Any], foreseen: Plan, each: Each | None, bought: Bought | None) -> None:
    cut = foreseen.steps_per_subtask
    rows = [
        ("steps", number(foreseen.steps) + (f", {cut} by a sample" if cut > 1 else "")),
        ("k", f"{number(foreseen.k)}, if all steps are equally hard"),
        ("P(no errors)", f"{foreseen.p_zero_errors:.6f}, if all steps are equally hard"),
        (
            "votes",
            f"{number(foreseen.votes)}, {foreseen.votes_per_step:.3f} a {'subtask' if cut > 1 else 'step'}",
        ),
        ("samples", number(foreseen.samples)),
        ("cost", "unknown: give tokens and prices" if each is None else f"{_usd(each.cost(foreseen))} USD"),
        ("time", _time(given, foreseen)),
        ("-k robust", _told(given, foreseen)),
    ]
    if bought is not None:
        rows.append((f"{given['budget_usd']:g} USD", _buys(foreseen, bought)))
    fields(rows)
    if given["table"] == "margins":
        say()
        _show_margins(foreseen, each)
    elif given["table"] == "subtasks":
        say()
        _show_subtasks(foreseen, each)


def _robust(given: dict[str, Any], planned: Plan) -> Foreseen | None:
    """Return what `-k robust` would take; None for subtasks of several steps, and where no margin serves."""
    if planned.steps_per_subtask > 1:
        return None
    try:
        terms = Robust(floor=given["floor"], target=given["target"], length=planned.steps)
    except ValidationError as error:
        raise UsageError(explain("option", error)) from None
    return robust(terms, planned.steps, planned.error_rate)


def _told(given: dict[str, Any], planned: Plan) -> str:
    made = _robust(given, planned)
    if made is None:
        return "for single steps"
    return (
        f"m = {made.m}, D = {made.dissent}, K = {made.lead} at a floor of {given['floor']:g}, however hard "
        f"the steps are: {made.votes_per_step:.3f} votes a step at this rate, {made.contested:.3g} contested "
        f"steps; the budget covers {made.covered} at m = {made.m}, and with more of them m rises"
    )


def _show_margins(foreseen: Plan, each: Each | None) -> None:
    rows = by_margin(foreseen)
    cells = [[number(row[0].steps), *[f"{made.p_zero_errors:.4f}" for made in row]] for row in rows]
    cells.append(["samples a step", *[f"{made.samples / made.steps:.2f}" for made in rows[0]]])
    if each is not None:
        costs = [_usd(each.cost(made) / made.steps * _MILLION) for made in rows[0]]
        cells.append(["USD a million", *costs])
    table(["steps", *[f"k = {made.k}" for made in rows[0]]], cells)


def _show_subtasks(foreseen: Plan, each: Each | None) -> None:
    heads = ("steps a sample", "right samples", "k", "samples", "USD")
    table(
        heads,
        [
            (
                number(made.steps_per_subtask),
                f"{(1 - made.error_rate) ** made.steps_per_subtask:.4f}",
                number(made.k),
                number(made.samples),
                "-" if each is None else _usd(each.cost(made)),
            )
            for made in by_subtask(foreseen)
        ],
    )


def _buys(foreseen: Plan, bought: Bought) -> str:
    if bought.k is None:
        return f"not one vote for each of the steps; {number(bought.steps)} steps at this target"
    return (
        f"{'enough' if bought.enough else 'not enough'}: k = {bought.k} for these steps (no error with "
        f"{bought.p_zero_errors:.6f}), or {number(bought.steps)} steps at this target"
    )


def _each(given: dict[str, Any]) -> Each | None:
    sides = [
        None
        if given[f"{side}_tokens"] is None or given[f"{side}_price"] is None
        else given[f"{side}_tokens"] * given[f"{side}_price"] / _MILLION
        for side in ("input", "output")
    ]
    return None if sides == [None, None] else Each(sides[0] or 0.0, sides[1] or 0.0)


def _seconds(given: dict[str, Any], foreseen: Plan) -> float | None:
    """Return the time that the narrowest of what is given allows; None if nothing is."""
    tokens = (given["input_tokens"] or 0) + (given["output_tokens"] or 0) * foreseen.steps_per_subtask
    subtasks = foreseen.steps / foreseen.steps_per_subtask
    known = [
        None if given["rpm"] is None else foreseen.samples / given["rpm"] * 60,
        None if given["tpm"] is None or not tokens else foreseen.samples * tokens / given["tpm"] * 60,
        None if given["latency"] is None else subtasks * given["latency"],
    ]
    found = [seconds for seconds in known if seconds is not None]
    return max(found) if found else None


def _time(given: dict[str, Any], foreseen: Plan) -> str:
    seconds = _seconds(given, foreseen)
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
