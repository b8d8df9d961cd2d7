"""Jobs of batch APIs: their rows and their state on record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["BatchJob", "BatchRow"]


class BatchRow(NamedTuple):
    """What one request of a batch job asks.

    Attributes:
        custom_id: what the vendor knows it by.
        run: the number of the run that wants it.
        key: what the step is known by in its run.
        digest: of the step's prompts.
        view: which presentation of the step it shows.
        ordinals: the samples of the step that it asks for.
    """

    custom_id: str
    run: int
    key: str
    digest: str
    view: int
    ordinals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job of a vendor's batch API, as it is on record.

    Attributes:
        number: its key in the log.
        token: what mdap calls it, in the vendor's metadata and file names too.
        model: who answers.
        wave: the jobs of one wave leave together.
        requests: how many it has.
        intended: when mdap was about to submit it, in seconds of Unix time.
        file: the vendor's id of its upload; None for none.
        vendor_id: the vendor's id of the job; None where it is not known to exist.
        state: the last kind of event on record, or the vendor's word; ``intended`` for none.
        data: what the last event of the collection, or else of its state, says.
    """

    number: int
    token: str
    model: str
    wave: int
    requests: int
    intended: float
    file: str | None = None
    vendor_id: str | None = None
    state: str = "intended"
    data: Mapping[str, Any] = field(default_factory=dict)
