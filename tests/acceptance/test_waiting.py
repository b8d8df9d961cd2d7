"""Processes that wait for a person, and others that settle their steps."""

import http.client
import json
import re
import subprocess
from contextlib import closing
from typing import Any

import pytest
from pydantic import TypeAdapter

from mdap.rules.canonical import canonical
from mdap_hanoi import Hanoi
from mdap_hanoi.state import State
from tests.acceptance.processes import Cli

RUN = (
    "run hanoi -p disks=3 -M error_rate=0.5 -M seed=0 --max-samples 5 --run-id tower --display none --json "
    "--wait-for-person 500"
)
WAITS = re.compile(
    r"mdap: step (\d+) of tower waits 500 seconds for a person: "
    r"settle it with `mdap serve --allow-decide` or `mdap decide`\n"
)


def next_step(process: subprocess.Popen[bytes]) -> int | None:
    """Return the next step that a run waits for; None once it has ended."""
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    if not line:
        return None
    found = WAITS.fullmatch(line)
    assert found is not None, line
    return int(found[1])


def right_answer(cli: Cli, step: int) -> str:
    [(text,)] = cli.query("SELECT input FROM steps WHERE run = 1 AND step = ?", step)
    return canonical(Hanoi(disks=3).oracle(TypeAdapter(State).validate_json(text)))


@pytest.fixture
def waiting(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> tuple[subprocess.Popen[bytes], int]:
    """A run that waits for a person, and the step."""
    monkeypatch.setattr("mdap.session.desk._PATIENCE", 120.0)
    process = cli.start(RUN)
    step = next_step(process)
    assert step is not None
    return process, step


@pytest.mark.slow
def test_a_run_goes_on_with_what_other_processes_say(
    cli: Cli, waiting: tuple[subprocess.Popen[bytes], int]
) -> None:
    """A page's interface settles one step and `mdap decide` the others; the run ends solved, and verified."""
    process, first = waiting
    server = cli.start("serve --port 0 --allow-decide")
    assert server.stdout is not None
    line = server.stdout.readline().decode()
    found = re.fullmatch(
        r"mdap\.db is shown at http://127\.0\.0\.1:(\d+)/\?token=([\w-]{43}) until Ctrl-C\n", line
    )
    assert found is not None, line
    given: dict[str, Any] = {"run": "tower", "step": first, "author": "ada", "reason": "by the rules"}
    sent = json.dumps({**given, "answer": json.loads(right_answer(cli, first))})
    headers = {"Authorization": f"Bearer {found[2]}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=120)) as connection:
        connection.request("POST", "/api/settle", sent, headers)
        answer = json.loads(connection.getresponse().read())
    assert answer == {"run_id": "tower", "step": first, "author": "ada", "goes_on": True, "resume": None}
    people = {first: "ada"}
    while (step := next_step(process)) is not None:
        decided = cli.here(
            f"decide tower {step} --answer '{right_answer(cli, step)}' --reason ok --author bob"
        )
        assert (decided.code, decided.out) == (0, f"step {step} is settled; tower goes on with it\n")
        people[step] = "bob"
    ended = cli.end(process)
    assert (ended.code, ended.json["outcome"]) == (0, "solved")
    assert len(people) > 1
    assert dict(cli.query("SELECT step, author FROM decisions WHERE author IS NOT NULL")) == people
    assert cli.here("audit verify tower").code == 0
    server.terminate()
    assert cli.end(server).err == ""


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_waited_takes_the_answer_up_later(
    cli: Cli, waiting: tuple[subprocess.Popen[bytes], int]
) -> None:
    """The step is settled in the log, and the resumed run goes on from it without another sample of it."""
    process, step = waiting
    process.kill()
    cli.end(process)
    [(before,)] = cli.query("SELECT count(*) FROM samples WHERE step = ? AND verdict <> 'void'", step)
    decided = cli.here(f"decide tower {step} --answer '{right_answer(cli, step)}' --reason ok --author ada")
    assert decided.out == f"step {step} is settled; go on with: mdap resume tower --db mdap.db\n"
    resumed = cli.here("resume tower --display none")
    assert resumed.code in (0, 1)  # another step may be undecided
    assert cli.query("SELECT author FROM decisions WHERE step = ?", step) == [("ada",)]
    assert cli.query("SELECT count(*) FROM samples WHERE step = ? AND verdict <> 'void'", step) == [(before,)]
    assert cli.here("audit verify tower").code == 0
