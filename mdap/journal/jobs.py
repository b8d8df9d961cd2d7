"""Record jobs of batch APIs in the log: their requests before submission, and their later events."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mdap.errors import RunBusyError
from mdap.journal.claims import JOBS, Claims
from mdap.journal.reader import Reader
from mdap.journal.writer import Writer
from mdap.records import BatchJob, BatchRow

_OVER: Final = ("refused", "abandoned")


class LeftOver(NamedTuple):
    """Jobs that earlier sessions submitted for a run, or were about to.

    Attributes:
        jobs: jobs that may still return samples, each with all of its rows, of any run.
        recorded: recorded samples, by custom id and ordinal.
        waves: the waves of each step, by its key and digest.
    """

    jobs: list[tuple[BatchJob, list[BatchRow]]]
    recorded: set[tuple[str, int]]
    waves: dict[tuple[str, str], set[int]]


class JobLog:
    """Write and read jobs; every write is on disk when it returns, and only one process submits a job."""

    def __init__(self, writer: Writer, reader: Reader, claims: Claims) -> None:
        self._writer = writer
        self._reader = reader
        self._claims = claims

    async def intend(self, token: str, model: str, wave: int, rows: Sequence[BatchRow]) -> BatchJob:
        """Record a job before its submission, and claim it."""

        def insert(connection: sqlite3.Connection) -> int:
            sql = "INSERT INTO batch_jobs(token, model, wave, requests) VALUES (?, ?, ?, ?)"
            number = connection.execute(sql, (token, model, wave, len(rows))).lastrowid
            assert number is not None
            connection.executemany(
                "INSERT INTO batch_rows(custom_id, job, run, key, digest, view, ordinals) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(row.custom_id, number, *row.where, row.view, json.dumps(row.ordinals)) for row in rows],
            )
            return number

        number = await self._writer.write(insert)
        self.claim(number)
        return await self.reread(number)

    def claim(self, number: int) -> bool:
        """Return whether this process may submit the job; if so, no other process may."""
        try:
            self._claims.take(JOBS + number, "", shared=True)
        except RunBusyError:
            return False
        return True

    def drop(self, number: int) -> None:
        """Release the claim on a job."""
        self._claims.drop(JOBS + number)

    async def note(self, number: int, kind: str, data: Mapping[str, Any]) -> None:
        """Record an event of a job."""
        await _note(self._writer, number, kind, data)

    async def reread(self, number: int) -> BatchJob:
        """Return the current record of a job: another process may have changed it."""
        [job] = await jobs_on_record(self._reader, [number])
        return job

    async def vendor_ids(self) -> set[str]:
        """Return the vendors' ids of all jobs on record."""
        return {row[0] for row in await self._reader.rows("vendor_ids")}

    async def last_wave(self) -> int:
        """Return the number of the newest wave, 0 for none."""
        return int(await self._reader.value("last_wave"))

    async def left_over(self, run: int, seen: Collection[int]) -> LeftOver:
        """Return the samples that earlier sessions submitted for *run* without recording a reply.

        *seen* are the numbers of jobs whose rows are known.
        """
        rows = [_row(row) for row in await self._reader.rows("batch_rows_of_run", run)]
        numbers = sorted({number for number, _ in rows})
        if not numbers:
            return LeftOver([], set(), {})
        jobs = {job.number: job for job in await jobs_on_record(self._reader, numbers)}
        samples = await self._reader.rows("batched_samples", run)
        recorded = {(row["request_id"], row["ordinal"]) for row in samples}
        waves, open_jobs = defaultdict(set), set()
        for number, row in rows:
            if jobs[number].state in _OVER:
                continue
            waves[row.key, row.digest].add(jobs[number].wave)
            lasting = all((row.custom_id, ordinal) in recorded for ordinal in row.ordinals)
            if number not in seen and not lasting and not _failed(jobs[number], row):
                open_jobs.add(number)
        left = [(jobs[number], await self._rows_of(jobs[number])) for number in sorted(open_jobs)]
        return LeftOver(left, recorded, dict(waves))

    async def _rows_of(self, job: BatchJob) -> list[BatchRow]:
        found = [_row(row)[1] for row in await self._reader.rows("batch_rows_of_job", job.number)]
        return [row for row in found if not _failed(job, row)]


def _failed(job: BatchJob, row: BatchRow) -> bool:
    return job.state == "collected" and row.custom_id in job.data.get("failed", ())


def _row(row: sqlite3.Row) -> tuple[int, BatchRow]:
    custom_id, job, run, key, digest, view, ordinals = row
    return job, BatchRow(custom_id, run, key, digest, view, tuple(json.loads(ordinals)))


async def forget(writer: Writer, job: BatchJob) -> None:
    """Record that *job* is lost, so that mdap requests its samples again."""
    await _note(writer, job.number, "abandoned", {"reason": "a person takes it for lost"})


async def _note(writer: Writer, number: int, kind: str, data: Mapping[str, Any]) -> None:
    sql = "INSERT INTO batch_events(job, kind, data) VALUES (?, ?, ?)"
    values = (number, kind, json.dumps(data))
    await writer.write(lambda connection: connection.execute(sql, values).close())


async def jobs_on_record(reader: Reader, numbers: Sequence[int] | None = None) -> list[BatchJob]:
    """Return the jobs with these *numbers*, or all jobs, each in the state of its last event."""
    found = await reader.rows("batch_jobs", None if numbers is None else json.dumps(numbers))
    events: dict[int, list[sqlite3.Row]] = defaultdict(list)
    for event in await reader.rows("batch_events_of", json.dumps([row["id"] for row in found])):
        events[event["job"]].append(event)
    return [_folded(row, events[row["id"]]) for row in found]


def _folded(row: sqlite3.Row, events: Sequence[sqlite3.Row]) -> BatchJob:
    about: dict[str, Any] = {"state": "intended", "data": {}}
    for event in events:
        data = json.loads(event["data"])
        about["file"] = data.get("file", about.get("file"))
        about["vendor_id"] = data.get("vendor_id", about.get("vendor_id"))
        about["state"] = data.get("state", event["kind"])
        about["data"] = data
    return BatchJob(*row, **about)
