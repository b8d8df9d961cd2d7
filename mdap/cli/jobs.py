"""``mdap batches``: the jobs of batch APIs that are on record."""

import time
from pathlib import Path
from typing import Any, Final

import anyio
import click

from mdap.cli.options import as_json, database
from mdap.cli.output import number, print_json, say, table
from mdap.errors import UsageError
from mdap.journal.jobs import forget, jobs_on_record
from mdap.journal.reader import open_log
from mdap.journal.writer import open_journal
from mdap.records import BatchJob

__all__ = ["batches"]

_OVER: Final = frozenset({"collected", "refused", "abandoned"})


@click.command()
@click.option(
    "--forget",
    metavar="JOB",
    help="Take JOB for lost: its samples are asked for again, and paid for again if it was not.",
)
@database
@as_json
def batches(**given: Any) -> None:
    """List jobs of batch APIs with state, counts, cost and age.

    The newest come first. States are as of the last look of a run; `mdap resume` looks again, and collects
    what has ended.
    """
    if given["forget"] is not None:
        anyio.run(_forget, Path(given["db"]), given["forget"])
        return
    anyio.run(_list, given)


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


async def _list(given: dict[str, Any]) -> None:
    async with open_log(Path(given["db"])) as reader:
        jobs = (await jobs_on_record(reader))[::-1]
        costs = await reader.batch_costs()
    rows = [_about(job, costs.get(job.number)) for job in jobs]
    if given["json"]:
        print_json({"batches": rows})
        return
    table(
        ("job", "model", "wave", "state", "requests", "answered", "failed", "cost", "age", "vendor's id"),
        [
            (
                row["job"],
                row["model"],
                str(row["wave"]),
                row["state"],
                number(row["requests"]),
                number(row["answered"]),
                number(row["failed"]),
                "-" if row["cost_usd"] is None else f"${row['cost_usd']:.4f}",
                _age(row["age_seconds"]),
                row["vendor_id"] or "-",
            )
            for row in rows
        ],
    )


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
