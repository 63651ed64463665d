"""Published numbers on a public grid, so that a party that computed them itself can tell that nothing else is in them.

Two machines find the same number up to the last digits of their floating point, and whoever publishes one could write
something else into those digits. A number on a grid has no such digits: the others find the same grid point, or, where
their own number lies within the slack of the middle between two points, one of these two.
"""

from __future__ import annotations

import math

import numpy as np

TRANSFER_GRID = 2.0**-10
"""Weights of the transfer are published in multiples of this."""
TRANSFER_SLACK = 2.0**-11
"""Weights of a transfer that another machine trained from the same release differ by less than this before rounding."""
CHANCES_GRID = 2.0**-16
"""Tables of cumulated chances are published in multiples of this."""
CHANCES_SLACK = 2.0**-20
"""Cumulated chances that another machine found for the same transfer differ by less than this before rounding."""


def on_grid(values: np.ndarray, grid: float) -> np.ndarray:
    """Return the nearest multiples of `grid`, a power of two; float32 of the same shape, exact below 2^24 grids."""
    return np.asarray(np.rint(np.asarray(values, np.float64) / grid) * grid + 0.0, np.float32)  # + 0.0: no -0.0


def strays(published: np.ndarray, own: np.ndarray, grid: float, slack: float) -> int:
    """Count published values that are not the own ones rounded, whatever the last digits of either.

    Args:
        published: float32, of any shape.
        own: float of the same shape, before rounding.
        grid: a power of two.
        slack: by how much two machines may differ before rounding.

    Returns:
        How many are no multiple of `grid`, minus zero, or further than ``grid / 2 + slack`` from the own value; NaN
        counts.
    """
    exact = np.asarray(published, np.float64)
    with np.errstate(invalid="ignore"):
        fits = (exact / grid == np.rint(exact / grid)) & (np.abs(exact - own) <= grid / 2 + slack)
    fits &= ~((exact == 0) & np.signbit(exact))
    return int(np.size(fits) - np.count_nonzero(fits))


def free_bits(own: np.ndarray, grid: float, slack: float) -> float:
    """Return how many bits a publisher can choose freely without a stray: the sum over values of log2 of the points.

    Args:
        own: float of any shape, before rounding.
        grid: a power of two.
        slack: as in `strays`.
    """
    exact = np.asarray(own, np.float64) / grid
    reach = 0.5 + slack / grid
    points = np.floor(exact + reach) - np.ceil(exact - reach) + 1
    return float(np.log2(np.maximum(points, 1)).sum()) if math.prod(exact.shape) else 0.0
