"""Metrics of what the generator makes."""
