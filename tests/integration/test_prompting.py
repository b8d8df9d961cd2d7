"""Prompts made anew: by the task, if somebody trusts it, and compared with what was recorded."""

from pathlib import Path

import pytest

from mdap.rules.digests import prompt_digest
from mdap.session.prompting import TaskPrompts
from mdap.viewer.source import Rendered

FILE = '''
import mdap
from pathlib import Path

Path(__file__).with_name("ran").touch()

class Count(mdap.Chain[int, int]):
    """Counts."""

    to: int = 3

    def start(self): return 0
    def step(self, state):
        if state == 4:
            return "no step"
        return None if state > 5 else mdap.Step(user=f"after {state + 0 // (state - 3)}?", parse=int)

    def advance(self, state, answer): return answer
    def length(self): return self.to
'''


@pytest.fixture
def task(tmp_path: Path) -> str:
    """A task in a file that leaves a trace when it is imported."""
    (tmp_path / "count.py").write_text(FILE)
    return f"{tmp_path / 'count.py'}:Count"


def test_what_nobody_trusts_is_not_run(task: str, tmp_path: Path) -> None:
    """Neither a file nor a module that a database names is imported, and the sentence says how to."""
    prompts = TaskPrompts()
    for name in (task, "antigravity:Nothing", "no-such-plugin"):
        said = prompts.render(name, {}, 0, "0", "")
        assert said == f"{name} is not installed; to load it, add --task {name}"
        assert prompts.length(name, {}) is None
    assert not (tmp_path / "ran").exists()


def test_a_trusted_file_is_run(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its whole path, or as one would name it from its folder."""
    monkeypatch.chdir(tmp_path)
    digest = prompt_digest("", "after 2?")
    for name in (task, "count.py:Count"):
        prompts = TaskPrompts([name])
        assert prompts.render(task, {}, 2, "2", digest) == Rendered((("", "after 2?"),), same=True)
        assert prompts.length(task, {"to": 9}) == 9
    assert (tmp_path / "ran").exists()


def test_a_task_that_has_changed_is_told_apart(task: str) -> None:
    """Another prompt, another input, another parameter, an end, an error: none of it stops the page."""
    prompts = TaskPrompts([task])
    assert prompts.render(task, {}, 2, "2", "other") == Rendered((("", "after 2?"),), same=False)
    assert "cannot read this input: it has changed" in str(prompts.render(task, {}, 2, '"two"', ""))
    assert "asks nothing here: it has changed" in str(prompts.render(task, {}, 9, "9", ""))
    assert "there is no parameter 'from'" in str(prompts.render(task, {"from": 1}, 0, "0", ""))
    assert "giving step 3: count.py:16 in step: ZeroDivisionError" in str(
        prompts.render(task, {}, 3, "3", "")
    )
    assert "an mdap.Step is needed" in str(prompts.render(task, {}, 4, "4", ""))


def test_views_are_made_anew_too() -> None:
    """A step of several views has a prompt for each, under one digest."""
    prompts = TaskPrompts()
    rendered = prompts.render(
        "hanoi", {"disks": 3, "views": 3}, 0, '{"last_move":null,"pegs":[[3,2,1],[],[]]}', ""
    )
    assert isinstance(rendered, Rendered)
    assert len(rendered.views) == 3
    assert not rendered.same
