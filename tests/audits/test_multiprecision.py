"""The privacy loss distributions against integrals in many digits: one step, two steps, several records."""

from __future__ import annotations

import math

import mpmath
import pytest

from fedgan_audits.accounting import accountant, image_groups
from fedgan_audits.accounting.mechanism import MechanismRecord

DIGITS = 25


def exact_delta(q: float, sigma: float, epsilon: float, records: int = 1) -> float:
    """The hockey-stick divergence of one step, the larger of both directions, by where the densities cross."""
    with mpmath.workdps(DIGITS):
        weights = [
            mpmath.binomial(records, i) * mpmath.mpf(q) ** i * (1 - mpmath.mpf(q)) ** (records - i)
            for i in range(records + 1)
        ]
        s = mpmath.mpf(sigma)

        def loss(x: mpmath.mpf) -> mpmath.mpf:
            return mpmath.log(
                sum(w * mpmath.exp((x * i - mpmath.mpf(i * i) / 2) / s**2) for i, w in enumerate(weights))
            )

        def crossing(value: float) -> mpmath.mpf:
            low, high = mpmath.mpf(-400) * s, mpmath.mpf(400) * s
            for _ in range(130):
                middle = (low + high) / 2
                low, high = (middle, high) if loss(middle) < value else (low, middle)
            return high

        def mixture_above(x: mpmath.mpf) -> mpmath.mpf:
            return sum(w * mpmath.ncdf((i - x) / s) for i, w in enumerate(weights))

        def mixture_below(x: mpmath.mpf) -> mpmath.mpf:
            return sum(w * mpmath.ncdf((x - i) / s) for i, w in enumerate(weights))

        x = crossing(epsilon)
        removed = mixture_above(x) - mpmath.exp(epsilon) * mpmath.ncdf(-x / s)
        added = mpmath.mpf(0)
        if q == 1 or -epsilon > records * math.log1p(-q):
            y = crossing(-epsilon)
            added = mpmath.ncdf(y / s) - mpmath.exp(epsilon) * mixture_below(y)
        return float(max(removed, added))


def record(q: float, sigma: float, steps: int = 1) -> MechanismRecord:
    return MechanismRecord(sampling_probability=q, noise_multiplier=sigma, steps=steps, l2_clip_norm=1.0, unit="image")


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 1.0), (0.1, 0.7), (0.5, 3.0), (0.9, 1.5)])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-9])
def test_one_step(q: float, sigma: float, delta: float) -> None:
    epsilon = accountant.epsilon_pld([record(q, sigma)], delta)
    assert exact_delta(q, sigma, epsilon) <= delta * (1 + 1e-6)
    assert epsilon < 2e-3 or exact_delta(q, sigma, epsilon - 2e-3) >= delta


@pytest.mark.parametrize(("q", "sigma", "images"), [(0.01, 1.0, 2), (0.2, 2.0, 3), (0.5, 1.0, 4)])
def test_one_step_of_a_patient_with_several_images(q: float, sigma: float, images: int) -> None:
    delta = 1e-5
    epsilon = accountant.epsilon_k_images([record(q, sigma)], delta, images)
    assert exact_delta(q, sigma, epsilon, images) <= delta * (1 + 1e-6)
    assert exact_delta(q, sigma, epsilon - 5e-3, images) >= delta
    distribution = image_groups.one_step(q, sigma, images, 1e-3)
    for value in (0.0, 0.01, 0.5, 2.0):
        truth = exact_delta(q, sigma, value, images)
        assert truth * (1 - 1e-9) <= distribution.get_delta_for_epsilon(value) <= truth * 1.01 + 1e-9


@pytest.mark.parametrize(("q", "sigma", "epsilon"), [(0.1, 1.0, 0.8), (0.3, 1.5, 0.5), (0.05, 0.8, 1.5)])
def test_two_steps_by_a_double_integral(q: float, sigma: float, epsilon: float) -> None:
    """delta of two steps = E over the first outcome's loss of one step's delta at what epsilon is left (remove)."""
    with mpmath.workdps(15):
        s = mpmath.mpf(sigma)

        def loss(x: mpmath.mpf) -> mpmath.mpf:
            return mpmath.log(1 - q + q * mpmath.exp((2 * x - 1) / (2 * s**2)))

        def mixture(x: mpmath.mpf) -> mpmath.mpf:
            return (1 - q) * mpmath.npdf(x, 0, s) + q * mpmath.npdf(x, 1, s)

        def one_step(left: mpmath.mpf) -> mpmath.mpf:
            """sum over outcomes of (mixture - e^left normal)+, in closed form."""
            inside = (mpmath.exp(left) - 1 + q) / q
            if inside <= 0:
                return 1 - mpmath.exp(left)
            x = s**2 * mpmath.log(inside) + mpmath.mpf(1) / 2
            above = (1 - q) * mpmath.ncdf(-x / s) + q * mpmath.ncdf((1 - x) / s)
            return above - mpmath.exp(left) * mpmath.ncdf(-x / s)

        # The outer integral is over the first outcome, weighted by the mixture: (P1 P2 - e^eps Q1 Q2)+ factors so.
        bend = s**2 * mpmath.log((mpmath.exp(epsilon) / (1 - q) - 1 + q) / q) + 0.5  # where one_step changes its form
        span = sorted([-9 * sigma, -3 * sigma, 0, 1, 2.5 * sigma, bend, bend + sigma, bend + 9 * sigma])
        truth = float(mpmath.quad(lambda x: mixture(x) * one_step(epsilon - loss(x)), span))
    ours = accountant.delta_profile([record(q, sigma, 2)], [epsilon])[0]
    assert truth * (1 - 1e-6) <= ours <= truth * 1.001
