"""Learning from votes: a local model that gets better at what runs decided, and forgets nothing else.

``mdap evolve`` is its command. Importing this needs no torch.
"""

from mdap_evolve.recipe import Recipe

__all__ = ["Recipe"]
