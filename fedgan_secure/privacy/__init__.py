"""Sampling, clipping, noise: the DP-SGD mechanism."""
