"""The only room that knows both the engine and the doors: it wires one `Session`."""

from mdap.session.deciding import settle_step
from mdap.session.identity import new_run_id, solution_of
from mdap.session.session import Session
from mdap.session.solving import calibrate, solve, solve_sync

__all__ = ["Session", "calibrate", "new_run_id", "settle_step", "solution_of", "solve", "solve_sync"]
