"""The commands that a reader of the documentation has."""

from collections.abc import Iterator

import pytest

from tests.docs.reader import Commands


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    there = Commands(tmp_path_factory.mktemp("commands"))
    yield there
    there.close()
