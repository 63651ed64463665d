"""Read class moments and a colour histogram out of a noisy sum. Post-processing: no patient is looked at.

Noise makes the means of small classes useless on their own. Each block of features is drawn towards the mean over all
classes by positive-part James-Stein shrinkage (James and Stein 1961; Baranchik 1964): of a difference e with p
coordinates and noise of standard deviation s in each, the share max(0, 1 - p s^2 / |e|^2) is kept. Without noise all of
it is kept; where the difference is no longer than noise alone would be, none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.statistics.layout import ReleaseLayout

CUT = 2.5
"""Cells of the histogram that hold less than so many standard deviations of the noise are taken for empty."""
LEAST_COUNT = 3.0
"""A noisy count is taken for at least so many patients."""
LEAST_VARIANCE = 0.02
"""Of a standardised feature within a class."""


@dataclass(frozen=True)
class Moments:
    """What a noisy sum says of the private pictures; k is the number of blocks (one without classes).

    Attributes:
        mean: float64[k, d], means of features, shrunk.
        std: float64[k, d], standard deviations within a class, at least sqrt(LEAST_VARIANCE).
        deviation: float64[k], standard deviation of the noise in each mean before shrinking; infinity for a class that
            is empty in a sum without noise.
        count: float64[k], patients, a patient with images of several classes shared among them; at least `LEAST_COUNT`
            where there is noise.
        histogram: float64[cells], shares that add up to 1.
    """

    mean: np.ndarray
    std: np.ndarray
    deviation: np.ndarray
    count: np.ndarray
    histogram: np.ndarray


def decode(layout: ReleaseLayout, total: np.ndarray, deviation: float, blocks: Sequence[tuple[int, int]]) -> Moments:
    """Decode one noisy sum.

    Args:
        layout: of the released vectors.
        total: float[dimension], the sum over hospitals, noise included.
        deviation: standard deviation of the noise in each coordinate of `total`; 0 for none.
        blocks: (first, end) columns of the features that are shrunk together; they cover all features in order.

    Raises:
        InputError: a sum of another length or with values that are not finite, a deviation that is none, or blocks
            that do not cover the features.
    """
    total = np.asarray(total, np.float64)
    _check(layout, total, deviation, blocks)
    count_scale, first_scale, second_scale, colour_scale = layout.scales
    edge = layout.blocks * layout.width
    sums = total[:edge].reshape(layout.blocks, layout.width)
    count = np.maximum(sums[:, 0] / count_scale, LEAST_COUNT if deviation > 0 else 0.0)
    safe = np.where(count > 0, count, 1.0)
    first = sums[:, 1 : 1 + layout.features] / first_scale / safe[:, None]
    second = sums[:, 1 + layout.features :] / second_scale / safe[:, None] + 1.0
    noise = np.where(count > 0, deviation / first_scale / safe, np.inf)
    noise_of_squares = np.where(count > 0, deviation / second_scale / safe, np.inf)
    mean = shrink(first, count, noise, blocks)
    square = shrink(second, count, noise_of_squares, blocks)
    return Moments(
        mean=mean,
        std=np.sqrt(np.maximum(square - mean**2, LEAST_VARIANCE)),
        deviation=noise,
        count=count,
        histogram=cut_histogram(total[edge:] / colour_scale, deviation / colour_scale),
    )


def shrink(
    values: np.ndarray, count: np.ndarray, deviation: np.ndarray, blocks: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Draw the rows of a table towards their weighted mean, block by block.

    Args:
        values: float64[k, d].
        count: float64[k], weights of the mean, not negative.
        deviation: float64[k], of the noise in a row's values; 0 keeps a row, infinity gives the mean.
        blocks: (first, end) columns.

    Returns:
        float64[k, d].
    """
    weights = count / count.sum() if count.sum() > 0 else np.full(len(count), 1.0 / len(count))
    pooled = weights @ values
    shrunk = values.copy()
    for first, end in blocks:
        apart = values[:, first:end] - pooled[first:end]
        length = np.square(apart).sum(axis=1)
        expected = (end - first) * np.square(deviation)
        kept = np.where(length > expected, 1.0 - expected / np.maximum(length, 1e-300), 0.0)
        shrunk[:, first:end] = pooled[first:end] + kept[:, None] * apart
    return shrunk


def cut_histogram(noisy: np.ndarray, deviation: float) -> np.ndarray:
    """Return the histogram whose noisy counts are given.

    Args:
        noisy: float64[cells], patients in each cell, noise included.
        deviation: standard deviation of that noise.

    Returns:
        float64[cells], shares that add up to 1; where no cell passes the cut, all in the largest.
    """
    kept = np.where(noisy > CUT * deviation, np.maximum(noisy, 0.0), 0.0)
    if kept.sum() <= 0:
        kept[int(np.argmax(noisy))] = 1.0
    return np.asarray(kept / kept.sum())


def _check(layout: ReleaseLayout, total: np.ndarray, deviation: float, blocks: Sequence[tuple[int, int]]) -> None:
    if total.shape != (layout.dimension,):
        raise InputError(f"a released sum has the shape {list(total.shape)}, expected [{layout.dimension}]")
    if not np.isfinite(total).all():
        raise InputError("a released sum holds NaN or infinity")
    if not (math.isfinite(deviation) and deviation >= 0):
        raise InputError(f"the standard deviation of the noise is {deviation}, expected a number of at least 0")
    ends = [0, *(end for _, end in blocks)]
    covered = [first for first, _ in blocks] == ends[:-1] and all(first < end for first, end in blocks)
    if not covered or ends[-1] != layout.features:
        raise InputError(f"blocks of features {list(blocks)} do not cover 0 to {layout.features} in order")
