"""Long multiplication and sorting, each cut into decisions so small that a model seldom errs."""

from mdap_arithmetic.multiplication import Multiply
from mdap_arithmetic.sorting import Sort

__all__ = ["Multiply", "Sort"]
