"""Where samples come from, on the command line: recorded runs, endpoints with a name, providers in files."""

import pytest

from mdap.testing import FaultyServer
from tests.acceptance.player import play
from tests.acceptance.processes import Cli

CANARY = "sk-canary-77aa01c9d2e4b6f8"


def test_a_recorded_run_is_a_model(cli: Cli) -> None:
    """The same digest again, without a network; a greater k than its own stops, resumably, with code 3."""
    first = cli.here("run hanoi -p disks=5 -k 4 -M error_rate=0.1 -M latency=0.001 --run-id a --json")
    again = cli.here("run hanoi -p disks=5 -k 4 --model replay/a --run-id b --json")
    assert (again.code, again.json["digest"]) == (0, first.json["digest"])
    more = cli.here("run hanoi -p disks=5 -k 5 --model replay/a --run-id c --json")
    assert (more.code, more.json["status"]) == (3, "stopped")
    assert "run a has no sample 4 of step 0" in more.sentence
    assert cli.here("audit verify b").code == 0


def test_a_recorded_run_must_be_there(cli: Cli) -> None:
    """Else it is wrong use, and nothing is begun."""
    cli.here("run hanoi -p disks=1 --run-id a --json")
    for model, sentence in (
        ("replay/z", "there is no run 'z'"),
        ("replay", "replay needs the name of a run"),
    ):
        ended = cli.here(f"run hanoi --model {model}")
        assert ended.code == 2
        assert sentence in ended.sentence
    assert cli.query("SELECT run_id FROM runs") == [("a",)]


@pytest.mark.slow
def test_endpoints_with_names_vote_together(cli: Cli) -> None:
    """Two of them, each with its own variables; each sample says whose it is, and no key is kept."""
    with FaultyServer.in_thread(play) as one, FaultyServer.in_thread(play) as two:
        env = {
            "ONE_BASE_URL": one.base_url,
            "ONE_API_KEY": CANARY,
            "ANTHROPIC_BASE_URL": two.base_url.removesuffix("/v1"),
            "ANTHROPIC_API_KEY": CANARY,
        }
        models = "--model openai-api/one/m --model anthropic/m"
        ended = cli.here(f"run hanoi -p disks=4 -k 6 {models} --speculate off --no-probe --json", env=env)
    assert ended.code == 0, ended.err
    counts = dict(cli.query("SELECT model, count(*) FROM samples GROUP BY model"))
    assert counts == {"openai-api/one/m": len(one.log), "anthropic/m": len(two.log)}
    files = [path for path in cli.folder.iterdir() if path.is_file()]
    assert not any(CANARY.encode() in path.read_bytes() for path in files)
    assert CANARY not in ended.out + ended.err
