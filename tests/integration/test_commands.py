"""Commands that installed packages add, by the entry point group `mdap.commands`."""

from importlib.metadata import EntryPoint
from typing import Any

import click
import pytest

import mdap.plugins
from mdap.cli.main import main


@click.command()
@click.option("--loud", is_flag=True)
def greet(loud: bool) -> int:
    """Greet whoever asks, in one line."""
    click.echo("HELLO" if loud else "hello")
    return 1 if loud else 0


NOT_A_COMMAND = "text"


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[EntryPoint]]:
    """Return the commands of packages, by name, for a test to add to."""
    added: dict[str, list[EntryPoint]] = {}
    before = mdap.plugins.installed

    def installed(group: str) -> dict[str, list[EntryPoint]]:
        return added if group == mdap.plugins.COMMANDS else before(group)

    monkeypatch.setattr("mdap.plugins.installed", installed)
    monkeypatch.setattr("mdap.cli.main.installed", installed)
    return added


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, mdap.plugins.COMMANDS)


def ran(*command: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code


def test_a_package_adds_a_command(packages: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It is listed with its summary, takes options, and its result is the exit code."""
    packages["greet"] = [point("greet", f"{__name__}:greet")]
    assert ran("greet") == 0
    assert ran("greet", "--loud") == 1
    assert capsys.readouterr().out == "hello\nHELLO\n"
    assert ran("--help") == 0
    assert "Greet whoever asks, in one line." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "code", "said"),
    [
        (["nowhere.at.all:greet"], 1, "broken failed"),
        ([f"{__name__}:NOT_A_COMMAND"], 2, "is no click command"),
        ([f"{__name__}:greet", "other:greet"], 2, "several packages add a command 'broken'"),
    ],
)
def test_a_broken_package_leaves_the_other_commands_alone(
    packages: Any, values: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    packages["broken"] = [point("broken", value) for value in values]
    assert ran("broken") == code
    assert said in capsys.readouterr().err
    assert ran("--help") == 0
    shown = capsys.readouterr()
    assert said in shown.err
    assert "calibrate" in shown.out


def test_no_package_replaces_a_command_of_mdap(packages: Any, capsys: pytest.CaptureFixture[str]) -> None:
    packages["tasks"] = [point("tasks", f"{__name__}:greet")]
    assert ran("tasks") == 0
    assert "hanoi" in capsys.readouterr().out


def test_evolve_says_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    """Without torch too: the command is there, and refuses in one sentence."""
    assert ran("evolve", "hanoi", "--db", str(tmp_path / "a.db")) == 2
    assert "name --model" in capsys.readouterr().err
