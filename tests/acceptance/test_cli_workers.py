"""``mdap run --inputs ... --workers N``: a batch in several processes."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

import mdap
from mdap.cli.options import cluster_of
from mdap.errors import UsageError
from tests.acceptance.processes import Cli

CASES = 8
RUN = (
    "run hanoi --inputs cases.jsonl --out out.jsonl --run-id all -M latency=0.3 -M error_rate=0.05 "
    "--display plain"
)

TOWERS = """
import mdap
from mdap_hanoi import Hanoi


class Towers(mdap.Process[int]):
    async def solve(self, ask: mdap.Ask) -> int:
        moved: list[str] = []
        towers = ((f"t{number}", Hanoi(disks=4)) for number in range(4))
        await ask.solve_all(towers, lambda run_id, result: moved.append(run_id))
        return len(moved)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")


def workers_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_a_batch_survives_its_workers_and_its_head(cli: Cli) -> None:
    """A worker is killed, Ctrl-C interrupts, the head is killed: the same command ends the batch each time.

    Nothing is decided twice, no worker outlives its head, and the log verifies.
    """
    (cli.folder / "cases.jsonl").write_text(CASES * (json.dumps({"disks": 5}) + "\n"))
    process = cli.start(f"{RUN} --workers 2")
    assert process.stderr is not None
    while b"worker 2: step" not in process.stderr.readline():
        pass
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    while b"worker 3: step" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    ended = cli.end(process)
    assert ended.code == 130, ended.err
    assert "--run-id all" in ended.err
    assert cli.query(
        "SELECT count(*) FROM run_events WHERE reason LIKE 'worker % was lost (killed by SIGKILL)%'"
    )

    process = cli.start(f"{RUN} --workers 2")
    assert process.stderr is not None
    while b"worker 1: step" not in process.stderr.readline():
        pass
    left = workers_of(process.pid)
    process.kill()
    cli.end(process)

    ended = cli(f"{RUN} --workers 2 --json")
    assert ended.code == 0, ended.err
    assert ended.json["result"] == {"cases": CASES, "finished": CASES, "solved": CASES}
    assert len((cli.folder / "out.jsonl").read_text().splitlines()) == CASES
    assert cli.query("SELECT count(*), count(DISTINCT run || ' ' || step) FROM decisions") == [(248, 248)]
    assert cli.here("audit verify all").code == 0
    assert not [pid for pid in left if Path(f"/proc/{pid}/exe").exists()]


def test_workers_are_for_batches_and_processes(cli: Cli) -> None:
    """With a single chain they are refused in one sentence, as is a number of workers that cannot be."""
    refused = cli.here("run hanoi --workers 2").sentence
    assert refused.startswith("--workers goes with --inputs or with a process: ")
    (cli.folder / "cases.jsonl").write_text('{"disks": 1}\n')
    ended = cli.here("run hanoi --inputs cases.jsonl --workers 0")
    assert (ended.code, "workers" in ended.sentence) == (2, True)
    for address in ("ray://head:10001", "head", "head:port", "http://head:6379"):
        ended = cli.here(f"run hanoi --inputs cases.jsonl --workers 2 --cluster {address}")
        assert (ended.code, "HOST:PORT" in ended.sentence) == (2, True), address
    assert not (cli.folder / "mdap.db").exists()


class Reading(mdap.Process[int]):
    """A process that reads a file."""

    path: str

    async def solve(self, ask: mdap.Ask) -> int:
        return 0


def test_workers_cannot_read_a_pipe(tmp_path: Path) -> None:
    """A pipe as a parameter is refused before any worker starts; a file or another text is not."""
    os.mkfifo(tmp_path / "pipe")
    given = {"workers": 2, "cluster": None, "insecure_cluster": False}
    for pipe in (str(tmp_path / "pipe"), "/dev/stdin"):
        with pytest.raises(UsageError, match=f"workers cannot read the pipe {pipe}: write its contents"):
            cluster_of(given, Reading(path=pipe))
    for text in (__file__, "no file", "x" * 5_000, "\0"):
        assert cluster_of(given, Reading(path=text)) is not None


@pytest.mark.slow
def test_a_process_resumes_on_workers(cli: Cli) -> None:
    """Workers solve its nested tasks; a stopped chain and --all are refused, in one sentence each."""
    (cli.folder / "towers.py").write_text(TOWERS)
    stopped = "-M latency=0.1 --budget-tokens 9000 --display none"
    assert cli.here(f"run towers.py:Towers --run-id towers {stopped}").code == 3
    assert cli.here(f"run hanoi -p disks=6 --run-id chain {stopped}").code == 3

    assert cli.here("resume chain --workers 2").sentence.startswith("--workers goes with ")
    assert cli.here("resume --all --workers 2").sentence.startswith("--workers does not go with --all")
    assert cli.here("resume towers --cluster local").sentence.startswith("--cluster and --insecure-cluster ")

    ended = cli("resume towers --workers 2 --display plain")
    assert ended.code == 0, ended.err
    assert re.search(r"^  worker [12]: step", ended.err, re.MULTILINE), ended.err
    parts = "FROM decisions JOIN runs ON runs.id = run WHERE run_id LIKE 'towers%'"
    assert cli.query(f"SELECT count(*), count(DISTINCT run || ' ' || step) {parts}") == [(60, 60)]
    assert cli.here("audit verify towers").code == 0
