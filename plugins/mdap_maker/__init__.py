"""The general MAKER: a problem in words is split, its parts are solved, and every choice is voted on."""

from mdap_maker.task import Failure, Maker, failures

__all__ = ["Failure", "Maker", "failures"]
