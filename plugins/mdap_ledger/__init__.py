"""A ledger: free-text entries, posted one after the other to accounts whose balances they may refer to."""

from mdap_ledger.book import Answer, State
from mdap_ledger.task import Ledger

__all__ = ["Answer", "Ledger", "State"]
