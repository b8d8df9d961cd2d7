"""After the run: proving, reading and exporting what its log says. Reads only."""

from mdap.audit.findings import Mismatch
from mdap.audit.verifying import Verification, verify

__all__ = ["Mismatch", "Verification", "verify"]
