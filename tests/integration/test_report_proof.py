"""What a report tells beside figures: outcome, steps with their candidates, seals and signatures."""

import asyncio
import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import mdap
from mdap.audit.statistics import statistics
from mdap.session.signing import seal_run
from mdap.testing import Faults, FaultyServer
from mdap_hanoi import Hanoi
from tests.acceptance.player import play
from tests.acceptance.processes import Cli
from tests.viewing import make_database, serving


def text_of(page: str) -> str:
    return re.sub(
        r"\s+", " ", html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))
    )


def report(cli: Cli, run: str) -> str:
    assert cli.here(f"audit report {run} -o report.html").code == 0
    return (cli.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    cli = Cli(tmp_path_factory.mktemp("proof"))
    make_database(cli.folder / "mdap.db")
    return cli


def test_divided_steps_come_with_every_answer(cli: Cli) -> None:
    """The winner first, then what else had votes, the most doubtful step first."""
    page = report(cli, "plain")
    with mdap.open_log(cli.folder / "mdap.db") as log:
        doubts = log.doubts("plain")
        divided = {step.step: step for step in log.steps("plain") if len(step.votes) > 1}
        chances = {step.step: doubts(step) or 0 for step in divided.values()}
    shown = re.findall(r'<section class="dispute"><h3>step ([\d,]+) .*?</section>', page, re.DOTALL)
    numbers = [int(one.replace(",", "")) for one in shown]
    assert len(numbers) == min(len(divided), 25)
    assert [chances[one] for one in numbers] == sorted(chances.values(), reverse=True)[: len(numbers)]
    first = next(part for part in page.split('<section class="dispute">')[1:])
    votes = [int(one) for one in re.findall(r">(\d+) votes?", first)]
    assert sorted(votes, reverse=True) == sorted(divided[numbers[0]].votes.values(), reverse=True)
    assert votes[0] == max(votes)
    assert "votes, decided" in first


def test_who_settled_what_and_what_is_open(cli: Cli) -> None:
    """A person's name, reason and answer; and a step without a winner, by the replies that voted."""
    said = text_of(report(cli, "hard"))
    assert "settled by ada <b>" in said
    assert "I checked" in said
    assert "Settled by people" in said
    assert "Without a winner" in said


def test_the_outcome_says_what_it_rests_on(cli: Cli) -> None:
    """The task's own word, or the votes."""
    assert "The task itself says of the result that it is solved." in text_of(report(cli, "plain"))


@pytest.mark.slow
def test_seals_and_who_signed_them(tmp_path: Path) -> None:
    """Each seal with its time; whose signature it has; and whether anything happened since."""
    keygen = shutil.which("ssh-keygen")
    if keygen is None:
        pytest.skip("ssh-keygen is not installed")
    cli = Cli(tmp_path)
    solution = mdap.solve_sync(Hanoi(disks=3), db=cli.folder / "mdap.db", run_id="tower")
    assert str(solution.seal) in report(cli, "tower")
    assert "signed" not in text_of(report(cli, "tower")).partition("Proof")[2].partition("mdap audit")[0]
    key = tmp_path / "key"
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    asyncio.run(seal_run(cli.folder / "mdap.db", "tower", key))
    fingerprint = subprocess.run([keygen, "-lf", str(key)], capture_output=True, text=True).stdout.split()[1]
    said = text_of(report(cli, "tower"))
    assert f"by the key {fingerprint}" in said
    assert "something has happened to the run since" not in said


@pytest.mark.slow
def test_figures_have_what_was_billed_beside_the_samples(tmp_path: Path) -> None:
    """Tokens of the probe and of unreadable answers: in viewer, report and statistics, as in totals."""
    db = tmp_path / "mdap.db"
    prices = {"openai/m": mdap.Price(input=1.0, output=2.0)}
    with FaultyServer.in_thread(play, faults=Faults(unreadable=0.3), seed=4) as server:
        options = {"base_url": server.base_url}
        solution = mdap.solve_sync(
            Hanoi(disks=4), model="openai/m", options=options, db=db, run_id="r", prices=prices
        )
    found = statistics(db, "r")
    assert found.usage() == (solution.usage.input_tokens, solution.usage.output_tokens)
    assert {one.kind for one in found.beside} == {"probe", "attempt_failed"}
    costs = [*found.costs.values(), *(one.cost_usd or 0 for one in found.beside)]
    assert solution.cost_usd == pytest.approx(sum(costs))
    tokens = f"{sum(found.usage()):,} tokens"
    with serving(db) as site:
        page = text_of(site.page("/runs/1"))
    for said in (page, text_of(report(Cli(tmp_path), "r"))):
        assert tokens in said
        assert (
            f"{solution.totals.probe.usage.input_tokens + solution.totals.probe.usage.output_tokens:,}"
            in said
        )
        assert "for the probe" in said
        assert "in answers that cannot be read" in said
