"""The only room that knows both the engine and the doors: it wires one `Session`."""

from mdap.compose.deciding import settle_step
from mdap.compose.identity import new_run_id, solution_of
from mdap.compose.session import Session
from mdap.compose.solving import calibrate, solve, solve_sync

__all__ = ["Session", "calibrate", "new_run_id", "settle_step", "solution_of", "solve", "solve_sync"]
