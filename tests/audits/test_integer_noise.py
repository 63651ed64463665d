"""Integer noise: the parts of the proof against exact distributions in many digits, the sensitivity by brute force."""

from __future__ import annotations

import math
from functools import cache

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting import integer_noise, renyi
from fedgan_audits.accounting.mechanism import DistributedMechanism, IntegerNoise, NoiseShares
from fedgan_audits.errors import NotAccounted

DIGITS = 40
Law = dict[int, mpmath.mpf]


@cache
def gaussian(variance: float) -> Law:
    """The discrete Gaussian of parameter `variance`, out to 40 deviations: high orders look far out."""
    with mpmath.workdps(DIGITS):
        reach = int(40 * math.sqrt(variance)) + 4
        weights = {x: mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(variance))) for x in range(-reach, reach + 1)}
        total = mpmath.fsum(weights.values())
        return {x: weight / total for x, weight in weights.items()}


@cache
def summed(variance: float, shares: int) -> Law:
    """The law of the sum of `shares` independent discrete Gaussians."""
    with mpmath.workdps(DIGITS):
        one = gaussian(variance)
        total = one
        for _ in range(shares - 1):
            after: Law = {}
            for x, p in total.items():
                for y, r in one.items():
                    after[x + y] = after.get(x + y, mpmath.mpf(0)) + p * r
            total = after
        return total


@cache
def skellam(variance: float) -> Law:
    with mpmath.workdps(DIGITS):
        reach = int(20 * math.sqrt(variance)) + 30
        mean = mpmath.mpf(variance)
        return {x: mpmath.exp(-mean) * mpmath.besseli(abs(x), mean) for x in range(-reach, reach + 1)}


def moment(first: Law, second: Law, order: int) -> mpmath.mpf:
    """sum first^order second^(1 - order); points that only the first law's cut-off holds are negligible."""
    return mpmath.fsum(p**order * second[x] ** (1 - order) for x, p in first.items() if x in second)


def shifted(law: Law, by: int) -> Law:
    return {x + by: p for x, p in law.items()}


def divergence(first: Law, second: Law, order: int) -> float:
    with mpmath.workdps(DIGITS):
        return float(mpmath.log(moment(first, second, order)) / (order - 1))


def mixed(law: Law, by: int, q: float) -> Law:
    moved = shifted(law, by)
    return {x: (1 - mpmath.mpf(q)) * p + mpmath.mpf(q) * moved.get(x, mpmath.mpf(0)) for x, p in law.items()}


@pytest.mark.parametrize(("deviation", "shares"), [(0.5, 2), (0.5, 4), (0.6, 3), (0.8, 2), (1.1, 3)])
def test_tau_covers_how_far_a_sum_is_from_one_discrete_gaussian(deviation: float, shares: int) -> None:
    """The density ratio's oscillation is about 4 times the sum of exponentials; the 10 of the paper covers it."""
    variance = deviation**2
    total, single = summed(variance, shares), gaussian(variance * shares)
    with mpmath.workdps(DIGITS):
        near = [x for x in single if abs(x) <= 6 * deviation * math.sqrt(shares)]
        ratios = [mpmath.log(total[x] / single[x]) for x in near]
        oscillation = float(max(ratios) - min(ratios))
    tau = integer_noise.inflation(deviation, shares)
    assert 0 < oscillation <= tau
    if shares == 2:  # not more than it takes, so that a lost factor shows; further shares even the parities out
        assert tau <= 3 * oscillation


def test_tau_of_one_share_of_many_and_of_too_small_ones() -> None:
    assert integer_noise.inflation(3.0, 1) == 0.0
    assert integer_noise.inflation(0.5, 2) == pytest.approx(10 * math.exp(-(math.pi**2) / 4), rel=1e-9)
    by_hand = 10 * sum(math.exp(-2 * math.pi**2 * 0.64 * j / (j + 1)) for j in range(1, 9))
    assert integer_noise.inflation(0.8, 9) == pytest.approx(by_hand, rel=1e-9)
    assert integer_noise.inflation(1e5, 50) == 0.0  # exp(-1e11)
    assert integer_noise.inflation(0.5, 200_000) < 200_000 * 10 * math.exp(-(math.pi**2) / 4)
    with pytest.raises(NotAccounted, match="grid steps"):
        integer_noise.inflation(0.49, 2)


def mechanism(
    *,
    q: float = 0.1,
    sigma: float = 1.0,
    clip: float = 1.0,
    grid: float = 0.5,
    dimension: int = 1,
    threshold: int = 3,
    colluders: int = 0,
    noise: IntegerNoise = "discrete_gaussian",
    steps: int = 1,
) -> DistributedMechanism:
    return DistributedMechanism(
        sampling_probability=q,
        noise_multiplier=sigma,
        steps=steps,
        l2_clip_norm=clip,
        unit="patient",
        shares=NoiseShares(threshold=threshold, colluders=colluders, grid_step=grid, dimension=dimension, noise=noise),
    )


@pytest.mark.parametrize("order", [2, 3, 5, 12])
@pytest.mark.parametrize(
    ("sigma", "threshold", "colluders"), [(0.4, 3, 1), (0.34, 4, 0), (0.5, 2, 0), (1.0, 3, 0), (0.3, 2, 1)]
)
def test_one_coordinate_of_shared_gaussians_by_exact_summation(
    sigma: float, threshold: int, colluders: int, order: int
) -> None:
    """d = 1, C = 1, g = 1/2: the rounded sum moves by at most 3 grid steps; every move is within the bound."""
    record = mechanism(sigma=sigma, threshold=threshold, colluders=colluders)
    variance = integer_noise.share_variance(record)
    assert variance == pytest.approx((sigma * 3) ** 2 / (threshold - colluders))
    law = summed(variance, threshold - colluders)
    noise = integer_noise.sampled_noise(record)
    bound = float(noise.divergences(np.array([order]))[0])
    step = float(renyi.step_curve(noise)[order - 2])
    for move in (1, 2, 3):
        assert divergence(shifted(law, move), law, order) <= bound
        sampled = mixed(law, move, 0.1)
        assert divergence(sampled, law, order) <= step
        assert divergence(law, sampled, order) <= step
    worst = divergence(shifted(law, 3), law, order)
    assert worst >= 0.4 * bound  # the bound is no looser than tau makes it
    # The sampled bound in the other direction is the theorem of the docs, exactly: never above the first.
    sampled = mixed(law, 3, 0.1)
    assert divergence(law, sampled, order) <= divergence(sampled, law, order)


@pytest.mark.parametrize("order", [2, 3, 8])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_one_coordinate_of_skellam_by_exact_summation(sigma: float, order: int) -> None:
    record = mechanism(sigma=sigma, noise="skellam")
    law = skellam(integer_noise.share_variance(record) * 3)
    noise = integer_noise.sampled_noise(record)
    bound = float(noise.divergences(np.array([order]))[0])
    step = float(renyi.step_curve(noise)[order - 2])
    for move in (1, 2, 3):
        assert divergence(shifted(law, move), law, order) <= bound
        sampled = mixed(law, move, 0.1)
        assert max(divergence(sampled, law, order), divergence(law, sampled, order)) <= step
    if sigma >= 1:  # below, Skellam's tails are much heavier than a Gaussian's, and the truth is less
        assert divergence(shifted(law, 3), law, order) >= 0.5 * bound


def test_many_coordinates_multiply_tau_by_those_that_can_move() -> None:
    """An integer vector of squared length L moves at most L coordinates, whatever d is."""
    few = mechanism(sigma=0.4, dimension=4)
    length = 1 / 0.5 + math.sqrt(4)
    tau = integer_noise.inflation(math.sqrt(integer_noise.share_variance(few)), 3)
    assert integer_noise.sampled_noise(few).ceiling == pytest.approx(tau * min(4, length**2), rel=1e-9)
    assert integer_noise.sampled_noise(few).offset == integer_noise.sampled_noise(few).ceiling


@settings(max_examples=60, deadline=None)
@given(
    dimension=st.integers(1, 40),
    grid=st.floats(0.01, 2.0),
    box=st.floats(0.5, 20.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_patient_moves_the_rounded_sum_by_at_most_delta(dimension: int, grid: float, box: float, seed: int) -> None:
    """Clamp, then round to the grid; also where a coordinate lies on the edge of the box or half-way of the grid."""
    draw = np.random.Generator(np.random.PCG64(seed))
    others = draw.normal(size=dimension) * box
    others[::3] = np.round(others[::3] / grid) * grid + grid / 2
    patient = draw.normal(size=dimension)
    patient /= np.linalg.norm(patient)

    def rounded(total: np.ndarray) -> np.ndarray:
        return np.rint(np.clip(total, -box, box) / grid)

    moved = np.linalg.norm(rounded(others + patient) - rounded(others))
    allowed = integer_noise.sensitivity(mechanism(grid=grid, dimension=dimension)) / grid
    assert moved <= allowed * (1 + 1e-12)


def test_the_worst_rounding_reaches_delta() -> None:
    """Every coordinate just below a half step: the smallest contribution moves each by one whole step."""
    grid, dimension = 1.0, 100
    others = np.full(dimension, 0.5 - 1e-9)
    patient = np.full(dimension, 2e-9)
    moved = np.linalg.norm(np.rint((others + patient) / grid) - np.rint(others / grid))
    assert moved == math.sqrt(dimension)
    assert integer_noise.sensitivity(mechanism(clip=1e-6, grid=grid, dimension=dimension)) >= moved


def test_shares_are_divided_by_the_honest_ones_alone() -> None:
    base = mechanism(threshold=7, colluders=3)
    total = (integer_noise.sensitivity(base) * base.noise_multiplier / 0.5) ** 2
    assert integer_noise.share_variance(base) * 4 == pytest.approx(total, rel=1e-9)
    assert integer_noise.share_variance(base) * 4 >= total
    with pytest.raises(NotAccounted, match="grid steps"):
        integer_noise.sampled_noise(mechanism(sigma=0.05))
    # Skellam's bound needs no least deviation, but some noise.
    assert integer_noise.sampled_noise(mechanism(sigma=0.05, noise="skellam")).ceiling > 1
    for sigma in (1e-4, 1e-200):
        with pytest.raises(NotAccounted, match="variance"):
            integer_noise.sampled_noise(mechanism(sigma=sigma, noise="skellam"))
