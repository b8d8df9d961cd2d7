"""What must not be in the source, and the law that everything else serves."""

import ast
from math import sqrt
from pathlib import Path

import pytest

import mdap
from mdap.rules.scaling import run_success
from tests.helpers import Walk, mostly_slow

ROOT = Path(mdap.__file__).parents[1]
SOURCES = sorted(path for folder in ("mdap", "plugins") for path in (ROOT / folder).rglob("*.py"))

CALLS = {"eval", "exec", "compile", "__import__", "literal_eval"}
MODULES = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "ast", "code", "subprocess"}


def name_of(node: ast.expr) -> str | None:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def forbidden(tree: ast.AST) -> list[str]:
    """What a source does that could turn text into code or objects."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=func) if name_of(func) in CALLS:
                if ast.unparse(func) != "re.compile":  # that makes a pattern, not code
                    found.append(f"line {node.lineno}: {ast.unparse(func)}()")
            case ast.Import(names=names):
                found += [f"import {name.name}" for name in names if name.name.split(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] in MODULES or CALLS & {name.name for name in names}:
                    found.append(f"from {module}")
            case ast.Name(id="eval" | "exec" | "__import__"):
                found.append(f"line {node.lineno}: {node.id}")
    return found


def test_d17_text_is_never_code() -> None:
    """D17: nothing in mdap or its plugins evaluates text or unpickles bytes."""
    found = {path.relative_to(ROOT).as_posix(): forbidden(ast.parse(path.read_bytes())) for path in SOURCES}
    assert {"mdap/engine/voting.py", "plugins/mdap_hanoi/prompts.py"} <= found.keys()
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "ast.literal_eval(text)",
        "from ast import literal_eval",
        "import pickle",
        "from pickle import loads",
        "builtins.exec(text)",
        "read = eval",
        "import marshal as m",
        "compile(text, '', 'eval')",
    ],
)
def test_what_d17_forbids_is_found(source: str) -> None:
    """The search finds what it is for."""
    assert forbidden(ast.parse(source))


def test_what_d17_allows_is_not_found() -> None:
    """Patterns, JSON and methods of other names are harmless."""
    assert forbidden(ast.parse("re.compile(x); json.loads(x); model.evaluate(x); executor.submit(x)")) == []


# --- the law


class Pair(Walk):
    """All wrong votes go to one same answer, the worst case; and a wrong decision shows in the end."""

    def mistakes(self, state: tuple[int, int], truth: int) -> list[int]:
        return [(truth + 1) % 4]

    def advance(self, state: tuple[int, int], answer: int) -> tuple[int, int]:
        return (state[0] + 1, state[1] + (answer != self.oracle(state)))

    def oracle(self, state: tuple[int, int]) -> int:
        return 1

    def step(self, state: tuple[int, int]) -> mdap.Step[int] | None:
        return mdap.Step(user=f"step {state[0]}", parse=self.read)


@pytest.mark.parametrize(
    ("error_rate", "k", "steps", "more"),
    mostly_slow(
        [
            (0.3, 1, 3000, {}),
            (0.4, 4, 2000, {"flag_rate": 0.2}),
            (0.3, 3, 4000, {}),
            (0.3, 3, 1500, {"latency": 1e-6}),
        ],
        2,
    ),
)
def test_p1_the_error_of_a_step_is_that_of_the_law(
    tmp_path: Path, error_rate: float, k: int, steps: int, more: dict[str, float]
) -> None:
    """P1 and D4: with default settings, so many steps are decided wrongly, within 4 standard errors."""
    options = {"error_rate": error_rate, "flag_rate": 0.0, "seed": 1, **more}
    solution = mdap.solve_sync(Pair(steps=steps), k=k, options=options, db=tmp_path / "a.db")
    decided, wrong = solution.result
    expected = 1 - run_success(error_rate, k, 1)
    assert decided == solution.steps == steps
    assert expected == pytest.approx(1 / (1 + ((1 - error_rate) / error_rate) ** k))
    assert abs(wrong / steps - expected) <= 4 * sqrt(expected * (1 - expected) / steps)
