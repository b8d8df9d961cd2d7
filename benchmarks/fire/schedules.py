"""Schedules by the thousand, on the engines alone: what comes when, what fails, who leaves, where it is cut.

Hypothesis draws the schedules; the properties are those of the tests: decisions, tallies, digests and endings
are those of a run in order (P1), each sample that came has one row (P2), a run that is cut at any commit ends
as if it was not and buys no recorded sample again (P3), nothing goes beyond its bound (P5).

Then every interleaving of a small chain with speculation, two answers and any order of arrival: in each state
what is on record is recounted, and the run is killed there and resumed.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import finish, parser, print_environment, table
from tests.model_check import explored
from tests.unit.engine import test_chain_policy as chains
from tests.unit.engine import test_robust_schedules as robust
from tests.unit.engine import test_schedules as schedules

Property = tuple[str, Callable[..., None], tuple[Any, ...]]
CUTS = st.lists(st.tuples(st.integers(0, 10**4), chains.schedules), max_size=3)


def inner(test: Any) -> Callable[..., None]:
    """Return what a test of Hypothesis does with one example."""
    function: Callable[..., None] = test.hypothesis.inner_test
    return function


PROPERTIES: tuple[Property, ...] = (
    ("a race: P1, P5", lambda voting: schedules.check_voting(voting[0], sum(voting[:2]), voting[2]),
     (schedules.votings,)),
    ("a chain: P1", inner(chains.test_no_schedule_and_no_speculation_changes_what_is_decided),
     (chains.cases(),)),
    ("a chain: P2", inner(chains.test_every_sample_that_came_has_one_row), (chains.cases(),)),
    ("a chain: P3", inner(chains.test_a_run_that_is_cut_anywhere_ends_as_if_it_was_not),
     (chains.cases(), CUTS)),
    ("a chain: no row bought again", inner(chains.test_a_resumed_run_asks_again_only_for_what_it_lost),
     (chains.cases(rejecting=False), st.integers(0, 200))),
    ("a process: P1, P2, P5", schedules.check_process, (schedules.cases(),)),
    ("a process: P3", schedules.check_cut_process, (schedules.cases(most=False), schedules.cuttings)),
    ("a chain by -k robust: P8", inner(robust.test_no_schedule_changes_what_a_chain_decides_and_pays),
     (robust.models, robust.terms, robust.schedules, robust.cuttings)),
    ("a process by -k robust: P8", inner(robust.test_a_process_keeps_its_budget_whatever_the_schedule),
     (robust.models, robust.terms, st.integers(1, 8), robust.schedules, robust.cuttings)),
)  # fmt: skip
MODELS = ((1, 3, "guess", 2), (2, 3, "vote", 3), (2, 2, "guess", 4), (2, 2, "vote", 5))
"""Margin, steps, speculation, samples that a step may take."""


def tried(check: Callable[..., None], strategies: tuple[Any, ...], count: int) -> int:
    """Check a property on *count* examples; return how many were looked at."""
    seen = 0

    def one(*values: Any) -> None:
        nonlocal seen
        seen += 1
        check(*values)

    def run(example: tuple[Any, ...]) -> None:
        one(*example)

    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    quietly = settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=health
    )
    quietly(given(st.tuples(*strategies))(run))()
    return seen


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--schedules", type=int, default=14_000, help="in all, shared among the properties")
    cli.add_argument("--quick", action="store_true", help="a tenth of it, and the smaller models")
    arguments = cli.parse_args()
    environment = print_environment("hypothesis")
    share = -(-arguments.schedules // (10 if arguments.quick else 1) // len(PROPERTIES))
    results: dict[str, Any] = {}
    for name, check, strategies in PROPERTIES:
        started = time.process_time()
        seen = tried(check, strategies, share)
        results[name] = {"schedules": seen, "seconds": time.process_time() - started}
        print(f"{name}: {seen:,} schedules hold", flush=True)
    rows = [[name, f"{each['schedules']:,}", f"{each['seconds']:.0f}"] for name, each in results.items()]
    total = sum(each["schedules"] for each in results.values())
    table(f"\n{total:,} schedules", ["property", "schedules", "CPU s"], rows)
    models = {}
    for k, steps, mode, most in MODELS[: 2 if arguments.quick else None]:
        found = explored(k=k, steps=steps, mode=mode, most=most)
        models[f"k={k}, {steps} steps, {mode}, {most} samples"] = found
    heads = ["every interleaving of", "states", "events", "ends", "killed and resumed", "with void samples"]
    table(
        "a small chain",
        heads,
        [
            [name, *(f"{count:,}" for count in (m.states, m.moves, m.ends, m.cuts, m.voided))]
            for name, m in models.items()
        ],
    )
    finish(
        arguments, environment, {**results, "models": {name: vars(found) for name, found in models.items()}}
    )


if __name__ == "__main__":
    main()
