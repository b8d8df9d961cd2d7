"""Verify, read and export the log after a run. This package only reads the log."""

from mdap.audit.events import Signature
from mdap.audit.findings import Mismatch
from mdap.audit.log import Log, open_log
from mdap.audit.verifying import Verification, verify

__all__ = ["Log", "Mismatch", "Signature", "Verification", "open_log", "verify"]
