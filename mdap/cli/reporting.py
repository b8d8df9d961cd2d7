"""``mdap audit report``: a run as one page."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import click

from mdap.cli.files import check_apart, database_files, written
from mdap.cli.options import as_json, database, run_argument
from mdap.cli.output import print_json, say
from mdap.cli.serving import needs_viewer
from mdap.errors import MdapError
from mdap.journal.reader import open_log
from mdap.session.prompting import TaskPrompts

__all__ = ["report"]


@click.command()
@run_argument
@click.option("-o", "--output", required=True, metavar="FILE", help="Output file, such as report.html.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="Load this task (runs its code) to know its length.",
)
@database
@as_json
def report(**given: Any) -> None:
    """Write a report of a run: one HTML file, without scripts."""
    anyio.run(_report, given)


async def _report(given: dict[str, Any]) -> None:
    try:
        from mdap.viewer import about, report
    except ModuleNotFoundError as error:
        raise needs_viewer("mdap audit report") from error
    place = Path(given["output"])
    check_apart("-o", place, database_files(given["db"]))
    async with open_log(Path(given["db"])) as reader:
        row = await reader.find(given["run_id"])
        run = await about.about(reader, row.number)
        if run is None:
            raise MdapError(f"run {row.run_id} is gone")
        length = TaskPrompts(given["tasks"]).length(run.task, run.params)
        page = await report.report(reader, run, length, datetime.now(UTC).isoformat())
    with written("-o", place) as out:
        out.write(page.encode())
    if given["json"]:
        print_json({"run_id": run.run_id, "report": str(place), "bytes": len(page.encode())})
        return
    say(f"{place} holds the report of {run.run_id}: open it in a browser, or print it")
