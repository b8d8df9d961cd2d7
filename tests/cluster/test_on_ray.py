"""Batches on Ray, where it is installed: on this machine, and on three nodes that it simulates."""

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import mdap
from mdap.audit.verifying import verify
from mdap.plugins import make_recorded
from mdap_hanoi import Hanoi
from tests.acceptance.processes import Cli

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

CASES = [Hanoi(disks=4) for _ in range(40)]


def decisions(db: Path) -> list[tuple[str, int, str]]:
    with closing(sqlite3.connect(db)) as log:
        sql = "SELECT run_id, step, winner FROM decisions JOIN runs ON runs.id = run ORDER BY 1, 2"
        return log.execute(sql).fetchall()


def test_a_batch_on_a_cluster_of_this_machine(tmp_path: Path) -> None:
    """The command line prints what it prints without a cluster, and nothing of Ray's."""
    cli = Cli(tmp_path)
    (tmp_path / "cases.jsonl").write_text(6 * '{"disks": 2}\n')
    run = "run hanoi --inputs cases.jsonl --out out.jsonl --workers 2 --cluster local --run-id b --json"
    process = cli.start(run)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err.decode()) == (0, "")
    assert json.loads(out)["result"] == {"cases": 6, "finished": 6, "solved": 6}
    assert cli.here("audit verify b").code == 0


async def test_a_lost_nodes_cases_are_dealt_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of other nodes read no file of this one; what they had in hand ends all the same."""
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    sim = {"error_rate": 0.05, "seed": 7, "latency": 0.5}
    there, here = tmp_path / "there.db", tmp_path / "here.db"
    simulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes = [simulated.add_node(num_cpus=1) for _ in range(2)]
        cluster = mdap.Cluster(address=simulated.address, workers=3, insecure=True)
        async with mdap.Session("sim", options=sim, db=there, cluster=cluster) as session:
            dealer = session._resources.dealer
            assert dealer is not None

            joined, join = anyio.Semaphore(0), dealer.head._on_join

            def joining(worker: Any, *versions: str) -> None:
                join(worker, *versions)
                joined.release()

            monkeypatch.setattr(dealer.head, "_on_join", joining)

            async def lose(node: Any) -> None:
                for _ in range(3):
                    await joined.acquire()
                await anyio.to_thread.run_sync(lambda: simulated.remove_node(node, allow_graceful=False))

            async with anyio.create_task_group() as group:
                group.start_soon(lose, nodes[0])
                ended = [one async for one in session.solve_all(CASES, run_id="b", in_order=False)]
            assert {one.status for one in ended} == {mdap.RunStatus.FINISHED}
            assert dealer.head.lost >= 1
    finally:
        simulated.shutdown()
    async with mdap.Session("sim", options=sim, db=here) as session:
        assert len([one async for one in session.solve_all(CASES, run_id="b")]) == len(ended)
    assert decisions(there) == decisions(here)
    assert verify(there, "b", make_recorded).verdict == "verified"


@pytest.mark.parametrize("whole", [True, False])
def test_a_batch_stops_when_its_cluster_is_gone(tmp_path: Path, whole: bool) -> None:
    """Resumably, before Ray would end the process, and in one sentence, whatever is left of the cluster."""
    from ray.cluster_utils import Cluster

    cli = Cli(tmp_path)
    (tmp_path / "cases.jsonl").write_text(40 * '{"disks": 4}\n')
    simulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    address = simulated.address
    there = f"--workers 2 --cluster {address} --insecure-cluster -M latency=1.0"
    process = cli.start(f"run hanoi --inputs cases.jsonl --run-id b {there} --display plain")
    assert process.stderr is not None
    while b"worker" not in process.stderr.readline():
        pass
    if whole:
        simulated.shutdown()
    else:
        simulated.head_node.all_processes["gcs_server"][0].process.kill()
    out, err = process.communicate(timeout=200)
    said = [line for line in err.decode().splitlines() if not line.startswith(("b: ", "  worker"))]
    assert (process.returncode, out) == (3, b"")
    assert said == [
        f"mdap: the Ray cluster at {address} is gone: start it, and solve the batch again to resume"
    ]
    assert cli("run hanoi --inputs cases.jsonl --run-id b -M latency=1.0").code == 0
    simulated.shutdown()


def test_a_cluster_without_authentication_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody who reaches such a cluster runs code on it: the user has to say that this is meant."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    (tmp_path / "cases.jsonl").write_text('{"disks": 2}\n')
    ended = Cli(tmp_path).here("run hanoi --inputs cases.jsonl --workers 2 --cluster 10.0.0.1:6379")
    assert (ended.code, "--insecure-cluster" in ended.sentence) == (2, True)
