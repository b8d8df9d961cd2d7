"""The command line, in a folder of one's own or one that a module shares."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mdap.cli.main import main
from tests.acceptance.processes import Cli, Ended


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line in an empty folder."""
    command = Cli(tmp_path)
    yield command
    command.stop()


@pytest.fixture(scope="module")
def shared_cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command line in a folder that the tests of a module share."""
    command = Cli(tmp_path_factory.mktemp("shared"))
    yield command
    command.stop()


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Ended]:
    """The command line within this process, for what is too much to start a process for each time."""

    def run(command: str) -> Ended:
        with pytest.raises(SystemExit) as exited:
            main(shlex.split(command))
        assert isinstance(exited.value.code, int)
        return Ended(exited.value.code, *capsys.readouterr())

    return run
