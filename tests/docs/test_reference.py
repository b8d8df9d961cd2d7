"""The reference is whole: public names, events and tables are on its pages, and docstrings say enough."""

import ast
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import mdap
import mdap.audit
import mdap.canonical
import mdap.testing
from mdap.records import EVENTS, RunStatus
from tests.docs.pages import ROOT, pages

API: Final = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
MODULES: Final[list[ModuleType]] = [mdap, mdap.canonical, mdap.testing, mdap.audit]
PUBLIC: Final = [
    (f"{module.__name__}.{name}", getattr(module, name))
    for module in MODULES
    for name in module.__all__
    if name != "__version__"
]


def _callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in PUBLIC:
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for key, member in vars(value).items():
                if inspect.isfunction(member) and not key.startswith("_"):
                    yield f"{name}.{key}", member


CALLABLES: Final = dict(_callables())


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    """`::: name` puts its docstring there; a whole module puts all of it."""
    whole = set(re.findall(r"^::: ([\w.]+)$", API, flags=re.MULTILINE))
    for name, _ in PUBLIC:
        module, _, last = name.rpartition(".")
        # What `mdap.audit` has is also to be had from `mdap` itself.
        assert name in whole or module in whole - {"mdap"} or f"mdap.{last}" in whole, name


@pytest.mark.parametrize("name", list(CALLABLES))
def test_every_public_docstring_says_enough(name: str) -> None:
    """One sentence that ends; and each argument is told of, in a section of its own or in the sentence."""
    function = CALLABLES[name]
    text = inspect.getdoc(function) or ""
    assert re.match(r"[A-Z`].*?[.:]", text, flags=re.DOTALL), "it has no sentence"
    parameters = [key for key in inspect.signature(function).parameters if key not in ("self", "cls")]
    untold = [key for key in parameters if not re.search(rf"\*{key}\*|^\s+\*?{key}:|`{key}", text, re.M)]
    many = len(parameters) > 1 or "Args:" in text
    returned = inspect.signature(function).return_annotation
    if returned not in (None, "None", inspect.Signature.empty):
        assert re.search(r"\b[Rr]eturn|Yield|Open ", text), "it does not say what it returns"
    elsewhere = re.search(r"rguments are those of `", text)
    assert elsewhere or not (many and untold), f"it does not tell of {untold}"


@pytest.mark.slow
def test_every_event_is_told_of() -> None:
    """Each kind that the code records is in the register from which the page is written."""
    recorded = {str(status) for status in RunStatus} - {"running"}
    for path in (ROOT / "mdap").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RunEvent":
                recorded |= {str(arg.value) for arg in node.args[1:2] if isinstance(arg, ast.Constant)}
    assert {"started", "warning"} < recorded
    assert recorded <= set(EVENTS)


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [page for page in pages() if "<!-- end -->" in page.read_text("utf-8")])
def test_generated_tables_are_fresh(page: Path) -> None:
    """They are as the code says; `python docs/hooks.py` writes them anew."""
    text = page.read_text(encoding="utf-8")
    assert _tables().fresh(text) == text


def test_the_schema_page_has_every_column(tmp_path: Path) -> None:
    """It is held against a database that was just made."""
    import sqlite3

    from mdap_hanoi import Hanoi

    mdap.solve_sync(Hanoi(disks=1), db=tmp_path / "a.db")
    page = (ROOT / "docs" / "reference" / "schema.md").read_text(encoding="utf-8")
    log = sqlite3.connect(tmp_path / "a.db")
    for (name,) in log.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"):
        part = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
        if alike := re.search(r"^The columns of `(\w+)`", part, re.M):
            part += page.partition(f"### {alike[1]}\n")[2].partition("\n### ")[0]
        columns = [column for _, column, *_ in log.execute(f"PRAGMA table_info({name})")]
        assert columns
        assert [column for column in columns if f"`{column}`" not in part] == []
    log.close()
