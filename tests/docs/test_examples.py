"""The examples run, each in a folder of its own, and do what they say."""

import json
import runpy
import sqlite3
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block
from tests.docs.reader import Commands, Reader

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))


def _said(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_runs_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    """Both towers are solved; run again, they are found, and nothing is bought."""
    first = _said("embed.py", capsys)
    assert first.count("'solved': True") == 2
    assert sorted(_said("embed.py", capsys).splitlines()) == sorted(first.splitlines())


def test_a_provider_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that is wrong one time in ten is outvoted."""
    assert _said("custom_provider.py", capsys) == "finished 2 steps\n"


def test_a_domain_with_a_canonical_form(capsys: pytest.CaptureFixture[str]) -> None:
    """Amounts are compared by what they are, and the domain keeps what the engine relies on."""
    import custom_domain

    from mdap.testing import check_task

    assert _said("custom_domain.py", capsys) == "{'rows': 3, 'total': '1203.7'}\n"
    check_task(custom_domain.Invoices())


def test_an_ensemble_with_escalation(capsys: pytest.CaptureFixture[str]) -> None:
    """Three models vote, and a fourth decides what they cannot."""
    said = _said("ensemble.py", capsys)
    assert said.startswith("finished 63 steps")
    assert "sim/large" in said


def test_a_notebook(tmp_path: Path, commands: Commands) -> None:
    """Its cells run one after the other, as they stand."""
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    reader = Reader(tmp_path, commands)
    said = ""
    try:
        for number, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code":
                block = Block(EXAMPLES / "notebook.ipynb", number, "python", "".join(cell["source"]))
                said += (reader.follow(block) or (0, ""))[1]
    finally:
        reader.close()
    assert "right throughout with a chance of 0.9" in said
    assert "4 votes ##########" in said
    with sqlite3.connect(tmp_path / "notebook.db") as log:
        assert log.execute("SELECT count(*) FROM runs").fetchone() == (1,)
