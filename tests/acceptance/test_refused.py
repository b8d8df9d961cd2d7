"""Documents that an endpoint will not answer, replies that are no votes, models that go: over real HTTP."""

import json
import random
import re
import sys
from typing import Any

import pytest

from mdap.testing import Faults, FaultyServer
from tests.acceptance.processes import Cli
from tests.acceptance.test_kill_and_resume import kill, logged

DOCUMENTS = 60
SCHEMA = {"type": "object", "properties": {"vendor": {"type": "string"}}}
EXTRACT = "run extract -p input=in.jsonl -p schema=s.json -k 2 --model openai/m --no-probe"


def vendor(body: dict[str, Any], rng: random.Random) -> str:
    """Fill in the vendor's name, as a model would."""
    name = re.search(r"Vendor \d+", body["messages"][-1]["content"])
    assert name is not None
    return json.dumps({"vendor": name[0]})


def babble(body: dict[str, Any], rng: random.Random) -> str:
    return f"Of course! {vendor(body, rng)}"


def in_folder(cli: Cli) -> Cli:
    rows = [
        {"id": f"d{n}", "text": f"Vendor {n}. " + "long " * (2_000 if n == 7 else 1)}
        for n in range(DOCUMENTS)
    ]
    (cli.folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (cli.folder / "s.json").write_text(json.dumps(SCHEMA))
    return cli


def environment(server: FaultyServer) -> dict[str, str]:
    return {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-x"}


def lines(cli: Cli, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cli.folder / name).read_text().splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.slow
def test_refused_documents_are_queued_and_all_others_filled_in(cli: Cli) -> None:
    """Killed on the way or not: the run finishes, the queue holds what was refused, and the log proves it."""
    in_folder(cli)
    faults = Faults(refused=0.1, longest_prompt=1_000, latency=0.02)
    with FaultyServer.in_thread(vendor, faults=faults) as server:
        for _ in range(2):
            process = cli.start(
                f"{EXTRACT} --concurrency 4 --run-id r --display log", env=environment(server)
            )
            logged(process, "sample.taken")
            if not kill(cli, process, 0.1, []):
                break
        ended = cli.here(f"{EXTRACT} --run-id r --json", env=environment(server))
    assert ended.code == 0, ended.err
    refused = {
        served.body["messages"][-1]["content"].split("Vendor ")[1].split(".")[0]
        for served in server.log
        if served.outcome.startswith("prompt_")
    }
    queued = {row["id"].removeprefix("d") for row in lines(cli, "in.review.jsonl") if row["value"] is None}
    assert "7" in refused
    assert 3 < len(refused) < 15
    assert refused == queued
    assert ended.json["undecided"] == len(refused)
    filled = {row["id"]: row["record"]["vendor"] for row in lines(cli, "in.extracted.jsonl")}
    assert {name for name, value in filled.items() if value != f"Vendor {name[1:]}"} == {
        f"d{n}" for n in refused
    }
    audit = cli.here("audit verify r")
    assert audit.code == 0, audit.out


def test_a_run_that_left_most_steps_undecided_says_so_first(cli: Cli) -> None:
    """It is finished, and exits with 1."""
    in_folder(cli)
    with FaultyServer.in_thread(vendor, faults=Faults(refused=0.9)) as server:
        ended = cli.here(f"{EXTRACT} --run-id r --display none", env=environment(server))
    first = ended.out.splitlines()[0]
    assert ended.code == 1
    assert re.match(rf"extract: finished, DOUBTFUL: \d+ of {DOCUMENTS} steps are undecided", first), first


def test_cases_that_are_refused_do_not_end_a_batch(cli: Cli) -> None:
    """The other cases finish, and each refused one says why; the same command again asks only for those."""
    (cli.folder / "cases.jsonl").write_text("".join(f'{{"number": {n}}}\n' for n in range(40)))
    batch = "run tests.processes:Double --inputs cases.jsonl --out out.jsonl --run-id b -M refuse_rate=0.2"
    ended = cli.here(f"{batch} --json")
    came = lines(cli, "out.jsonl")
    refused = [one for one in came if one["status"] == "undecided"]
    assert ended.code == 1
    assert {one["status"] for one in came} == {"finished", "undecided"}
    assert 2 < len(refused) < 20
    assert all("was refused by sim" in one["reason"] for one in refused)
    assert cli.here("audit verify b").code == 0
    assert cli.here(f"{batch} --json").code == 1


@pytest.mark.slow
def test_a_model_without_form_stops_the_run_with_3(cli: Cli) -> None:
    """Some tens of replies, not thousands; one sentence says what came and what to do."""
    in_folder(cli)
    with FaultyServer.in_thread(babble) as server:
        ended = cli.here(f"{EXTRACT} --run-id r --display none", env=environment(server))
    assert ended.code == 3
    assert "40 were red-flagged 'not JSON'" in ended.sentence
    assert "begins 'Of course! {" in ended.sentence
    assert len(server.log) < 200


@pytest.mark.slow
@pytest.mark.parametrize(("on_dead", "code"), [("stop", 3), ("continue", 0)])
def test_a_model_that_is_gone_is_left_out_if_one_says_so(cli: Cli, on_dead: str, code: int) -> None:
    """`--on-dead continue`: the other model goes on alone, and the report says who voted."""
    in_folder(cli)
    with FaultyServer.in_thread(vendor, faults=Faults(out_of_quota_after=20)) as server:
        command = f"{EXTRACT} --model sim/steady -p truth=truth --on-dead {on_dead} --run-id r --display none"
        rows = [{**row, "truth": {"vendor": row["text"].split(".")[0]}} for row in lines(cli, "in.jsonl")]
        (cli.folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        ended = cli.here(command.replace("--no-probe", "--no-probe --concurrency 8"), env=environment(server))
    assert ended.code == code, ended.err
    if code == 0:
        assert "votes by model" in ended.out
        assert "openai/m was left out after" in ended.out
        assert cli.here("audit verify r").code == 0
    else:
        assert "out of quota" in ended.sentence
