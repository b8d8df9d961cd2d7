"""Learn from votes: improve a local model on the decisions of runs without losing other tasks.

``mdap evolve`` is its command. Importing this needs no torch.
"""

from mdap_evolve.recipe import Recipe

__all__ = ["Recipe"]
