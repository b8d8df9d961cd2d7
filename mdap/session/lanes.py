"""The lane of a session's samples: ordinary requests, or waves of jobs of a batch API."""

from typing import Any, Final

from anyio.abc import TaskGroup

from mdap.engine.guarded import length_of
from mdap.errors import UsageError
from mdap.journal.jobs import JobLog
from mdap.plugins import task_name
from mdap.protocols import Provider
from mdap.providers.lane import BatchLane
from mdap.rules.waves import GUESSED_AHEAD, too_many_waves
from mdap.session.models import Models, SessionSetup
from mdap.settings import Lane, Limits, Speculate, Speculation, VotingSettings
from mdap.tasks import Chain, Task

_VOTE_DEPTH: Final = 16
_WEEKS: Final = 30 * 24 * 3600.0


def check_lane(models: Models, lane: Lane) -> None:
    """Refuse waves with a model that has no batch API."""
    without = [member.name for member in models.members if member.batches is None]
    if lane is Lane.BATCH and without:
        raise UsageError(
            f"--lane batch needs a batch API, which {', '.join(without)} has not: use models of openai, "
            "openai-api or anthropic, or --lane requests"
        )


class SessionLane:
    """The lane of a session."""

    def __init__(self, models: Models, log: JobLog, setup: SessionSetup) -> None:
        self._models = models
        self._log = log
        self._setup = setup
        self._waves = setup.waves
        self._batch: BatchLane | None = None

    async def open(self, group: TaskGroup) -> None:
        """Begin to collect waves, if the lane uses them; end with *group*."""
        if self._setup.lane is Lane.BATCH:
            last = await self._log.last_wave()
            self._batch = BatchLane(self._models.members, self._log, self._waves, last)
            group.start_soon(self._batch.serve)

    @property
    def batched(self) -> bool:
        """Whether the lane uses waves."""
        return self._batch is not None

    @property
    def width(self) -> int:
        """The maximum number of pending samples."""
        return self._waves.width if self.batched else self._models.most

    def about(self) -> dict[str, Any]:
        """Return its data for the record; nothing for ordinary requests."""
        return {"lane": str(Lane.BATCH), "waves": self._waves.model_dump()} if self.batched else {}

    def limits(self) -> Limits:
        """Return the engine's limits: in waves, hours without a reply do not mean that a model is gone."""
        limits, patient = self._setup.limits, {"max_retry_seconds": _WEEKS, "max_silence": _WEEKS}
        return limits.model_copy(update=patient) if self.batched else limits

    def speculation(self) -> Speculation:
        """Return how far ahead to sample a chain: in waves, only on its task's guesses."""
        mode, nonblocking = self._setup.speculate, self._models.provider.nonblocking
        if mode is Speculate.GUESS and self.batched:
            return Speculation(mode=mode, depth=min(self.width, GUESSED_AHEAD))
        if mode is Speculate.OFF or self.batched or nonblocking:
            return Speculation()
        return Speculation(mode=mode, depth=self.width if mode is Speculate.GUESS else _VOTE_DEPTH)

    def check(self, task: Task, voting: VotingSettings) -> None:
        """Refuse runs that waves cannot do in a reasonable time: hedges, and most long chains."""
        if not self.batched:
            return
        if voting.hedge:
            raise UsageError("--hedge does not go with --lane batch: a wave waits for all its samples anyway")
        if not isinstance(task, Chain):
            return
        if self._setup.speculate is Speculate.GUESS and type(task).guess is not Chain.guess:
            return
        why = too_many_waves(length_of(f"task {task_name(task)}", task) or 0, self._waves.max_waves)
        if why is not None:
            raise UsageError(why)

    async def check_waiting(self, run: int) -> None:
        """Refuse ordinary requests for samples that wait in jobs: you would pay twice."""
        left = () if self.batched else (await self._log.left_over(run, ())).jobs
        if left:
            raise UsageError(
                f"samples of this run wait in batch job {left[0][0].token}: resume it with --lane batch, and "
                "with --max-wait 1s to cancel the job and go on with ordinary requests"
            )

    async def provider(self, run: int, inner: Provider) -> Provider:
        """Return *inner* for the run numbered *run*, with the pending jobs of earlier sessions."""
        if self._batch is None:
            return inner
        left = await self._log.left_over(run, self._batch.seen)
        self._batch.take_up(run, left.jobs, left.recorded, left.waves)
        return self._batch.of(run, inner)
