"""``mdap calibrate``: measure models at a task before you pay for a run, and compare them."""

import math
from pathlib import Path
from typing import Any

import anyio
import click

from mdap.cli import options
from mdap.cli.output import Exit, complain, fields, number, print_json, say, table
from mdap.cli.stopping import interruptible
from mdap.errors import UsageError
from mdap.plugins import make_task, read_params
from mdap.providers.prices import read_prices
from mdap.records import Calibration, Interval, Quantiles, RunStatus
from mdap.rules.parameters import read_values
from mdap.session import Session
from mdap.settings import VotingSettings


@click.command()
@options.task_with_params
@options.model_option("Model to calibrate; give several to compare them.")
@click.option(
    "-M", "options", multiple=True, metavar="NAME=VALUE", help="Set an option of the models' provider."
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=400,
    show_default=True,
    metavar="N",
    help="Approximate number of samples from each model.",
)
@options.target_option()
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for the choice of random steps.")
@options.sampling_options
@options.as_json
def calibrate(**given: Any) -> int:
    """Measure a model on a task: its error rate, and the k it needs.

    The steps are drawn by the task itself, or from the newest run of it in the database, or from a short
    pilot; of a process with an oracle, they are what it asks for on the oracle's answers. What is right, the
    task's oracle says, or else the winners of races by a lead of 8.
    """
    task = make_task(given["task"], read_params(given["task"], given["params"]))
    provider = read_values(given["options"], "-M")
    models = tuple(dict.fromkeys(given["models"]))
    if given["budget_usd"] is not None and len(models) > 1:
        raise UsageError("a budget is that of one model: calibrate them one by one, or give no --budget-usd")
    if given["prices"] is not None:  # once, for all models: it may come through a pipe
        given["prices"] = read_prices(Path(given["prices"]))
    named = {name: given[name] for name in ("samples", "target", "seed")}
    made: list[Calibration] = []

    async def act() -> bool:
        with interruptible(as_json=given["json"]) as scope, scope:
            for model in models:
                async with Session(model, options=provider, **options.session_options(given)) as session:
                    made.append(await session.calibrate(task, voting=VotingSettings(), **named))
        return scope.cancel_called

    interrupted = anyio.run(act)
    code = _report(sorted(made, key=_cost), as_json=given["json"])
    if interrupted:
        complain("interrupted; what was sampled is on record, and a new calibration samples again")
        return Exit.INTERRUPTED
    return code


def _cost(made: Calibration) -> tuple[float, float]:
    """Return by what models are sorted: projected cost, or samples where no price is known."""
    estimate = made.projection
    if estimate is None:
        return math.inf, math.inf
    return math.inf if estimate.cost_usd is None else estimate.cost_usd.value, estimate.samples.value


def _report(made: list[Calibration], *, as_json: bool) -> Exit:
    if as_json:
        print_json({"calibrations": [one.to_dict() for one in made]})
    else:
        for one in made:
            _describe(one)
        if len(made) > 1:
            _compare(made)
    stopped = [one for one in made if one.status is not RunStatus.FINISHED]
    for one in stopped:
        complain(f"{one.run_id} stopped: {one.reason}; what it had is above: calibrate again for more")
    return Exit.STOPPED if stopped else Exit.FINISHED


def _describe(made: Calibration) -> None:
    say(f"{made.task} by {' + '.join(made.models)}: {made.status}")
    wrong, steps = made.error_rate, number(made.steps + made.undecided)
    right = Interval(1 - wrong.value, 1 - wrong.high, 1 - wrong.low)
    truth = "the task's oracle" if made.truth == "oracle" else f"agreement by a lead of {made.consensus_k}"
    cost = "" if made.cost_usd is None else f"{made.cost_usd:,.4f} USD, "
    rows = [
        ("samples", f"{number(made.samples)} of {steps} steps, from {made.source}, judged by {truth}"),
        ("p", _rates(right, made.votes - made.wrong, made.votes)),
        ("v", _rates(made.valid_rate, made.samples - sum(made.red_flags.values()), made.samples)),
    ]
    if made.red_flags:
        flags = ", ".join(f"{number(count)} {reason}" for reason, count in made.red_flags.items())
        rows.append(("red flags", flags[:200]))
    rows += [
        ("tokens", f"in {_quantiles(made.input_tokens)}; out {_quantiles(made.output_tokens)}"),
        ("latency", _quantiles(made.latency, 3) + " s"),
        ("duplicates", f"{made.duplicates:.1%} of the samples repeat an earlier one of their step"),
        ("collisions", f"{number(made.collisions)}, at most {made.collisions_expected:.2g} by independence"),
    ]
    estimate = made.projection
    if estimate is not None:
        alike = "were equally hard, which they are not" if made.uneven else "are equally hard"
        worst = f"at p = {1 - made.error_bound:.4f} or more"
        rows += [
            ("k", f"{estimate.k} for a chance of {made.target:g} if all steps {alike}, {worst}"),
            ("a run takes", f"{_between(estimate.samples)} samples"),
            (
                "cost",
                "unknown: no price" if estimate.cost_usd is None else f"{_between(estimate.cost_usd, 2)} USD",
            ),
            ("time", _time(estimate.seconds)),
        ]
    rows.append(("calibration", f"{made.run_id}, {cost}{made.seconds:.1f} s"))
    fields([*rows, *[("finding", sentence) for sentence in made.findings]])
    say()


def _rates(rate: Interval, hits: int, trials: int) -> str:
    return f"{rate.value:.4f}, {rate.low:.4f} to {rate.high:.4f} ({number(hits)} of {number(trials)})"


def _quantiles(found: Quantiles | None, digits: int = 0) -> str:
    if found is None:
        return "unknown"
    return (
        f"{number(found.mean, digits)} (median {number(found.median, digits)}, 95 % below "
        f"{number(found.p95, digits)})"
    )


def _between(found: Interval, digits: int = 0) -> str:
    return f"{number(found.value, digits)}, {number(found.low, digits)} to {number(found.high, digits)}"


def _time(seconds: Interval) -> str:
    unit, scale = ("hours", 3600.0) if seconds.value >= 3600 else ("s", 1.0)
    return f"{_between(Interval(*(part / scale for part in seconds)), 1)} {unit} under these limits"


def _compare(made: list[Calibration]) -> None:
    rows = []
    for one in made:
        run, usd = one.projection, None
        if run is not None and run.cost_usd is not None:
            usd = run.cost_usd.value
        projected = ("-", "-") if run is None else (str(run.k), number(run.samples.value))
        rates = (f"{1 - one.error_rate.value:.4f}", f"{one.valid_rate.value:.4f}")
        rows.append((" + ".join(one.models), *rates, *projected, number(usd, 2), f"{one.p_hard:.2f}"))
    table(("model", "p", "v", "k", "samples", "USD", "p hard"), rows)
