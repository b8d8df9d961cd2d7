"""``--lane batch`` as a user types it: leave, come back, look at jobs, and what is refused."""

import random
from typing import Any

import pytest

from mdap.testing import BatchFaults, FaultyServer
from tests.acceptance.player import play
from tests.acceptance.processes import Cli
from tests.batching import check_paid_once, environment

QUICK = "--wave quiet=0.2 --wave poll=0.05 --wave settle=0.1"
RUN = f"run hanoi -p disks=4 -k 2 --model openai/m -M seed=1 --no-probe --run-id tower --lane batch {QUICK}"


def right(body: dict[str, Any], rng: random.Random) -> str:
    """Play without a mistake, so that a wave is all that a chain of right guesses takes."""
    return play({**body, "seed": 2}, rng)


@pytest.mark.slow
def test_a_detached_run_is_collected_by_resume(cli: Cli) -> None:
    """`--detach` ends with 3 and says how to go on; `mdap batches` shows the job; resume collects it."""
    with FaultyServer.in_thread(right, batches=BatchFaults(polls=40)) as server:
        env = environment(server)
        left = cli.here(f"{RUN} --speculate guess --detach", env=env)
        assert left.code == 3
        assert "30 samples wait in a batch job; resume with: mdap resume tower" in left.err
        [job] = cli.here("batches --json").json["batches"]
        assert (job["requests"], job["state"], job["open"]) == (30, "in_progress", True)
        refused = cli.here("resume tower --no-probe --lane requests", env=env)
        assert (refused.code, "resume it with --lane batch" in refused.sentence) == (2, True)
        ended = cli.here(f"resume tower --no-probe --speculate guess {QUICK} --json", env=env)
    assert ended.code == 0, ended.err
    assert ended.json["result"] == {"solved": True, "moves": 15}
    check_paid_once(server, cli.folder / "mdap.db")
    [job] = cli.here("batches --json").json["batches"]
    assert (job["state"], job["answered"], job["failed"], job["open"]) == ("collected", 30, 0, False)
    assert cli.here("audit verify tower").code == 0


@pytest.mark.slow
def test_what_waves_cannot_do_is_refused_in_a_sentence(cli: Cli) -> None:
    """Before anything is sent, with what to do instead."""
    with FaultyServer.in_thread(right) as server:
        chain = cli.here(RUN, env=environment(server))
        hedged = cli.here(f"{RUN} --hedge 1", env=environment(server))
        assert server.desk.jobs == []
    assert (chain.code, hedged.code) == (2, 2)
    assert "15 x 24 h = 15 days; use --lane requests, or --speculate guess" in chain.sentence
    assert "--hedge does not go with --lane batch" in hedged.sentence
    assert "which sim has not" in cli.here("run hanoi --lane batch").sentence
    assert "--detach and --max-wait go with --lane batch" in cli.here("run hanoi --detach").sentence
    assert "is no time such as" in cli.here("run hanoi --lane batch --max-wait soon").err
