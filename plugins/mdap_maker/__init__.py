"""The general MAKER: a problem in words is split, its parts are solved, and every choice is voted on."""

from mdap_maker.failures import Failure, failures
from mdap_maker.task import Maker

__all__ = ["Failure", "Maker", "failures"]
