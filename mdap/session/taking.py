"""Feed people's answers to the waiting steps of a running run."""

import logging
from typing import Final

import anyio

from mdap.engine.policy import Policy
from mdap.errors import DatabaseError, UsageError
from mdap.journal.rulings import Place, Rulings
from mdap.session.following import LOOK
from mdap.session.resources import SessionResources

_LOG: Final = logging.getLogger("mdap")


async def take_rulings(resources: SessionResources, run: int, policy: Policy) -> None:
    """Settle waiting steps of a run with people's answers until cancelled. Raise nothing.

    It reads the log only while a step waits.
    """
    since: dict[int, float] = {}
    try:
        while True:
            if not policy.decider.waits:
                await resources.writer.next_commit()  # commit that a step waits before it waits
                continue
            await _tell(resources, run, policy, since)
            await _take(resources, run, policy)
            _give_up(policy, since, resources.setup.limits.wait_for_person)
            if policy.decider.waits:
                await anyio.sleep(LOOK)
    except DatabaseError:
        pass  # the run itself raises it


async def _tell(resources: SessionResources, run: int, policy: Policy, since: dict[int, float]) -> None:
    """Announce steps that began to wait, once that is durable."""
    new = sorted(policy.decider.waits - since.keys())
    if new:
        await resources.writer.flush()
    patience = resources.setup.limits.wait_for_person
    for step in new:
        since[step] = anyio.current_time()
        if patience:
            _LOG.warning(
                f"step {step} of {resources.named[run]} waits {patience:g} seconds for a person: "
                "settle it with `mdap serve --allow-decide` or `mdap decide`"
            )


async def _take(resources: SessionResources, run: int, policy: Policy) -> None:
    rulings = Rulings(resources.writer.path)
    for row in await resources.reader.rows("open_rulings", run):
        if row["step"] not in policy.decider.waits:
            continue
        place = Place(run, row["step"], f"step {row['step']}")
        author, reason = row["author"], row["reason"]
        try:
            policy.decider.rule(row["step"], row["answer"], author, reason)
        except UsageError as error:
            await rulings.add(place, "refused", author, reason=str(error), about=row["id"])
            continue
        done = {
            "answer": row["answer"],
            "reason": reason,
            "about": row["id"],
            "goes_on": resources.named[run],
        }
        with anyio.CancelScope(shield=True):  # this may have been the last step
            await resources.writer.flush()  # record it before telling anyone
            await rulings.add(place, "settled", author, **done)


def _give_up(policy: Policy, since: dict[int, float], patience: float) -> None:
    now = anyio.current_time()
    for step in sorted(policy.decider.waits & since.keys()):
        if now - since[step] >= patience:
            policy.stop_waiting(step)
