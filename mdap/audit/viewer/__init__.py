"""The log in a browser: read-only, on this machine only."""

from mdap.audit.viewer.app import create_app
from mdap.audit.viewer.serving import server

__all__ = ["create_app", "server"]
