"""Domains by other hands: whatever their states and answers are made of, a cut run ends as an uncut one."""

from pathlib import Path

import pytest

from tests.acceptance.processes import Cli

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


@pytest.mark.slow
def test_a_stopped_run_goes_on_in_another_process(cli: Cli) -> None:
    """Resumed under another hash seed, each verifies and has the result of an uncut run."""
    run = "run tests.acceptance.styles:{} -M error_rate=0.2 -M seed=3 --max-tokens 20 --json"
    uncut = {style: cli.here(run.format(style)).json for style in _WORKS}
    budgets = {style: sum(one["usage"].values()) // 2 for style, one in uncut.items()}
    stopping = [f"{run.format(style)} --run-id {style} --budget-tokens {budgets[style]}" for style in _WORKS]
    resuming = [f"resume {style} --budget-tokens 100000 --json" for style in _WORKS]
    stopped, resumed = (
        cli.together(commands, env={"PYTHONPATH": _ROOT, "PYTHONHASHSEED": seed})
        for commands, seed in ((stopping, "1"), (resuming, "2"))
    )
    for (style, whole), cut, ended in zip(uncut.items(), stopped, resumed, strict=True):
        assert (cut.code, ended.code, ended.err) == (3, 0, ""), (style, cut, ended)
        assert 0 < cut.json["steps"] < whole["steps"], style
        same = ("status", "result", "steps")
        assert [ended.json[name] for name in same] == [whole[name] for name in same], style
        verified = cli.here(f"audit verify {style} --json")
        assert (verified.code, verified.json["verdict"]) == (0, "verified"), style


@pytest.mark.parametrize(("style", "sentence"), _REFUSED.items(), ids=_REFUSED)
def test_what_cannot_work_is_refused_at_step_0(cli: Cli, style: str, sentence: str) -> None:
    """In a sentence that says what to write, before anything is decided."""
    ended = cli.here(f"run tests.acceptance.styles:{style} --run-id refused --display none")
    assert ended.code == 1
    assert sentence in ended.sentence
    assert cli.query("SELECT count(*) FROM decisions") == [(0,)]
