"""The privacy loss of one step for a patient with several images where the unit is the image.

The dominating pair is N(0, s^2) against the mixture of N(i, s^2) with weights Binomial(k, q), i = 0..k, in units of
the clip norm: every image of the patient is drawn by its own coin and clipped by itself (Choquette-Choo et al.
2024). dp-accounting has the same distribution (`from_mixture_gaussian_mechanism`), found point by point; here its
hockey-stick divergences are found for the whole grid at once and handed to the same pessimistic rounding. k = 1 is the
Poisson-sampled Gaussian.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]
_Z = 10.2
"""Normal deviations beyond which mass is truncated (into infinity): below 1e-23."""


def _binomial(n: int, i: int, q: float) -> float:
    if q == 1.0:
        return float(i == n)
    choose = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
    return math.exp(choose + i * math.log(q) + (n - i) * math.log1p(-q))


class _Pair:
    """loss(x) = ln(mixture density / normal density) at x, increasing and convex; q < 1 bounds it from below."""

    def __init__(self, q: float, sigma: float, images: int) -> None:
        self.sigma = sigma
        weights = np.array([_binomial(images, i, q) for i in range(images + 1)])
        self.shifts: _Array = np.flatnonzero(weights > 0).astype(np.float64)
        self.weights: _Array = weights[weights > 0]
        self.log_weights: _Array = np.log(self.weights)

    def loss_and_slope(self, x: _Array) -> tuple[_Array, _Array]:
        exponents = [
            w + (x * c - c * c / 2) / self.sigma**2 for w, c in zip(self.log_weights, self.shifts, strict=True)
        ]
        top = np.maximum.reduce(exponents)
        total = np.zeros_like(x)
        moment = np.zeros_like(x)
        for exponent, shift in zip(exponents, self.shifts, strict=True):
            mass = np.exp(exponent - top)
            total += mass
            moment += shift * mass
        return top + np.log(total), moment / total / self.sigma**2

    def where(self, losses: _Array, low: float, high: float) -> _Array:
        """x in [low, high] with loss(x) nearest to each of `losses`, shape as `losses`."""
        xs = np.linspace(low, high, 20001)
        table, _ = self.loss_and_slope(xs)
        x = np.interp(losses, table, xs)
        for _ in range(4):
            value, slope = self.loss_and_slope(x)
            x = np.clip(x - (value - losses) / np.maximum(slope, 1e-300), low, high)
        return x

    def divergence(self, epsilons: _Array, x: _Array, *, remove: bool) -> _Array:
        """Hockey-stick divergence at `epsilons`, over the outcomes up to x: mixture over normal, or the reverse."""
        special = importlib.import_module("scipy.special")
        sign = -1.0 if remove else 1.0
        mixture = np.zeros_like(x)
        for weight, shift in zip(self.weights, self.shifts, strict=True):
            mixture += weight * special.ndtr(sign * (x - shift) / self.sigma)
        log_normal = special.log_ndtr(sign * x / self.sigma)
        if remove:
            return np.clip(mixture - np.exp(epsilons + log_normal), 0.0, 1.0)
        return np.clip(np.exp(log_normal) - np.exp(epsilons) * mixture, 0.0, 1.0)


def _bounds(pair: _Pair) -> tuple[float, float]:
    return -_Z * pair.sigma, float(pair.shifts[-1]) + _Z * pair.sigma


def loss_width(q: float, sigma: float, images: int) -> float:
    """About how wide (in units of epsilon) the privacy loss of one step is: what a grid has to span."""
    top = images * (_Z / sigma) + images * images / (2 * sigma * sigma)
    upper = top if q == 1 else np.logaddexp(images * math.log1p(-q), images * math.log(q) + top)
    lower = top if q == 1 else min(top, -images * math.log1p(-q))
    return float(max(upper, 0.0) + lower)


def one_step(q: float, sigma: float, images: int, grid: float) -> Any:
    """The PrivacyLossDistribution of one step on a grid of spacing `grid`, pessimistic.

    Shapes: both directions (add, remove) are kept apart. Numbers are rounded so that the hockey-stick divergence is
    never below the true one on the grid, by connect the dots (Doroshenko et al. 2022).
    """
    pld = importlib.import_module("dp_accounting.pld.privacy_loss_distribution")
    pmf = importlib.import_module("dp_accounting.pld.pld_pmf")
    pair = _Pair(q, sigma, images)
    low, high = _bounds(pair)
    ends, _ = pair.loss_and_slope(np.array([low, high]))
    first, last = math.floor(ends[0] / grid), math.ceil(ends[1] / grid)  # outwards: no loss may fall off the grid
    epsilons = np.arange(first, last + 1) * grid
    x = pair.where(epsilons, low, high)
    remove = pair.divergence(epsilons, x, remove=True)
    add = pair.divergence(-epsilons, x, remove=False)

    def rounded(start: int, stop: int, deltas: _Array) -> Any:
        deltas = np.minimum.accumulate(deltas)
        return pmf.create_pmf_pessimistic_connect_dots_fixed_gap(grid, start, stop, deltas)

    return pld.PrivacyLossDistribution(rounded(first, last, remove), rounded(-last, -first, add[::-1]))
