"""A hospital's ledger: every reservation, spending and cap, hash-chained, appended durably."""

from fedgan_audits.ledger import caps
from fedgan_audits.ledger.caps import smallest
from fedgan_audits.ledger.ledger import Ledger, is_complete
from fedgan_audits.ledger.table import ledger_csv

__all__ = [
    "Ledger",
    "caps",
    "is_complete",
    "ledger_csv",
    "smallest",
]
