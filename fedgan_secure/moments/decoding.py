"""Means and covariances of cosine coefficients out of a noisy sum. Post-processing: no patient is looked at.

The noise of a class's d (d + 1) / 2 second moments, divided by how many patients there are, is a symmetric matrix of
independent Gaussian entries, whose eigenvalues lie within +-2 s sqrt(d), s the deviation of an entry off the diagonal
(Wigner's law). An eigenvalue within that edge is taken for noise. One beyond it stands for a smaller one of the truth,
and is drawn in by the rule for spiked Wigner matrices (Benaych-Georges and Nadakuditi 2011): l -> (l + sqrt(l^2 -
edge^2)) / 2. Class means are drawn towards the mean over all classes as in `adaptation.decoding`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.moments.layout import MomentsLayout
from fedgan_secure.statistics import LEAST_COUNT, shrink


@dataclass(frozen=True)
class JointMoments:
    """What a noisy sum says of the private pictures; k is the number of blocks (one without classes).

    Attributes:
        mean: float64[k, d], of the scaled coefficients.
        root: float64[k, d, d], the symmetric square root of their covariance within a class.
        count: float64[k], patients; at least `LEAST_COUNT` where there is noise.
    """

    mean: np.ndarray
    root: np.ndarray
    count: np.ndarray


def decode_moments(layout: MomentsLayout, total: np.ndarray, deviation: float) -> JointMoments:
    """Decode one noisy sum.

    Args:
        layout: of the released vectors.
        total: float[dimension], the sum over hospitals, noise included.
        deviation: standard deviation of the noise in each coordinate of `total`; 0 for none.

    Raises:
        InputError: a sum of another length or with values that are not finite, or a deviation that is none.
    """
    total = np.asarray(total, np.float64)
    if total.shape != (layout.dimension,) or not np.isfinite(total).all():
        raise InputError(f"a released sum {list(total.shape)} or not finite, expected [{layout.dimension}] finite ones")
    if not (math.isfinite(deviation) and deviation >= 0):
        raise InputError(f"the standard deviation of the noise is {deviation}, expected a number of at least 0")
    count_scale, first_scale, second_scale = layout.scales
    sums, features = total.reshape(layout.blocks, layout.width), layout.features
    count = np.maximum(sums[:, 0] / count_scale, LEAST_COUNT if deviation > 0 else 0.0)
    safe = np.where(count > 0, count, 1.0)
    first = sums[:, 1 : 1 + features] / first_scale / safe[:, None]
    noise = np.where(count > 0, deviation / first_scale / safe, np.inf)
    mean = shrink(first, count, noise, ((0, features),))
    second = sums[:, 1 + features :] / second_scale / safe[:, None]
    joint = [_symmetric(row, features) for row in second]
    covariance = np.stack([one - np.outer(centre, centre) for one, centre in zip(joint, first, strict=True)])
    found = denoised(covariance, count, deviation / second_scale / safe / math.sqrt(2.0))
    return JointMoments(mean, np.stack([_root(one) for one in found]), count)


def _symmetric(values: np.ndarray, size: int) -> np.ndarray:
    """float64[d, d] of its upper triangle, whose entries off the diagonal are sqrt(2) times too large."""
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = values / math.sqrt(2.0)
    matrix += matrix.T
    matrix[np.diag_indices(size)] /= math.sqrt(2.0)
    return matrix


def denoised(covariance: np.ndarray, count: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return covariances of classes without most of their noise.

    A class's covariance is found in two ways: out of its own sum, and as what all classes share with what this class
    differs by. The second keeps more of faint directions, and more noise. Of the second the James-Stein share is taken:
    1 less the part of the squared difference from the shared covariance that noise alone explains.

    Args:
        covariance: float64[k, d, d], noisy, within classes.
        count: float64[k], patients.
        deviation: float64[k], of the noise in entries off the diagonal.

    Returns:
        float64[k, d, d], symmetric; negative eigenvalues are left to the caller.
    """
    weights = count / count.sum() if count.sum() > 0 else np.full(len(count), 1.0 / len(count))
    pooled = np.einsum("k,kab->ab", weights, covariance)
    shared = _beyond_noise(pooled, float(np.sqrt(np.square(weights * deviation).sum())))
    result = np.empty_like(covariance)
    for place, (own, noise) in enumerate(zip(covariance, deviation, strict=True)):
        apart = own - pooled
        length, expected = float(np.square(apart).sum()), own.size * noise**2
        kept = max(0.0, 1.0 - expected / length) if length > 0 else 0.0
        result[place] = (1.0 - kept) * _beyond_noise(own, noise) + kept * (shared + _beyond_noise(apart, noise))
    return result


def _beyond_noise(matrix: np.ndarray, deviation: float) -> np.ndarray:
    """What a symmetric matrix holds beyond symmetric noise of this deviation, whichever the sign of an eigenvalue."""
    values, vectors = np.linalg.eigh(matrix)
    size, edge = np.abs(values), 2.0 * deviation * math.sqrt(len(values))
    drawn_in = np.where(size > edge, (size + np.sqrt(np.maximum(size**2 - edge**2, 0.0))) / 2.0, 0.0)
    return np.asarray((vectors * (np.sign(values) * drawn_in)) @ vectors.T)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The root of a symmetric matrix, negative eigenvalues taken for zero; symmetric to the bit."""
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return np.asarray((root + root.T) / 2.0)
