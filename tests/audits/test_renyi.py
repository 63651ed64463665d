"""Rényi curves at integer orders against multiprecision, closed forms, and what they must never fall below."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting import accountant, renyi
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.accounting.renyi import SampledNoise
from fedgan_audits.errors import RecordInvalid


def at(curve: renyi.Curve, order: int) -> float:
    return float(curve[order - 2])


def exact(noise: SampledNoise, order: int) -> float:
    """The binomial expansion in 60 digits."""
    with mpmath.workdps(60):
        q, sigma = mpmath.mpf(noise.sampling_probability), mpmath.mpf(noise.noise_multiplier)
        total = mpmath.mpf(0)
        for k in range(order + 1):
            bound = mpmath.mpf(k) / (2 * sigma**2)
            bound += min(mpmath.mpf(noise.slope) * (2 * k - 1) + mpmath.mpf(noise.offset), mpmath.mpf(noise.ceiling))
            gain = mpmath.exp((k - 1) * bound) if k > 1 else mpmath.mpf(1)
            total += mpmath.binomial(order, k) * (1 - q) ** (order - k) * q**k * gain
        return float(mpmath.log(total) / (order - 1))


CASES = [
    SampledNoise(0.01, 1.0),
    SampledNoise(1e-5, 12.0),
    SampledNoise(0.3, 0.6),
    SampledNoise(0.999, 2.0),
    SampledNoise(0.05, 1.3, slope=1e-4, offset=3e-4, ceiling=2e-3),
    SampledNoise(0.05, 1.3, offset=0.02, ceiling=0.02),
]


@pytest.mark.parametrize("noise", CASES, ids=repr)
@pytest.mark.parametrize("order", [2, 3, 7, 40, 256, 768])
def test_a_step_is_the_expansion_in_many_digits_and_never_below_it(noise: SampledNoise, order: int) -> None:
    ours, theirs = at(renyi.step_curve(noise), order), exact(noise, order)
    full = order / (2 * noise.noise_multiplier**2) + min(noise.slope * (2 * order - 1) + noise.offset, noise.ceiling)
    assert ours == pytest.approx(min(theirs, full), rel=1e-9)
    assert ours >= min(theirs, full) * (1 - 1e-13)


@pytest.mark.parametrize(("q", "sigma", "order"), [(0.1, 1.0, 2), (0.1, 1.0, 6), (0.4, 0.7, 3), (0.02, 2.0, 16)])
def test_both_directions_by_integration(q: float, sigma: float, order: int) -> None:
    """Adding a unit and removing one, integrated in 30 digits: the first is never the larger."""
    with mpmath.workdps(30):
        a, p, s = mpmath.mpf(order), mpmath.mpf(q), mpmath.mpf(sigma)

        def density(x: mpmath.mpf, mean: int) -> mpmath.mpf:
            return mpmath.npdf(x, mean, s)

        def mixture(x: mpmath.mpf) -> mpmath.mpf:
            return (1 - p) * density(x, 0) + p * density(x, 1)

        span = [-20 * sigma, -3 * sigma, 0, 1, order, order + 20 * sigma]
        removed = mpmath.quad(lambda x: mixture(x) ** a * density(x, 0) ** (1 - a), span)
        added = mpmath.quad(lambda x: density(x, 0) ** a * mixture(x) ** (1 - a), [-12 * sigma * order, *span])
        forward, backward = (float(mpmath.log(value) / (a - 1)) for value in (removed, added))
    assert at(renyi.step_curve(SampledNoise(q, sigma)), order) == pytest.approx(forward, rel=1e-9)
    assert backward <= forward


@pytest.mark.parametrize("sigma", [1e-3, 1e-200])
@pytest.mark.parametrize("q", [1e-9, 0.5, 1.0])
def test_hardly_any_noise_is_a_large_figure_and_no_error(q: float, sigma: float) -> None:
    epsilon = renyi.epsilon_of(renyi.composed([(SampledNoise(q, sigma), 2**40)]), 1e-5)
    assert epsilon > 1e5
    assert not math.isnan(epsilon)


def test_curves_add_up_and_the_empty_one_is_free() -> None:
    first, second = SampledNoise(0.01, 1.0), SampledNoise(0.2, 3.0)
    together = renyi.composed([(first, 30), (second, 7)])
    apart = renyi.composed([(first, 30)]) + renyi.composed([(second, 7)])
    np.testing.assert_allclose(together, apart, rtol=1e-9)
    assert renyi.epsilon_of(renyi.composed([]), 1e-5) == renyi.deltas_of(renyi.composed([]), np.zeros(1))[0] == 0.0
    assert renyi.epsilon_of(np.full(len(renyi.ORDERS), np.inf), 1e-5) == math.inf
    with pytest.raises(ValueError, match="read-only"):
        renyi.step_curve(first)[0] = 0.0


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-10])
def test_the_conversion_never_flatters_a_gaussian(mu: float, delta: float) -> None:
    """Balle and Wang 2018, Theorem 8, in 40 digits."""
    curve = renyi.step_curve(SampledNoise(1.0, 1 / mu))
    epsilon = renyi.epsilon_of(curve, delta)
    with mpmath.workdps(40):
        low, high = (mpmath.ncdf(-epsilon / mu + mu / 2), mpmath.ncdf(-epsilon / mu - mu / 2))
        truth = float(low - mpmath.exp(epsilon) * high)
    assert truth <= delta
    assert truth >= delta / 60  # and it does not give everything away
    assert renyi.deltas_of(curve, np.array([epsilon]))[0] == pytest.approx(delta, rel=1e-6)


def test_two_records_cover_a_doubled_shift() -> None:
    """Without sampling the truth is known: twice the shift, four times the divergence."""
    single = renyi.step_curve(SampledNoise(1.0, 5.0))
    double = renyi.two_records(single)
    truth = 4 * single
    low = renyi.ORDERS <= 100
    assert np.all(double[low] >= truth[low])
    assert np.all(double[low] <= truth[low] * 1.5)
    assert np.isinf(double[-1])  # no orders left above the last one
    np.testing.assert_array_equal(renyi.records(single, 2), double)
    np.testing.assert_array_equal(renyi.records(single, 3), renyi.two_records(double))
    np.testing.assert_array_equal(renyi.records(single, 1), single)
    with pytest.raises(RecordInvalid):
        renyi.records(single, 0)


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 1.0), (0.2, 2.0), (0.6, 0.8)])
@pytest.mark.parametrize("order", [2, 4, 9])
def test_two_records_cover_the_mixture_in_both_directions(q: float, sigma: float, order: int) -> None:
    """Both records move the sum the same way: N(0) against the mixture of N(0), N(1), N(2) with Binomial(2, q)."""
    with mpmath.workdps(30):
        a, s = mpmath.mpf(order), mpmath.mpf(sigma)
        weights = [mpmath.mpf(w) for w in ((1 - q) ** 2, 2 * q * (1 - q), q**2)]

        def mixture(x: mpmath.mpf) -> mpmath.mpf:
            return sum(w * mpmath.npdf(x, i, s) for i, w in enumerate(weights))

        span = [-14 * sigma * order, -3 * sigma, 0, 2, 2 * order, 2 * order + 20 * sigma]
        forward = mpmath.quad(lambda x: mixture(x) ** a * mpmath.npdf(x, 0, s) ** (1 - a), span)
        backward = mpmath.quad(lambda x: mpmath.npdf(x, 0, s) ** a * mixture(x) ** (1 - a), span)
        truth = float(mpmath.log(max(forward, backward)) / (a - 1))
    assert at(renyi.two_records(renyi.step_curve(SampledNoise(q, sigma))), order) >= truth


def test_the_filter_divides_delta_unless_its_order_was_fixed_before() -> None:
    noise = SampledNoise(0.01, 1.0)
    curve = renyi.composed([(noise, 1000)])
    delta = 1e-5
    order = renyi.filter_order(noise, delta, 3.0)
    one = renyi.filtered_epsilon(curve, delta, order)
    plain = renyi.epsilon_of(curve, delta)
    assert plain <= one <= plain * 1.05  # near the cap the fixed order is nearly the best one
    several = renyi.filtered_epsilon(curve, delta)
    assert one < several
    # What the union bound over the watched orders says, from the definition: each gets its part of delta.
    best = min(
        at(curve, a) + math.log1p(-1 / a) - (math.log(delta / len(renyi.FILTER_ORDERS)) + math.log(a)) / (a - 1)
        for a in renyi.FILTER_ORDERS
    )
    assert several == pytest.approx(best, rel=1e-9)
    # The order is a function of what is known before the first output, and moves with the cap.
    assert renyi.filter_order(noise, delta, 0.5) > renyi.filter_order(noise, delta, 8.0)
    assert renyi.filter_order(noise, delta, 1e-6) == renyi.filter_order(noise, delta, 1e-6) >= 2


@settings(max_examples=25, deadline=None)
@given(
    q=st.floats(1e-4, 1.0),
    sigma=st.floats(0.4, 30.0),
    steps=st.integers(1, 2000),
    delta=st.sampled_from([1e-3, 1e-5, 1e-8]),
    beyond=st.floats(0.0, 0.1),
)
def test_the_curve_is_monotone_in_everything(q: float, sigma: float, steps: int, delta: float, beyond: float) -> None:
    def epsilon(q: float, sigma: float, steps: int, beyond: float, records: int = 1) -> float:
        noise = SampledNoise(q, sigma, offset=beyond, ceiling=beyond)
        return renyi.epsilon_of(renyi.records(renyi.composed([(noise, steps)]), records), delta)

    here = epsilon(q, sigma, steps, beyond)
    slack = 1e-9 * (1 + here)
    assert epsilon(q, sigma, steps + 1, beyond) >= here
    assert epsilon(q / 2, sigma, steps, beyond) <= here + slack
    assert epsilon(q, sigma * 1.1, steps, beyond) <= here + slack
    assert epsilon(q, sigma, steps, beyond + 0.01) >= here - slack
    assert epsilon(q, sigma, steps, beyond, 2) >= here - slack
    curve = renyi.step_curve(SampledNoise(q, sigma, offset=beyond, ceiling=beyond))
    assert np.all(np.diff(curve) >= -1e-9 * curve[1:])  # a Rényi divergence never falls with its order


@settings(max_examples=5, deadline=None)
@given(
    q=st.floats(0.005, 1.0),
    sigma=st.floats(0.7, 6.0),
    steps=st.integers(1, 300),
    delta=st.sampled_from([1e-3, 1e-6]),
)
def test_privacy_loss_distributions_are_never_looser(q: float, sigma: float, steps: int, delta: float) -> None:
    record = MechanismRecord(
        sampling_probability=q, noise_multiplier=sigma, steps=steps, l2_clip_norm=1.0, unit="patient"
    )
    assert accountant.epsilon_pld([record], delta) <= renyi.epsilon_of(accountant.curve([record]), delta) + 1e-3


def test_the_profile_s_hull_lies_below_the_bounds_and_is_convex() -> None:
    curve = renyi.composed([(SampledNoise(0.01, 1.0), 1000)])
    epsilons, deltas = renyi.profile(curve, 1e-5)
    assert epsilons[0] == 0.0
    assert deltas[-1] == pytest.approx(1e-5, rel=1e-6)
    assert np.all(deltas <= np.maximum(renyi.deltas_of(curve, epsilons), 0) * (1 + 1e-9))
    assert np.all(np.diff(deltas, 2) >= -1e-12)
    record = MechanismRecord(
        sampling_probability=0.01, noise_multiplier=1.0, steps=1000, l2_clip_norm=1.0, unit="patient"
    )
    truth = accountant.delta_profile([record], list(epsilons[::400]))
    assert all(proved >= exact for proved, exact in zip(deltas[::400], truth, strict=True))


@pytest.mark.parametrize("mu", [0.5, 1.5, 2.5, 4.0])
def test_the_profile_starts_above_the_total_variation_and_below_one(mu: float) -> None:
    """Of a Gaussian shifted by mu deviations, whose total variation is known; D_2 = mu^2 may be far above 2."""
    curve = renyi.composed([(SampledNoise(1.0, 1 / mu), 1)])
    _, deltas = renyi.profile(curve, 1e-5)
    assert math.erf(mu / 2 / math.sqrt(2)) <= deltas[0] < 1
