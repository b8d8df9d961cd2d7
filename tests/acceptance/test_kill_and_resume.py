"""Runs cut short at any moment, by kill -9 or Ctrl-C, and what a resume makes of what they left."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from hashlib import blake2b
from typing import Any

import pytest

from mdap.testing import Faults, FaultyServer
from tests.acceptance.player import play
from tests.acceptance.processes import Cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")

RATES = "-M latency=0.005 -M error_rate=0.2 -M flag_rate=0.05 -k 7"
TOWER = f"run hanoi -p disks=8 {RATES}"
MOVES = 2**8 - 1
SLOWER = f"run hanoi -p disks=6 {RATES.replace('0.005', '0.02')}"
IN_FLIGHT = 64
"""The default concurrency."""

Events = list[dict[str, Any]]


# Cutting a run short


def logged(process: subprocess.Popen[bytes], event: str, *, may_end: bool = False) -> Events:
    """Read what *process* logs up to the first *event*, whose commit is over by then, or to its end."""
    assert process.stderr is not None
    events: Events = []
    while not events or events[-1]["event"] != event:
        line = process.stderr.readline()
        if may_end and not line:
            break
        assert line.startswith(b"{"), f"no {event} before its end: {line!r}, {process.communicate()[1]!r}"
        events.append(json.loads(line))
    return events


def kill(cli: Cli, process: subprocess.Popen[bytes], delay: float, events: Events) -> bool:
    """Kill -9 after *delay* seconds; return whether that was before its end.

    The delay makes the moment random: nothing is waited for. What the process logged is added to *events*.
    """
    with suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    process.kill()
    ended = cli.end(process)
    whole, _, _ = ended.err.rpartition("\n")
    events.extend(json.loads(line) for line in whole.splitlines())
    return ended.code == -signal.SIGKILL


# Checking what is on record, with nothing of mdap


def spelled(values: list[Any]) -> str:
    return json.dumps(values, separators=(",", ":"))


def digest(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


DECIDED = """
SELECT d.step, d.opening, p.key, p.input, p.prompt_digest,
       d.place, d.winner, d.tally, d.votes, d.margin, d.author, d.reason, d.digest
FROM decisions d JOIN steps p USING (run, step, opening) JOIN runs r ON r.id = d.run
WHERE r.run_id = ? ORDER BY d.place
"""
COUNTED = """
SELECT s.ordinal, s.verdict, s.answer_key, s.flag_reason, s.model, s.view, s.temperature,
       s.input_tokens, s.output_tokens, s.cached_tokens, s.latency, s.attempts, s.request_id,
       s.finish_reason, t.digest, s.served_model, s.fingerprint, s.reasoning_tokens, h.digest
FROM samples s JOIN runs r ON r.id = s.run LEFT JOIN texts t ON t.id = s.text
LEFT JOIN texts h ON h.id = s.reasoning
WHERE r.run_id = ? AND s.step = ? AND s.opening = ? AND s.counted IS NOT NULL ORDER BY s.ordinal
"""
"""What the digest of a decision covers, see `mdap.rules.digests`."""


def check_record(cli: Cli, run_id: str, steps: int, k: int) -> str:
    """Check that each step is decided once, by its samples, on the right input; return the last digest."""
    decided = cli.query(DECIDED, run_id)
    assert [row[0] for row in decided] == list(range(steps)), "a step is decided twice, or never"
    assert [row[5] for row in decided] == list(range(steps)), "places are not contiguous"
    head = "0" * 64
    state = None
    for step, opening, *opened, place, winner, tally, votes, margin, author, reason, recorded in decided:
        samples = cli.query(COUNTED, run_id, step, opening)
        assert [row[0] for row in samples] == list(range(len(samples))), "a sample is missing"
        check_tally(json.loads(tally), winner, votes, margin, [row[2] for row in samples if row[1] == "vote"])
        assert margin >= k
        assert state is None or json.loads(opened[1]) == state, "its input is not what the last one led to"
        answer = json.loads(winner)
        state = {"last_move": answer["move"], "pegs": answer["next_state"]}
        first = [head, step, *opened, place, winner, tally, votes, margin, author, reason]
        lines = [row[:15] if row[15:] == (None,) * 4 else row for row in samples]
        head = digest("\n".join(spelled(list(row)) for row in [first, *lines]), 32)
        assert head == recorded, f"the digest of decision {place} is not that of its rows"
    assert cli.query("SELECT count(*) FROM pending") == [(0,)]
    assert cli.query("SELECT count(*) FROM samples") == cli.query(
        "SELECT count(*) FROM (SELECT DISTINCT run, step, opening, ordinal FROM samples)"
    )
    for stored, body in cli.query("SELECT digest, body FROM texts"):
        assert stored == digest(body, 16)
    return head


def check_tally(tally: dict[str, int], winner: str, votes: int, margin: int, keys: list[str]) -> None:
    assert Counter(keys) == {digest(answer, 8): number for answer, number in tally.items()}
    assert tally[winner] == votes
    assert votes - max((number for answer, number in tally.items() if answer != winner), default=0) == margin


def decided_samples(cli: Cli, run_id: str) -> list[tuple[Any, ...]]:
    """Return what was said for each decided step: all that a seed settles, and nothing that time does."""
    return cli.query(
        "SELECT s.step, p.input, s.ordinal, s.verdict, s.answer_key, s.flag_reason, s.text "
        "FROM samples s JOIN steps p USING (run, step, opening) JOIN decisions d USING (run, step, opening) "
        "JOIN runs r ON r.id = s.run WHERE r.run_id = ? ORDER BY s.step, s.ordinal",
        run_id,
    )


def check_durable(cli: Cli, run_id: str, events: Events) -> None:
    """Check that all that left the process was on record first."""
    recorded = set(
        cli.query(
            "SELECT step, ordinal FROM samples JOIN runs ON id = run WHERE run_id = ?1 "
            "UNION SELECT step, ordinal FROM pending JOIN runs ON id = run WHERE run_id = ?1",
            run_id,
        )
    )
    told = {(event["step"], event["ordinal"]) for event in events if event["event"] == "sample.taken"}
    assert told - recorded == set()
    [[decisions]] = cli.query("SELECT count(*) FROM decisions JOIN runs ON id = run WHERE run_id = ?", run_id)
    assert decisions >= 1 + max(
        (event["step"] for event in events if event["event"] == "step.decided"), default=-1
    )


# kill -9


@pytest.mark.slow
def test_kills_at_random_moments(cli: Cli) -> None:
    """A run that is killed again and again ends as an uncut one: the same votes and flags, each step once.

    Half of the kills come while a resume starts up and reads back, half of them while it samples. Should
    a run end before all kills are over, which depends on the machine, another one takes the rest.
    """
    rng = random.Random(20)
    wanted, kills = 12, 0
    for seed in range(7, 12):
        run = f"{TOWER} -M seed={seed}"
        run_id = f"cut-{seed}"
        cuts = killed_often(cli, run, run_id, rng, wanted - kills)
        resumed = cli(f"resume {run_id} --json")
        assert (resumed.code, resumed.err) == (0, "")
        whole = cli.here(f"{run} --run-id whole-{seed} --json")
        same = ("status", "result", "steps", "votes", "red_flags", "cancelled", "failed_attempts", "k")
        assert [resumed.json[name] for name in same] == [whole.json[name] for name in same]
        assert resumed.json["result"] == {"solved": True, "moves": MOVES}
        assert resumed.json["samples"] <= whole.json["samples"] + cuts * IN_FLIGHT
        assert resumed.json["digest"] == check_record(cli, run_id, MOVES, 7)
        assert decided_samples(cli, run_id) == decided_samples(cli, f"whole-{seed}")
        kills += cuts
        if kills == wanted:
            break
    assert kills == wanted


def killed_often(cli: Cli, run: str, run_id: str, rng: random.Random, most: int) -> int:
    """Start a run and kill it, then resume and kill it, until it ends or was killed *most* times."""
    started = time.monotonic()
    process = cli.start(f"{run} --run-id {run_id} --display log")
    events = logged(process, "sample.taken")
    startup = time.monotonic() - started
    kills = 0
    while kill(cli, process, rng.uniform(0, 0.05), events):
        kills += 1
        check_durable(cli, run_id, events)
        if kills == most:
            break
        events = []
        process = cli.start(f"resume {run_id} --display log")
        if rng.random() < 0.5:
            events = logged(process, "sample.taken", may_end=True)
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(startup * rng.uniform(0.6, 0.95))
    return kills


TELL_OF_THE_DATABASE = """
import sys
left = ["opened"]  # said once, as the database is created
def tell(event, arguments):
    if event == "sqlite3.connect/handle" and left:
        print(left.pop(), file=sys.stderr, flush=True)
sys.addaudithook(tell)
"""


@pytest.mark.slow
def test_kills_while_a_run_is_begun(cli: Cli) -> None:
    """Until there is a run to resume, the same command begins it again, whatever it had come to."""
    command = "run hanoi -p disks=3 --run-id born -M latency=0.02 --json"
    (cli.folder / "sitecustomize.py").write_text(TELL_OF_THE_DATABASE)
    rng = random.Random(3)
    kills = 0
    for _ in range(3):
        for path in cli.folder.glob("mdap.db*"):
            path.unlink()
        process = cli.start(command, env={"PYTHONPATH": str(cli.folder)})
        assert process.stderr is not None
        assert process.stderr.readline() == b"opened\n"
        kills += kill(cli, process, rng.uniform(0, 0.05), [])
    ended = cli.here(command)

    assert kills > 0
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["result"] == {"solved": True, "moves": 7}
    check_record(cli, "born", 7, 3)


@pytest.mark.slow
def test_a_step_whose_every_opening_is_void_is_opened_again(cli: Cli) -> None:
    """A kill may leave a later step with nothing but a void opening: the resume gives it a new number."""
    process = cli.start("run hanoi -p disks=4 -M latency=0.05 --speculate off --run-id void --display log")
    logged(process, "step.decided")
    assert kill(cli, process, 0, [])
    with closing(sqlite3.connect(cli.folder / "mdap.db")) as database, database:
        database.execute(
            "INSERT INTO steps SELECT run, 14, 0, '14', input, prompt_digest FROM steps WHERE step = 0"
        )
        database.execute("CREATE TEMP TABLE late AS SELECT * FROM samples WHERE step = 0 AND ordinal = 0")
        database.execute("UPDATE late SET step = 14, verdict = 'void', counted = NULL")
        database.execute("INSERT INTO samples SELECT * FROM late")
    ended = cli.here("resume void --json")

    assert (ended.code, ended.err) == (0, "")
    assert ended.json["result"] == {"solved": True, "moves": 15}
    check_record(cli, "void", 15, 3)
    assert cli.query("SELECT opening FROM decisions WHERE step = 14") == [(1,)]


@pytest.mark.slow
def test_a_recorded_sample_is_never_bought_again(cli: Cli) -> None:
    """After each kill, a resume asks an endpoint only for samples that have no row yet.

    What it buys again was in flight or in the last commit window. The endpoint's seed, derived from
    prompt and ordinal, tells the samples of a step apart; without speculation no step is opened twice.
    """
    rng = random.Random(6)
    recorded: set[str] = set()
    seen = 0
    run = "run hanoi -p disks=6 --model openai/m -M seed=5 -k 4 --no-probe --run-id bought"
    with FaultyServer.in_thread(play, faults=Faults(latency=0.005)) as server:
        env = {"OPENAI_BASE_URL": server.base_url}
        process = cli.start(f"{run} --speculate off --display log", env=env)
        for _ in range(3):
            events = logged(process, "sample.taken")
            assert kill(cli, process, rng.uniform(0, 0.05), events), "it ended before it was killed"
            check_durable(cli, "bought", events)
            asked = [json.dumps(served.body) for served in server.log]
            assert recorded.isdisjoint(asked[seen:])
            rows = cli.query("SELECT request_id FROM samples UNION ALL SELECT request_id FROM pending")
            recorded = {asked[int(request_id.removeprefix("req-"))] for (request_id,) in rows}
            assert len(recorded) == len(rows) > 0, "a sample has two rows"
            seen = len(asked)
            process = cli.start("resume bought --no-probe --speculate off --display log", env=env)
        ended = cli.end(process)
        assert recorded.isdisjoint(json.dumps(served.body) for served in server.log[seen:])

    assert ended.code == 0, ended.err
    assert "solved; 63 moves" in ended.out
    check_record(cli, "bought", 63, 4)


# Ctrl-C


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.slow
def test_an_interrupt_says_how_to_resume(cli: Cli, sent: signal.Signals) -> None:
    """Exit code 130, one sentence with a command that resumes, and a record that says what happened."""
    process = cli.start(f"{SLOWER} --run-id interrupted --display log --json")
    logged(process, "step.decided")
    process.send_signal(sent)
    ended = cli.end(process)

    assert ended.code == 130
    [sentence] = [line for line in ended.err.splitlines() if not line.startswith("{")]
    assert sentence.startswith("mdap: interrupted; resume with: mdap resume interrupted")
    assert (ended.json["status"], ended.json["result"]) == ("stopped", None)
    events = cli.query("SELECT kind, reason FROM run_events WHERE kind NOT IN ('attempt_failed', 'sealed')")
    assert events == [("started", None), ("stopped", "interrupted")]
    resumed = cli.here(sentence.rpartition("mdap ")[2], "--json")
    assert (resumed.code, resumed.json["result"]) == (0, {"solved": True, "moves": 63})
    check_record(cli, "interrupted", 63, 7)


@pytest.mark.slow
def test_a_command_under_nohup_outlives_its_terminal(cli: Cli) -> None:
    """A hangup that the parent ignores stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = cli.start(f"{SLOWER} --run-id kept --display log --json")
    finally:
        signal.signal(signal.SIGHUP, before)
    logged(process, "step.decided")
    process.send_signal(signal.SIGHUP)
    ended = cli.end(process)
    assert (ended.code, ended.json["result"]) == (0, {"solved": True, "moves": 63})


@pytest.mark.slow
def test_a_second_interrupt_ends_the_process_at_once(cli: Cli) -> None:
    """While the first one drains what is in flight: one sentence, one JSON object, and no more waiting."""
    # With this seed the first sample comes at once, and the two that were sent with it after minutes.
    slow = "-M latency=30 -M latency_sigma=5 -M seed=5 --speculate off"
    process = cli.start(f"run hanoi -p disks=6 {slow} --run-id twice --display log --json")
    logged(process, "sample.taken")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    ended = cli.end(process)

    # The log may have told that the run stopped before the second signal was heard.
    sentence = ended.err.splitlines()[-1].removeprefix("mdap: ")
    assert (ended.code, sentence) == (130, "interrupted twice: what was recorded is safe")
    assert ended.json == {"error": sentence, "exit_code": 130}
    assert cli.here("show twice --json").code == 0


# In the pilot


PILOT = "run hanoi -p disks=7 -k auto -M latency=0.004 --speculate off --json"


@pytest.mark.slow
def test_a_pilot_that_was_killed_goes_on_where_it_was(cli: Cli) -> None:
    """The same command takes up a cut pilot, spends no more votes on it, and comes to the same margin."""
    process = cli.start(f"{PILOT} --run-id cut --display log")
    logged(process, "step.decided")
    assert kill(cli, process, 0, [])
    assert cli.query("SELECT run_id FROM runs") == [("cut-pilot",)]
    cut, whole = cli.here(f"{PILOT} --run-id cut"), cli.here(f"{PILOT} --run-id whole")

    assert (cut.code, whole.code) == (0, 0)
    votes = dict(cli.query("SELECT run_id, votes FROM run_totals"))
    assert votes["cut-pilot"] == votes["whole-pilot"]
    assert cut.json["k"] == whole.json["k"]
    assert cut.json["result"] == {"solved": True, "moves": 127}


@pytest.mark.slow
def test_an_interrupted_pilot_says_how_to_go_on(cli: Cli) -> None:
    """Before there is a run to resume: exit code 130, one sentence, and still one JSON object."""
    process = cli.start(f"{PILOT} --run-id early --display log")
    logged(process, "step.decided")
    process.send_signal(signal.SIGINT)
    ended = cli.end(process)

    assert ended.code == 130
    [sentence] = [line for line in ended.err.splitlines() if not line.startswith("{")]
    assert sentence.startswith("mdap: interrupted")
    assert "--run-id early" in sentence
    assert isinstance(ended.json, dict)
    assert cli.here(f"{PILOT} --run-id early").json["status"] == "finished"


# Several processes


def test_a_second_process_on_the_same_run_is_refused(cli: Cli) -> None:
    """One run is one process's: run and resume are refused in one sentence, and the first goes on."""
    run = "run hanoi -p disks=20 -M latency=0.05 --run-id mine"  # it ends when it is told to
    first = cli.start(f"{run} --display log")
    logged(first, "step.decided")
    resumed, begun = cli.here("resume mine --json"), cli.here(f"{run} --json")

    assert first.poll() is None
    assert (resumed.code, begun.code) == (2, 2)
    assert "run mine is being worked on already" in resumed.sentence
    assert resumed.sentence == begun.sentence == resumed.json["error"]
    listed = cli.here("runs --json").json["runs"]
    assert [(row["run_id"], row["status"]) for row in listed] == [("mine", "running")]
    [[before]] = cli.query("SELECT count(*) FROM decisions")
    first.send_signal(signal.SIGINT)
    assert cli.end(first).code == 130
    [[after]] = cli.query("SELECT count(*) FROM decisions")
    assert after >= before > 0


@pytest.mark.slow
def test_a_second_process_on_the_same_batch_is_refused(cli: Cli) -> None:
    """A batch is one process's, too: the other one records nothing, and writes no output."""
    (cli.folder / "cases.jsonl").write_text('{"disks": 20}\n' * 3)
    run = "run hanoi --inputs cases.jsonl -M latency=0.05 --run-id many"  # it ends when it is told to
    first = cli.start(f"{run} --display log")
    logged(first, "step.decided")
    second = cli.here(f"{run} --out out.jsonl")

    assert (second.code, second.out) == (2, "")
    assert "run many is being worked on already" in second.sentence
    assert not (cli.folder / "out.jsonl").exists()
    assert cli.query("SELECT count(*) FROM run_events WHERE run = 1 AND kind <> 'started'") == [(0,)]
    first.send_signal(signal.SIGINT)
    assert cli.end(first).code == 130


@pytest.mark.slow
def test_processes_create_and_share_a_database(cli: Cli) -> None:
    """The first process creates it while the others wait; each run has the result it would have alone."""
    names = ("first", "second", "third")
    ended = cli.each(*[f"run hanoi -p disks=4 {RATES} --run-id {name} --json" for name in names])

    assert [one.code for one in ended] == [0] * 3, ended
    same = [[one.json[name] for name in ("result", "votes", "red_flags")] for one in ended]
    assert same == [same[0]] * 3
    for name in names:
        check_record(cli, name, 15, 7)
