"""Do the statistics hold? Intervals, margins, certificates and projections, against simulated truth.

Most of it draws races by their law, so that thousands of runs take minutes; "engine" rows go through
`mdap.Session` and the simulated model. Everything is seeded: two runs print the same figures.
"""

import argparse
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import numpy as np
from numpy.typing import NDArray

import mdap
from mdap.records import TallyShape
from mdap.rules.calibration import VoteCounts, consensus_rate, estimated_samples, rate_behind
from mdap.rules.certificate import certify, doubts, error_upper_bound, jeffreys
from mdap.rules.scaling import minimal_k, run_success
from mdap_hanoi import Hanoi

Rng = np.random.Generator

RATES: Final = (0.4, 0.2, 0.05, 0.01, 0.002)
GOALS: Final = ((0.05, 300, 0.9), (0.05, 1023, 0.95), (0.01, 10_000, 0.95), (0.2, 500, 0.9), (0.3, 300, 0.95))


# -- races by their law ----------------------------------------------------------------------------


def races(rng: Rng, rates: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Race right against wrong, step by step; return who lost, and the votes each took."""
    lead = np.zeros(rates.size, dtype=int)
    votes = np.zeros(rates.size, dtype=int)
    racing = np.arange(rates.size)
    while racing.size:
        lead[racing] += np.where(rng.random(racing.size) < rates[racing], -1, 1)
        votes[racing] += 1
        racing = racing[np.abs(lead[racing]) < k]
    return lead < 0, votes


def shapes_of(votes: NDArray[Any], k: int) -> list[TallyShape]:
    losers, counts = np.unique((votes - k) // 2, return_counts=True)
    return [
        TallyShape(int(x) + k, int(x), 2 * int(x) + k, int(n)) for x, n in zip(losers, counts, strict=True)
    ]


def against(votes: NDArray[Any], k: int) -> int:
    return int(((votes - k) // 2).sum())


# -- 2. coverage -----------------------------------------------------------------------------------


def coverage(trials: int) -> None:
    print(f"Coverage of the 95 % interval for p, {trials} calibrations a cell: v = 1 / v = 0.8\n")
    print("| 1-p | " + " | ".join(f"n = {n:,}" for n in (100, 1000, 10_000)) + " |\n|---|---|---|---|")
    for rate in RATES:
        cells = []
        for n in (100, 1000, 10_000):
            rng = np.random.default_rng([n, int(1 / rate)])
            cells.append(" / ".join(f"{_covered(rng, rate, n, valid, trials):.3f}" for valid in (1.0, 0.8)))
        print(f"| {rate} | " + " | ".join(cells) + " |")
    print("\nEstimates are unbiased by red flags: mean of the estimate minus 1-p, over its standard error\n")
    for valid in (1.0, 0.8):
        rng = np.random.default_rng([8, int(10 * valid)])
        votes = rng.binomial(1000, valid, trials * 20)
        found = rng.binomial(votes, 0.05) / votes
        print(f"    v = {valid}: {(found.mean() - 0.05) / (found.std() / found.size**0.5):+.2f}")


def _covered(rng: Rng, rate: float, n: int, valid: float, trials: int) -> float:
    votes = rng.binomial(n, valid, trials)
    wrong = rng.binomial(votes, rate)
    found = [jeffreys(int(x), int(m)) for x, m in zip(wrong, votes, strict=True)]
    return float(np.mean([one.low <= rate <= one.high for one in found]))


def consensus() -> None:
    print("\nAgreement for the truth, races by 8: share against winners, its bias, and the bound stated\n")
    print("| 1-p | against winners | bias | bound stated |\n|---|---|---|---|")
    for rate in (0.05, 0.2, 0.3, 0.4, 0.45):
        rng = np.random.default_rng(1)
        _, votes = races(rng, np.full(200_000, rate), 8)
        share = against(votes, 8) / votes.sum()
        high = jeffreys(against(votes[:300], 8), int(votes[:300].sum())).high
        bound = rate_behind(min(high, 0.5), 8) - min(high, 0.5)
        law = f"{share:.4f} (law {consensus_rate(rate, 8):.4f})"
        print(f"| {rate} | {law} | {share - rate:+.4f} | {bound:.4f} |")


# -- 3. guarantee ----------------------------------------------------------------------------------


def auto(rng: Rng, rate: float, steps: int, target: float) -> tuple[bool, int, list[TallyShape]]:
    """A pilot of 400 votes, then all steps at the margin that it gives."""
    _, votes = races(rng, np.full(60, rate), 8)
    enough = int(np.searchsorted(np.cumsum(votes), 400)) + 1
    pilot = votes[:enough]
    k = minimal_k(error_upper_bound(against(pilot, 8), int(pilot.sum())), steps, target)
    wrong, votes = races(rng, np.full(steps, rate), k)
    return bool(wrong.any()), int(pilot.sum() + votes.sum()), shapes_of(votes, k)


def guarantee(trials: int) -> None:
    print(f"\nRuns without a wrong decision, {trials} a row, and votes for them (a pilot's included)\n")
    print("| 1-p | steps | target | auto | votes |\n|---|---|---|---|---|")
    for rate, steps, target in GOALS:
        rng = np.random.default_rng(steps)
        runs = [auto(rng, rate, steps, target) for _ in range(trials)]
        right = 1 - float(np.mean([run[0] for run in runs]))
        votes = float(np.mean([run[1] for run in runs]))
        print(f"| {rate} | {steps:,} | {target} | {right:.4f} | {votes:,.0f} |")


# -- 4. certificates -------------------------------------------------------------------------------


def reliability(trials: int) -> None:
    rng = np.random.default_rng(11)
    claimed, happened = [], []
    for _ in range(trials):
        rate, k = rng.choice([0.02, 0.05, 0.1, 0.2]), int(rng.choice([2, 3, 4, 5]))
        wrong, votes = races(rng, np.full(300, rate), k)
        made = certify(shapes_of(votes, k))
        assert made is not None
        claimed.append(made.p_zero_errors)
        happened.append(not wrong.any())
    said, seen = np.array(claimed), np.array(happened)
    print(f"\nReliability of the certificate, {trials} runs of 300 steps, independent errors\n")
    print("| claimed | runs | mean claim | without an error |\n|---|---|---|---|")
    edges = [0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0001]
    for low, high in itertools.pairwise(edges):
        inside = (said >= low) & (said < high)
        if inside.any():
            print(
                f"| {low:g} to {min(high, 1):g} | {inside.sum()} | {said[inside].mean():.3f} "
                f"| {seen[inside].mean():.3f} |"
            )
    print(f"\nBrier score {np.mean((said - seen) ** 2):.4f}; always claiming the average: {seen.var():.4f}")


def hard(trials: int) -> None:
    print(f"\nHard steps (80 % of their votes wrong), k = 5, 1,000 steps, {trials} runs a row\n")
    print("| hard | warned | mean claim | faultless | errors found in the most doubtful 1 % | 5 % |")
    print("|---|---|---|---|---|---|")
    for share in (0.0, 0.002, 0.005, 0.01, 0.02):
        warned, claims, faultless = 0, [], 0
        found, every = np.zeros(2), 0
        for seed in range(trials):
            rng = np.random.default_rng(seed)
            rates = np.where(rng.random(1000) < share, 0.8, 0.01)
            wrong, votes = races(rng, rates, 5)
            shapes = shapes_of(votes, 5)
            made = certify(shapes)
            assert made is not None
            warned += bool(made.warnings)
            claims.append(made.p_zero_errors)
            faultless += not wrong.any()
            doubt = {shape.total: p_wrong for shape, p_wrong in doubts(shapes)}
            order = np.argsort([-doubt[int(total)] for total in votes], kind="stable")
            found += [wrong[order[:10]].sum(), wrong[order[:50]].sum()]
            every += wrong.sum()
        shares = ["-", "-"] if not every else [f"{part / every:.0%}" for part in found]
        print(
            f"| {share:.1%} | {warned / trials:.0%} | {np.mean(claims):.3f} | {faultless / trials:.2f} "
            f"| {shares[0]} | {shares[1]} |"
        )


def spread(trials: int) -> None:
    print(f"\nThe same where other wrong votes go to four answers alike, {trials} runs a row\n")
    print(
        "| 1-p | hard | errors | expected | warned | mean claim | faultless |\n|---|---|---|---|---|---|---|"
    )
    for rate, share in ((0.05, 0.0), (0.2, 0.0), (0.05, 0.005), (0.05, 0.02), (0.1, 0.02)):
        rows = []
        for seed in range(trials):
            errors, shapes = spread_races(np.random.default_rng(seed), 1000, (rate, share), 5)
            made = certify(shapes)
            assert made is not None
            rows.append((errors, made.expected_errors, bool(made.warnings), made.p_zero_errors, not errors))
        errors, expected, warned, claim, faultless = np.mean(rows, axis=0)
        print(
            f"| {rate} | {share:.1%} | {errors:.1f} | {expected:.2f} | {warned:.0%} | {claim:.3f} "
            f"| {faultless:.2f} |"
        )


def spread_races(rng: Rng, steps: int, rates: tuple[float, float], k: int) -> tuple[int, list[TallyShape]]:
    """Race among five answers; on a hard step 80 % of the votes are for one and the same wrong answer."""
    found: Counter[tuple[int, int, int]] = Counter()
    errors = 0
    for _ in range(steps):
        hard = rng.random() < rates[1]
        votes = [0] * 5
        first = second = 0
        while first - second < k:
            wrong = rng.random() < (0.8 if hard else rates[0])
            votes[(1 if hard else int(rng.integers(1, 5))) if wrong else 0] += 1
            first, second = sorted(votes, reverse=True)[:2]
        errors += votes[0] != first
        found[first, second, sum(votes)] += 1
    return errors, [TallyShape(*shape, count) for shape, count in sorted(found.items())]


CHANCES: Final = (0.4, 0.51, 0.55, 0.6, 0.7, 0.8)


class Claim(NamedTuple):
    """Means over runs: what they claim of P(no errors), its true value, and the floor they presume."""

    claim: float
    true: float
    floor: float


def certificates(trials: int) -> None:
    """Claim and truth of P(no errors) where some steps are right with p only, below and above 1/2."""
    print("\nMean claim / true P(no errors): hard steps are right with p, the others with the chance given;")
    print(f"{trials} runs a cell, more of short ones; excess: at a p above 1/2 and the floor stated\n")
    print(f"| k | others | steps | hard | {' | '.join(map(str, CHANCES))} | floor | excess |")
    print("|---" * (len(CHANCES) + 6) + "|")
    worst: dict[str, float] = {}
    for k, others, steps in itertools.product((3, 4, 6), (0.99, 0.999), (10, 100, 1000, 10_000)):
        for name, share in (("one", 0.0), ("1 %", 0.01), ("2 %", 0.02), ("5 %", 0.05)):
            rng = np.random.default_rng([k, int(1000 * others), steps, int(100 * share)])
            many = trials * max(500 // steps, 1)
            if share:
                cells = [_shared(rng, (p, others, share), steps, k, many) for p in CHANCES]
            else:
                cells = _one_hidden(rng, others, steps, k, trials)
            told = " | ".join(f"{cell.claim:.3f} / {cell.true:.3f}" for cell in cells)
            floor = float(np.mean([cell.floor for cell in cells]))
            stated = [cell for p, cell in zip(CHANCES, cells, strict=True) if p > 0.5 and p >= cell.floor]
            excess = max(cell.claim - cell.true for cell in stated)
            print(
                f"| {k} | {others} | {steps:,} | {name} | {told} | {floor:.2f} | {excess:+.3f} |", flush=True
            )
            worst[f"k = {k}, {name}"] = max(excess, worst.get(f"k = {k}, {name}", -1.0))
    print("\nThe most by which a mean claim exceeds the truth:", worst)


def _shared(rng: Rng, chances: tuple[float, float, float], steps: int, k: int, trials: int) -> Claim:
    p, others, share = chances
    found = []
    for _ in range(trials):
        rates = 1 - np.where(rng.random(steps) < share, p, others)
        _, votes = races(rng, rates, k)
        claim, floor = _claimed(votes, k)
        found.append((claim, np.exp(-np.log1p((rates / (1 - rates)) ** k).sum()), floor))
    return Claim(*np.mean(found, axis=0).tolist())


def _one_hidden(rng: Rng, others: float, steps: int, k: int, trials: int) -> list[Claim]:
    """Draw the other steps, and take the hard one's votes with their chances: each claim serves all p."""
    lengths = k + 2 * np.arange(12 * k)
    law = np.array([_lengths(p, k, lengths.size) for p in CHANCES])
    found = np.zeros((len(CHANCES), 2))
    for _ in range(trials):
        _, votes = races(rng, np.full(steps - 1, 1 - others), k)
        made = np.zeros((lengths.size, 2))
        for place, length in enumerate(lengths):
            made[place:] = _claimed(np.append(votes, length), k)
            if place > k and made[place, 0] < 1e-3:
                break
        found += law @ made / trials
    easy = run_success(1 - others, k, steps - 1)
    true = [run_success(1 - p, k, 1) * easy for p in CHANCES]
    return [Claim(claim, one, floor) for (claim, floor), one in zip(found.tolist(), true, strict=True)]


def _lengths(p: float, k: int, most: int) -> NDArray[Any]:
    """Return how likely a race ends with 0, 1, ... votes against its winner; the last with more, too."""
    lead, ended = np.zeros(2 * k + 1), np.zeros(k + 2 * most)
    lead[k] = 1.0
    for votes in range(1, ended.size):
        lead[1:-1], lead[0], lead[-1] = p * lead[:-2] + (1 - p) * lead[2:], (1 - p) * lead[1], p * lead[-2]
        ended[votes] = lead[0] + lead[-1]
        lead[[0, -1]] = 0.0
    found = ended[k::2]
    found[-1] += 1 - found.sum()
    return found


@lru_cache(maxsize=100_000)
def _certified(shapes: tuple[TallyShape, ...]) -> tuple[float, float]:
    made = certify(shapes)
    assert made is not None
    return made.p_zero_errors, made.floor


def _claimed(votes: NDArray[Any], k: int) -> tuple[float, float]:
    return _certified(tuple(shapes_of(votes, k)))


# -- 5. projections --------------------------------------------------------------------------------


def projections(trials: int) -> None:
    print(f"\nProjected samples of a run of 1,000 steps, from 400 samples, {trials} cases a row\n")
    print("| 1-p | k | within the interval | width |\n|---|---|---|---|")
    for rate, k in ((0.01, 3), (0.05, 4), (0.2, 8), (0.35, 15)):
        rng = np.random.default_rng(3)
        held, widths = 0, []
        for _ in range(trials):
            flags = int(rng.binomial(400, 0.05))
            counts = VoteCounts(int(rng.binomial(400 - flags, rate)), 400 - flags, flags)
            estimate = estimated_samples(1000, k, counts)
            _, votes = races(rng, np.full(1000, rate), k)
            samples = int(votes.sum() + rng.negative_binomial(votes.sum(), 0.95))
            held += estimate.low <= samples <= estimate.high
            widths.append((estimate.high - estimate.low) / estimate.value)
        print(f"| {rate} | {k} | {held / trials:.0%} | {np.mean(widths):.0%} |")


# -- through the engine ----------------------------------------------------------------------------


async def engine(trials: int) -> None:
    task, steps = Hanoi(disks=7), 127
    covered = held = right = votes = 0
    claims: list[tuple[float, bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(trials):
            options = {"error_rate": 0.1, "flag_rate": 0.03, "seed": seed}
            async with mdap.Session(db=Path(folder) / f"{seed}.db", options=options) as session:
                fixed = await session.run(task, k="auto", target=0.9)
                loose = await session.run(task, k=2)
                made = await session.calibrate(task)
                assert made.projection is not None
                run = await session.run(task, k=made.projection.k)
            covered += made.error_rate.low <= 0.1 <= made.error_rate.high
            held += made.projection.samples.low <= run.totals.samples <= made.projection.samples.high
            right += fixed.result["solved"]
            votes += fixed.totals.votes
            claims.append((loose.p_zero_errors or 0.0, loose.result["solved"]))
    print(f"\nThrough the engine: Hanoi with 7 disks ({steps} steps), 1-p = 0.1, v = 0.97, {trials} cases\n")
    print(f"    interval for p covers:          {covered / trials:.1%}")
    print(f"    samples within the projection:  {held / trials:.1%}")
    print(f"    solved at target 0.9:           {right / trials:.1%}")
    print(f"    votes of the runs:              {votes / trials:,.0f} + 400 of a pilot")
    said, seen = (np.array(part, dtype=float) for part in zip(*claims, strict=True))
    law = run_success(0.1, 2, steps)
    print(f"    at k = 2 (law {law:.3f}):         claimed {said.mean():.3f}, solved {seen.mean():.3f}")


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--quick", action="store_true", help="a tenth of the trials")
    reader.add_argument("--only", metavar="PART", help="one of the parts")
    given = reader.parse_args()
    few = 10 if given.quick else 1
    parts: dict[str, Callable[[], None]] = {
        "coverage": lambda: coverage(4000 // few),
        "consensus": consensus,
        "guarantee": lambda: guarantee(2000 // few),
        "reliability": lambda: reliability(4000 // few),
        "hard": lambda: hard(200 // few),
        "spread": lambda: spread(40 // few),
        "certificates": lambda: certificates(20 // few),
        "projections": lambda: projections(100),
        "engine": lambda: anyio.run(engine, 200 // few),
    }
    for name in [given.only] if given.only else parts:
        began = time.perf_counter()
        parts[name]()
        print(f"\n({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
