"""The losses of `benchmarks/cluster.py`: batches whose workers and heads are killed, and what that costs."""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.cluster_server import ANSWERED, Entry, endpoint
from benchmarks.common import scratch, table
from mdap.audit.verifying import verify
from mdap.journal.writer import COMMIT_SECONDS
from mdap.plugins import make_recorded

__all__ = ["bought", "children", "decisions", "losses", "on_ray"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def decisions(db: Path) -> list[Any]:
    with closing(sqlite3.connect(db)) as log:
        sql = "SELECT run_id, step, winner FROM decisions JOIN runs ON runs.id = run ORDER BY 1, 2"
        return log.execute(sql).fetchall()


def run_command(folder: Path, name: str, *more: str) -> list[str]:
    """Return the command line that runs the batch in *folder* with the database of that *name*."""
    return [
        *(sys.executable, "-m", "mdap", "run", "hanoi", "--inputs", str(folder / "cases.jsonl")),
        *("--run-id", "b", "--db", str(folder / f"{name}.db"), "--display", "none", "--json", *more),
    ]


# -- what a lost worker buys again -------------------------------------------------------------------

_FAULTS: Final = {
    **{"rate_limit": 0.01, "server_error": 0.03, "overloaded": 0.02, "empty_choices": 0.02},
    **{"wrong_type": 0.02, "reset": 0.02, "truncated": 0.02, "missing_usage": 0.05},
    **{"retry_after": 0.05, "supports_n": False},
}
_WINDOWS: Final = 2 * COMMIT_SECONDS
_DISKS, _K = 4, 3


class Loss(NamedTuple):
    """What the loss of one worker cost.

    Attributes:
        flying: paid replies that were on their way at that moment.
        arrived: paid replies that had arrived, and are not on record.
        age: seconds since the earliest of them left the server.
    """

    flying: int
    arrived: int
    age: float


class Kill(NamedTuple):
    """A killed worker.

    Attributes:
        at: the moment, in seconds of `time.monotonic`.
        ports: its ends of connections at that moment.
    """

    at: float
    ports: frozenset[int]


def bought(options: argparse.Namespace) -> dict[str, Any]:
    """Kill workers at random moments, and find in the server's ledger what is not on record."""
    rng, found = random.Random(options.seed), list[Loss]()
    more = ("--model", "openai/m", "--workers", str(options.workers), "-k", str(_K), "--speculate", "off")
    while len(found) < options.rounds:
        with scratch() as folder, endpoint(latency=options.latency, **_FAULTS) as ledger:
            (folder / "cases.jsonl").write_text(options.cases * f'{{"disks": {_DISKS}}}\n')
            command = [*run_command(folder, "a", *more), "--no-probe", "--concurrency", str(options.slots)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            kills = list(_killing(process, folder / "a.db", rng))
            _, err = process.communicate(timeout=600)
            assert process.returncode == 0, err.decode()
            recorded = _recorded(folder / "a.db")
        paid = [one.outcome in ANSWERED for one in ledger]
        again = sum(paid) - options.cases * (2**_DISKS - 1) * _K  # a model that never errs needs just k votes
        missing = [one for number, one in enumerate(ledger) if paid[number] and number not in recorded]
        assert again == len(missing), (again, len(missing))  # mdap buys no recorded reply again
        losses = [_loss(missing, kill) for kill in kills]
        assert sum(one.flying + one.arrived for one in losses) == len(missing)
        found += losses
    rows = [
        [
            str(number),
            str(one.flying + one.arrived),
            str(one.flying),
            str(one.arrived),
            f"{1e3 * one.age:.0f} ms",
        ]
        for number, one in enumerate(found, 1)
    ]
    table(
        "bought again per killed worker", ["loss", "bought again", "in flight", "arrived", "earliest"], rows
    )
    broken = sum(one.age > _WINDOWS for one in found)
    print(
        f"{len(found)} workers killed; beyond the bound of in flight + {_WINDOWS:g} s of arrivals: {broken}"
    )
    return {"bought": [one._asdict() for one in found], "broken": broken}


def _killing(process: subprocess.Popen[bytes], db: Path, rng: random.Random) -> Iterator[Kill]:
    """Kill two workers, since mdap gives up a case that loses three."""
    count = 0
    while process.poll() is None and count < 2:
        with suppress(subprocess.TimeoutExpired):
            process.wait(2.0 + 4.0 * rng.random())
        if process.poll() is None and db.exists() and decisions(db):
            workers = children(process.pid)
            if workers:
                killed = rng.choice(workers)
                os.kill(killed, signal.SIGSTOP)  # or its connections would change while they are listed
                kill = Kill(time.monotonic(), _ports(killed))
                os.kill(killed, signal.SIGKILL)
                yield kill
                count += 1


def _ports(pid: int) -> frozenset[int]:
    """Return a process's ends of its TCP connections."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(os.readlink(link))
    connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return frozenset(
        int(one[1].rpartition(":")[2], 16) for one in connections if f"socket:[{one[9]}]" in sockets
    )


def _recorded(db: Path) -> set[int]:
    """Return the numbers of the requests whose replies are on record."""
    with closing(sqlite3.connect(db)) as log:
        names = log.execute("SELECT request_id FROM samples WHERE request_id IS NOT NULL").fetchall()
    return {int(name.removeprefix("req-")) for [name] in names}


def _loss(missing: list[Entry], kill: Kill) -> Loss:
    """Return the killed worker's replies that are not on record."""
    own = [kill.at - one.left for one in missing if one.port in kill.ports]
    arrived = [age for age in own if age >= 0]
    return Loss(len(own) - len(arrived), len(arrived), max(arrived, default=0.0))


# -- random losses -----------------------------------------------------------------------------------


_SIM: Final = ("-M", "latency=0.02", "-M", "error_rate=0.05", "-M", "seed=3")


def _lossy(folder: Path, options: argparse.Namespace, rng: random.Random) -> dict[str, Any]:
    """Run a batch through losses until it ends; return what was done to it and what came of that."""
    done: list[str] = []
    command = run_command(folder, "a", *_SIM, "--workers", str(options.workers))
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if len(done) < 3:
            time.sleep(2.0 + 6.0 * rng.random())
            fate = rng.choice(("worker", "frozen", "head"))
            workers = children(process.pid) if process.poll() is None else []
            if not workers:
                fate = "none"
            elif fate == "worker":
                os.kill(rng.choice(workers), signal.SIGKILL)
            elif fate == "frozen":
                frozen = rng.choice(workers)
                os.kill(frozen, signal.SIGSTOP)
                time.sleep(20)
                with suppress(ProcessLookupError):  # the batch has ended, and its head has ended it
                    os.kill(frozen, signal.SIGCONT)
            else:
                process.kill()
            done.append(fate)
        out, err = process.communicate(timeout=300)
        if process.returncode == 0:
            return {"done": done, "samples": json.loads(out)["samples"]}
        assert process.returncode == -signal.SIGKILL, err.decode()


def alone_in_one_process(folder: Path) -> tuple[list[Any], int]:
    """Solve the batch in one process; return its decisions and the number of its samples."""
    out = subprocess.run(run_command(folder, "local", *_SIM), check=True, capture_output=True).stdout
    return decisions(folder / "local.db"), json.loads(out)["samples"]


def losses(options: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(options.seed)
    found = []
    with scratch() as folder:
        (folder / "cases.jsonl").write_text(options.cases * '{"disks": 4}\n')
        local, alone = alone_in_one_process(folder)
        for number in range(options.rounds):
            one = _lossy(folder, options, rng)
            db = folder / "a.db"
            assert decisions(db) == local
            assert verify(db, "b", make_recorded).verdict == "verified"
            with closing(sqlite3.connect(db)) as log:
                sql = "SELECT count(*) FROM run_events WHERE kind = 'warning' AND reason LIKE '%was lost%'"
                [one["lost"]] = log.execute(sql).fetchone()
            one["more"] = one["samples"] - alone
            print(number, one, flush=True)
            found.append(one)
            for file in folder.glob("a.db*"):
                file.unlink()
    print(f"{options.rounds} batches of {options.cases:,} cases: all as in one process, all verified")
    return {"losses": found}


# -- Ray ---------------------------------------------------------------------------------------------

_SLOW: Final = ("-M", "latency=1.0", "-M", "error_rate=0.05", "-M", "seed=3", "--speculate", "off")
_DRIVER: Final = """
import sys
from mdap.cli.main import main
from mdap.cluster.head import Head

def telling(name):
    class Told:
        def __set__(self, head, value):
            head.__dict__[name] = value
            if value:
                print("counted", name, value, file=sys.stderr, flush=True)
        def __get__(self, head, owner):
            return head.__dict__[name]
    return Told()

Head.lost, Head.refused = telling("lost"), telling("refused")
main()
"""
"""The command line, which also prints each lost worker and each refused fact immediately."""


def on_ray(options: argparse.Namespace) -> dict[str, Any]:
    """Run batches on three simulated nodes that are removed, frozen or killed, as is the driver."""
    rng, found = random.Random(options.seed), []
    with scratch() as folder:
        (folder / "cases.jsonl").write_text(options.cases * '{"disks": 4}\n')
        local, _ = alone_in_one_process(folder)
        for number in range(options.rounds):
            one = _on_nodes(folder, rng, ("driver", "cluster")[number % 2])
            assert decisions(folder / "a.db") == local
            assert verify(folder / "a.db", "b", make_recorded).verdict == "verified"
            print(number, one, flush=True)
            found.append(one)
            for file in folder.glob("a.db*"):
                file.unlink()
    print(f"{options.rounds} batches of {options.cases:,} cases on Ray: all as in one process, all verified")
    return {"ray": found}


class _Nodes:
    """Three nodes that Ray simulates, and what may happen to them."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self._nodes = [self.cluster.add_node(num_cpus=2) for _ in range(2)]

    def removed(self) -> None:
        if len(self._nodes) > 1:
            self.cluster.remove_node(self._nodes.pop(), allow_graceful=False)

    def frozen(self) -> None:
        """Stop a node's raylet and its workers for 20 seconds, which is longer than a lease."""
        raylet = self._nodes[0].all_processes["raylet"][0].process.pid
        stopped = [raylet, *children(raylet)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(20)
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def worker(self) -> None:
        """Kill a worker."""
        found = [pid for node in self.cluster.list_all_nodes() for pid in _actors(node)]
        if found:
            os.kill(found[0], signal.SIGKILL)


def _actors(node: Any) -> list[int]:
    """Return the processes of a node that work for mdap."""
    with suppress(OSError):
        below = children(node.all_processes["raylet"][0].process.pid)
        return [pid for pid in below if b"_Actor" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return []


def _on_nodes(folder: Path, rng: random.Random, last: str) -> dict[str, Any]:
    """Run a batch until it ends; return the fates that it met, the exit codes, and what the head counted."""
    fates = [*rng.sample(["removed", "frozen", "worker"], 3), last]
    found: dict[str, Any] = {"fates": [], "codes": [], "lost": 0, "refused": 0}
    nodes = _Nodes()
    try:
        while found["codes"][-1:] != [0]:
            more = ("--workers", "3", "--cluster", nodes.cluster.address, "--insecure-cluster")
            command = [sys.executable, "-c", _DRIVER, *run_command(folder, "a", *_SLOW, *more)[3:]]
            driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            _wait_for_decisions(driver, folder / "a.db")
            _strike(driver, nodes, fates, found, rng)
            _take(found, driver)
            if found["fates"][-1:] == ["cluster"] and found["codes"][-1] != 0:
                nodes = _Nodes()
    finally:
        nodes.cluster.shutdown()
    return found


def _strike(
    driver: subprocess.Popen[bytes],
    nodes: _Nodes,
    fates: list[str],
    found: dict[str, Any],
    rng: random.Random,
) -> None:
    """Let one fate after another happen until the batch or the driver ends."""
    while fates and driver.poll() is None:
        time.sleep(1.0 + 2.0 * rng.random())
        found["fates"].append(fates.pop(0))
        if found["fates"][-1] == "driver":
            driver.kill()
        elif found["fates"][-1] == "cluster":
            nodes.cluster.shutdown()
        else:
            getattr(nodes, found["fates"][-1])()


def _take(found: dict[str, Any], driver: subprocess.Popen[bytes]) -> None:
    """Wait for the driver's end and note its exit code and what it told."""
    _, err = driver.communicate(timeout=300)
    found["codes"].append(driver.returncode)
    said = err.decode().splitlines()
    counted = dict(line.split()[1:] for line in said if line.startswith("counted "))  # the last of each
    for name in ("lost", "refused"):
        found[name] += int(counted.get(name, 0))
    found.setdefault("said", []).extend(line for line in said if not line.startswith("counted "))
    assert driver.returncode in (0, 3, -signal.SIGKILL), err.decode()


def _wait_for_decisions(driver: subprocess.Popen[bytes], db: Path) -> None:
    before = len(decisions(db)) if db.exists() else 0
    while driver.poll() is None:
        time.sleep(0.2)
        with suppress(sqlite3.OperationalError):  # the tables are being made
            if db.exists() and len(decisions(db)) > before:
                return
