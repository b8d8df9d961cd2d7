"""Does `-k robust` keep its promise? Its constants proved, its rule simulated at length, and the engine.

Everything is seeded: two runs print the same figures.

    python benchmarks/robust.py proofs | mixtures | random | engine | hard | process | views | schedules
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import numpy as np
from numpy.typing import NDArray

import mdap
from mdap.rules.certificate import error_upper_bound
from mdap.rules.ledger import Ledger, law
from mdap.rules.rungs import FLOORS, Rung, exact
from mdap.rules.scaling import expected_votes, minimal_k
from mdap.rules.tally import RobustTally
from mdap.settings import Robust
from mdap_hanoi import Hanoi

Rng = np.random.Generator
Chances = NDArray[np.float64]


# -- runs by their law ------------------------------------------------------------------------------


class Terms(NamedTuple):
    """What all runs of a cell share.

    Attributes:
        robust: floor, target, and whether the length is known.
        kinds: the chances that steps may have.
        after: where in *kinds* the chance of every step is once the run has paid; None to leave it.
    """

    robust: Robust
    kinds: Sequence[float]
    after: int | None = None


class Rungs:
    """The rungs of runs with the same terms, and how a step of each kind ends at each of them."""

    def __init__(self, terms: Terms) -> None:
        self._kinds = terms.kinds
        self._ladder = Ledger(terms.robust).ladder
        self.prices = np.empty(0)
        self.laws = np.empty((len(terms.kinds), 0, 4))
        self.reach(float(self._ladder.first.price))

    def reach(self, limit: float) -> None:
        """Know the rungs as far as one that costs *limit* at most."""
        if self.prices.size and self.prices[-1] <= limit:
            return
        self._ladder.cheapest(Fraction(limit))
        further = self._ladder._rungs[len(self.prices) :]
        fresh = np.array([[law(rung, p) for rung in further] for p in self._kinds])
        self.laws = np.concatenate([self.laws, fresh], axis=1)
        self.prices = np.append(self.prices, [float(rung.price) for rung in further])

    def cheapest(self, limits: NDArray[Any]) -> NDArray[Any]:
        """Return by limit the lowest rung that costs no more: prices fall."""
        self.reach(float(limits.min()))
        return np.searchsorted(-self.prices, -limits * (1 + 1e-12))


class Runs(NamedTuple):
    """By run: wrong decisions, what it spent, payments, and mean votes."""

    wrong: NDArray[Any]
    spent: Chances
    payments: NDArray[Any]
    votes: Chances


def simulated(terms: Terms, kind: NDArray[Any], rng: Rng) -> Runs:
    """Run many runs side by side, step by step, each step by its law.

    The budget is kept in floating point; the engine's is exact.

    Args:
        terms: what they share.
        kind: of each step (row) in each run (column), the place of its chance in `Terms.kinds`.
        rng: where all else is drawn from.
    """
    rungs, budget, length = Rungs(terms), 1 - terms.robust.target, terms.robust.length
    many = kind.shape[1]
    made = Runs(np.zeros(many, int), np.zeros(many), np.zeros(many, int), np.zeros(many))
    wrong, spent, payments, votes = made
    place = np.zeros(many, int)
    for done, here in enumerate(kind):
        if length is None:
            limits = budget / ((payments + 1) * (payments + 2))
        else:
            limits = (budget - spent) / (2 + payments * (length - done) / max(done, 1))
        paid = payments > 0
        place[paid] = rungs.cheapest(limits)[paid]
        chances = rungs.laws[np.where(paid, terms.after, here) if terms.after is not None else here, place]
        draw = rng.random(many)
        contested = draw >= 1 - chances[:, 1]
        wrong += (draw < chances[:, 0]) | (draw >= 1 - chances[:, 1] * chances[:, 2])
        spent += contested * rungs.prices[place]
        payments += contested
        votes += chances[:, 3]
    return made


class Figures(NamedTuple):
    """Over runs: the share that is wrong, wrong - spent and its standard error, contested, votes a step."""

    wrong: float
    excess: float
    error: float
    contested: float
    votes: float


def figures(made: Runs, steps: int) -> Figures:
    excess = made.wrong - made.spent
    return Figures(
        float((made.wrong > 0).mean()),
        float(excess.mean()),
        float(excess.std() / excess.size**0.5),
        float(made.payments.mean()),
        float(made.votes.mean()) / steps,
    )


MIXTURES: Final = [
    ("all at .99", 10_000, 0.0, 0.6, 0.99),
    (".1 % at .7", 10_000, 0.001, 0.7, 0.9978),
    ("1 % at .7", 10_000, 0.01, 0.7, 0.999),
    ("5 % at .7", 1000, 0.05, 0.7, 0.99),
    ("2 % at .6", 1000, 0.02, 0.6, 0.999),
    ("all at .6", 1000, 1.0, 0.6, 0.6),
    ("one in a thousand at .6", 10_000, 0.001, 0.6, 0.999),
]


def mixtures(trials: int) -> None:
    """Wrong runs at target .95: k = 3, auto, and robust at floors .6 and .7; then more mixtures."""
    print(f"Wrong runs at target .95, {trials} a cell (auto: a tenth of them), and votes a step\n")
    print("| steps | number | k = 3 | auto | votes | robust .6 | votes | contested | robust .7 | votes |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, steps, share, hard, easy in MIXTURES:
        rng = np.random.default_rng(steps)
        kind = (rng.random((steps, trials)) >= share).astype(np.int8)
        p = np.array([hard, easy])
        fixed = [classic(rng, p[one], 3)[0] for one in kind.T]
        auto = np.array([chosen(rng, p[one]) for one in kind.T[: trials // 10]])
        cells = [f"{np.mean(fixed):.3f}", *(f"{mean:.3g}" for mean in auto.mean(axis=0))]
        for floor in (0.6, 0.7):
            if floor > hard and share:
                cells += ["-", "-"]
                continue
            terms = Terms(Robust(floor=floor, length=steps), (hard, easy))
            found = figures(simulated(terms, kind, rng), steps)
            cells += [checked(found, trials, 0.05), f"{found.votes:.2f}"]
            if floor == 0.6:
                cells.append(f"{found.contested:.1f}")
        print(f"| {name} | {steps:,} | " + " | ".join(cells) + " |", flush=True)
    at_the_floor(trials)
    adversaries(trials)


def at_the_floor(trials: int) -> None:
    """A share of the steps exactly at the floor, the others typical."""
    print(f"\nSteps at the floor, 1,000 steps, target .95, {trials} runs a cell: wrong runs\n")
    shares = (0.001, 0.01, 0.1, 0.5, 1.0)
    print("| floor | others | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
    print("|---" * (len(shares) + 2) + "|")
    for floor, easy in product((0.6, 0.7, 0.8), (0.9, 0.99, 0.999)):
        terms, cells = Terms(Robust(floor=floor, length=1000), (floor, easy)), []
        for share in shares:
            rng = np.random.default_rng(int(1000 * share))
            kind = (rng.random((1000, trials)) >= share).astype(np.int8)
            cells.append(checked(figures(simulated(terms, kind, rng), 1000), trials, 0.05))
        print(f"| {floor} | {easy} | " + " | ".join(cells) + " |", flush=True)


class Adversary(NamedTuple):
    """Steps from *since* to *until* have the first chance; after a payment all have that at *after*."""

    name: str
    kinds: tuple[float, ...]
    since: int = 0
    until: int = 1000
    after: int | None = None


ADVERSARIES: Final = (
    Adversary("hard steps last", (0.6, 0.999), since=950),
    Adversary("the first 128 hard", (0.6, 0.99), until=128),
    Adversary(".6 until the first contested step, then .999", (0.6, 0.999), after=1),
    Adversary(".99 until then, after it .6", (0.99, 0.6), after=1),
    Adversary("all at the floor", (0.6,)),
)


def adversaries(trials: int) -> None:
    print(f"\nAdversaries at floor .6, target .95, 1,000 steps, {trials} runs a row\n")
    print("| adversary | length known | wrong runs | wrong - spent | standard error |\n|---|---|---|---|---|")
    for one, known in product(ADVERSARIES, (True, False)):
        rng, place = np.random.default_rng(7), np.arange(1000)
        kind = np.where((place >= one.since) & (place < one.until), 0, 1)
        terms = Terms(Robust(length=1000 if known else None), one.kinds, one.after)
        found = figures(simulated(terms, np.tile(kind[:, None], trials), rng), 1000)
        print(
            f"| {one.name} | {'yes' if known else 'no'} | {checked(found, trials, 0.05)} "
            f"| {found.excess:+.5f} | {found.error:.5f} |",
            flush=True,
        )


def checked(found: Figures, trials: int, budget: float) -> str:
    limit = budget + 3 * (budget * (1 - budget) / trials) ** 0.5
    mark = "" if found.wrong <= limit and found.excess <= 3 * found.error + 1e-12 else " FAILED"
    return f"{found.wrong:.4f}{mark}"


def classic(rng: Rng, p: Chances, k: int) -> tuple[bool, float]:
    q = (1 - p) / p
    lost = q**k / (1 + q**k)
    kinds, counts = np.unique(p, return_counts=True)
    votes = sum(count * expected_votes(1 - float(one), k) for one, count in zip(kinds, counts, strict=True))
    return bool((rng.random(p.size) < lost).any()), votes / p.size


def chosen(rng: Rng, p: Chances) -> tuple[bool, float]:
    """Choose k as `-k auto` does: by 400 votes of a pilot at k = 8, or the most there is."""
    against = votes = 0
    for one in p:
        lead = 0
        while abs(lead) < 8:
            right = rng.random() < one
            lead += 1 if right else -1
            votes += 1
            against += not right
        if votes >= 400:
            break
    bound = error_upper_bound(against, votes)
    return classic(rng, p, minimal_k(min(bound, 0.499), p.size, 0.95))


def random_mixtures(mixtures_tried: int, trials: int) -> None:
    """200 mixtures of up to four kinds above the floor, of random lengths: the worst three."""
    found = []
    for seed in range(mixtures_tried):
        rng = np.random.default_rng(seed)
        floor, target = float(rng.choice([0.6, 0.7, 0.8])), float(rng.choice([0.9, 0.95]))
        steps = int(10 ** rng.uniform(1.5, 4))
        kinds = 1 - (1 - floor) * 10 ** -rng.uniform(0, 3, int(rng.integers(1, 5)))
        kinds[0] = floor if rng.random() < 0.5 else kinds[0]
        shares = rng.dirichlet(np.full(kinds.size, 0.4))
        known = bool(rng.random() < 0.7)
        terms = Terms(Robust(floor=floor, target=target, length=steps if known else None), tuple(kinds))
        kind = rng.choice(kinds.size, (steps, trials), p=shares).astype(np.int8)
        one = figures(simulated(terms, kind, rng), steps)
        budget = 1 - target
        ratio = one.wrong / budget
        told = ", ".join(f"{share:.2%} at {kind:.4f}" for share, kind in zip(shares, kinds, strict=True))
        found.append((ratio, floor, target, steps, known, checked(one, trials, budget), one.excess, told))
    found.sort(reverse=True)
    print(f"\n{mixtures_tried} random mixtures above the floor, {trials} runs each: the worst three\n")
    print("| floor | target | steps | known | wrong runs | wrong - spent | mixture |")
    print("|---|---|---|---|---|---|---|")
    for _, floor, target, steps, known, wrong, excess, told in found[:3]:
        print(f"| {floor} | {target} | {steps:,} | {known} | {wrong} | {excess:+.5f} | {told} |")
    failed = sum("FAILED" in one[5] for one in found)
    print(f"\nabove 1 - T by more than 3 standard errors: {failed} of {mixtures_tried}")


# -- proofs -----------------------------------------------------------------------------------------


def proofs() -> None:
    """Every shipped constant, in exact rationals over the whole interval from the floor to 1."""
    from tests.unit.rules.test_rungs import is_proved

    began, proved = time.perf_counter(), 0
    for floor in FLOORS:
        for margin, dissent in product(range(2, 65), range(2, 7)):
            if dissent <= margin:
                assert is_proved(floor, margin, dissent), (floor, margin, dissent)
                proved += 1
    print(f"\n{proved} constants proved for {len(FLOORS)} floors in {time.perf_counter() - began:.0f} s")


# -- the engine -------------------------------------------------------------------------------------

HARD: Final = {"error_rate": 0.001, "hard_rate": 0.02, "hard_error_rate": 0.4}


async def solved(task: Any, options: dict[str, Any], **settings: Any) -> mdap.Solution:
    with tempfile.TemporaryDirectory() as folder:
        limits = mdap.Limits(probe=False)
        async with mdap.Session(db=Path(folder) / "a.db", options=options, limits=limits) as session:
            return await session.run(task, run_id="r", **settings)


async def engine(trials: int, disks: int, options: dict[str, Any]) -> None:
    right = undecided = votes = 0
    contested, wrong_but = [], 0
    for seed in range(trials):
        run = await solved(Hanoi(disks=disks), {**options, "seed": seed}, k="robust")
        assert run.guarantee is not None
        right += bool(run.result and run.result["solved"])
        undecided += run.status is not mdap.RunStatus.FINISHED
        votes += run.totals.votes
        contested.append(run.guarantee.contested)
        wrong_but += bool(run.result) and not run.result["solved"]
    steps = 2**disks - 1
    print(
        f"| {disks} | {options['hard_rate']:.1%} at {1 - options['hard_error_rate']:g} | {trials} | {right} "
        f"| {wrong_but} | {undecided} | {votes / trials / steps:.2f} | {np.mean(contested):.1f} |",
        flush=True,
    )


async def engines(trials: int) -> None:
    print("\nThrough the engine: Hanoi, -k robust --floor 0.6 --target 0.95\n")
    print("| disks | hard | seeds | right | wrong | undecided | votes a step | contested |")
    print("|---|---|---|---|---|---|---|---|")
    await engine(trials, 10, HARD)
    for rate in (0.001, 0.01, 0.05):
        await engine(trials, 10, {**HARD, "hard_rate": rate, "hard_error_rate": 0.3})
    await engine(max(trials // 4, 1), 12, HARD)


class Independent(mdap.Process[Any]):
    """Independent steps, the first of them hard."""

    width: int = 300
    hard: int = 128

    async def solve(self, ask: mdap.Ask) -> int:
        answers = await ask.map(self.question(number) for number in range(self.width))
        return sum(answer != number for number, answer in enumerate(answers))

    def question(self, number: int) -> mdap.Step[int]:
        return mdap.Step(user=f"{'hard' if number < self.hard else 'easy'} {number}", parse=int, input=number)

    def oracle(self, step: mdap.Step[Any]) -> int:
        return int(step.input)

    def mistakes(self, step: mdap.Step[Any], truth: int) -> list[int]:
        return [truth + 1]

    def render(self, step: mdap.Step[Any], answer: int) -> str:
        return str(answer)


class Uneven:
    """A model that is right with .6 where the prompt says hard, and with .99 elsewhere, by its seed."""

    nonblocking: Final = True
    max_n: Final = 1024
    uses_temperature: Final = False

    def __init__(self, seed: int) -> None:
        self.name: Final = "uneven"
        self._seed = seed

    async def sample(self, request: Any) -> list[Any]:
        p = 0.6 if request.user.startswith("hard") else 0.99
        truth = int(request.user.split()[1])
        replies = []
        for ordinal in request.ordinals:
            right = random.Random(f"{self._seed} {request.user} {ordinal}").random() < p
            replies.append(mdap.Reply(str(truth if right else truth + 1), "uneven"))
        return replies

    def describe(self) -> dict[str, Any]:
        return {"seed": self._seed}

    async def aclose(self) -> None:
        pass


def create(model: str, options: dict[str, Any]) -> Uneven:
    return Uneven(int(model))


async def process(trials: int) -> None:
    print(f"\nA process of 300 independent steps, 128 open, the first 128 at .6: {trials} runs\n")
    wrong = undecided = votes = 0
    for seed in range(trials):
        with tempfile.TemporaryDirectory() as folder:
            model = f"benchmarks.robust:create/{seed}"
            limits = mdap.Limits(probe=False)
            async with mdap.Session(model, db=Path(folder) / "a.db", limits=limits) as session:
                run = await session.run(Independent(), k="robust", run_id="r")
        wrong += bool(run.result)
        undecided += run.status is not mdap.RunStatus.FINISHED
        votes += run.totals.votes
    print(f"wrong {wrong}, undecided {undecided}, {votes / trials / 300:.2f} votes a step", flush=True)


async def views(trials: int) -> None:
    """Prompts that are hard in one view at .2: views drawn at random beside views that rotate at k = 8."""
    print(f"\nHanoi with 9 disks, three views, 1 % of the prompts at p = .2, {trials} seeds\n")
    options = {"error_rate": 0.001, "hard_rate": 0.01, "hard_error_rate": 0.8}
    found: dict[str, Counter[str]] = {"robust": Counter(), "rotating": Counter()}
    for seed in range(trials):
        twice = hard_twice(seed)
        for name, k in (("robust", "robust"), ("rotating", 8)):
            run = await solved(Hanoi(disks=9, views=3), {**options, "seed": seed}, k=k)
            kind = "two hard views" if twice else "one at most"
            found[name][kind] += 1
            found[name][f"{kind}, solved"] += bool(run.result and run.result["solved"])
            found[name]["votes"] += run.totals.votes
    for name, counts in found.items():
        told = ", ".join(f"{what} {counts[what]}" for what in sorted(counts))
        print(f"{name}: {told}; {counts['votes'] / trials / 511:.2f} votes a step", flush=True)


def hard_twice(seed: int) -> bool:
    """Whether some step of the right way has two hard views or more, so that its mean p is .47 at most."""
    from mdap.providers.simulated import Simulated, SimulatedSettings
    from mdap.rules.digests import prompt_digest

    model = Simulated(SimulatedSettings(error_rate=0.001, hard_rate=0.01, hard_error_rate=0.8, seed=seed))
    task = Hanoi(disks=9, views=3)
    state = task.start()
    for _ in range(2**task.disks - 1):
        step = task.step(state)
        assert step is not None
        prompts = [(step.system, step.user), *((view.system, view.user) for view in step.views)]
        hard = sum(model._difficulty(prompt_digest(*prompt))[1] is not None for prompt in prompts)
        if hard >= 2:
            return True
        state = task.advance(state, task.oracle(state))
    return False


def schedules(trials: int) -> None:
    """Random orders of arrival, and raises at random times: the same samples and the same winner."""
    ladder = Ledger(Robust(floor=0.7, target=0.7)).ladder
    rungs = [ladder.cheapest(exact(0.15) / 3**n) for n in range(4)]
    assert rungs[0] == ladder.first
    for seed in range(trials):
        chance = random.Random(seed)
        rung, p = chance.choice(rungs), chance.choice([0.7, 0.9, 0.5])
        votes = ["A" if chance.random() < p else chance.choice("BC") for _ in range(4000)]
        plain = RobustTally(rung)
        taken = 0
        while plain.winner is None and taken < len(votes):
            plain.add(votes[taken])
            taken += 1
        assert scheduled(rungs[0], rung, votes, chance) == (plain.votes, plain.winner, taken)
    print(f"\n{trials:,} random schedules: equal decisions and samples")


def scheduled(
    first: Rung, last: Rung, votes: list[str], chance: random.Random
) -> tuple[dict[str, int], str | None, int]:
    tally, flying, asked, raised = RobustTally(first), list[int](), 0, False
    while True:
        if not raised and (chance.random() < 0.1 or (tally.winner and not flying)):
            tally.go_on_at(last)
            raised = True
        while len(flying) < tally.shortfall and asked < len(votes) and chance.random() < 0.8:
            flying.append(asked)
            asked += 1
        if flying:
            tally.add(votes[flying.pop(chance.randrange(len(flying)))])
        elif raised and (tally.winner is not None or asked == len(votes)):
            return tally.votes, tally.winner, asked


def main() -> None:
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("part")
    reader.add_argument("--quick", action="store_true", help="a tenth of the trials")
    given = reader.parse_args()
    few = 10 if given.quick else 1
    parts: dict[str, Callable[[], None]] = {
        "proofs": proofs,
        "mixtures": lambda: mixtures(4000 // few),
        "random": lambda: random_mixtures(200 // few, 400),
        "engine": lambda: anyio.run(engines, 400 // few),
        "process": lambda: anyio.run(process, 400 // few),
        "views": lambda: anyio.run(views, 100 // few),
        "schedules": lambda: schedules(100_000 // few),
    }
    began = time.perf_counter()
    parts[given.part]()
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
