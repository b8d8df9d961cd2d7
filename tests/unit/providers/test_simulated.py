"""The simulated model: its draws belong to the sample, and its rates are what its settings say."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdap
from mdap.engine.guarded import TaskSubject
from mdap.errors import FailedError, TransientError, UsageError
from mdap.providers.simulated import Simulated, SimulatedSettings, create
from mdap.records import Reply, SampleRequest
from mdap.rules.digests import prompt_digest
from mdap.rules.redflags import precheck
from mdap.rules.scaling import expected_samples, expected_votes
from tests.helpers import Walk

TASK = Walk(steps=10**6)
STANDARD_ERRORS = 4
TRIALS = 20_000


def model(**options: Any) -> Simulated:
    return Simulated(SimulatedSettings(**options))


def request(*ordinals: int, step: int = 0, user: str | None = None) -> SampleRequest:
    user = f"0 {step} 0" if user is None else user
    subject = TaskSubject(TASK, (step, 0))
    return SampleRequest(
        "", user, prompt_digest("", user), str(step), ordinals or (0,), 0.1, 100, None, 0, subject
    )


async def said(provider: Simulated, count: int, step: int = 0) -> Sequence[Reply]:
    return await provider.sample(request(*range(count), step=step))


def is_near(measured: float, expected: float, trials: int) -> bool:
    """Whether a share of *trials* is within the stated standard errors of what it should be."""
    return abs(measured - expected) <= STANDARD_ERRORS * sqrt(expected * (1 - expected) / trials)


# --- what a draw depends on


@settings(max_examples=60)
@given(st.permutations(range(12)), st.lists(st.integers(1, 11), max_size=4), st.integers(0, 99))
async def test_a_draw_belongs_to_its_sample(order: list[int], cuts: list[int], seed: int) -> None:
    """One request for many samples, many for one, in any order: every ordinal gets the same reply."""
    options = {"error_rate": 0.4, "flag_rate": 0.3, "seed": seed}
    together = await said(model(**options), 12)
    provider = model(**options)
    edges = [0, *sorted(set(cuts)), 12]
    apart: dict[int, Reply] = {}
    for start, end in itertools.pairwise(edges):
        ordinals = tuple(order[start:end])
        apart |= dict(zip(ordinals, await provider.sample(request(*ordinals)), strict=True))
        await said(provider, 3, step=1)
    assert [apart[ordinal] for ordinal in range(12)] == list(together)


async def test_concurrency_changes_nothing() -> None:
    """Samples in flight together, of several steps, say what they say alone."""
    options = {"error_rate": 0.4, "flag_rate": 0.3, "latency": 1e-6}
    alone = {
        (step, n): await model(**options).sample(request(n, step=step)) for step in range(5) for n in range(8)
    }
    provider = model(**options)
    together: dict[tuple[int, int], Sequence[Reply]] = {}

    async def ask(step: int, ordinal: int) -> None:
        together[step, ordinal] = await provider.sample(request(ordinal, step=step))

    async with anyio.create_task_group() as group:
        for place in random.Random(1).sample(list(alone), len(alone)):
            group.start_soon(ask, *place)
    assert together == alone


async def test_seed_step_prompt_and_ordinal_all_matter() -> None:
    """Other seeds, steps, prompts and ordinals are other draws."""
    options = {"error_rate": 0.5, "flag_rate": 0.0}
    truth = TASK.render(TASK.oracle((0, 0)))

    async def pattern(provider: Simulated, **kind: Any) -> tuple[bool, ...]:
        asked = request(*range(64), **kind)._replace(subject=TaskSubject(TASK, (0, 0)))
        return tuple(reply.text == truth for reply in await provider.sample(asked))

    patterns = {
        await pattern(model(**options)),
        await pattern(model(**options, seed=1)),
        await pattern(model(**options), step=1, user="0 0 0"),
        await pattern(model(**options), user="another"),
    }
    assert len(patterns) == 4
    assert all(16 < sum(each) < 48 for each in patterns)


# --- rates


@pytest.mark.parametrize("error_rate", [0.0, 0.02, 0.3, 1.0])
async def test_the_error_rate_is_the_share_of_valid_samples_that_are_wrong(error_rate: float) -> None:
    """Independently of flags, so many valid replies are wrong; each is one of the task's mistakes."""
    replies = await said(model(error_rate=error_rate, flag_rate=0.2), TRIALS)
    truth = TASK.oracle((0, 0))
    valid = [reply.text for reply in replies if flag(reply) is None]
    assert is_near(sum(text != str(truth) for text in valid) / len(valid), error_rate, len(valid))
    assert set(valid) <= {str(truth), *map(str, TASK.mistakes((0, 0), truth))}


async def test_d15_the_first_sample_is_as_wrong_as_any() -> None:
    """D15: no ordinal is favoured; the first samples of many steps are wrong as often as the later ones."""
    provider = model(error_rate=0.3, flag_rate=0.0)
    steps = 4000
    wrong: Counter[int] = Counter()
    for step in range(steps):
        for ordinal, reply in enumerate(await said(provider, 4, step=step)):
            wrong[ordinal] += reply.text != str(TASK.oracle((step, 0)))
    assert [ordinal for ordinal in range(4) if is_near(wrong[ordinal] / steps, 0.3, steps)] == [0, 1, 2, 3]


async def test_wrong_answers_are_spread_over_all_mistakes() -> None:
    """Independent errors: no mistake is more likely than another."""
    replies = await said(model(error_rate=1.0, flag_rate=0.0), TRIALS)
    counts = Counter(reply.text for reply in replies)
    assert len(counts) == 3
    assert all(is_near(count / TRIALS, 1 / 3, TRIALS) for count in counts.values())


def flag(reply: Reply) -> str | None:
    """Why a reply would be discarded: by the rules of any domain, or by this one's parser."""
    found = precheck(reply.text, reply.finish_reason, reply.output_tokens, 100)
    if found is None:
        try:
            TASK.read(reply.text)
        except mdap.RedFlag as raised:
            return raised.reason
    return found


class Wordy(Walk):
    """Answers in a sentence, so that a cut reply can be told from a whole one."""

    def render(self, answer: int) -> str:
        return f"I choose {answer}"


@pytest.mark.parametrize("flag_rate", [0.0, 0.05, 0.6])
async def test_the_flag_rate_is_the_share_of_samples_that_are_discarded(flag_rate: float) -> None:
    """So many replies are overlong, cut off or malformed, a third of them each."""
    asked = request(*range(TRIALS))._replace(subject=TaskSubject(Wordy(), (0, 0)))
    replies = await model(error_rate=0.0, flag_rate=flag_rate).sample(asked)
    whole = Wordy().render(Wordy().oracle((0, 0)))
    kinds: Counter[str] = Counter()
    for reply in replies:
        found = precheck(reply.text, reply.finish_reason, reply.output_tokens, 100)
        kinds[found or ("" if reply.text == whole else "malformed")] += 1
    for kind in ("too long", "truncated", "malformed"):
        assert is_near(kinds[kind] / TRIALS, flag_rate / 3, TRIALS)
    assert is_near(kinds[""] / TRIALS, 1 - flag_rate, TRIALS)


async def test_hard_prompts_are_a_share_of_prompts_with_a_favourite_mistake() -> None:
    """Correlated errors: a hard prompt is wrong at its own rate, and always in the same way."""
    provider = model(error_rate=0.1, flag_rate=0.0, hard_rate=0.25, hard_error_rate=0.8)
    prompts, each = 600, 60
    hard = 0
    for step in range(prompts):
        truth = str(TASK.oracle((step, 0)))
        wrong = [reply.text for reply in await said(provider, each, step=step) if reply.text != truth]
        if len(wrong) > each / 2:
            hard += 1
            assert len(set(wrong)) == 1
    assert is_near(hard / prompts, 0.25, prompts)


async def test_a_hard_prompt_is_hard_for_the_same_seed_only() -> None:
    """Which prompts are hard goes by their digest and the seed."""

    async def hard(seed: int) -> list[bool]:
        provider = model(error_rate=0, flag_rate=0, hard_rate=0.5, hard_error_rate=1, seed=seed)
        return [
            (await said(provider, 1, step=step))[0].text != str(TASK.oracle((step, 0))) for step in range(64)
        ]

    assert await hard(1) == await hard(1) != await hard(2)


async def test_latency_is_lognormal_around_its_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the replies take longer than the median, and the logarithm has the stated spread."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("mdap.providers.simulated.anyio.sleep", sleep)
    provider = model(latency=0.2, latency_sigma=0.5)
    assert not provider.nonblocking
    for step in range(2000):
        [reply] = await said(provider, 1, step=step)
        assert reply.latency == slept[-1]
    logs = sorted(math.log(seconds / 0.2) for seconds in slept)
    assert is_near(sum(each > 0 for each in logs) / len(logs), 0.5, len(logs))
    spread = sqrt(sum(each * each for each in logs) / len(logs))
    assert abs(spread - 0.5) <= STANDARD_ERRORS * 0.5 / sqrt(2 * len(logs))
    assert model().nonblocking


async def test_faults_are_attempts_not_answers() -> None:
    """With faults, an attempt fails at the stated rate, and the reply in the end is the one without."""
    clean, faulty = model(error_rate=0.3), model(error_rate=0.3, fault_rate=0.4)
    attempts = failed = 0
    for step in range(3000):
        while True:
            attempts += 1
            try:
                replies = await said(faulty, 2, step=step)
                break
            except TransientError:
                failed += 1
        assert replies == await said(clean, 2, step=step)
    assert is_near(failed / attempts, 0.4, attempts)


# --- through the front door


@pytest.mark.slow
async def test_d15_d16_a_step_takes_as_many_samples_as_the_law_says(tmp_path: Path) -> None:
    """D15 and D16: through `mdap.solve`, the mean of samples per step is k (2P - 1) / (2p - 1) / v."""

    class Pair(Walk):
        def mistakes(self, state: tuple[int, int], truth: int) -> list[int]:
            return [(truth + 1) % 4]

    error_rate, k, steps, flag_rate = 0.3, 2, 2500, 0.1
    options = {"error_rate": error_rate, "flag_rate": flag_rate, "seed": 5}
    solution = await mdap.solve(Pair(steps=steps), k=k, options=options, db=tmp_path / "a.db")
    assert solution.steps == steps
    p = 1 - error_rate
    # The variance of the duration of a gambler's ruin is about that without a lower barrier.
    votes_error = sqrt(k * 4 * p * (1 - p) / (2 * p - 1) ** 3 / steps)
    votes = solution.totals.votes / steps
    assert abs(votes - expected_votes(error_rate, k)) <= STANDARD_ERRORS * votes_error
    samples_error = sqrt(votes_error**2 + votes * flag_rate / (1 - flag_rate) ** 2 / steps) / (1 - flag_rate)
    expected = expected_samples(error_rate, k, 1 - flag_rate)
    assert abs(solution.totals.samples / steps - expected) <= STANDARD_ERRORS * samples_error


async def test_faults_and_latency_change_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same decisions with faults, with latency, and with speculation."""
    monkeypatch.setattr("mdap.engine.scheduler.backoff", lambda *_: 0.0)
    options = {"error_rate": 0.3, "flag_rate": 0.1, "seed": 11}
    plain, faulty, slow = [
        await mdap.solve(Walk(steps=40), k=3, options=options | more, db=tmp_path / "a.db", run_id=name)
        for name, more in {
            "plain": {},
            "faulty": {"fault_rate": 0.3},
            "slow": {"fault_rate": 0.1, "latency": 0.0005},
        }.items()
    ]
    assert faulty.totals.failed_attempts > 0
    assert plain.result == faulty.result == slow.result
    same = ("steps", "votes", "red_flags", "samples")
    assert [getattr(plain.totals, name) for name in same] == [getattr(faulty.totals, name) for name in same]
    counted = slow.totals.samples - slow.totals.void - slow.totals.cancelled
    assert (slow.steps, counted) == (plain.steps, plain.totals.samples)


# --- settings


@pytest.mark.parametrize(
    "options",
    [
        {"error_rate": 1.5},
        {"error_rate": -0.1},
        {"flag_rate": 1.0},
        {"fault_rate": 1.0},
        {"latency": -1},
        {"nonsense": 1},
        {"seed": "x"},
    ],
)
def test_bad_options_are_one_sentence(options: dict[str, Any]) -> None:
    """An option that is unknown or out of range is refused by its name."""
    with pytest.raises(UsageError, match=f"sim option.*{next(iter(options))}") as raised:
        create("", options)
    assert "\n" not in str(raised.value)


def test_a_sim_may_have_a_name() -> None:
    """Several simulated models that vote together are told apart in the record."""
    assert (create("", {}).name, create("a", {}).name) == ("sim", "sim/a")


async def test_a_request_without_a_subject_is_refused() -> None:
    """Only a task knows what is right: a bare prompt cannot be simulated."""
    with pytest.raises(UsageError, match="ask through a task"):
        await model().sample(request()._replace(subject=None))


@pytest.mark.parametrize("lacking", ["oracle", "mistakes", "render"])
def test_a_run_that_cannot_be_simulated_says_why(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the task's own words, and names no exception: the run, not mdap or the provider, lacks something."""

    def unknown(*_: object) -> None:
        raise NotImplementedError("the right answers are unknown: give a --model")

    monkeypatch.setattr(Walk, lacking, unknown)
    sentence = "the simulated model cannot answer: the right answers are unknown: give a --model"
    with pytest.raises(FailedError, match=f": {sentence}$"):
        mdap.solve_sync(Walk(), model="sim?error_rate=1&flag_rate=0", k=2, db=tmp_path / "m.db")


def test_what_it_says_of_itself_can_be_recorded() -> None:
    """Name and every option, so that the log says what was simulated."""
    told = model(error_rate=0.25, refuse_rate=0.5).describe()
    changed = {"error_rate": 0.25, "refuse_rate": 0.5}
    assert told == {"model": "sim", **SimulatedSettings().model_dump(), **changed}
    # Logs of before there were refusals go on.
    assert "refuse_rate" not in model().describe()
