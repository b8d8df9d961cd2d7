"""What every test relies on: one backend, and no environment but its own."""

import os

import pytest
from hypothesis import settings

# A test's time says something of the machine it runs on, and nothing of the code.
settings.register_profile("mdap", deadline=None)
settings.load_profile("mdap")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away keys and settings of whoever runs the tests, and proxies that would catch loopback."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "MDAP_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
