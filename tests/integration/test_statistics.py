"""Statistics: equal to what pandas makes of the same rows, and to the theory where it holds."""

import json
import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas
import pytest

import mdap
from mdap.audit.statistics import Statistics, Use, statistics
from mdap.cli.main import main
from mdap_hanoi import Hanoi
from tests.helpers import mostly_slow
from tests.unit.test_architecture import Pair

MODELS = ("sim/a?error_rate=0.35&seed=1", "sim/b?error_rate=0.2&seed=2")
VOTING = mdap.VotingSettings(k=3, hedge=1, temperatures=(0.0, 0.1, 0.7))
PRICES = {"sim/a": mdap.Price(input=2.0, output=3.0)}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "a.db"
    options = {"flag_rate": 0.1, "latency": 0.001, "fault_rate": 0.05}
    mdap.solve_sync(
        Hanoi(disks=7), model=MODELS, voting=VOTING, options=options, db=path, run_id="r", prices=PRICES
    )
    return path


@pytest.fixture(scope="module")
def found(log: Path) -> Statistics:
    return statistics(log, "r")


@pytest.fixture(scope="module")
def frame(log: Path) -> pandas.DataFrame:
    """Every sample with what its race came to, joined by pandas."""
    with mdap.open_log(log) as opened:
        samples = opened.frame("samples", "r")
        steps = opened.frame("steps", "r")
    keys = {(row.step, row.opening): mdap_key(row.answer) for row in steps.itertuples()}
    samples["right"] = [keys.get((row.step, row.opening)) for row in samples.itertuples()]
    return samples


def mdap_key(answer: str) -> str:
    """The key of an answer, by the documented layout and with nothing of mdap."""
    from hashlib import blake2b

    spelled = json.dumps(json.loads(answer), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return blake2b(spelled.encode(), digest_size=8).hexdigest()


@pytest.mark.parametrize("column", ["model", "temperature", "ordinal"])
def test_counts_equal_those_of_pandas(found: Statistics, frame: pandas.DataFrame, column: str) -> None:
    """By model, temperature and ordinal: verdicts, tokens, and votes for the winner."""
    uses: Mapping[Any, Use] = getattr(found, f"{column}s")
    assert set(uses) == set(frame[column])
    for value, rows in frame.groupby(column):
        verdicts = rows["verdict"].value_counts()
        decided = rows[(rows["verdict"] == "vote") & rows["right"].notna()]
        assert uses[value] == Use(
            samples=len(rows),
            votes=verdicts.get("vote", 0),
            red_flags=verdicts.get("flag", 0),
            void=verdicts.get("void", 0),
            cancelled=verdicts.get("cancelled", 0),
            decided_votes=len(decided),
            for_winner=int((decided["answer_key"] == decided["right"]).sum()),
            input_tokens=int(rows["input_tokens"].fillna(0).sum()),
            output_tokens=int(rows["output_tokens"].fillna(0).sum()),
            cached_tokens=int(rows["cached_tokens"].fillna(0).sum()),
        )


def test_flags_and_latencies_equal_those_of_pandas(found: Statistics, frame: pandas.DataFrame) -> None:
    """Reasons counted; quantiles to the millisecond."""
    flagged = frame[frame["verdict"] == "flag"].groupby(["model", "flag_reason"]).size()
    assert {(model, why): count for model, why, count in found.flags} == flagged.to_dict()
    for model, rows in frame.groupby("model"):
        latency = rows["latency"].dropna()
        expected = [latency.quantile(share, interpolation="higher") for share in (0.5, 0.95, 0.99, 1.0)]
        assert found.latency[str(model)] == pytest.approx(expected, abs=0.002)


@pytest.mark.slow
def test_races_equal_those_of_pandas(found: Statistics, frame: pandas.DataFrame) -> None:
    """Lengths, divided steps, entropy, collisions, and how alike the wrong answers of two models are."""
    votes = frame[(frame["verdict"] == "vote") & frame["right"].notna()].sort_values(["step", "ordinal"])
    lengths: dict[int, int] = {}
    divided = collisions = 0
    bits = []
    pairs: dict[tuple[str, str], list[bool]] = {}
    for _, race in votes.groupby("step"):
        lengths[len(race)] = lengths.get(len(race), 0) + 1
        wrong = race[race["answer_key"] != race["right"]]
        divided += len(wrong) > 0
        collisions += (race["answer_key"] != race["right"]).head(2).all()
        shares = race["answer_key"].value_counts(normalize=True)
        bits.append(-sum(share * math.log2(share) for share in shares))
        for one, other in combinations(wrong.itertuples(), 2):
            models = (min(one.model, other.model), max(one.model, other.model))
            pairs.setdefault(models, []).append(one.answer_key == other.answer_key)
    assert found.lengths == dict(sorted(lengths.items()))
    assert (found.decided, found.divided, found.collisions) == (127, divided, collisions)
    assert divided > 20
    assert found.entropy == pytest.approx(sum(bits) / len(bits))
    assert found.pairs == {models: (len(same), sum(same)) for models, same in pairs.items()}
    assert len(found.pairs) == 3


def test_cost_is_told_where_a_price_is_known(found: Statistics) -> None:
    """In USD, of one model alone."""
    use = found.models["sim/a"]
    assert found.costs == {"sim/a": pytest.approx((2 * use.input_tokens + 3 * use.output_tokens) / 1e6)}


@pytest.mark.parametrize(("error_rate", "k", "steps"), mostly_slow([(0.35, 2, 1500), (0.2, 3, 4000)]))
def test_votes_needed_agree_with_theory(tmp_path: Path, error_rate: float, k: int, steps: int) -> None:
    """Chi-square of the histogram against the theory at the measured rate; alpha is one in a thousand."""
    from scipy.stats import chi2  # it takes a second to import

    db = tmp_path / "a.db"
    options = {"error_rate": error_rate, "flag_rate": 0.05, "seed": 7}
    mdap.solve_sync(Pair(steps=steps), k=k, options=options, db=db, run_id="r")
    found = statistics(db, "r")
    observed, expected = [0.0], [0.0]
    for votes in range(k, max(found.lengths) + 40):
        observed[-1] += found.lengths.get(votes, 0)
        expected[-1] += found.theory.get(votes, 0.0)
        if expected[-1] >= 10:
            observed.append(0.0)
            expected.append(0.0)
    # What is left over, and what the theory has beyond the longest race, goes to the last bin.
    tail = steps - sum(expected[:-1])
    observed[-2:], expected[-2:] = [sum(observed[-2:])], [expected[-2] + tail]
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(observed, expected, strict=True))
    # One degree of freedom less for the rate, which is measured.
    assert statistic < chi2.ppf(0.999, len(expected) - 2)
    assert sum(observed) == steps
    shares = [(share, theory) for _, share, theory in found.undecided()]
    assert all(abs(share - theory) < 4 * math.sqrt(0.25 / steps) for share, theory in shares)
    assert shares[-1][0] == 0


def test_a_batch_counts_its_parts(tmp_path: Path) -> None:
    """Statistics of a run that has parts are of all of them."""
    db = tmp_path / "a.db"

    async def batch() -> None:
        async with mdap.Session("sim", db=db) as session:
            tasks = [Hanoi(disks=3) for _ in range(4)]
            assert len([one async for one in session.solve_all(tasks, k=2, run_id="b")]) == 4

    import anyio

    anyio.run(batch)
    found = statistics(db, "b")
    assert (found.decided, found.models["sim"].for_winner, found.lengths) == (28, 56, {2: 28})


def test_the_command(log: Path, found: Statistics, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables, or one JSON object with everything in it."""
    with pytest.raises(SystemExit, match="0"):
        main(["audit", "stats", "r", "--db", str(log), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(found.to_dict()))
    assert [model["model"] for model in told["models"]] == ["sim/a", "sim/b"]
    with pytest.raises(SystemExit, match="0"):
        main(["audit", "stats", "r", "--db", str(log)])
    out = capsys.readouterr().out
    assert out.startswith("r: 127 steps decided by vote")
    for head in ("temperature", "ordinal", "red flag", "wrong in one race", "in theory", "USD"):
        assert head in out


def test_a_run_without_decisions_has_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to divide by is no error."""
    db = tmp_path / "a.db"
    with pytest.raises(mdap.UndecidedError):
        mdap.solve_sync(
            Hanoi(disks=3),
            options={"error_rate": 1.0},
            voting=mdap.VotingSettings(k=3, max_samples=5),
            db=db,
            run_id="n",
        )
    found = statistics(db, "n")
    assert (found.decided, found.entropy, found.undecided()) == (0, None, [])
    assert found.models["sim"].agreement is None
    with pytest.raises(SystemExit, match="0"):
        main(["audit", "stats", "n", "--db", str(db)])
    assert "0 steps decided" in capsys.readouterr().out
