"""One release of a clipped sum under Gaussian noise: every patient once, no sampling, one step.

    noisy = sum of clipped per-patient vectors + sigma C N(0, I)

Formal guarantees: a Gaussian mechanism of L2 sensitivity C and noise multiplier sigma, q = 1 and one step, for adding
or removing one patient (Abadi et al. 2016, Algorithm 1, with every unit drawn). The sum is exact
(`adaptation.statistics`). What floating point leaves over: the noise is that of `noise`, normal values in float32,
widened to float64, multiplied by sigma C and added, each with one rounding of 2^-53. The result is then rounded to a
public grid that is at least `COARSE` sigma C wide. Near the largest value that the noise takes, 9.49 deviations,
neighbouring float32 values are 2^-20 deviations apart, so that the grid has no gaps that would tell one sum from
another by their places alone; what remains is said in `noise`. Shared integer noise has no such remainder
(`federation.release_ring`).
"""

from __future__ import annotations

import math

import numpy as np

from fedgan_audits.accounting import MechanismRecord
from fedgan_secure.privacy.errors import PrivacyRefused

COARSE = 2.0**-16
"""The grid that a release is rounded to is at least so many deviations of the noise wide."""


def check_release(record: MechanismRecord) -> None:
    """Refuse a mechanism that is not one release of everybody.

    Raises:
        PrivacyRefused: with what was found and expected.
    """
    if record.sampling_probability != 1.0 or record.steps != 1:
        raise PrivacyRefused(
            f"a release is recorded with sampling probability {record.sampling_probability} and {record.steps} steps, "
            "expected 1 and 1: every patient enters it once"
        )
    if not (math.isfinite(record.noise_multiplier) and record.noise_multiplier >= 0.0):
        raise PrivacyRefused(f"the noise multiplier of a release is {record.noise_multiplier}, expected 0 or more")


def add_noise(total: np.ndarray, normal: np.ndarray, record: MechanismRecord) -> np.ndarray:
    """Return a clipped sum with its noise.

    Args:
        total: float64[D], the exact sum (confidential).
        normal: float32[D], fresh standard normal values of a `GaussianStream`.
        record: the mechanism, with its noise multiplier and clip norm.

    Returns:
        float64[D].

    Raises:
        PrivacyRefused: fewer or more values of noise than coordinates, or a sum that is not float64.
    """
    if normal.shape != total.shape or total.dtype != np.float64:
        raise PrivacyRefused(
            f"noise of the shape {list(normal.shape)} for a sum {total.dtype}{list(total.shape)}, expected float64 and "
            "one value for every coordinate"
        )
    return np.asarray(total + (record.noise_multiplier * record.l2_clip_norm) * normal.astype(np.float64))
