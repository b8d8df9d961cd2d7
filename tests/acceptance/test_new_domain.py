"""`mdap new`: what it writes works at once, in an environment of its own, under any name it accepts."""

import json
import os
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli, Ended


class Environment:
    """A fresh virtual environment; what this one has installed can be imported there, and no more.

    Installing mdap and all it needs once more would take a minute and a network.
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        scripts = sysconfig.get_path("scripts", "venv", {"base": str(folder)})
        self.python = Path(scripts) / ("python.exe" if os.name == "nt" else "python")
        purelib = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
        also = [path for path in site.getsitepackages() if Path(path).is_dir()]
        lines = "; ".join(f"site.addsitedir({path!r})" for path in also)
        (purelib / "also.pth").write_text(f"import site; {lines}\n", "utf-8")

    def run(self, folder: Path, *arguments: str) -> Ended:
        """Run Python there with *arguments*."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        ended = subprocess.run(
            [self.python, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def tasks(self, folder: Path) -> list[str]:
        """Return the names of the tasks that mdap finds there."""
        return [task["name"] for task in self.run(folder, "-m", "mdap", "tasks", "--json").json["tasks"]]

    def install(self, folder: Path, *projects: str) -> Ended:
        """Install *projects* without their dependencies, which are there."""
        quiet = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
        return self.run(folder, "-m", "pip", "install", *quiet, *projects)

    def check_tests(self, folder: Path, passed: int) -> None:
        """Run the tests in *folder*; *passed* of them must pass."""
        tested = self.run(folder, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
        assert tested.code == 0, tested.out
        assert f"{passed} passed" in tested.out


@pytest.mark.slow
def test_new_domains_install_run_and_pass_their_tests(cli: Cli, tmp_path: Path) -> None:
    """Domains in distributions of their own are found by their entry points, by name.

    The process reads a table of rows: its own file, or the sample of the package where none is given.
    """
    environment = Environment(tmp_path / "environment")
    assert (cli.here("new demo").code, cli.here("new customers --process").code) == (0, 0)
    assert not {"demo", "customers"} & {*environment.tasks(tmp_path)}
    installed = environment.install(tmp_path, "./demo", "./customers")
    assert installed.code == 0, installed.err
    assert {"demo", "customers"} <= {*environment.tasks(tmp_path)}

    ran = environment.run(tmp_path, "-m", "mdap", "run", "demo", "-p", "numbers=[3, -1, 40]", "--json")
    assert (ran.code, json.loads(ran.out)["result"]) == (0, {"total": 42})
    environment.check_tests(tmp_path / "demo", 8)
    ran = environment.run(tmp_path, "-m", "mdap", "run", "customers", "--json")
    assert (ran.code, json.loads(ran.out)["result"]["rows"]) == (0, 12)
    (tmp_path / "own.csv").write_text("id,note,name,country,phone\n7,Bob in Oslo,Bob,NO,\n", "utf-8")
    ran = environment.run(tmp_path, "-m", "mdap", "run", "customers", "-p", "input=own.csv", "--json")
    [value] = json.loads(ran.out)["result"]["values"]
    assert (value["id"], value["name"], value["country"], value["phone"]) == ("7", "Bob", "NO", None)
    environment.check_tests(tmp_path / "customers", 11)


@pytest.mark.slow
def test_names_that_the_templates_use_will_do(cli: Cli, tmp_path: Path) -> None:
    """A domain may be called like something in the code that is written for it."""
    environment = Environment(tmp_path / "environment")
    assert (cli.here("new state").code, cli.here("new row --process").code) == (0, 0)
    installed = environment.install(tmp_path, "./state", "./row")
    assert installed.code == 0, installed.err
    environment.check_tests(tmp_path, 8 + 11)


@pytest.mark.parametrize("more", ["", " --process"])
def test_what_it_writes_is_clean(cli: Cli, tmp_path: Path, more: str) -> None:
    """The house's own lint and types find nothing in it."""
    assert cli.here(f"new long-division{more}").code == 0
    ruff = [sys.executable, "-m", "ruff"]
    for command in (
        ["check", "--isolated", "--select", "E,F,B,D1,UP"],
        ["format", "--isolated", "--check"],
    ):
        ended = subprocess.run(
            [*ruff, *command, "--line-length", "110", "long-division/src"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("here", "here already"),
        ("class", "word of Python"),
        ("json", "word of Python"),
        ("Demo", "small letters"),
        ("-x", "No such option"),
        ("a--b", "small letters"),
        ("../up", "small letters"),
        ("a" * 51, "at most 50"),
        ("hanoi", "installed already"),
        ("numpy", "installed already"),
    ],
)
def test_an_unfit_name_is_refused_and_nothing_written(cli: Cli, tmp_path: Path, name: str, why: str) -> None:
    """One sentence says why; nothing that is there is touched."""
    (tmp_path / "here").mkdir()
    ended = cli.here(f"new {name}")
    assert ended.code == 2
    assert why in ended.err
    assert len(ended.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert not list((tmp_path / "here").iterdir())


def test_it_says_what_it_wrote(cli: Cli, tmp_path: Path) -> None:
    """`--json` gives the folder and the files in it."""
    said = json.loads(cli.here("new bee --json").out)
    assert said["folder"] == str(tmp_path / "bee")
    found = {path.relative_to(tmp_path / "bee").as_posix() for path in (tmp_path / "bee").rglob("*.*")}
    assert {"src/bee/task.py", "tests/test_bee.py", "pyproject.toml", ".gitignore"} <= found
    assert set(said["files"]) == found
