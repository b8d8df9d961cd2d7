"""``mdap serve`` as a process."""

import http.client
import re
import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli
from tests.helpers import mostly_slow

OTHER_ADDRESS = "127.0.0.2"
"""Of this machine too, but not the one that is listened on."""


def page(port: int, path: str) -> str:
    """Return a page of the server at *port*."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()


@pytest.mark.parametrize("how", mostly_slow([signal.SIGINT, signal.SIGTERM]))
def test_it_serves_until_it_is_stopped(cli: Cli, how: signal.Signals) -> None:
    """It prints where it is, answers there alone, shows the runs, and ends with 0 and without a word."""
    assert cli.here("run hanoi -p disks=3 --run-id tower --display none").code == 0
    process = cli.start("serve --port 0")
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    found = re.fullmatch(r"mdap\.db is shown at http://127\.0\.0\.1:(\d+)/ until Ctrl-C\n", line)
    assert found is not None, line
    assert "tower" in page(int(found[1]), "/")
    with closing(socket.socket()) as stranger:
        stranger.settimeout(5)
        assert stranger.connect_ex((OTHER_ADDRESS, int(found[1]))) != 0
    process.send_signal(how)
    ended = cli.end(process)
    assert (ended.out, ended.err) == ("", "")
    assert ended.code in ((0,) if how is signal.SIGINT else (0, -signal.SIGTERM))


def test_a_taken_port_is_a_sentence(cli: Cli) -> None:
    """Who has the port is not our business; what to do is said."""
    assert cli.here("run hanoi -p disks=3 --display none").code == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = cli.here(f"serve --port {taken.getsockname()[1]}")
    assert ended.code == 2
    assert ended.sentence.endswith("cannot be used (Address already in use): name another with --port")


def test_a_missing_database_is_a_sentence(cli: Cli) -> None:
    """Before anything is served."""
    ended = cli.here("serve --db none.db --port 0")
    assert (ended.code, ended.sentence) == (
        2,
        "there is no database none.db: run a task first, or name another file with --db",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "module"), [("serve", "starlette"), ("audit report latest -o a.html", "jinja2")]
)
def test_a_missing_extra_is_a_sentence(cli: Cli, tmp_path: Path, command: str, module: str) -> None:
    """Both say which extra to install."""
    assert cli.here("run hanoi -p disks=3 --display none").code == 0
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{module}.py").write_text(f"raise ModuleNotFoundError('hidden', name={module!r})\n")
    ended = cli(command, env={"PYTHONPATH": str(hidden)})
    assert ended.code == 2
    assert ended.sentence.endswith("needs more packages: pip install 'mdap[viewer]'")
