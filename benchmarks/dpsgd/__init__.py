"""The parts of `benchmarks/dpsgd.py`."""
