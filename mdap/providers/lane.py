"""The lane of batch APIs: collect the samples that all runs want in waves, and send each wave in jobs."""

import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from mdap.errors import PARKED, MdapError, ProviderError, RejectedError, UnavailableError
from mdap.protocols import Provider
from mdap.providers.batch_api import FREED, BatchAPI, Row
from mdap.providers.batch_job import BatchLog, Job
from mdap.providers.paced import Paced
from mdap.records import BatchJob, BatchRow, Reply, SampleRequest
from mdap.rules.limiter import prompt_tokens
from mdap.rules.waves import custom_id, parts_of
from mdap.settings import Waves

Place = tuple[int, str, str, int, int, int]
"""Run, key, digest, member, view and ordinal: what a sample is known by."""

Where = tuple[int, str, str]
"""Run, key and digest: what a step is known by."""

_TOKEN_DIGITS: Final = 20
_REMEMBERED: Final = 4


class BatchLane:
    """Collect the samples that all runs of a session want, and send them in jobs.

    *log* notes the jobs, *last_wave* is the newest on record, and *seen* has the numbers of the jobs whose
    rows are known.
    """

    def __init__(self, members: Sequence[Paced], log: BatchLog, waves: Waves, last_wave: int) -> None:
        self.waves = waves
        self.members = members
        self.log = log
        self._wave = last_wave
        self._pending: dict[Row, None] = {}
        self._sent: dict[int, Job] = {}
        self._places: dict[Place, list[Row]] = defaultdict(list)
        self._recorded: set[tuple[str, int]] = set()
        self._part_of: dict[Where, set[int]] = {}
        self._ordinary: set[Where] = set()
        apis = map(self.api, range(len(members)))
        self._room = [api.limits._replace(tokens=waves.queued_tokens) for api in apis]
        self.seen: set[int] = set()
        self._group: TaskGroup | None = None
        self._changed_at = 0.0
        self._news = anyio.Event()

    def api(self, member: int) -> BatchAPI:
        """Return the batch API of a *member*."""
        batches = self.members[member].batches
        assert batches is not None  # the session saw to it
        return batches

    def of(self, run: int, provider: Provider) -> Provider:
        """Return *provider*, the members behind one, with samples of the run numbered *run* sent in waves."""
        return _OfRun(self, run, provider)

    def take_up(
        self,
        run: int,
        jobs: Sequence[tuple[BatchJob, Sequence[BatchRow]]],
        recorded: set[tuple[str, int]],
        waves: dict[tuple[str, str], set[int]],
    ) -> None:
        """Go on with what earlier sessions submitted for a run.

        Args:
            run: the number of the run.
            jobs: jobs that may still bring something, each with its rows, whichever run wants them.
            recorded: samples of the run that are on record, by custom id and ordinal.
            waves: by key and digest of a step, the waves it was part of.
        """
        self._recorded |= recorded
        for (key, digest), numbers in waves.items():
            self._joins((run, key, digest), numbers)
        names = [member.name for member in self.members]
        for job, rows in jobs:
            if job.model not in names or job.number in self.seen:
                continue  # of another run, looked up at the same time
            member = names.index(job.model)
            own = {row.custom_id: Row(row, member, since=job.intended, wave=job.wave) for row in rows}
            self._start(Job(self, job, member, own))

    async def sample(self, run: int, request: SampleRequest) -> Sequence[Reply]:
        """Return the replies to *request*, once the job that it is part of has ended."""
        where = (run, request.key, request.step_digest)
        while True:
            row = self._row_for(run, request)
            if row is None:
                if where in self._ordinary or len(self._part_of.get(where, ())) >= self.waves.max_waves:
                    request.trace.batched = False
                    return await self.members[request.member].sample(request)
                row = Row(BatchRow("", *where, request.view, request.ordinals), request.member, request)
                self._pending[row] = None
                self.changed()
            try:
                await row.ended()
            finally:
                if self._pending.pop(row, self) is None:
                    self.changed()
            if row.error is not FREED:
                return self._replies(row, request)
            self._forget(row)
            self._part_of.get(where, set()).discard(row.wave)

    def _joins(self, where: Where, waves: set[int]) -> None:
        """Note waves of a step; of steps that were last heard of long ago nothing is kept."""
        known = self._part_of.pop(where, set()) | waves
        self._part_of[where] = known
        while len(self._part_of) > _REMEMBERED * self.waves.width:
            del self._part_of[next(iter(self._part_of))]

    def _row_for(self, run: int, request: SampleRequest) -> Row | None:
        place = (run, request.key, request.step_digest, request.member, request.view, request.ordinals[0])
        for row in self._places.get(place, ()):
            if not row.waited:
                row.request = row.request or request
                request.trace.sent, request.trace.batched = True, True
                request.trace.began = round(row.since * 1000)
                return row
        return None

    def _replies(self, row: Row, request: SampleRequest) -> Sequence[Reply]:
        """Return the replies of *row* to *request*, up to the first that is missing or already on record.

        Raises:
            ProviderError: the row failed, or its result cannot be read.
        """
        self._forget(row)
        self.changed()
        if row.error is not None:
            row.error.__traceback__ = None  # many rows share the error: each raise would lengthen it
            raise row.error
        assert row.result is not None
        whole = request._replace(ordinals=row.about.ordinals)
        api = self.api(row.member)
        try:
            read = api.read(whole, row.result, max(time.time() - row.since, 0.0))
        except ProviderError as error:
            raise error.with_traceback(None) from None
        by_ordinal = dict(zip(row.about.ordinals, read, strict=False))
        replies = []
        for ordinal in request.ordinals:
            if ordinal not in by_ordinal or (row.about.custom_id, ordinal) in self._recorded:
                break
            replies.append(by_ordinal[ordinal]._replace(request_id=row.about.custom_id))
        return replies

    def _forget(self, row: Row) -> None:
        for place in _places(row):
            rows = self._places.get(place, [])
            if row in rows:
                rows.remove(row)
            if not rows:
                self._places.pop(place, None)

    def changed(self) -> None:
        """Look again whether a wave can leave."""
        self._changed_at = time.monotonic()
        self._news.set()

    async def serve(self) -> None:
        """Send waves, and wait for jobs, for as long as this runs."""
        async with anyio.create_task_group() as group:
            self._group = group
            for sent in self._sent.values():
                group.start_soon(self._live, sent)
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                while (left := self._changed_at + self.waves.quiet - time.monotonic()) > 0:  # noqa: ASYNC110
                    await anyio.sleep(left)
                if self._pending:
                    await self._close_wave()
                elif self.waves.detach:
                    self._detach()

    async def _close_wave(self) -> None:
        rows = [row for row in self._pending if row.request and not row.request.trace.withdrawn]
        self._pending.clear()
        if not rows:
            return
        self._wave += 1
        for row in rows:
            assert row.request is not None
            row.request.trace.sent = row.request.trace.batched = True
            row.request.trace.began = time.time_ns() // 1_000_000
            row.wave = self._wave
            self._joins(row.about.where, {self._wave})
        try:
            for member in range(len(self.members)):
                await self._send(member, [row for row in rows if row.member == member])
        except MdapError as error:  # of the log: then nothing was submitted that is not noted
            for row in rows:
                if not row.done.is_set():
                    row.end(None, UnavailableError(str(error), kind="log"))

    async def _send(self, member: int, rows: Sequence[Row]) -> None:
        """Note and submit the jobs that *rows* of one member make up."""
        api, spelled, sizes = self.api(member), [], []
        for row in rows:
            assert row.request is not None
            try:
                line = api.row(custom_id("", 0), row.request)
            except RejectedError as error:
                row.end(None, error)
                continue
            spelled.append(row)
            sizes.append((len(line), prompt_tokens(row.request.system, row.request.user)))
        for part in parts_of(sizes, self._room[member]):
            await self._send_job(member, [spelled[place] for place in part], sum(sizes[at][1] for at in part))

    async def _send_job(self, member: int, rows: Sequence[Row], tokens: int) -> None:
        token = f"mdap-{secrets.randbelow(10**_TOKEN_DIGITS):0{_TOKEN_DIGITS}}"
        lines = []
        for place, row in enumerate(rows):
            about = row.about
            name = custom_id(token, place, *about.where, about.view, about.ordinals)
            row.about = about._replace(custom_id=name)
            assert row.request is not None
            lines.append(self.api(member).row(name, row.request))
        job = await self.log.intend(token, self.members[member].name, self._wave, [row.about for row in rows])
        now = time.time()
        for row in rows:
            row.since = now
        self._start(Job(self, job, member, {row.about.custom_id: row for row in rows}, lines, tokens=tokens))

    def _start(self, sent: Job) -> None:
        self._sent[sent.about.number] = sent
        self.seen.add(sent.about.number)
        for row in sent.rows.values():
            for place in _places(row):
                self._places[place].append(row)
        if self._group is not None:
            self._group.start_soon(self._live, sent)

    async def _live(self, sent: Job) -> None:
        try:
            await self._room_for(sent)
            await sent.live()
        finally:
            del self._sent[sent.about.number]
            if sent.lost:
                self.seen.discard(sent.about.number)
                for row in sent.rows.values():
                    self._forget(row)
            self.changed()

    async def _room_for(self, sent: Job) -> None:
        """Wait until the queue of the model has room for a job, as far as its limit is known."""
        limit = self._room[sent.member].tokens
        while sent.lines is not None and limit is not None:
            before = [one for one in self._queued(sent) if one.about.number < sent.about.number]
            if sum(one.tokens for one in before) + sent.tokens <= limit or not before:
                return
            await anyio.sleep(self.waves.poll)

    def _queued(self, sent: Job) -> list[Job]:
        return [one for one in self._sent.values() if one.member == sent.member and one is not sent]

    def others(self, sent: Job) -> bool:
        """Return whether other jobs of the same model are under way."""
        return any(one.parked for one in self._queued(sent))

    def full(self, sent: Job, limit: int | None) -> bool:
        """Make later jobs of the model smaller, since its queue was full."""
        room = self._room[sent.member]
        if len(sent.rows) == 1 and not self.others(sent):
            return False
        # Our count of tokens is not the vendor's: a job of exactly its limit may still be refused.
        halved = max(sent.tokens // 2, 1)
        limit = halved if limit is None or limit >= sent.tokens else limit
        self._room[sent.member] = room._replace(
            tokens=limit if room.tokens is None else min(limit, room.tokens)
        )
        return True

    def too_large(self, sent: Job) -> bool:
        """Make later jobs of the model smaller, since one was too large."""
        size = sum(map(len, sent.lines or ()))
        if len(sent.rows) > 1:
            self._room[sent.member] = self._room[sent.member]._replace(size=max(size // 2, 1))
        return len(sent.rows) > 1

    def leave_lane(self, row: Row) -> None:
        """Have samples of this row's step go as ordinary requests from now on."""
        self._ordinary.add(row.about.where)

    def _detach(self) -> None:
        """Stop the runs, once everything that they want is known to wait in a job."""
        waiting = [row for sent in self._sent.values() for row in sent.rows.values() if row.waited]
        if waiting and all(sent.parked for sent in self._sent.values()):
            jobs = "a batch job" if len(self._sent) == 1 else f"{len(self._sent)} batch jobs"
            said = f"{sum(len(row.about.ordinals) for row in waiting):,} samples wait in {jobs}"
            for row in waiting:
                row.interrupt(UnavailableError(said, kind=PARKED))


class _OfRun:
    """A provider whose samples go in waves, for one run."""

    nonblocking: Final = False
    remote: Final = True

    def __init__(self, lane: BatchLane, run: int, inner: Provider) -> None:
        self._lane = lane
        self._run = run
        self._inner = inner
        self.name = inner.name
        self.max_n = inner.max_n

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        return await self._lane.sample(self._run, request)

    def describe(self) -> dict[str, Any]:
        return self._inner.describe()

    async def aclose(self) -> None:
        """Leave the inner provider to the session."""


def _places(row: Row) -> list[Place]:
    about = row.about
    head = (*about.where, row.member, about.view)
    return [(*head, ordinal) for ordinal in about.ordinals]
