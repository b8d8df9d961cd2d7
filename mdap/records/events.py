"""The kinds of events of a run, and their data."""

from typing import Final

EVENTS: Final = {
    "started": (
        "the run began",
        "`limits`, `budget`, `prices` and `folder` of the session; `overrides` and `step` if it overrides "
        "another",
    ),
    "resumed": ("a later session resumed the run", "as for `started`"),
    "finished": (
        "the task is done",
        "`result`; `outcome`, `solved`, `unsolved` or null if the task gives no verdict; `seconds` of the "
        "session; `in_flight`; `undecided`, steps of a process without a winner",
    ),
    "undecided": (
        "a step has no winner within its allowed samples",
        "`stop_cause`, a word of `mdap.StopCause`; `seconds`, `in_flight`",
    ),
    "stopped": (
        "the session ended before the task; it can be resumed",
        "as for `undecided`; `traceback` if your own code failed",
    ),
    "failed": ("the run cannot continue", "as for `stopped`"),
    "attempt_failed": (
        "an attempt at a sample failed in transport",
        "`ordinal`, `attempt`, and `kind`, a stable word such as `timeout`, `rate_limit` or `http_500`; "
        "`began` and `ended`, milliseconds of Unix time; "
        "`model`, `input_tokens` and `output_tokens` if the endpoint billed an unreadable reply",
    ),
    "refused": (
        "a model refused a step's prompt, and mdap does not repeat it; `reason` is the endpoint's",
        "`step`, `opening`, `tier`, `member`, `view`, `views` and `model`",
    ),
    "left_out": (
        "the run dropped a model, or a whole tier",
        "`member` or `tier`, the other one null, and `model`",
    ),
    "escalated": (
        "a step escalated to the next models",
        "`step`, `opening`, and its new `tier`, from 1",
    ),
    "waiting": (
        "an undecided step waits for a person, in a session with `--wait-for-person`",
        "`step`, `opening`",
    ),
    "settled": ("a person settled a step; `author` names the person", "`step`"),
    "effect": ("the effects of a decision are done", "`step`"),
    "margin": (
        "`-k auto` chose the margin",
        "`from`, the first step; `k`; `target`; and `source`, the run with the samples behind it",
    ),
    "paid": (
        "with `-k robust`: a step was not smooth and was charged to the error budget",
        "`why`: `contested`, `undecided`, `abandoned`, `lent` (a nested run its share), `returned` (what it "
        "did not spend), `inherited` (of an overridden run); `step`; `price`, an exact fraction; `payments`, "
        "by how many their count rises; of a step also `opening`, `tier`, `m` and `lead`; of what is "
        "returned `before`, the first step that counts on it",
    ),
    "baseline": (
        "the run has a baseline, to detect drift",
        "`source`, `against`, `votes`, `flags`, `samples`",
    ),
    "limits": (
        "the endpoint reported a limit, or mdap found one; concurrency below 1 is a pause between requests",
        "`model`, `what` (`concurrency`, `requests_per_minute` or `tokens_per_minute`), `limit_before`, "
        "`limit_after`, `reason`",
    ),
    "probe": (
        "mdap probed an endpoint before the first sample; `reason` lists unsupported options",
        "`model`, `options` (as of `-M`), `repeats`, `n`, `usage`, `request_id`, `failure`, null if "
        "unknown; with the first run of a session also `requests`, `samples`, "
        "`failed_attempts`, `input_tokens`, `output_tokens`, `cached_tokens`, `cache_write_tokens`",
    ),
    "warning": ("a warning to the reader of the result", "`drift`, the kind of drift, or null"),
    "sealed": (
        "a session ended normally",
        "`decisions`, `digest`, `events`, `rest`, `times` where any are recorded, and `seal`, which covers "
        "all before it; of a run with parts also `parts` and `until`, the event up to which their seals are "
        "covered",
    ),
    "signed": ("a person signed the last seal", "`seal`, and `signature` as `ssh-keygen` writes it"),
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
