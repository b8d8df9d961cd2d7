"""The package that wires one `Session`: it alone imports both the engine and its providers and journal."""

from mdap.session.deciding import settle_step
from mdap.session.identity import new_run_id
from mdap.session.results import read_solution
from mdap.session.session import Session
from mdap.session.solving import calibrate, solve, solve_sync

__all__ = ["Session", "calibrate", "new_run_id", "read_solution", "settle_step", "solve", "solve_sync"]
