"""Towers of Hanoi, the paper's domain, and the example for writing others."""

from mdap_hanoi.state import Answer, State
from mdap_hanoi.task import Hanoi

__all__ = ["Answer", "Hanoi", "State"]
