"""Hospitals, the coordinator, and the round that joins them."""
