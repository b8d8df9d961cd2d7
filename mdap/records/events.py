"""The kinds of events of a run, and their data."""

from typing import Final

__all__ = ["EVENTS", "METERED"]

EVENTS: Final = {
    "started": (
        "the run began",
        "`limits`, `budget`, `prices` and `folder` of the session; `overrides` and `step` where it overrides "
        "another",
    ),
    "resumed": ("a later session took the run up", "as for `started`"),
    "finished": (
        "the task is done",
        "`result`; `outcome`, `solved`, `unsolved` or null where the task does not say; `seconds` of the "
        "session; `in_flight`; `undecided`, steps of a process without a winner",
    ),
    "undecided": (
        "a step has no winner within its allowed samples",
        "`stop_cause`, a word of `mdap.StopCause`; `seconds`, `in_flight`",
    ),
    "stopped": (
        "the session ended before the task; it can be resumed",
        "as for `undecided`; `traceback` where code of your own failed",
    ),
    "failed": ("the run cannot go on", "as for `stopped`"),
    "attempt_failed": (
        "an attempt at a sample failed in transport",
        "`ordinal`, `attempt`, and `kind`, a stable word such as `timeout`, `rate_limit` or `http_500`; "
        "`began` and `ended`, milliseconds of Unix time; "
        "`model`, `input_tokens` and `output_tokens` where the endpoint billed an answer that cannot be read",
    ),
    "refused": (
        "a model will not answer a step's prompt, and is not asked it again; `reason` is the endpoint's",
        "`step`, `opening`, `tier`, `member`, `view`, `views` and `model`",
    ),
    "left_out": (
        "a model, or a whole tier, is not asked any more",
        "`member` or `tier`, the other one null, and `model`",
    ),
    "escalated": (
        "a step went to the next models",
        "`step`, `opening`, and `tier`, from 1, to which it went",
    ),
    "waiting": (
        "a step that voting left undecided waits for a person, in a session with `--wait-for-person`",
        "`step`, `opening`",
    ),
    "settled": ("a person settled a step, whom `author` names", "`step`"),
    "effect": ("the effects of a decision were brought about", "`step`"),
    "margin": (
        "`-k auto` chose the margin",
        "`from`, the first step; `k`; `target`; and `source`, the run that it rests on",
    ),
    "paid": (
        "with `-k robust`: a step was not smooth and was charged to the error budget",
        "`why`: `contested`, `undecided`, `abandoned`, `lent` (a nested run its share), `returned` (what it "
        "did not spend), `inherited` (of an overridden run); `step`; `price`, an exact fraction; `payments`, "
        "by how many their count rises; of a step also `opening`, `tier`, `m` and `lead`; of what is "
        "returned `before`, the first step that counts on it",
    ),
    "baseline": (
        "what the run is compared with as it goes on",
        "`source`, `against`, `votes`, `flags`, `samples`",
    ),
    "limits": (
        "a limit of an endpoint was told or discovered; a concurrency below one is a pause between requests",
        "`model`, `what` (`concurrency`, `requests_per_minute` or `tokens_per_minute`), `limit_before`, "
        "`limit_after`, `reason`",
    ),
    "probe": (
        "an endpoint was asked what it takes, before anything else; `reason` says what it does not",
        "`model`, `options` (as of `-M`), `repeats`, `n`, `usage`, `request_id`, `failure`, null where it "
        "could not be found out; with the first run of a session also `requests`, `samples`, "
        "`failed_attempts`, `input_tokens`, `output_tokens`, `cached_tokens`, `cache_write_tokens`",
    ),
    "warning": ("what a reader of the result should know", "`drift`, the kind of drift, or null"),
    "sealed": (
        "a session ended in order",
        "`decisions`, `digest`, `events`, `rest`, `times` where any are recorded, and `seal`, which covers "
        "all before it; of a run with parts also `parts` and `until`, the event up to which their seals are "
        "covered",
    ),
    "signed": ("somebody signed the last seal", "`seal`, and `signature` as `ssh-keygen` writes it"),
}
"""The kinds of events of a run, each with its meaning and its data."""

METERED: Final = frozenset(
    {
        "requests",
        "samples",
        "failed_attempts",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
        "cache_write_tokens",
    }
)
"""Data of an event on requests that mdap sent; the totals include its tokens."""
