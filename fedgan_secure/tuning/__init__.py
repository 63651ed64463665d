"""Searches for good settings: what is tried, what that costs the patients it is tried on, and what came out."""
