"""Accounting, ledgers and signed reports: everything that makes a claim."""
