"""Which pictures of the pool are typical of a class: chances are tilted until their features have the released moments.

A class is drawn from the pictures that the judge takes for it. These have the class's findings, and still other
sharpness, other vessels, another spread than the patients' pictures. Of all chances whose features have nearly the
released means and squares, those are taken that are nearest to the judge's: an exponential tilt (Hainmueller, "Entropy
Balancing for Causal Effects", 2012; with a quadratic penalty, since the moments are noisy). It sees released moments
and public pictures alone, so it costs no privacy.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from fedgan_secure.statistics import Moments

RIDGE = 10.0
"""Penalty on the squares of the tilt, for features in units of their deviation over the pool, without noise."""
TRUST = 0.5
"""Noise of this deviation in a released mean doubles the penalty, in units of a feature's public deviation."""
STEPS = 50
"""Newton steps at most; the penalty makes the problem strongly convex, and ten are usual."""
_DONE = 1e-10


def tilts(features: np.ndarray, chances: np.ndarray, moments: Moments) -> np.ndarray:
    """Return by how much the logarithm of each chance is raised.

    Args:
        features: float[m, d], of the pool's pictures.
        chances: float64[k, m], of each picture for each class before the tilt; rows add up to 1.
        moments: the released ones, k rows.

    Returns:
        float64[k, m].
    """
    exact = features.astype(np.float64)
    seen = np.concatenate([exact, exact**2], axis=1)
    scale = seen.std(axis=0) + 1e-3
    wanted = np.concatenate([moments.mean, moments.std**2 + moments.mean**2], axis=1)
    noise = np.minimum(moments.deviation, 1e6)
    return np.stack(
        [
            _tilt((seen - target) / scale, row, RIDGE * (1.0 + (deviation / TRUST) ** 2))
            for row, target, deviation in zip(chances, wanted, noise, strict=True)
        ]
    )


def _tilt(off: np.ndarray, chances: np.ndarray, ridge: float) -> np.ndarray:
    """Minimise log sum_i c_i exp(l . off_i) + ridge / 2 |l|^2 by damped Newton steps; returns float64[m], l . off_i."""
    start = np.log(np.maximum(chances, 1e-300))
    weights = np.zeros(off.shape[1])

    def value(at: np.ndarray) -> float:
        return float(logsumexp(start + off @ at)) + 0.5 * ridge * float(at @ at)

    here = value(weights)
    for _ in range(STEPS):
        logs = start + off @ weights
        share = np.exp(logs - logsumexp(logs))
        mean = share @ off
        gradient = mean + ridge * weights
        centred = off - mean
        hessian = (centred * share[:, None]).T @ centred + ridge * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        decrease = float(gradient @ step)
        if decrease < _DONE:
            break
        length = 1.0
        while length > 1e-6 and value(weights - length * step) > here - 0.25 * length * decrease:
            length *= 0.5
        weights = weights - length * step
        here = value(weights)
    return np.asarray(off @ weights)
