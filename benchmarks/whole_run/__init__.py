"""The parts of `benchmarks/cost_of_privacy.py`."""
