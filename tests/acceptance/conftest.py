"""The command line, in a folder of one's own or one that a module shares."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli


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
def unprivileged() -> tuple[str, ...]:
    """What to put before a command so that file permissions bind it, even where root runs the tests."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root ignores permissions, and there is no setpriv to give that up")
    return (setpriv, "--bounding-set", "-dac_override,-dac_read_search")
