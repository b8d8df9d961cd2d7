"""Jobs of batch APIs: their rows and their recorded state."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["BatchJob", "BatchRow"]


class BatchRow(NamedTuple):
    """One request of a batch job.

    Attributes:
        custom_id: its id in the vendor's job.
        run: the number of the run that wants it.
        key: the step's key in its run.
        digest: the digest of the step's prompts.
        view: the number of the step's view.
        ordinals: the requested samples of the step.
    """

    custom_id: str
    run: int
    key: str
    digest: str
    view: int
    ordinals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A recorded job of a vendor's batch API.

    Attributes:
        number: its key in the log.
        token: mdap's name for it, also in the vendor's metadata and file names.
        model: the model that replies.
        wave: the jobs of one wave leave together.
        requests: its number of requests.
        intended: when mdap was about to submit it, in seconds of Unix time.
        file: the vendor's id of its upload; None for none.
        vendor_id: the vendor's id of the job; None if mdap does not know that it exists.
        state: the kind of its last event, or the vendor's state; ``intended`` without events.
        data: the data of its last event: of the collection, or else of its state.
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
