"""The prompts of a step for people: from the log, or rebuilt by the task."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from sqlite3 import Row
from typing import Any, Final

import anyio.to_thread

from mdap.journal.reader import Reader
from mdap.records import PromptSent
from mdap.rules.digests import prompt_digest, views_digest
from mdap.rules.schedule import tiers_of
from mdap.settings import VotingSettings
from mdap.viewer.source import Prompts, Rendered

__all__ = ["Asker", "merged_by", "prompts_of"]

_NOT_ASKED: Final = ("solve:", "once:")


@dataclass(frozen=True, slots=True)
class Asker:
    """The run of the shown steps.

    Attributes:
        number: its key in the other tables.
        task: the task's name.
        params: the task's parameters.
        settings: its recorded voting settings.
        provider: the recorded source of its samples.
    """

    number: int
    task: str
    params: Mapping[str, Any]
    settings: Mapping[str, Any]
    provider: Mapping[str, Any]


async def prompts_of(source: Reader, prompts: Prompts, asker: Asker, opening: Row) -> Rendered | str:
    """Return the prompts of one opening of a step, or a sentence that explains why there are none.

    Args:
        source: the log.
        prompts: rebuilds prompts that are not recorded.
        asker: the run.
        opening: the columns of the opening.
    """
    rows = await source.rows("prompts_of_step", asker.number, opening["step"], opening["opening"])
    if rows:
        return _recorded([_sent(row) for row in rows], opening["prompt_digest"])
    if opening["noted"] and opening["key"].startswith(_NOT_ASKED):
        return "no model was asked, since this is the result of a nested task or of code that runs once"
    about = (asker.task, asker.params, opening["step"], opening["input"], opening["prompt_digest"])
    made = await anyio.to_thread.run_sync(prompts.render, *about)
    if isinstance(made, str):
        return f"the decision was copied from {opening['reason']}" if opening["noted"] else made
    return replace(made, max_tokens=VotingSettings.recorded(asker.settings).tokens_allowed(made.max_tokens))


def _sent(row: Row) -> PromptSent:
    return PromptSent._make(row[name] for name in PromptSent._fields)


def _recorded(sent: list[PromptSent], digest: str) -> Rendered:
    views = tuple((one.system or "", one.user or "") for one in sent)
    return Rendered(
        views,
        views_digest([prompt_digest(*view) for view in views]) == digest,
        sent[0].max_tokens,
        None if sent[0].schema is None else _read(sent[0].schema),
        recorded=True,
    )


def _read(schema: str) -> Any:
    """Return a recorded schema; its text if it is not valid JSON."""
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        return schema


async def merged_by(source: Reader, asker: Asker) -> tuple[str, ...]:
    """Return the models without system messages: theirs begins the user message instead."""
    about = asker.provider["about"]
    specs, _ = tiers_of(asker.provider["models"], asker.provider["escalate_to"])
    names = [spec.partition("?")[0] for spec in specs]
    given = dict(zip(names, about.get("members", [about]), strict=False))
    found = {
        row["model"]: json.loads(row["options"]) for row in await source.rows("options_found", asker.number)
    }
    return tuple(
        name
        for name in dict.fromkeys(names)
        if "user" in (given.get(name, {}).get("system_role"), found.get(name, {}).get("system_role"))
    )
