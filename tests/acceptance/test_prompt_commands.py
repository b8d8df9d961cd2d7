"""What was asked, and what will be: `mdap prompts`, `mdap show --step`, and what both keep to themselves."""

import pytest

from tests.acceptance.processes import Cli

ROWS = "tests.asking:Rows"
TASKS = '''
import mdap

class Blind(mdap.Chain[int, int]):
    """A chain without an oracle."""
    steps: int = 3
    def start(self): return 0
    def length(self): return self.steps
    def step(self, state): return mdap.Step(user=f"q{state}\\x1b[31m<b>", system="s\\x07", parse=int)
    def advance(self, state, answer): return state + 1

class Asked(mdap.Process[str]):
    """A process that asks one thing after the other, without an oracle."""
    fails: bool = False
    async def solve(self, ask):
        if self.fails:
            return {}["missing"]
        first = await ask(mdap.Step(user="first?", parse=str.strip))
        return await ask(mdap.Step(user=f"after {first}?", parse=str.strip))

class Whole(mdap.Process[str]):
    """A process that hands its work to a chain and a process."""
    async def solve(self, ask):
        async with ask.group() as group:
            group.start(ask.solve, Blind(), "chain")
            group.start(ask.solve, Asked(), "process")
            group.ask(mdap.Step(user="own?", parse=str.strip, key="own"))

class Endless(mdap.Process[str]):
    """A process that never stops asking."""
    async def solve(self, ask):
        def steps():
            number = 0
            while True:
                number += 1
                yield mdap.Step(user=f"number {number}?", parse=str.strip)
        return await ask.map(steps())

class Rows(mdap.Process[list]):
    """A process that takes rows as they come."""
    async def solve(self, ask):
        found = await ask.decisions(mdap.Step(user=f"row {n}?", parse=int) for n in range(3))
        return [one.answer for one in found if one.decided]
    def oracle(self, step):
        return int(step.user[4])
'''


@pytest.fixture(scope="module")
def place(shared_cli: Cli) -> Cli:
    """A folder with tasks in a file."""
    (shared_cli.folder / "own.py").write_text(TASKS, "utf-8")
    return shared_cli


def test_the_first_prompt_of_a_chain_is_printed_and_nothing_else_happens(place: Cli) -> None:
    """No database, no model: system and user message, and the limit of output tokens."""
    ended = place.here("prompts hanoi -p disks=3 --json")
    [asked] = ended.json["prompts"]
    assert (ended.code, asked["step"], asked["max_tokens"], asked["schema"]) == (0, 0, 750, None)
    [view] = asked["views"]
    assert "Towers of Hanoi" in view["system"]
    assert "[[3, 2, 1], [], []]" in view["user"]
    printed = place.here("prompts hanoi -p disks=3").out
    assert all(f"    | {line}".rstrip() + "\n" in printed for line in view["system"].splitlines())
    assert "  at most 750 output tokens\n" in printed
    assert not list(place.folder.glob("*.db"))


def test_the_prompt_of_a_later_step_rests_on_the_oracle(place: Cli) -> None:
    """What `mdap prompts --step N` prints is what a run without an error asks at step N, in every view."""
    [asked] = place.here("prompts hanoi -p disks=3 -p views=3 --step 5 --json").json["prompts"]
    assert len(asked["views"]) == 3
    assert place.here("run hanoi -p disks=3 -p views=3 --run-id three --display none").code == 0
    [opening] = place.here("show three --step 5 --json").json["openings"]
    assert opening["prompt"]["views"] == asked["views"]
    assert opening["prompt"]["source"] == "made again"
    assert opening["prompt"]["as_recorded"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        (
            "prompts own.py:Blind --step 2",
            2,
            "step 2 depends on the answers to the steps before it, which own.py:Blind has no oracle to give: "
            "run the task, then `mdap show RUN --step 2`",
        ),
        ("prompts own.py:Asked --step 1", 2, "which own.py:Asked has no oracle to give"),
        ("prompts hanoi -p disks=3 --step 7", 2, "there is no step 7: hanoi ends after 7 steps"),
        (f"prompts {ROWS} --step 5", 2, f"there is no step 5 among the 5 that {ROWS} asks"),
        (f"prompts {ROWS} -p once=true --step 5", 2, "asks: what the task asks after ask.once('pay') is not"),
        ("prompts own.py:Asked -p fails=true", 1, "solving: own.py:17 in solve: KeyError: 'missing'"),
        ("prompts no-such-task", 2, "no-such-task"),
    ],
)
def test_a_prompt_that_cannot_be_known_is_a_sentence(
    place: Cli, command: str, code: int, sentence: str
) -> None:
    """What is missing, and what to do."""
    ended = place.here(command)
    assert (ended.code, ended.out) == (code, "")
    assert sentence in ended.sentence


@pytest.mark.slow
def test_a_process_prints_what_it_asks_before_it_needs_an_answer(place: Cli) -> None:
    """All rows side by side, and not the choice among them; that one by the oracle's answers."""
    asked = place.here(f"prompts {ROWS} -p rows=3 --json").json["prompts"]
    assert [(one["step"], one["key"], one["max_tokens"]) for one in asked] == [
        (0, "row/0", 40),
        (1, "row/1", 40),
        (2, "row/2", 40),
    ]
    assert asked[0]["schema"] == {"type": "string", "enum": ["a", "b"]}
    [last] = place.here(f"prompts {ROWS} -p rows=3 --step 3 --json").json["prompts"]
    assert last["views"] == [{"system": "", "user": "The best of a, a, a?"}]


def test_nested_tasks_print_their_prompts_too(place: Cli) -> None:
    """They are asked side by side with the process's own, under the name of their part."""
    asked = place.here("prompts own.py:Whole --json").json["prompts"]
    assert sorted((one["part"] or "", one["step"]) for one in asked) == [
        ("", 0),
        ("chain", 0),
        ("process", 0),
    ]


def test_code_that_runs_once_is_not_run(place: Cli) -> None:
    """It may pay or send something; what it would be asked after that is not known."""
    ended = place.here(f"prompts {ROWS} -p once=true")
    assert (ended.code, ended.out) == (0, "")
    assert "what the task asks after ask.once('pay') is not shown" in ended.sentence


def test_a_process_without_an_end_prints_its_first_thousand(place: Cli) -> None:
    """And a sentence says that there are more."""
    found = place.here("prompts own.py:Endless --json").json
    assert len(found["prompts"]) == 1000
    assert found["notes"] == ["these are the first 1,000 steps; the task asks more"]


# -- what was asked --------------------------------------------------------------------------------


def test_show_prints_the_recorded_prompt_of_a_process(place: Cli) -> None:
    """Beside the samples and votes, without the task's code."""
    assert place.here(f"run {ROWS} --run-id rows --display none").code == 0
    printed = place.here("show rows --step 1").out
    assert "  prompt: recorded\n" in printed
    assert "    | Row 1 of the document: its name?\n" in printed
    assert "  view 2 of 2\n" in printed
    assert printed.index("Row 1 of") < printed.index("sample 0: vote")
    [opening] = place.here("show rows --step 1 --json").json["openings"]
    assert (opening["prompt"]["source"], opening["prompt"]["max_tokens"]) == ("recorded", 40)


def test_show_says_why_there_is_no_prompt(place: Cli) -> None:
    """It was not to be recorded; it was no question; or its task is nobody's that was named."""
    run = f"run {ROWS} --display none -p nested=true"
    assert place.here(f"{run} --no-record-prompts --run-id none").code == 0
    assert f"prompt: not shown: {ROWS} is not installed" in place.here("show none --step 0").out
    named = place.here(f"show none --step 0 --task {ROWS}").out
    assert f"prompt: not shown: {ROWS} is a process, and this run recorded no prompts" in named
    [opening] = place.here("show none --step 4 --json").json["openings"]
    assert opening["prompt"] == {
        "source": None,
        "reason": "no model was asked, since this is the result of a nested task or of code that runs once",
    }
    assert place.query("SELECT count(*) FROM step_prompts WHERE run_id LIKE 'none%'") == [(0,)]


def test_a_chain_records_its_prompts_on_request(place: Cli) -> None:
    """Then they are shown without the task's code, too."""
    assert place.here("run hanoi -p disks=2 --record-prompts --run-id told --display none").code == 0
    [opening] = place.here("show told --step 1 --json").json["openings"]
    assert opening["prompt"]["source"] == "recorded"
    assert place.here("audit verify told").code == 0


def test_no_control_character_of_a_prompt_reaches_the_terminal(place: Cli) -> None:
    """Neither of what will be asked nor of what was."""
    out = place.here("prompts own.py:Blind").out
    assert "q0\ufffd[31m<b>" in out
    assert not {"\x1b", "\x07"} & set(out)
    chain = "run own.py:Blind --record-prompts --run-id blind --display none"
    place.here(
        chain
    )  # it has no oracle, so that the simulated model fails: the first step is open all the same
    shown = place.here("show blind --step 0").out
    assert "prompt: recorded" in shown
    assert not {"\x1b", "\x07"} & set(shown)


def test_an_audit_says_which_prompt_changed(place: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence with the step and a short difference."""
    assert place.here(f"run {ROWS} --run-id edited --display none").code == 0
    monkeypatch.setattr("tests.asking.Rows.word", "Line")
    ended = place.here("audit verify edited")
    assert ended.code == 1
    line = next(line for line in ended.out.splitlines() if "step 2" in line)
    assert line == (
        "  prompt: step 2: its prompt changed, user message of view 1: "
        "expected 'Line 2 of the document: its '…, found 'Row 2 of the document: its '…"
    )


def test_prompts_of_a_log_in_another_folder_are_made_by_a_task_that_is_named(place: Cli) -> None:
    """A database alone runs nobody's code."""
    place.here("run own.py:Blind --run-id plain --display none")
    assert "is not installed; to load it, add --task" in place.here("show plain --step 0").out
    assert (
        "prompt: made again by the task, as recorded"
        in place.here("show plain --step 0 --task own.py:Blind").out
    )


def test_decisions_are_previewed_like_answers(place: Cli) -> None:
    """What is asked for as decisions is asked side by side, and answered by the oracle."""
    told = place.here("prompts own.py:Rows --json").json
    assert [prompt["views"][0]["user"] for prompt in told["prompts"]] == ["row 0?", "row 1?", "row 2?"]
