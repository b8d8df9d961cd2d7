"""What every test relies on: one backend, and no environment but its own."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

# A test's time says something of the machine it runs on, and nothing of the code; its examples are the same
# each time, so that a change that passes here passes elsewhere.
settings.register_profile(
    "mdap", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mdap")

# Tests start mdap hundreds of times: compile it once, also where the environment asks to keep no bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers() -> int:
    """Half as many processes again as there are cores: tests wait for disks, timers and processes, too."""
    return (os.cpu_count() or 1) * 3 // 2


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away keys and settings of whoever runs the tests, and proxies that would catch loopback."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "MDAP_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
