"""Secure aggregation as sans-I/O machines: everything that touches secrets or peers."""
