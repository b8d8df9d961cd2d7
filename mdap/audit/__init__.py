"""After the run: proving, reading and exporting what its log says. Reads only."""

from mdap.audit.findings import Mismatch
from mdap.audit.log import Log, open_log
from mdap.audit.signatures import Signature
from mdap.audit.verifying import Verification, verify

__all__ = ["Log", "Mismatch", "Signature", "Verification", "open_log", "verify"]
