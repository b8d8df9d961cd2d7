"""``mdap audit``: verify, measure, review, export, report and seal a recorded run."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import anyio
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mdap.audit import Verification, verify
from mdap.audit import open_log as open_whole
from mdap.audit.chains import MakeTask
from mdap.audit.export import FORMATS, export
from mdap.audit.review import review
from mdap.audit.statistics import statistics
from mdap.audit.training import LESSON_FORMATS, LessonFilter, export_lessons, lessons
from mdap.cli.audited import describe_doubtful, describe_statistics, describe_verification
from mdap.cli.files import check_apart, database_files, written
from mdap.cli.options import as_json, asynchronous, database, moved_task, run_argument
from mdap.cli.output import Exit, complain, fields, number, print_json, say
from mdap.cli.places import at_home
from mdap.cli.serving import needs_viewer
from mdap.cli.streams import binary_output
from mdap.errors import MdapError, UsageError
from mdap.journal.evolutions import is_evolution
from mdap.journal.reader import open_log
from mdap.plugins import VERIFIERS, installed, load_plugin, make_moved, make_recorded
from mdap.session.prompting import TaskPrompts
from mdap.session.signing import seal_run


@click.group()
def audit() -> None:
    """Verify, review, export or report a run from its log."""


@audit.command("verify")
@run_argument
@click.option("--oracle", is_flag=True, help="Also compare each decision with the task's oracle.")
@click.option("--expect", metavar="DIGEST", help="Digest or seal that you noted when the run ended.")
@click.option("--allow-unsealed", is_flag=True, help="Accept an ended run without a seal.")
@click.option(
    "--signers",
    metavar="FILE",
    help="Require a signature by one of these allowed signers (ssh-keygen format).",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="all processors",
    metavar="N",
    help="Number of worker processes.",
)
@moved_task()
@database
@as_json
def verify_(**given: Any) -> Exit:
    """Check that the record of a run is complete and unchanged.

    It makes each prompt, reads each reply, counts each race, derives each state and computes the digests over
    them again, offline, and asks the task for the outcome again. For an evolution, it makes
    the model again. Exits with 1 if anything is not as recorded.
    """
    if is_evolution(Path(given["db"]), given["run_id"]):
        return _verify_evolution(given)
    named = {name: given[name] for name in ("oracle", "expect", "allow_unsealed", "signers", "jobs")}

    def check(given: dict[str, Any]) -> Verification:
        make = _maker(given)
        with _bar(given["json"]) as progress:
            return verify(given["db"], given["run_id"], make, progress=progress, **named)

    came = at_home(given, check)
    if given["json"]:
        print_json(came.to_dict())
    else:
        describe_verification(came)
    if came.ok:
        return Exit.FINISHED
    complain(_sentence(came, given))
    return Exit.FAILED


def _verify_evolution(given: dict[str, Any]) -> Exit:
    """Make an evolution's model again, with the package that knows how."""
    others = ("oracle", "expect", "allow_unsealed", "signers", "task")
    _refuse(given, others, "is for runs: leave it out for an evolution")
    points = installed(VERIFIERS).get("evolution")
    if not points:
        raise UsageError("no installed package verifies evolutions: install mdap as a whole")
    came = load_plugin(points[0])(Path(given["db"]), given["run_id"])
    if given["json"]:
        print_json(came.to_dict())
    else:
        say(f"{came.evolution_id}: {'verified' if came.ok else 'mismatch'}")
        fields(came.lines())
    return Exit.FINISHED if came.ok else Exit.FAILED


def _refuse(given: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    for name in names:
        if given[name]:
            raise UsageError(f"--{name.replace('_', '-')} {why}")


async def _task_of(db: Path, run_id: str) -> str:
    async with open_log(db) as reader:
        return (await reader.find(run_id)).task


@audit.command("stats")
@run_argument
@database
@as_json
def stats_(**given: Any) -> None:
    """Compare the models of a run: agreement, latency, cost.

    It also counts red flags by reason, and compares the votes that steps took with the theory.
    """
    found = statistics(given["db"], given["run_id"])
    if given["json"]:
        print_json(found.to_dict())
    else:
        describe_statistics(found)


@audit.command("review")
@run_argument
@click.option(
    "--most", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Decisions to show."
)
@database
@as_json
def review_(**given: Any) -> None:
    """Show the most doubtful decisions, with every reply."""
    found = review(given["db"], given["run_id"], given["most"])
    if given["json"]:
        print_json({"decisions": [one.to_dict() for one in found]})
    else:
        describe_doubtful(found)


@audit.command("export")
@run_argument
@click.option(
    "--format",
    "fmt",
    type=click.Choice((*FORMATS, *LESSON_FORMATS)),
    default="jsonl",
    show_default=True,
    help="One object or row for each decided step or sample, or training data: prompts with a winning "
    "reply (chat), or a winning and a losing one (preference).",
)
@click.option("--contested", is_flag=True, help="Training data: only steps with a vote against the winner.")
@click.option(
    "--min-margin",
    type=click.IntRange(min=1),
    metavar="N",
    help="Training data: only steps whose winner leads by N votes or more.",
)
@click.option("--from-model", metavar="NAME", help="Training data: only winning replies of this model.")
@click.option(
    "--bare",
    is_flag=True,
    help="Training data: no metadata, for services that refuse keys outside the format.",
)
@click.option("-o", "--output", metavar="FILE", help="Output file. [default: standard output]")
@moved_task()
@database
def export_(**given: Any) -> None:
    """Export decided steps, samples or training data of a run.

    Steps and samples are those of RUN alone: export each part, such as a document of `extract`, by its own
    id. Training data includes the parts'.
    """
    write = _write_lessons if given["fmt"] in LESSON_FORMATS else _write_rows
    if given["output"] is None:
        if given["fmt"].endswith("parquet") and sys.stdout.isatty():
            raise UsageError(f"{given['fmt']} is not for a terminal: name a file with -o")
        with binary_output() as out:
            write(given, out)
    else:
        place = Path(given["output"])
        check_apart("-o", place, database_files(given["db"]))
        with written("-o", place) as out:
            write(given, out)


def _write_rows(given: dict[str, Any], out: IO[bytes]) -> None:
    others = ("contested", "min_margin", "from_model", "bare", "task")
    _refuse(given, others, f"is for training data: add --format {' or '.join(LESSON_FORMATS)}")
    with open_whole(given["db"]) as log:
        export(log, given["run_id"], out, given["fmt"])


def _write_lessons(given: dict[str, Any], out: IO[bytes]) -> None:
    wanted = LessonFilter(given["contested"], given["min_margin"], given["from_model"])
    make = _maker(given)
    export_lessons(lessons(given["db"], given["run_id"], make, wanted), out, given["fmt"], bare=given["bare"])


def _maker(given: dict[str, Any]) -> MakeTask:
    """Return what makes the tasks of a run, some of which may have moved."""
    if given["task"] is None:
        return make_recorded
    return partial(make_moved, anyio.run(_task_of, Path(given["db"]), given["run_id"]), given["task"])


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show how far it is, on a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


_SENTENCES: Final = {
    "empty": "{run} holds nothing to verify: its row is there, and no event",
    "not sealed": "{run} has ended and its last seal is missing: events, and samples that were not counted, "
    "may have been changed or deleted; accept that with --allow-unsealed",
    "not signed": "no signer in {signers} has signed the last seal of {run}: sign it with "
    "`mdap audit seal {run} --sign KEY`",
}


def _sentence(came: Verification, given: dict[str, Any]) -> str:
    if came.verdict in _SENTENCES:
        return _SENTENCES[came.verdict].format(run=came.run_id, signers=given["signers"])
    total = sum(came.counts.values())
    if came.verdict == "wrong decisions":
        are = "1 decision is" if total == 1 else f"{number(total)} decisions are"
        return f"{are} wrong by the task's oracle; the record itself is as it was made"
    things = "1 thing does" if total == 1 else f"{number(total)} things do"
    if came.verdict == "plugin changed":
        return f"{came.verdict}: {things} not match, and the record agrees with itself; see the notes"
    return f"{things} not match: {came.run_id} is not as it was recorded"


@audit.command()
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
@asynchronous
async def report(**given: Any) -> None:
    """Write a report of a run: one HTML file, without scripts."""
    try:
        from mdap.viewer import about
        from mdap.viewer.report import report
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
        page = await report(reader, run, length, datetime.now(UTC).isoformat())
    with written("-o", place) as out:
        out.write(page.encode())
    if given["json"]:
        print_json({"run_id": run.run_id, "report": str(place), "bytes": len(page.encode())})
        return
    say(f"{place} holds the report of {run.run_id}: open it in a browser, or print it")


@audit.command()
@run_argument
@click.option("--sign", metavar="KEY", help="Sign the seal with this SSH key, and record the signature.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write the text that a signature or a timestamp covers, and the signature beside it as FILE.sig.",
)
@database
@as_json
def seal(**given: Any) -> None:
    """Print or sign the seal of a run, to keep it elsewhere.

    If the run ended without a seal, it takes one.
    """
    place = None if given["output"] is None else Path(given["output"])
    if place is not None:
        check_apart("-o", place, {**database_files(given["db"]), "--sign": given["sign"]})
    sealed = anyio.run(seal_run, given["db"], given["run_id"], given["sign"])
    if place is not None:
        texts = {place: sealed.message, Path(f"{place}.sig"): sealed.signature}
        for path, text in texts.items():
            if text is not None:
                with written("-o", path) as out:
                    out.write(text.encode())
    if given["json"]:
        print_json(sealed._asdict())
        return
    say(sealed.seal)
