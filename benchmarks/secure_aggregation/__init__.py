"""The parts of `benchmarks/secagg.py`: each module measures one thing and returns a dictionary of plain numbers."""
