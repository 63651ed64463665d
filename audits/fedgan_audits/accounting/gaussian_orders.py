"""Rényi differential privacy of sampled Gaussian steps, at fractional orders too, computed here and by no library.

One step draws a unit by a coin of probability q and adds Gaussian noise of standard deviation s (in clip norms). With
L(z) = exp((2z - 1) / 2s^2) and u = q (L - 1), its Rényi divergence of order a is ln A_a / (a - 1), where

    A_a = E[(1 + u(Z))^a] = 1 + E[(1 + u(Z))^a - 1 - a u(Z)],   Z ~ N(0, s^2),

the larger of both directions (Mironov, Talwar and Zhang 2019, Theorem 5 and section 3.3; E[u(Z)] = 0). The second form
has no negative term, so that nothing cancels where A_a is near 1. At fractional orders the expectation is a trapezoidal
sum: the integrand is analytic in a strip of half width pi s^2 and falls as a Gaussian, so that with a spacing of
min(s, s^2) / 4 the error is below e^-70 of it. At integer orders it is the binomial theorem (`renyi.step_curve`).

This is the second opinion of reports. It does not depend on which version of dp-accounting is installed, whose figures
at fractional orders differ between 0.4.3 and 0.6.0 (docs/accounting.md, "The second opinion").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedgan_audits.accounting import renyi
from fedgan_audits.accounting.renyi import SampledNoise

_Array = NDArray[np.float64]

FRACTIONAL: _Array = np.array([order / 10 for order in range(11, 110) if order % 10])
"""The fractional orders: a tenth apart, from 1.1 to 10.9."""
LARGE: _Array = np.array([1024.0])
"""An order above those of `renyi`, for the smallest epsilons."""
ORDERS: _Array = np.concatenate([FRACTIONAL, renyi.ORDERS.astype(np.float64), LARGE])

_COARSE = np.isin(ORDERS, [*range(2, 64), 128, 256, 512, 1024])

_SMALLEST_DEVIATION = 0.05
"""Below this the sum would have too many points; fractional orders then count as unsampled, a bound as well."""
_UP = 1 + 1e-9
_WIDTH = 12.0


def _unsampled(sigma: float, orders: _Array) -> _Array:
    with np.errstate(over="ignore"):  # hardly any noise: an infinite divergence
        return np.asarray(orders / (2 * sigma) / sigma)


def _log_excess(sampled: _Array, shift: _Array, order: float) -> _Array:
    """ln((1 + u)^a - 1 - a u) of u = `shift` and ln(1 + u) = `sampled`; minus infinity where it is 0."""
    power = order * sampled
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        small = np.log(np.maximum(np.expm1(np.minimum(power, 30.0)) - order * shift, 0.0))
        large = power + np.log1p(-(1 + order * np.minimum(shift, 1e250)) * np.exp(-np.minimum(power, 700.0)))
    return np.where(power < 30.0, small, large)


def _fractional(q: float, sigma: float) -> _Array:
    """The divergence of one step at FRACTIONAL, by the trapezoidal sum."""
    spacing = min(sigma, sigma * sigma) / 4
    points = np.arange(-_WIDTH * sigma, FRACTIONAL[-1] + _WIDTH * sigma + spacing, spacing)
    ratio = (2 * points - 1) / (2 * sigma * sigma)
    with np.errstate(over="ignore"):
        shift = q * np.expm1(ratio)
        sampled = np.where(ratio < 30.0, np.log1p(shift), np.logaddexp(math.log1p(-q), math.log(q) + ratio))
    weight = -0.5 * (points / sigma) ** 2 + math.log(spacing / (sigma * math.sqrt(2 * math.pi)))
    result = np.empty(len(FRACTIONAL))
    for index, order in enumerate(FRACTIONAL):
        terms = weight + _log_excess(sampled, shift, float(order))
        top = float(terms.max())
        excess = top + math.log(float(np.exp(terms - top).sum())) if top > -math.inf else -math.inf
        result[index] = np.logaddexp(0.0, excess) / (order - 1)
    return result


def _binomial(q: float, sigma: float, order: int) -> float:
    """The divergence of one step at one integer order, for orders beyond those of `renyi`."""
    k = np.arange(order + 1, dtype=np.float64)
    logs = np.array([math.lgamma(value + 1) for value in k])
    terms = logs[-1] - logs - logs[::-1] + k * math.log(q) + (order - k) * math.log1p(-q)
    terms = terms + k * (k - 1) / (2 * sigma * sigma)
    top = float(terms.max())
    return (top + math.log(float(np.exp(terms - top).sum()))) / (order - 1)


@lru_cache(maxsize=64)
def step_curve(q: float, sigma: float) -> _Array:
    """Return the Rényi divergence of one step at ORDERS, float64[len(ORDERS)], rounded up and read-only.

    Args:
        q: the sampling probability, above 0 and at most 1.
        sigma: the noise's standard deviation over the clip norm, above 0.
    """
    full = _unsampled(sigma, ORDERS)
    if q == 1.0 or not np.all(np.isfinite(full)):
        result = full
    else:
        fractional = _fractional(q, sigma) if sigma >= _SMALLEST_DEVIATION else np.full(len(FRACTIONAL), np.inf)
        whole = renyi.step_curve(SampledNoise(q, sigma))
        large = np.array([_binomial(q, sigma, int(order)) for order in LARGE])
        result = np.minimum(np.concatenate([fractional, whole, large]) * _UP, full)
    result.setflags(write=False)
    return result


def epsilon(parts: Sequence[tuple[float, float, int]], delta: float, *, coarse: bool = False) -> float:
    """Return the smallest epsilon at `delta` that the curves prove, at least 0, of (q, sigma, steps) composed.

    0.0 for nothing, math.inf where hardly any noise is added. Guarantee: an upper bound for add/remove one, by the
    conversion of Canonne, Kamath and Steinke 2020 (Proposition 12).

    `coarse` looks at the integers among dp-accounting's own orders alone. Every version of it finds the same there, and
    looks at more, so that none of its versions gives a larger figure.
    """
    if not parts:
        return 0.0
    total = np.zeros(len(ORDERS))
    for q, sigma, steps in parts:
        total = total + steps * step_curve(q, sigma)
    conversion = np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    found = total + conversion
    return max(0.0, float(np.min(found[_COARSE] if coarse else found))) * _UP
