"""mdap: the engine that makes long LLM work come out right.

Work is cut into steps so small that a cheap model gets each right most of the time; every step is
decided by first-to-ahead-by-k voting among independent samples; suspicious samples are thrown away.
"""

from mdap._version import __version__
from mdap.audit.log import Log, open_log
from mdap.compose import Session, calibrate, solve, solve_sync
from mdap.engine.opening import Progress
from mdap.errors import (
    DatabaseError,
    FailedError,
    MdapError,
    PluginError,
    ProviderError,
    RateLimitError,
    RejectedError,
    RunError,
    StoppedError,
    TransientError,
    UnavailableError,
    UndecidedError,
    UsageError,
)
from mdap.protocols import Provider
from mdap.records import (
    AttemptFailed,
    Calibration,
    Certificate,
    Decided,
    Event,
    Guarantee,
    Reply,
    RunEvent,
    RunStatus,
    SampleRequest,
    SampleTaken,
    Solution,
    StepOpened,
    StopCause,
    Totals,
    Usage,
)
from mdap.settings import Budget, Limits, Price, Robust, Speculate, VotingSettings
from mdap.tasks import Ask, AskGroup, Chain, Decision, Pending, Process, RedFlag, Step, Task, View

__all__ = [
    "Ask",
    "AskGroup",
    "AttemptFailed",
    "Budget",
    "Calibration",
    "Certificate",
    "Chain",
    "DatabaseError",
    "Decided",
    "Decision",
    "Event",
    "FailedError",
    "Guarantee",
    "Limits",
    "Log",
    "MdapError",
    "Pending",
    "PluginError",
    "Price",
    "Process",
    "Progress",
    "Provider",
    "ProviderError",
    "RateLimitError",
    "RedFlag",
    "RejectedError",
    "Reply",
    "Robust",
    "RunError",
    "RunEvent",
    "RunStatus",
    "SampleRequest",
    "SampleTaken",
    "Session",
    "Solution",
    "Speculate",
    "Step",
    "StepOpened",
    "StopCause",
    "StoppedError",
    "Task",
    "Totals",
    "TransientError",
    "UnavailableError",
    "UndecidedError",
    "Usage",
    "UsageError",
    "View",
    "VotingSettings",
    "__version__",
    "calibrate",
    "open_log",
    "solve",
    "solve_sync",
]
