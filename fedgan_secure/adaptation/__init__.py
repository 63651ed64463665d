"""Adapt a public start to private pictures: one noisy release of statistics, and everything that follows from it.

`colours`, `layout` and `statistics` make a vector of every patient and their clipped sum; `decoding` reads what a noisy
sum says. These files need no TensorFlow.
"""
