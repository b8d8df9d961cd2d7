"""For tests: stand-ins for a model, and a check of domains; none needs a key or a network.

`ScriptedProvider` answers in the process; `FaultyServer` is a real HTTP server on loopback that speaks
the Chat Completions protocol and misbehaves on demand, for the whole way down to the socket. `check_task`
checks that a task keeps the promises that the engine relies on.
"""

from mdap.testing.batches import BatchFaults
from mdap.testing.conformance import check_task
from mdap.testing.faults import Canned, Faults, Served
from mdap.testing.findings import Breach, Conformance, NonconformingError
from mdap.testing.ledger import ANTHROPIC_SHEET, OPENAI_SHEET, Ledger, PriceSheet
from mdap.testing.manners import Manners
from mdap.testing.scripted import Script, ScriptedProvider
from mdap.testing.server import Answer, FaultyServer

__all__ = [
    "ANTHROPIC_SHEET",
    "OPENAI_SHEET",
    "Answer",
    "BatchFaults",
    "Breach",
    "Canned",
    "Conformance",
    "Faults",
    "FaultyServer",
    "Ledger",
    "Manners",
    "NonconformingError",
    "PriceSheet",
    "Script",
    "ScriptedProvider",
    "Served",
    "check_task",
]
