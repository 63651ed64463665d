"""What `benchmarks/verify.py` verifies: long runs, made without training."""
