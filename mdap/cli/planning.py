"""``mdap plan``: what a run will take, before anything is spent."""

from dataclasses import asdict
from typing import Any

import click

from mdap.cli.options import as_json
from mdap.cli.output import fields, number, print_json
from mdap.rules.scaling import plan as foresee

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
@click.option("--input-tokens", type=click.FloatRange(min=0), help="Prompt tokens of a sample.")
@click.option("--output-tokens", type=click.FloatRange(min=0), help="Reply tokens of a sample.")
@click.option("--input-price", type=click.FloatRange(min=0), help="USD per million prompt tokens.")
@click.option("--output-price", type=click.FloatRange(min=0), help="USD per million reply tokens.")
@click.option("--rpm", type=click.IntRange(min=1), help="Requests a minute, to foresee the time that takes.")
@as_json
def plan(**given: Any) -> None:
    """Foresee margin, votes, samples, cost and time by the paper's scaling laws."""
    foreseen = foresee(
        given["steps"], given["error_rate"], given["valid_rate"], given["target"], given["margin"]
    )
    cost = _cost(given, foreseen.samples)
    seconds = None if given["rpm"] is None else foreseen.samples / given["rpm"] * 60
    if given["json"]:
        print_json({**asdict(foreseen), "cost_usd": cost, "seconds": seconds})
        return
    fields(
        [
            ("steps", number(foreseen.steps)),
            ("k", number(foreseen.k)),
            ("no error at all", f"with a chance of {foreseen.p_zero_errors:.6f}"),
            ("votes", f"{number(foreseen.votes)}, {foreseen.votes_per_step:.3f} a step"),
            ("samples", number(foreseen.samples)),
            ("cost", "unknown: give tokens and prices" if cost is None else f"{number(cost, 2)} USD"),
            (
                "time",
                "unknown: give --rpm"
                if seconds is None
                else f"{number(seconds / 3600, 2)} hours at {given['rpm']:,} requests a minute",
            ),
        ]
    )


def _cost(given: dict[str, Any], samples: float) -> float | None:
    sides = ((given["input_tokens"], given["input_price"]), (given["output_tokens"], given["output_price"]))
    costs = [tokens * price / _MILLION for tokens, price in sides if tokens is not None and price is not None]
    return samples * sum(costs) if costs else None
