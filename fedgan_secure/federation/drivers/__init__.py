"""Drivers carry bytes between the machines, and nothing else."""
