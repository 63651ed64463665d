"""Intervals of a mean: over test images, over the seeds of a classifier, and over both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]

# Two-sided 95 % quantiles of Student's t for 2 to 19 degrees of freedom. With one (two seeds) the quantile is 12.7 and
# an interval would say nothing.
_STUDENT = (
    4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
    2.101, 2.093,
)  # fmt: skip
_NORMAL = 1.96


def bootstrap_interval(values: np.ndarray, seed: int, draws: int = 1000, groups: np.ndarray | None = None) -> Interval:
    """Return the 95 % percentile bootstrap interval of a mean (Efron 1979).

    Args:
        values: float[n], one for every image, n at least 1.
        seed: of the resampling.
        draws: how often to resample.
        groups: int[n], the patient of every image: whole patients are resampled, because two images of one patient
            are not two observations. None: every image is a patient of its own.
    """
    low, high = np.quantile(_resampled_means(values, seed, draws, groups), [0.025, 0.975])
    return float(low), float(high)


def seed_interval(by_seed: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the mean over seeds (Student's t), within 0..1; None for fewer than three seeds."""
    count = len(by_seed)
    if count < 3:
        return None
    half = _STUDENT[min(count - 2, len(_STUDENT)) - 1] * _deviation(by_seed) / math.sqrt(count)
    return _within_unit(sum(by_seed) / count, half)


def joint_interval(hits: np.ndarray, seed: int, groups: np.ndarray | None = None) -> Interval:
    """Return a 95 % interval of a mean over seeds and test images at once: both variances added, normal approximation.

    With few seeds the normal approximation is narrow; `seed_interval` is the careful one for seeds alone.

    Args:
        hits: bool or float[seeds, n].
        seed: of the resampling of test images.
        groups: int[n], as for `bootstrap_interval`.

    Returns:
        The interval, within 0..1.
    """
    low, high = _joint(hits, seed, groups)
    return max(low, 0.0), min(high, 1.0)


def difference_interval(left: np.ndarray, right: np.ndarray, seed: int, groups: np.ndarray | None = None) -> Interval:
    """Return the same for the difference of two rows of results on the same test images, within -1..1.

    Args:
        left, right: bool or float[seeds, n], with the same seeds and test images in the same order.
        seed, groups: as for `joint_interval`.
    """
    return _joint(np.asarray(left, np.float64) - np.asarray(right, np.float64), seed, groups)


def _joint(hits: np.ndarray, seed: int, groups: np.ndarray | None) -> Interval:
    values = np.asarray(hits, np.float64)
    of_images = float(_resampled_means(values.mean(axis=0), seed, 1000, groups).std())
    by_seed = values.mean(axis=1)
    of_seeds = _deviation(by_seed.tolist()) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else 0.0
    half = _NORMAL * math.hypot(of_images, of_seeds)
    mean = float(values.mean())
    return mean - half, mean + half


def _resampled_means(values: np.ndarray, seed: int, draws: int, groups: np.ndarray | None) -> np.ndarray:
    """Return float64[draws], the mean of resampled patients' images."""
    rng = np.random.default_rng(seed)
    _, index = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    means = np.empty(draws)
    for draw in range(draws):
        rows = rng.integers(0, len(sums), len(sums))
        means[draw] = sums[rows].sum() / counts[rows].sum()
    return means


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _within_unit(mean: float, half: float) -> Interval:
    return max(mean - half, 0.0), min(mean + half, 1.0)
