"""``mdap runs``, ``show`` and ``batches``: list what is on record, and forget jobs of batch APIs."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from mdap.cli import completing
from mdap.cli.options import as_json, asynchronous, database, moved_task, run_argument, verbose
from mdap.cli.output import fields, hinted, number, print_json, reveal, say, table
from mdap.cli.prompting import prompt_json, show_prompt, show_text
from mdap.cli.summary import Rows, how_sure, rest, standing, where_to_look
from mdap.errors import UsageError
from mdap.journal.jobs import forget, jobs_on_record
from mdap.journal.reader import Reader, RunRow, open_log
from mdap.journal.writer import open_journal
from mdap.records import BatchJob, Outcome, RunStatus, Solution
from mdap.session import read_solution
from mdap.session.deciding import find_step
from mdap.session.prompting import TaskPrompts
from mdap.session.results import outcome_in
from mdap.viewer.source import merged_by, prompts_of

_TEXT_SHOWN: Final = 400
_NOT_SHOWN: Final = ("run", "step", "opening", "text_digest", "reasoning_digest")
_OVER: Final = frozenset({"collected", "refused", "abandoned"})


@click.command()
@click.option("--most", type=click.IntRange(min=1), default=50, show_default=True, help="Runs to list.")
@click.option(
    "--of",
    metavar="RUN",
    shell_complete=completing.runs,
    help="List the parts of RUN: cases of a batch, tasks of a process.",
)
@database
@as_json
@asynchronous
async def runs(**given: Any) -> None:
    """List the recorded runs and their outcomes, newest first."""
    async with open_log(Path(given["db"])) as reader:
        if given["of"] is None:
            found = await reader.runs(given["most"])
        else:
            found = await reader.parts((await reader.find(given["of"])).number, given["most"])
        shown = [(row, steps, await outcome_in(reader, row)) for row, steps in found]
    if given["json"]:
        print_json({"runs": [_run_json(*one) for one in shown]})
        return
    heads = ("run", "kind", "task", "model", "k", "status", "outcome", "steps", "created")
    table(heads, [_run_cells(*one) for one in shown])


def _run_json(row: RunRow, steps: int, outcome: Outcome | None) -> dict[str, Any]:
    return {
        "run_id": row.run_id,
        "kind": row.kind,
        "task": row.task,
        "params": row.params,
        "models": row.provider["models"],
        "k": row.k,
        "status": str(row.status),
        "stop_cause": row.stop_cause,
        "outcome": outcome,
        "steps": steps,
        "created_at": row.created_at,
    }


def _run_cells(row: RunRow, steps: int, outcome: Outcome | None) -> tuple[str, ...]:
    status = f"{row.status}: {row.stop_cause}" if row.stop_cause else str(row.status)
    about = (row.run_id, row.kind, row.task, " + ".join(row.provider["models"]), str(row.k))
    return (*about, status, outcome or "-", number(steps), row.created_at[:19])


@click.command()
@run_argument
@click.option(
    "--step",
    help="Show the prompt of this step and its decision, sample by sample. A number of RUN, or a key of RUN "
    "or its parts.",
)
@moved_task("With --step: load the task of RUN (runs its code) to rebuild prompts that are not recorded.")
@verbose
@database
@as_json
@asynchronous
async def show(**given: Any) -> None:
    """Show a run, or how one of its steps was decided.

    RUN is its id, a unique beginning of it, or `latest`.
    """
    async with open_log(Path(given["db"])) as reader:
        row = await reader.find(given["run_id"])
        if given["step"] is not None:
            await _show_step(reader, row, given)
            return
        solution = await read_solution(reader, row)
        events = await reader.rows("events", row.number)
        parts = await reader.value("count_parts", row.number)
        places = [] if given["json"] else await where_to_look(reader.path, solution)
    if given["json"]:
        print_json(
            {
                **solution.to_dict(),
                "params": row.params,
                "settings": row.settings,
                "provider": row.provider,
                "created_at": row.created_at,
                "parts": parts,
                "events": [_event(event) for event in events],
            }
        )
        return
    reveal(solution.traceback)
    rows = _rows(row, solution, places, verbose=given["verbose"])
    if parts:
        rows.append(("parts", f"{number(parts)}: mdap runs --of {row.run_id}"))
    fields([*rows, *(("warning", warning) for warning in solution.warnings)])
    say()
    for event in events:
        say(f"  {event['at'][:19]}  {event['kind']}{': ' + event['reason'] if event['reason'] else ''}")


def _rows(row: RunRow, solution: Solution, places: Rows, *, verbose: bool) -> Rows:
    totals = solution.totals
    return [
        ("run", row.run_id),
        ("task", f"{row.task} {json.dumps(row.params)}"),
        ("model", " + ".join(row.provider["models"])),
        ("status", "running, or killed" if row.status is RunStatus.RUNNING else standing(solution)),
        ("reason", _reason(solution)),
        ("result", json.dumps(solution.result)[:_TEXT_SHOWN]),
        *how_sure(solution),
        *places,
        ("k", str(row.k)),
        ("steps", number(totals.steps)),
        (
            "samples",
            f"{number(totals.samples)}: {number(totals.votes)} votes, {number(totals.red_flags)} flags, "
            f"{number(totals.void)} void, {number(totals.cancelled)} cancelled",
        ),
        ("failed attempts", number(totals.failed_attempts)),
        *(rest(solution) if verbose else ()),
    ]


def _reason(solution: Solution) -> str:
    why = solution.reason or "-"
    if solution.stop_cause and solution.stop_cause != why:
        why = f"{solution.stop_cause}: {why}"
    return hinted(why) if solution.traceback else why


def _event(event: Any) -> dict[str, Any]:
    named = {name: event[name] for name in ("kind", "at", "author", "reason")}
    return {**named, "data": json.loads(event["data"]) if event["data"] else None}


async def _show_step(reader: Reader, row: RunRow, given: dict[str, Any]) -> None:
    row, step = await find_step(reader, row, given["step"])
    run = row.number
    openings = await reader.rows("openings_of_step", run, step)
    samples = await reader.rows("samples_of_step", run, step)
    if not openings:
        raise UsageError(f"the run has no step {step} yet")
    row = replace(row, task=given["task"] or row.task)
    made_by = TaskPrompts([row.task] if given["task"] else [])
    prompts = [await prompts_of(reader, made_by, row, opening) for opening in openings]
    merged = await merged_by(reader, row)
    if given["json"]:
        shown = [
            {**_opening(opening, samples), "prompt": prompt_json(prompt, merged)}
            for opening, prompt in zip(openings, prompts, strict=True)
        ]
        print_json({"step": step, "openings": shown})
        return
    for opening, prompt in zip(openings, prompts, strict=True):
        fields(
            [
                ("step", f"{step}" + (f", opening {opening['opening']}" if opening["opening"] else "")),
                ("input", opening["input"][:_TEXT_SHOWN]),
                ("prompt digest", opening["prompt_digest"]),
                ("answer", (opening["winner"] or "undecided, or void")[:_TEXT_SHOWN]),
                ("margin", str(opening["margin"] or "-")),
            ]
        )
        show_prompt(prompt, merged)
        for sample in samples:
            if sample["opening"] == opening["opening"]:
                _show_sample(sample)
        say()


def _show_sample(sample: Any) -> None:
    why = f" ({sample['flag_reason']})" if sample["flag_reason"] else f" for {sample['answer_key']}"
    sent = sample["temperature"]
    how = sample["model"] + ("" if sent is None else f", T = {sent:g}")
    say(f"  sample {sample['ordinal']}: {sample['verdict']}{why}, {how}")
    show_text(sample["text"] or "", _TEXT_SHOWN)


def _opening(opening: Any, samples: Any) -> dict[str, Any]:
    return {
        "opening": opening["opening"],
        "key": opening["key"],
        "input": json.loads(opening["input"]),
        "prompt_digest": opening["prompt_digest"],
        "answer": json.loads(opening["winner"]) if opening["winner"] else None,
        "votes": json.loads(opening["tally"]) if opening["tally"] else None,
        "margin": opening["margin"],
        "samples": [
            {name: value for name, value in dict(sample).items() if name not in _NOT_SHOWN}
            for sample in samples
            if sample["opening"] == opening["opening"]
        ],
    }


@click.command()
@click.option(
    "--forget",
    metavar="JOB",
    help="Take JOB for lost: its samples are asked for again, and paid for again if it was not.",
)
@database
@as_json
@asynchronous
async def batches(**given: Any) -> None:
    """List jobs of batch APIs with state, counts, cost and age.

    The newest come first. States are as of the last look of a run; `mdap resume` looks again, and collects
    what has ended.
    """
    if given["forget"] is not None:
        await _forget(Path(given["db"]), given["forget"])
        return
    async with open_log(Path(given["db"])) as reader:
        jobs = (await jobs_on_record(reader))[::-1]
        costs = await reader.batch_costs()
    rows = [_about(job, costs.get(job.number)) for job in jobs]
    if given["json"]:
        print_json({"batches": rows})
        return
    heads = ("job", "model", "wave", "state", "requests", "answered", "failed", "cost", "age", "vendor's id")
    table(heads, [_job_cells(row) for row in rows])


async def _forget(path: Path, token: str) -> None:
    async with open_log(path) as reader:
        found = [job for job in await jobs_on_record(reader) if job.token == token]
    if not found:
        raise UsageError(
            f"there is no batch job {token!r:.60} in {path}: `mdap batches` lists those there are"
        )
    async with open_journal(path) as journal:
        await forget(journal, found[0])
    say(f"{token} is taken for lost; `mdap resume` asks for its samples again")


def _job_cells(row: dict[str, Any]) -> tuple[str, ...]:
    about = (row["job"], row["model"], str(row["wave"]), row["state"])
    counts = (number(row[name]) for name in ("requests", "answered", "failed"))
    cost = "-" if row["cost_usd"] is None else f"${row['cost_usd']:.4f}"
    return (*about, *counts, cost, _age(row["age_seconds"]), row["vendor_id"] or "-")


def _about(job: BatchJob, cost: float | None) -> dict[str, Any]:
    counts = job.data.get("counts", {})
    answered = job.data.get("answered", counts.get("completed", counts.get("succeeded", 0)))
    failed = job.data.get("failed", counts.get("failed", counts.get("errored", 0)))
    return {
        "job": job.token,
        "vendor_id": job.vendor_id,
        "model": job.model,
        "wave": job.wave,
        "state": job.state,
        "open": job.state not in _OVER,
        "requests": job.requests,
        "answered": answered,
        "failed": failed if isinstance(failed, int) else len(failed),
        "cost_usd": cost,
        "age_seconds": max(round(time.time() - job.intended), 0),
    }


def _age(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds} s"
