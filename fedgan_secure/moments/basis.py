"""Cosine coefficients of images, the same to the bit wherever and beside whatever an image is read.

The basis is the orthonormal discrete cosine transform of each axis (DCT-II: Ahmed, Natarajan and Rao 1974), rounded to
multiples of 2^-14. Pixels are whole numbers of at most 255 and sides have at most 2^8 pixels, so that every sum on the
way to a coefficient is a whole multiple of 2^-28 below 2^24: exact in float64 in any order. Only the last division and
the rounding to float32 are not exact, and these see one coefficient each. So what one patient's images give to a
release depends on no other image of their batch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fedgan_secure.moments.layout import MomentsLayout

GRID = 2.0**-14


@lru_cache(maxsize=8)
def cosines(order: int, image_size: int) -> np.ndarray:
    """Return float64[order, image_size]: the first rows of the transform, multiples of `GRID`."""
    row, column = np.arange(order)[:, None], np.arange(image_size)[None]
    basis = np.cos(np.pi * (column + 0.5) * row / image_size) * np.sqrt(2.0 / image_size)
    basis[0] /= np.sqrt(2.0)
    rounded: np.ndarray = np.rint(basis / GRID) * GRID
    rounded.flags.writeable = False
    return rounded


def coefficients(layout: MomentsLayout, pixels: np.ndarray) -> np.ndarray:
    """Return the scaled coefficients of images.

    Args:
        layout: says size, channels, order and scale.
        pixels: uint8[n, H, W, C].

    Returns:
        float32[n, d], channel by channel, rows of the transform first.
    """
    basis = cosines(layout.order, layout.image_size)
    planes = np.moveaxis(pixels.astype(np.float64), 3, 1)
    found = np.matmul(np.matmul(basis, planes), basis.T)
    return (found.reshape(len(pixels), layout.features) / (255.0 * layout.scale)).astype(np.float32)
