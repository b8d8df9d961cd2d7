"""What users may rely on: the public names, and that importing them is cheap."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mdap
from mdap_hanoi import Hanoi


def test_the_public_names_are_sorted_and_exist() -> None:
    """`__all__` is sorted, without doubles, and every name in it is there."""
    assert mdap.__all__ == sorted(set(mdap.__all__))
    assert [name for name in mdap.__all__ if not hasattr(mdap, name)] == []


def test_everything_public_is_promised() -> None:
    """Nothing without an underscore is importable from `mdap` but modules and what `__all__` names."""
    there = {name for name, value in vars(mdap).items() if not inspect.ismodule(value)}
    assert {name for name in there if not name.startswith("_")} == set(mdap.__all__) - {"__version__"}


@pytest.mark.parametrize("name", sorted(set(mdap.__all__) - {"__version__"}))
def test_every_public_name_says_what_it_is(name: str) -> None:
    """Each has a docstring of its own."""
    documented = getattr(mdap, name)
    own = documented.__dict__.get("__doc__") if isinstance(documented, type) else documented.__doc__
    assert own
    assert own.strip()


def test_every_error_has_one_root() -> None:
    """`except mdap.MdapError` catches whatever mdap raises on purpose."""
    errors = [value for name, value in vars(mdap).items() if name.endswith("Error")]
    assert len(errors) > 10
    assert all(issubclass(error, mdap.MdapError) for error in errors)


def test_importing_it_is_cheap() -> None:
    """No SDK and no HTTP client is imported before a provider that needs it is asked for."""
    program = "import json, sys, mdap; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240
    )
    loaded = set(json.loads(ended.stdout))
    assert "mdap.session" in loaded
    heavy = {"openai", "aiohttp", "httpx", "click", "numpy.testing", "scipy.stats", "mdap.cli"}
    assert not loaded & heavy
    assert ended.stderr == ""


def test_the_version_is_that_of_the_distribution() -> None:
    """`mdap.__version__` is what was installed."""
    from importlib.metadata import version

    assert mdap.__version__ == version("mdap")


@pytest.mark.parametrize("run_id", ["", "latest", "-x", " x", "a\nb", "a\x1b[31m", "x" * 101])
def test_a_run_id_must_be_fit_for_a_table_and_a_command_line(run_id: str, tmp_path: Path) -> None:
    """What could not be typed, or would spoil a terminal, is refused before anything is written."""
    with pytest.raises(mdap.UsageError, match="cannot name a run"):
        mdap.solve_sync(Hanoi(disks=1), db=tmp_path / "a.db", run_id=run_id)


@pytest.mark.parametrize("field", ["attempt_timeout", "max_retry_seconds", "max_silence"])
def test_a_limit_must_be_finite(field: str) -> None:
    """A time without end is no bound."""
    with pytest.raises(ValueError, match="finite"):
        mdap.Limits(**{field: float("inf")})
