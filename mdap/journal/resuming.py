"""Read where a run stopped: its last decision, and what is on record of its open steps."""

from mdap.journal.reader import Reader
from mdap.journal.rows import sample_of
from mdap.records import (
    ProcessPoint,
    RecordedOpening,
    Refusal,
    ResumePoint,
    SampleTaken,
    StepOpened,
    Verdict,
)
from mdap.rules.digests import CHAIN_START

_Place = tuple[int, int]


async def resume_point(reader: Reader, run: int, *, as_it_ended: bool = False) -> ResumePoint:
    """Return the resume point of a chain, in time independent of its length.

    *as_it_ended* says whether refusals count even if the run has no sample: without any reply, the requests
    as a whole may have been wrong, rather than the refused prompts.
    """
    last = await reader.rows("last_decision", run)
    step = int(last[0]["step"]) if last else -1
    openings = await _openings(reader, run, step, "open", as_it_ended)
    if not last:
        return ResumePoint(0, CHAIN_START, openings=openings)
    row = last[0]
    return ResumePoint(row["place"] + 1, row["digest"], step, row["input"], row["winner"], openings)


async def process_point(reader: Reader, run: int, *, as_it_ended: bool = False) -> ProcessPoint:
    """Return the resume point of a process; see `resume_point`."""
    known = {(row["key"], row["prompt_digest"]): row["step"] for row in await reader.rows("known", run)}
    last = await reader.rows("last_decision", run)
    digest = last[0]["digest"] if last else CHAIN_START
    openings = await _openings(reader, run, -1, "undecided", as_it_ended)
    [[following]] = await reader.rows("next_step", run)
    return ProcessPoint(len(known), digest, int(following), known, openings)


async def _openings(
    reader: Reader, run: int, after: int, which: str, as_it_ended: bool
) -> tuple[RecordedOpening, ...]:
    refusals, tiers = await _refusals(reader, run, after, as_it_ended)
    samples = await _samples(reader, f"{which}_samples", run, after)
    pending = await _samples(reader, "open_pending", run)
    found = []
    for row in await reader.rows(f"{which}_steps", run, after):
        opened = StepOpened._make(row)
        place = (opened.step, opened.opening)
        tentative = place in pending or place not in samples
        void = any(sample.verdict == Verdict.VOID for sample in samples.get(place, ()))
        taken = pending.get(place) or samples.get(place, [])
        tier, refused = tiers.get(place, 0), tuple(refusals.get(place, ()))
        found.append(RecordedOpening(opened, taken, tentative, void, tier, refused))
    return tuple(found)


async def _samples(reader: Reader, name: str, *values: int) -> dict[_Place, list[SampleTaken]]:
    """Return the samples that the statement *name* finds, by step and opening."""
    samples: dict[_Place, list[SampleTaken]] = {}
    for row in await reader.rows(name, *values):
        sample = sample_of(row)
        samples.setdefault((sample.step, sample.opening), []).append(sample)
    return samples


async def _refusals(
    reader: Reader, run: int, after: int, as_it_ended: bool
) -> tuple[dict[_Place, list[Refusal]], dict[_Place, int]]:
    """Return the models that refused each open step, and the step's tier."""
    refusals: dict[_Place, list[Refusal]] = {}
    if as_it_ended or await reader.rows("any_sample", run):
        for step, opening, *refusal in await reader.rows("refusals", run, after):
            refusals.setdefault((step, opening), []).append(Refusal._make(refusal))
    escalated = await reader.rows("escalated_to", run, after)
    return refusals, {(step, opening): tier for step, opening, tier in escalated}
