"""Learning from votes. These tests need torch: `.ci/run` gives them an environment of their own."""

import json
import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.cli.main import main
from mdap.journal.evolutions import EvolutionRow, IterationRow, read_evolution
from mdap_evolve.evolving import Report, evolve, learning, study_of
from mdap_evolve.learning import Evolution, Example, Weights, coefficients, likelihoods, signs
from mdap_evolve.measuring import Exam, Item
from mdap_evolve.population import shares
from mdap_evolve.recipe import Recipe
from mdap_hanoi import Hanoi
from mdap_local import load_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TOWER = Hanoi(disks=6, style="compact")
KEEP = "multiply?style=compact&a=37&b=48"
QUICK = ["--iterations", "4", "--population", "4", "--batch", "6", "--contested", "3"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a log in which a good model voted: a run of 63 steps that another model decided."""
    path = tmp_path / "a.db"
    mdap.solve_sync(TOWER, model="sim/good?error_rate=0.05", k=3, db=path, run_id="tower")
    return path


def ran(*command: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code


def evolved(log: Path, out: str, *more: str, quick: list[str] = QUICK) -> Any:
    return ran(
        *("evolve", "hanoi", "-p", "disks=6", "-p", "style=compact", "--model", "local/micro-weak"),
        *("--from", "tower", "--keep", KEEP, "--out", str(log.parent / out), "--db", str(log), *quick, *more),
    )


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# -- the arithmetic --------------------------------------------------------------------------------


def test_noise_is_the_same_everywhere() -> None:
    """SHAKE-128 over a counter: these signs are for ever; a longer stream begins as a shorter one."""
    drawn = signs((0, 0, 0), 16).tolist()
    assert drawn == [-1, 1, 1, -1, 1, -1, -1, 1, -1, -1, -1, -1, -1, 1, 1, 1]
    long = signs((0, 0, 0), (1 << 20) + 5)
    assert len(long) == (1 << 20) + 5
    assert set(long.tolist()) == {-1, 1}
    assert abs(float(long.mean())) < 4 / 1024
    assert not torch.equal(long[:64], long[1 << 20 :][:5].repeat(13)[:64])
    for place in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert abs(float((signs(place, 1 << 16) * long[: 1 << 16]).mean())) < 4 / 256


def test_coefficients_are_differences_of_z_scores() -> None:
    """Mean 2, spread sqrt(2): a pair of 4 and 0 differs by 4 / sqrt(2), rounded to 16 bits."""
    assert coefficients([4, 0, 2, 2]) == pytest.approx((4 / math.sqrt(2), 0), abs=2e-3)
    assert coefficients([0.5] * 4) == (0, 0)
    assert coefficients([40, 0, 20, 20]) == coefficients([4, 0, 2, 2])


@pytest.mark.parametrize(
    ("anchor", "amount", "left"),
    [("none", 0.25, [4, -2, 0.1]), ("l2", 0.25, [3, -1.5, 0.075]), ("l1", 0.25, [3.75, -1.75, 0])],
)
def test_an_anchor_pulls_back_to_where_the_weights_began(
    anchor: Any, amount: float, left: list[float]
) -> None:
    network = torch.nn.Linear(3, 1, bias=False).requires_grad_(False)
    weights = Weights(network)
    weights.now += torch.tensor([4, -2, 0.1])
    weights.pull(anchor, amount)
    assert (weights.now - weights.start).tolist() == pytest.approx(left, abs=1e-6)


def test_perturbing_leaves_the_weights_as_they_were() -> None:
    """What is rewarded is a copy: neither its size nor its rounding gets into the weights."""
    network = torch.nn.Linear(64, 64).requires_grad_(False)
    weights = Weights(network)
    before = weights.digest
    noise = signs((0, 0, 0), len(weights))
    weights.perturb(noise, 0.1)
    assert torch.equal(network.weight.reshape(-1), (weights.start + 0.1 * noise)[: 64 * 64])
    assert weights.digest == before
    weights.settle()
    assert torch.equal(torch.cat([each.reshape(-1) for each in network.parameters()]), weights.start)


def test_an_update_follows_the_rewards() -> None:
    """It goes alpha / N times the sum of z-score differences times noise, and a little back."""
    model = load_model("micro-weak", device="cpu")
    prompt, reply = tuple(model.chat("", "7*8+3")), tuple(model.reply("59"))
    recipe = Recipe(iterations=2, population=4, batch=1, contested=0)
    rewards = [0.5, 0.25, 0.125, 0.5]

    class Rewarded(Evolution):
        def all_rewards(self) -> list[float]:
            return rewards

    evolution = Rewarded(model, [Example(prompt, reply, contested=False)], recipe)
    evolution.learn()
    step = sum(
        coefficient * signs((0, 0, pair), len(evolution.weights)).double()
        for pair, coefficient in enumerate(coefficients(rewards))
    )
    expected = recipe.alpha / 4 * (1 - recipe.alpha * recipe.strength) * step
    moved = (evolution.weights.now - evolution.weights.start).double()
    assert float((moved - expected).abs().max()) < 1e-6


def test_what_won_becomes_likelier() -> None:
    """Twelve updates on three replies that the model gets wrong: each kind of update helps."""
    for method, alpha in (("es", 0.03), ("sft", 0.0003)):
        model = load_model("micro-weak", device="cpu")
        texts = [("1*1+2", "4"), ("2*2+1", "6"), ("3*3+1", "11")]
        examples = [
            Example(tuple(model.chat("", asked)), tuple(model.reply(said)), contested=True)
            for asked, said in texts
        ]
        pairs = [(one.prompt, one.reply) for one in examples]
        before = likelihoods(model, pairs)
        recipe = Recipe(
            method=method, alpha=alpha, iterations=12, population=16, anchor="none", batch=3, contested=3
        )
        with learning(model, examples, recipe) as learner:
            for _ in range(recipe.iterations):
                learner.learn()
            learner.finish()
        assert sum(likelihoods(model, pairs)) > 2 * sum(before)


def test_each_pair_has_one_worker() -> None:
    for workers in range(1, 9):
        assert [pair for share in shares(6, workers) for pair in share] == list(range(6))


# -- the command -----------------------------------------------------------------------------------


class _CutError(Exception):
    pass


def cut_after(iterations: int) -> Any:
    """Return what ends an evolution after so many updates, wherever it is."""

    def watch(row: IterationRow) -> None:
        if row.iteration == iterations:
            raise _CutError

    return watch


def started(log: Path, out: str, *more: str) -> EvolutionRow:
    """Return an evolution that has begun and was cut after its first update."""
    import mdap_evolve.command as module

    def cut(db: Path, study: Any, workers: int, watch: Any) -> Report:
        return evolve(db, study, workers, cut_after(1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "evolve", cut)
        assert evolved(log, out, *more) == 1
    return read_evolution(log, "latest")


def test_a_better_model_with_its_report_and_its_record(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is written loads, has the reported digest, is made again bit by bit, and verifies."""
    assert evolved(log, "new", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    name, folder = report["evolution_id"], log.parent / "new"
    assert report["weights"] == load_model(str(folder), device="cpu").digest
    assert report["lessons"] == {"learned": 55, "contested": 7, "held_out": 8, "helped": 63}
    before, after = (report[when]["held out"] for when in ("before", "after"))
    assert before["right"] == pytest.approx(before["p"] * before["v"])
    assert before["k"] >= 1
    assert before["tokens"] > before["samples"] >= 63
    assert report["gain"][0] == pytest.approx(after["right"] - before["right"], abs=0.01)
    assert set(report["before"]) == {"held out", KEEP}
    row = read_evolution(log, name)
    assert len(row.iterations) == 4
    assert all(set(each.measured) == {"held out", KEEP} for each in row.iterations)
    assert (folder / "drift.svg").read_text().startswith("<svg")
    assert ran("evolve", "--replay", name, "--out", str(log.parent / "again"), "--db", str(log)) == 0
    assert weights_of(log.parent / "again") == weights_of(folder)
    shared = folder / "evolution.json"
    assert shared.stat().st_size < 2000
    assert ran("evolve", "--replay", str(shared), "--out", str(log.parent / "third"), "--db", str(log)) == 0
    assert weights_of(log.parent / "third") == weights_of(folder)
    capsys.readouterr()
    assert ran("audit", "verify", name, "--db", str(log)) == 0
    assert "verified" in capsys.readouterr().out
    assert ran("evolve", "--resume", name, "--db", str(log)) == 2


@pytest.mark.parametrize("method", ["es", "sft"])
def test_cut_after_each_update_it_leads_to_the_same_weights(log: Path, method: str) -> None:
    assert evolved(log, "whole", "--method", method) == 0
    whole = read_evolution(log, "latest")
    row = started(log, "cut", "--method", method)
    for cut in (2, 3, 4):
        with pytest.raises(_CutError):
            evolve(log, study_of(log, row), watch=cut_after(cut))
        row = read_evolution(log, row.evolution_id)
        assert [each.iteration for each in row.iterations] == list(range(1, cut + 1))
    assert ran("evolve", "--resume", row.evolution_id, "--db", str(log)) == 0
    assert weights_of(log.parent / "cut") == weights_of(log.parent / "whole")
    assert [each.weights for each in row.iterations] == [each.weights for each in whole.iterations]


def test_two_workers_lead_to_the_same_weights_as_one(log: Path) -> None:
    assert evolved(log, "one") == 0
    assert evolved(log, "two", "--workers", "2") == 0
    assert weights_of(log.parent / "one") == weights_of(log.parent / "two")


def test_a_model_that_forgot_is_not_written(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, the loss in the sentence, no folder; its record verifies all the same."""
    assert evolved(log, "new", "--alpha", "0.1", "--anchor", "none") == 1
    said = capsys.readouterr()
    assert f"{KEEP} lost" in said.err
    assert "--max-loss is 1" in said.err
    assert not (log.parent / "new").exists()
    name = read_evolution(log, "latest").evolution_id
    assert ran("audit", "verify", name, "--db", str(log)) == 0
    assert ran("evolve", "--replay", name, "--out", str(log.parent / "new"), "--db", str(log)) == 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the log of an evolution that has finished, to be copied."""
    path = tmp_path_factory.mktemp("finished") / "a.db"
    mdap.solve_sync(TOWER, model="sim/good?error_rate=0.05", k=3, db=path, run_id="tower")
    assert evolved(path, "new") == 0
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE iterations SET distance = 0 WHERE iteration = 2", "not as mdap wrote it"),
        ("UPDATE iterations SET coefficients = zeroblob(4) WHERE iteration = 2", "not as mdap wrote it"),
        ("DELETE FROM iterations WHERE iteration = 2", "not as mdap wrote it"),
        ("UPDATE evolutions SET recipe = replace(recipe, '0.004', '0.005')", "not as mdap wrote it"),
        (
            "UPDATE evolution_events SET data = json_set(data, '$.weights', '00') WHERE kind = 'finished'",
            "the report says 00",
        ),
    ],
)
def test_a_changed_record_is_found(
    finished: Path, tmp_path: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Path(shutil.copy(finished, tmp_path / "a.db"))
    with closing(sqlite3.connect(log)) as connection, connection:
        for [trigger] in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(change)
    capsys.readouterr()
    assert ran("audit", "verify", "evolve", "--db", str(log)) == 1
    assert said in capsys.readouterr().out


def test_a_models_own_votes_do_not_teach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused; where the user insists, no gain is claimed."""
    log = tmp_path / "a.db"
    small = Hanoi(disks=5, style="compact")
    mdap.solve_sync(small, model="local/micro-weak", k=1, db=log, run_id="tower")
    assert evolved(log, "new") == 2
    assert "a model's own votes hardly teach it" in capsys.readouterr().err
    assert evolved(log, "new", "--own-votes") == 0
    assert "no gain is claimed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--from", "nothing"], "there is no run 'nothing'"),
        (["--keep", "sort?numbers=["], "looks like JSON"),
        (["--alpha", "0"], "alpha"),
        (["--contested", "40"], "40 contested lessons are more than the batch"),
        (["--model", "sim/a"], "only a model in this process can learn"),
        (["--resume", "nothing"], "--resume takes all from the record"),
    ],
)
def test_wrong_use_is_one_sentence(
    log: Path, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evolved(log, "new", *given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (log.parent / "new").exists()


def test_steps_beyond_the_context_are_not_measured() -> None:
    model = load_model("micro-weak", device="cpu")
    short, long = Item("", "7*8+3", "59", None), Item("", "7" * 128, "59", None)
    assert Exam("a", (short, long), None, 0.95).fitting(model).items == (short,)
    with pytest.raises(mdap.UsageError, match="longer than the context of local/micro-weak, 128 tokens"):
        Exam("a", (long,), None, 0.95).fitting(model)


def test_a_run_is_verified_before_an_evolution_of_the_same_beginning(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`latest` and a beginning that both share mean the run."""
    for name in ("latest", "tower", "t"):
        assert ran("audit", "verify", name, "--db", str(finished)) == 0
        assert "decisions" in capsys.readouterr().out


def test_another_base_model_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A replay from other weights than the recorded ones would be another model."""
    shared = json.loads((finished.parent / "new" / "evolution.json").read_text())
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps({**shared, "model": "local/micro"}))
    assert ran("evolve", "--replay", str(changed), "--out", str(tmp_path / "x"), "--db", str(finished)) == 2
    assert "has other weights than" in capsys.readouterr().err
