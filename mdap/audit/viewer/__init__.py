"""The log in a browser, on this machine only: read-only, unless it has a desk at which steps are settled."""

from mdap.audit.viewer.app import create_app
from mdap.audit.viewer.key import Key
from mdap.audit.viewer.serving import server

__all__ = ["Key", "create_app", "server"]
