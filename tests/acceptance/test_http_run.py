"""Whole runs through the openai provider, against a real server on loopback that misbehaves."""

import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from mdap.testing import Canned, Faults, FaultyServer
from tests.acceptance.player import play
from tests.acceptance.processes import Cli, Ended

CANARY = "sk-canary-4f9d27c1b0a35e86"
# The probe has tests of its own; here every request is to be one of the run.
MODEL = "-k 4 --model openai/test-model -M seed=1 --no-probe"
TOWER = f"run hanoi -p disks=5 {MODEL}"
SOLVED = {"solved": True, "moves": 31}
FAILURES = {
    "rate_limit": 4,
    "rate_limit_silent": 3,
    "server_error": 4,
    "overloaded": 4,
    "reset": 4,
    "truncated": 4,
    "wrong_type": 4,
    "empty_choices": 4,
}
"""What the server does to requests so that no reply comes of them, and how often."""


def environment(server: FaultyServer) -> dict[str, str]:
    return {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": CANARY}


def check_no_key(cli: Cli, *ended: Ended) -> None:
    """Check that the key is neither in what was printed nor in any file of the run's folder."""
    assert [one for one in ended if CANARY in one.out + one.err] == []
    files = {path.name: path.read_bytes() for path in cli.folder.iterdir() if path.is_file()}
    assert len(files["mdap.db"]) > 0
    assert [name for name, content in files.items() if CANARY.encode() in content] == []


@pytest.mark.slow
def test_a_bad_endpoint_costs_attempts_and_nothing_else(cli: Cli) -> None:
    """Through 429, 500, 503, resets and broken bodies, a run ends as it does without any.

    Failed attempts are as many as the server counts, and neither votes nor flags, and there is one row
    for each reply. The key is sent with each request and found nowhere else.
    """
    tower = f"run hanoi -p disks=6 {MODEL}"
    with FaultyServer.in_thread(play) as server:
        smooth = cli.here(f"{tower} --db smooth.db --json", env=environment(server))
    script = [*Counter(FAILURES).elements(), *["drip"] * 4, *["missing_usage"] * 4, *["ok"] * 160]
    random.Random(4).shuffle(script)
    manners = Faults(retry_after=0.05, drip_interval=0.0001)
    with FaultyServer.in_thread(play, script=script, faults=manners) as server:
        # Without speculation nothing is still under way at the end, so that both sides count the same.
        rough = cli.here(f"{tower} --speculate off --json", env=environment(server))

    assert (smooth.code, rough.code) == (0, 0), smooth.err + rough.err
    same = ("status", "result", "steps", "votes", "red_flags")
    assert [rough.json[name] for name in same] == [smooth.json[name] for name in same]
    assert rough.json["result"] == {"solved": True, "moves": 63}
    assert rough.json["red_flags"] > 0
    met = server.counts()
    assert {kind: met[kind] for kind in FAILURES} == FAILURES
    assert rough.json["failed_attempts"] == sum(FAILURES.values())
    assert rough.json["samples"] == met["ok"] + met["missing_usage"] + met["drip"]
    assert smooth.json["failed_attempts"] == 0
    assert {served.headers["authorization"] for served in server.log} == {f"Bearer {CANARY}"}
    check_no_key(cli, smooth, rough)


@pytest.mark.slow
def test_a_request_that_hangs_is_given_up(cli: Cli) -> None:
    """After `--timeout`, as a failed attempt; the run goes on to its end."""
    with FaultyServer.in_thread(play, script=["ok", "hang"]) as server:
        ended = cli.here(f"{TOWER} --timeout 2 --speculate off --json", env=environment(server))

    assert (ended.code, ended.json["result"]) == (0, SOLVED), ended.err
    # A machine that is busy elsewhere may be as late as the server.
    assert ended.json["failed_attempts"] >= server.counts()["hang"] == 1
    [(reason,)] = cli.query("SELECT reason FROM run_events WHERE kind = 'attempt_failed' LIMIT 1")
    assert "within 2 seconds" in reason


@pytest.mark.parametrize("speculate", ["vote", "guess"])
def test_every_reply_that_was_paid_for_has_a_row(cli: Cli, speculate: str) -> None:
    """However far a run works ahead, no answered request is missing from the record."""
    run = f"run hanoi -p disks=6 {MODEL} --speculate {speculate} --json"
    with FaultyServer.in_thread(play, faults=Faults(latency=0.005, sigma=0.5)) as server:
        ended = cli.here(run, env=environment(server))

    assert ended.code == 0, ended.err
    # More rows than answers are none the worse: a request may be given up before it arrives.
    assert ended.json["samples"] >= len(server.log)


def test_filtered_replies_are_flags_and_not_attempts(cli: Cli) -> None:
    """A reply that the endpoint withholds is a red flag: it was paid for, and cannot vote."""
    with FaultyServer.in_thread(play, faults=Faults(content_filter=0.1)) as server:
        ended = cli.here(f"{TOWER} --speculate off --json", env=environment(server))

    assert ended.code == 0, ended.err
    [[filtered]] = cli.query(
        "SELECT count(*) FROM samples WHERE finish_reason = 'content_filter' AND verdict = 'flag'"
    )
    assert filtered == server.counts()["content_filter"] > 0
    assert ended.json["failed_attempts"] == 0


@pytest.mark.parametrize("supported", [True, False])
def test_several_replies_to_one_request(cli: Cli, supported: bool) -> None:
    """With n=true one request brings several samples; a server that ignores n is asked again for the rest."""
    with FaultyServer.in_thread(play, faults=Faults(supports_n=supported)) as server:
        ended = cli.here(f"{TOWER} -M n=true --speculate off --json", env=environment(server))

    assert ended.code == 0, ended.err
    assert ended.json["status"] == "finished"
    replies = sum(served.replies for served in server.log)
    assert (ended.json["samples"], ended.json["failed_attempts"]) == (replies, 0)
    assert (len(server.log) < replies) is supported
    tokens = sum(served.prompt_tokens for served in server.log)
    assert ended.json["usage"]["input_tokens"] == tokens


def test_without_a_temperature_a_step_is_one_request(cli: Cli) -> None:
    """Where none is sent, the first sample needs no request of its own; none is on record."""
    with FaultyServer.in_thread(play) as server:
        options = "-M n=true -M send_temperature=false --speculate off"
        ended = cli.here(f"{TOWER} {options} --json", env=environment(server))

    assert ended.code == 0, ended.err
    assert [served.body.get("n", 1) for served in server.log][:2] == [4, 4]
    with sqlite3.connect(cli.folder / "mdap.db") as log:
        found = log.execute("SELECT DISTINCT min(ordinal, 1), temperature FROM samples ORDER BY 1")
        assert list(found) == [(0, None), (1, None)]


@pytest.mark.slow
def test_an_empty_account_stops_the_run_until_it_is_filled(cli: Cli) -> None:
    """Out of quota: exit code 3 and one sentence, nothing is retried; a resume later finishes the run."""
    message = "You exceeded your current quota, please check your plan."
    error = {"message": message, "type": "insufficient_quota", "code": "insufficient_quota"}
    script: list[str | Canned] = [*["ok"] * 60, Canned(429, {"error": error})]
    with FaultyServer.in_thread(play, script=script) as server:
        env = environment(server)
        stopped = cli.here(f"{TOWER} -M transport=sdk --speculate off --run-id poor --json", env=env)
        asked = len(server.log)
        resumed = cli.here("resume poor --speculate off --no-probe --json", env=env)

    assert stopped.code == 3
    assert "out of quota" in stopped.sentence
    assert message in stopped.sentence
    assert stopped.sentence.endswith("resume with: mdap resume poor --db mdap.db")
    printed = stopped.json
    assert (printed["status"], printed["result"]) == ("stopped", None)
    assert printed["failed_attempts"] == 1
    # Besides the one that was refused, at most k - 1 others were under way.
    assert 0 <= asked - 1 - printed["samples"] <= 3
    assert (resumed.code, resumed.json["result"]) == (0, SOLVED)
    assert resumed.json["samples"] >= printed["samples"] + len(server.log) - asked
    events = cli.query(
        "SELECT kind FROM run_events WHERE kind NOT IN ('attempt_failed', 'sealed', 'limits') ORDER BY id"
    )
    assert events == [("started",), ("stopped",), ("resumed",), ("finished",)]
    # A resume goes by what is recorded: who needed the SDK's own client needs it again.
    assert cli.query("SELECT json_extract(provider, '$.options.transport') FROM runs") == [("sdk",)]
    check_no_key(cli, stopped, resumed)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="there is no list of processes to read")
def test_the_list_of_processes_does_not_tell_the_key(cli: Cli) -> None:
    """Not one process of the machine has the key on its command line while a run goes on."""
    with FaultyServer.in_thread(play, script=["ok"] * 50, faults=Faults(hang=1.0)) as server:
        process = cli.start(f"{TOWER} --max-attempts 1 --display log --json", env=environment(server))
        assert process.stderr is not None
        while b"step.decided" not in process.stderr.readline():
            pass
        lines = [line_of(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    cli.end(process)
    assert any(b"mdap" in line and b"hanoi" in line for line in lines)
    assert [line for line in lines if CANARY.encode() in line] == []


def line_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended meanwhile


@pytest.mark.slow
def test_a_server_that_goes_away_stops_the_run_resumably(cli: Cli) -> None:
    """After --max-attempts refused connections: exit code 3, and what was decided is kept."""
    with FaultyServer.in_thread(play, script=["ok"] * 50, faults=Faults(hang=1.0)) as server:
        process = cli.start(
            f"{TOWER} --max-attempts 2 --timeout 30 --run-id left --display log --json",
            env=environment(server),
        )
        assert process.stderr is not None
        while b"step.decided" not in process.stderr.readline():
            pass
    ended = cli.end(process)

    assert ended.code == 3
    [sentence] = [line for line in ended.err.splitlines() if not line.startswith("{")]
    assert server.base_url.split("/")[2] in sentence
    assert sentence.endswith("resume with: mdap resume left --db mdap.db")
    assert ended.json["status"] == "stopped"
    assert ended.json["steps"] > 0
    assert ended.json["failed_attempts"] > 0


@pytest.mark.slow
def test_a_server_that_repeats_the_key_does_not_get_it_into_the_record(cli: Cli) -> None:
    """An endpoint's own error message may quote the key; what is told and recorded of it does not."""
    error = {"message": f"Incorrect API key provided: {CANARY}.", "code": "invalid_api_key"}
    with FaultyServer.in_thread(play, script=[Canned(401, {"error": error})] * 9) as server:
        ended = cli(f"{TOWER} --json --display log", env=environment(server))

    assert ended.code == 3
    assert "check OPENAI_API_KEY" in ended.err
    assert cli.query("SELECT count(*) > 0 FROM run_events WHERE reason LIKE '%Incorrect API key%'") == [(1,)]
    check_no_key(cli, ended)
