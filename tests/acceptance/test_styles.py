"""Domains by other hands: whatever their states and answers are made of, a cut run ends as an uncut one."""

import signal
import sys
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli
from tests.acceptance.test_kill_and_resume import logged
from tests.helpers import mostly_slow

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")

_ROOT = str(Path(__file__).parents[2])
_WORKS = (
    "Plain",
    "Dataclasses",
    "Pydantic",
    "Named",
    "Typed",
    "Enums",
    "Generics",
    "Inheritance",
    "Union",
    "Numpy",
    "Insertion",
    "Asked",
    "Floats",
)
_REFUSED = {
    "NumpyScalars": "name float64 in the type of the answer, or return a float",
    "NumpyIntegers": "an object of class numpy.int64 has no JSON form",
    "Alike": "the state Accept(at=0) has the JSON that Reject(at=0) has: give each class a field of its own",
    "InPlace": "advance changed the state in place: let it return a new dict",
    "UsedUp": "an object of class tuple_iterator can be read only once: return a list of its items",
}


def seeded(seed: int) -> dict[str, str]:
    return {"PYTHONPATH": _ROOT, "PYTHONHASHSEED": str(seed)}


@pytest.mark.parametrize("style", mostly_slow(_WORKS))
@pytest.mark.slow
def test_a_killed_run_goes_on_in_another_process(cli: Cli, style: str) -> None:
    """Killed, and resumed under another hash seed, it verifies and has the result of an uncut run."""
    run = f"run tests.acceptance.styles:{style} -M error_rate=0.2 -M latency=0.003 -M seed=3"
    process = cli.start(f"{run} --run-id cut --display log", env=seeded(1))
    while len(logged(process, "step.decided")) and not cli.query("SELECT 1 FROM decisions WHERE place >= 4"):
        pass
    process.kill()
    assert cli.end(process).code == -signal.SIGKILL
    resumed = cli("resume cut --json", env=seeded(2))
    assert (resumed.code, resumed.err) == (0, "")
    uncut = cli.here(f"{run.replace('0.003', '0')} --run-id uncut --json")
    same = ("status", "result", "steps")
    assert [resumed.json[name] for name in same] == [uncut.json[name] for name in same]
    verified = cli.here("audit verify cut --json")
    assert (verified.code, verified.json["verdict"]) == (0, "verified")


@pytest.mark.parametrize(("style", "sentence"), _REFUSED.items(), ids=_REFUSED)
def test_what_cannot_work_is_refused_at_step_0(cli: Cli, style: str, sentence: str) -> None:
    """In a sentence that says what to write, before anything is decided."""
    ended = cli.here(f"run tests.acceptance.styles:{style} --run-id refused --display none")
    assert ended.code == 1
    assert sentence in ended.sentence
    assert cli.query("SELECT count(*) FROM decisions") == [(0,)]
