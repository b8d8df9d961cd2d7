"""``mdap prompts``: print a task's prompts before you pay for a run; and print those of recorded steps."""

import json
from typing import Any, Final

import anyio
import click

from mdap.cli.options import as_json, task_with_params
from mdap.cli.output import complain, print_json, say
from mdap.plugins import make_task, read_params
from mdap.session.preview import preview
from mdap.viewer.source import Rendered

_SHOWN: Final = 2_000
_ALL: Final = 10**9
_SOURCES: Final = {
    (True, True): "recorded",
    (True, False): "recorded, but its digest does not match: something has changed the log",
    (False, True): "made again by the task, as recorded",
    (False, False): "made again by the task, but NOT as recorded: the task has changed since the run",
}


@click.command()
@task_with_params
@click.option(
    "--step",
    type=click.IntRange(min=0),
    metavar="N",
    help="Print the prompt of step N; the task's oracle answers the steps before it.",
)
@as_json
def prompts(**given: Any) -> None:
    """Print a task's prompts before you pay for a run.

    mdap sends nothing to a model and records nothing. It prints the first step of a chain, or all steps that
    a process requests before it needs an answer.
    """
    task = make_task(given["task"], read_params(given["task"], given["params"]))
    found = anyio.run(preview, given["task"], task, given["step"])
    if given["json"]:
        asked = [
            {"part": one.part, "step": one.step, "key": one.key, **_rendered_json(one.prompt)}
            for one in found.asked
        ]
        print_json({"task": given["task"], "prompts": asked, "notes": list(found.notes)})
        return
    for one in found.asked:
        part = "" if one.part is None else f"part {one.part}, "
        key = "" if one.key is None else f", key {one.key!r}"
        say(f"{part}step {one.step}{key}")
        _show_rendered(one.prompt, (), _ALL)
        say()
    for note in found.notes:
        complain(note)


def _rendered_json(prompt: Rendered) -> dict[str, Any]:
    views = [{"system": system, "user": user} for system, user in prompt.views]
    return {"max_tokens": prompt.max_tokens, "schema": prompt.schema, "views": views}


def prompt_json(prompt: Rendered | str, merged: tuple[str, ...]) -> dict[str, Any]:
    """Return the prompt of a recorded step, or why there is none, as JSON values."""
    if isinstance(prompt, str):
        return {"source": None, "reason": prompt}
    source = "recorded" if prompt.recorded else "made again"
    about = {"source": source, "as_recorded": prompt.same, "system_in_user_for": list(merged)}
    return {**about, **_rendered_json(prompt)}


def show_prompt(prompt: Rendered | str, merged: tuple[str, ...]) -> None:
    """Print the prompt of a recorded step, or why there is none; see `prompt_json`."""
    if isinstance(prompt, str):
        say(f"  prompt: not shown: {prompt}")
        return
    say(f"  prompt: {_SOURCES[prompt.recorded, prompt.same]}")
    _show_rendered(prompt, merged, _SHOWN)


def _show_rendered(prompt: Rendered, merged: tuple[str, ...], most: int) -> None:
    """Print a prompt: of each message and of the schema, *most* characters."""
    for view, (system, user) in enumerate(prompt.views):
        if len(prompt.views) > 1:
            say(f"  view {view + 1} of {len(prompt.views)}")
        if system:
            where = f", sent to {', '.join(merged)} in front of the user's" if merged else ""
            say(f"  system message{where}")
            show_text(system, most)
        say("  user message")
        show_text(user, most)
    say(f"  at most {prompt.max_tokens:,} output tokens")
    if prompt.schema is not None:
        say("  schema of the answer")
        show_text(json.dumps(prompt.schema, ensure_ascii=False), most)


def show_text(text: str, most: int) -> None:
    """Print the first *most* characters of a text that is not mdap's own, with each line marked."""
    for line in text[:most].splitlines():
        say(f"    | {line}" if line else "    |")
    if len(text) > most:
        say(f"    | ... ({len(text):,} characters; all of them with --json)")
