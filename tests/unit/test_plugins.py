"""Finding tasks and providers: by installed name, by module, by file; and what is said of a wrong name."""

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.errors import PluginError, UsageError
from mdap.plugins import in_full, installed, is_installed, load_provider, load_task, make_task, task_name
from mdap.providers.simulated import Simulated
from mdap.rules.parameters import read_values
from mdap.testing import ScriptedProvider
from mdap_hanoi import Hanoi
from tests.helpers import PROVIDED, Walk

SOURCE = """
import mdap
from pydantic import Field

class Coin(mdap.Chain[int, int]):
    flips: int = Field(3, ge=1)

    def start(self): return 0
    def step(self, state): return None if state == self.flips else mdap.Step(user="?", parse=int)
    def advance(self, state, answer): return state + 1

    class Inner(mdap.Chain[int, int]):
        def start(self): return 0
        def step(self, state): return None
        def advance(self, state, answer): return state

class Half(mdap.Chain[int, int]):
    def start(self): return 0

def create(model, options): return (model, options)
not_a_task = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my tasks.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "coins_for_test_plugins.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "coins_for_test_plugins"
    sys.modules.pop("coins_for_test_plugins", None)


@pytest.fixture(autouse=True)
def _forget_files() -> Iterator[None]:
    PROVIDED.clear()
    yield
    PROVIDED.clear()
    for name in [name for name in sys.modules if name.startswith("mdap_file_")]:
        del sys.modules[name]


# --- the three ways


def test_bundled_plugins_are_found_as_a_strangers_are() -> None:
    """By entry point, sorted by name."""
    assert load_task("hanoi") is Hanoi
    assert list(installed("mdap.tasks")) == sorted(installed("mdap.tasks"))
    assert {"sim", "openai"} <= set(installed("mdap.providers"))
    assert isinstance(load_provider("sim", {"seed": 3}), Simulated)


def test_a_task_by_module(module: str) -> None:
    """`package.module:Class`, nested classes included."""
    coin = load_task(f"{module}:Coin")
    assert coin.__module__ == module
    assert load_task(f"{module}:Coin.Inner").__qualname__ == "Coin.Inner"
    assert make_task(f"{module}:Coin", {"flips": "5"}).model_dump() == {"flips": 5}


def test_a_task_by_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`path/file.py:Class`, absolute or not, imported once."""
    monkeypatch.chdir(file.parent)
    coin = load_task(f"{file}:Coin")
    assert load_task("my tasks.py:Coin") is load_task("./my tasks.py:Coin") is coin
    assert make_task("my tasks.py:Coin", {"flips": 2}).model_dump() == {"flips": 2}


def test_a_file_alone_names_its_only_task(tmp_path: Path) -> None:
    """With one task, a file needs no class; with several or none, the sentence says what to write."""
    two = tmp_path / "two.py"
    two.write_text(f"{SOURCE}\nclass Tail(Coin): pass\n")
    with pytest.raises(
        UsageError, match=r"two.py defines 2 tasks: name one, as .*two.py:Coin or .*two.py:Tail$"
    ):
        load_task(str(two))
    # Neither what is imported, nor what lacks a method, nor what is private is one of them.
    alone = tmp_path / "alone.py"
    alone.write_text(f"{SOURCE}\nfrom mdap_hanoi import Hanoi\n_Again = Coin\n")
    assert load_task(str(alone)) is load_task(f"{alone}:Coin")
    assert in_full(f"{alone}") == str(alone)
    empty = tmp_path / "empty.py"
    empty.write_text("import mdap\n")
    with pytest.raises(UsageError, match="defines no task: it needs a class derived from"):
        load_task(str(empty))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("gpt-4.1-mini", "openai/gpt-4.1-mini"),
        ("claude-haiku-4-5", "anthropic/claude-haiku-4-5"),
        ("opnai/gpt-4.1-mini", "openai"),
    ],
)
def test_a_model_without_its_provider_is_told_which_one(given: str, meant: str) -> None:
    """The price list knows whose model it is; a slip of the pen is told as well."""
    with pytest.raises(
        UsageError, match=rf"there is no model provider .*: did you mean {meant}\?; installed"
    ):
        load_provider(given, {})


@pytest.mark.parametrize(
    ("spec", "option", "meant"), [("sim", "eror_rate", "error_rate"), ("openai/m", "base_ur", "base_url")]
)
def test_an_option_that_is_misspelled_is_told_what_was_meant(spec: str, option: str, meant: str) -> None:
    """The name is most likely a slip; the value, which may be a secret, is not shown."""
    with pytest.raises(UsageError, match=rf"option '{option}': did you mean {meant}\?$"):
        load_provider(spec, {option: "1"})


def test_a_task_that_is_misspelled_is_told_what_was_meant() -> None:
    """Names that are close."""
    with pytest.raises(UsageError, match=r"there is no task 'hanoy': did you mean hanoi\?; installed: "):
        load_task("hanoy")


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    """Files are told apart by their whole path."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "task.py").write_text(SOURCE.replace("Field(3", f"Field({ord(folder)}"))
    first, second = [make_task(f"{tmp_path}/{folder}/task.py:Coin", {}) for folder in "ab"]
    assert [first.model_dump(), second.model_dump()] == [{"flips": 97}, {"flips": 98}]


def test_a_provider_by_module() -> None:
    """What follows the first slash is the model, slashes and all; options are handed on."""
    PROVIDED["org/model:free"] = "it"
    found: Any = load_provider("tests.helpers:provided/org/model:free", {})
    assert found == "it"


@pytest.mark.parametrize("model", ["", "org/model:free"])
def test_a_provider_in_a_file(file: Path, model: str) -> None:
    """The slashes of the path are not those before the model."""
    found: Any = load_provider(f"{file}:create/{model}?seed=1", {"other": 2})
    assert found == (model, {"other": 2, "seed": "1"})


def test_a_task_knows_the_name_by_which_it_is_found(file: Path, module: str) -> None:
    """The name that is recorded with a run finds the same class again."""
    assert task_name(Hanoi(disks=3)) == "hanoi"
    for name in (f"{module}:Coin", f"{module}:Coin.Inner", f"{file}:Coin"):
        task = make_task(name, {})
        assert task_name(task) == name
        assert load_task(task_name(task)) is type(task)
    assert task_name(Walk()) == "tests.helpers:Walk"


async def test_a_run_of_a_file_is_resumed_by_its_name(file: Path, tmp_path: Path) -> None:
    """A run of a task from a file goes on from the path that is recorded with it."""
    replies = iter(["1"] * 3)
    PROVIDED["it"] = ScriptedProvider(replies)
    async with mdap.Session("tests.helpers:provided/it", db=tmp_path / "a.db") as session:
        task = make_task(f"{file}:Coin", {"flips": "3"})
        assert (await session.run(task, k=2, run_id="one")).status is mdap.RunStatus.STOPPED
    del sys.modules[type(task).__module__]
    PROVIDED["it"] = ScriptedProvider(["1"] * 9)
    async with mdap.Session("tests.helpers:provided/it", db=tmp_path / "a.db") as session:
        solution = await session.resume("one")
    assert (solution.result, solution.task) == (3, f"{file}:Coin")


# --- what is wrong


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nonsense", "there is no task 'nonsense'; installed: .*hanoi"),
        ("", "there is no task ''"),
        ("no.such.module:Task", "there is no module 'no.such.module' to take a task from"),
        ("mdap.nothing:Task", "there is no module 'mdap.nothing'"),
        ("mdap:Nothing", "mdap has no 'Nothing'"),
        ("mdap:Chain.nothing", "mdap has no 'Chain.nothing'"),
        ("mdap:solve", "mdap:solve is not a task: it must be a class derived from mdap.Chain"),
        ("mdap:Step", "mdap:Step is not a task"),
        ("/no/such/file.py:Task", "there is no file /no/such/file.py"),
        ("file.py:", "there is no file .*file.py"),
        (":Task", "there is no"),
        (".relative:Task", "there is no"),
    ],
)
def test_what_is_not_there_is_one_sentence(name: str, sentence: str) -> None:
    """A wrong name is a usage error that says what is wrong with it."""
    with pytest.raises(UsageError, match=sentence) as raised:
        load_task(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("attribute", ["Nothing", "not_a_task", "create", ""])
def test_what_a_file_does_not_define_is_one_sentence(file: Path, attribute: str) -> None:
    """A file without that class, or with something else of that name."""
    with pytest.raises(UsageError):
        load_task(f"{file}:{attribute}")


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("hanoi", {"disks": "0"}, "parameter disks: .*greater than or equal to 1.*; hanoi has: disks"),
        ("hanoi", {"disks": "x"}, "parameter disks: .*integer"),
        ("hanoi", {"pegs": "3"}, "there is no parameter 'pegs'; hanoi has: disks"),
    ],
)
def test_bad_parameters_are_one_sentence(name: str, values: dict[str, Any], sentence: str) -> None:
    """The parameter, what is wrong with it, and which there are."""
    with pytest.raises(UsageError, match=sentence) as raised:
        make_task(name, values)
    assert "\n" not in str(raised.value)


def test_a_chain_that_is_not_finished_is_refused(module: str) -> None:
    """The methods that it must still define are named."""
    with pytest.raises(UsageError, match="Half does not define advance, step, which every such task must"):
        make_task(f"{module}:Half", {})


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise LookupError('oops')", "LookupError: oops"),
        ("def", "SyntaxError"),
        ("import nonsense_", "nonsense_"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(tmp_path: Path, source: str, error: str) -> None:
    """Its own error is kept, and trying again tries again."""
    path = tmp_path / "broken.py"
    path.write_text(source)
    for _ in range(2):
        with pytest.raises(PluginError, match=error) as raised:
            load_task(f"{path}:Task")
        assert "broken.py:Task failed while being imported" in str(raised.value)
        assert raised.value.__cause__ is not None
    path.write_text(SOURCE)
    assert load_task(f"{path}:Coin")


def test_an_installed_plugin_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one that is installed; looking for others does not import it."""
    points = {
        "broken": [EntryPoint("broken", "mdap_no_such_plugin:Task", "mdap.tasks")],
        "hanoi": [EntryPoint("hanoi", "mdap_hanoi:Hanoi", "mdap.tasks")],
    }
    monkeypatch.setattr("mdap.plugins.installed", lambda group: points)
    with pytest.raises(PluginError, match="broken failed while being imported: ModuleNotFoundError"):
        load_task("broken")
    assert load_task("hanoi") is Hanoi
    assert task_name(Hanoi(disks=1)) == "hanoi"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nonsense/model", "there is no model provider 'nonsense'; installed: .*sim"),
        ("no.such.module:create/model", "there is no module"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(spec: str, sentence: str) -> None:
    """Providers are looked for as tasks are."""
    with pytest.raises(UsageError, match=sentence):
        load_provider(spec, {})


# --- NAME=VALUE


def test_values_are_read() -> None:
    """Text as it is, for pydantic to read; lists and objects as JSON; only the first sign parts."""
    pairs = ("a=1", "b=", "c=x=y", 'd=[1, "2"]', 'e={"f": null}', "g= 3")
    assert read_values(pairs, "-p") == {
        "a": "1",
        "b": "",
        "c": "x=y",
        "d": [1, "2"],
        "e": {"f": None},
        "g": " 3",
    }
    assert read_values((), "-p") == {}


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (("a",), "-p takes NAME=VALUE, not 'a'"),
        (("=1",), "-p takes NAME=VALUE, not '=1'"),
        (("a=1", "a=1"), "-p sets 'a' twice"),
        (("a=[1",), "-p a looks like JSON but cannot be read as such"),
        (("a=" + "[" * 10**5,), "-p a looks like JSON"),
    ],
)
def test_pairs_that_cannot_be_read_are_one_sentence(pairs: tuple[str, ...], sentence: str) -> None:
    """However odd they are."""
    with pytest.raises(UsageError, match=sentence) as raised:
        read_values(pairs, "-p")
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("task", "found"),
    [
        ("extract", True),
        ("mdap_extract.task:ExtractDocument", True),
        ("mdap_extract.py:ExtractDocument", False),
        ("elsewhere/mdap_extract.py:Extract", False),
        ("mdap_extractor:Extract", False),
        ("nothing", False),
    ],
)
def test_the_parts_of_an_installed_task_are_installed(task: str, found: bool) -> None:
    """A class in its package is as trusted as the task itself; a file of that name is not."""
    assert is_installed(task) is found
