"""Models in this process: the shipped ``local/micro`` and ``local/micro-weak``, or any causal language model.

Importing this needs no torch; loading a model does: ``pip install 'mdap[local]'``.
"""

from mdap_local.model import LocalModel, load_model
from mdap_local.places import SHIPPED, is_held_out
from mdap_local.provider import Local, LocalSettings, create

__all__ = ["SHIPPED", "Local", "LocalModel", "LocalSettings", "create", "is_held_out", "load_model"]
