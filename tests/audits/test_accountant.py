"""The accountant: figures known from other libraries and closed forms, composition, calibration, refusals."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr

from fedgan_audits.accounting import accountant, image_groups, loss_distribution
from fedgan_audits.accounting.mechanism import MechanismRecord, Unit
from fedgan_audits.errors import NotAccounted, RecordInvalid, UnreachableTarget

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "known-answers.json").read_text())
TOLERANCE = VECTORS["tolerance"]


def record(q: float, sigma: float, steps: int, unit: Unit = "patient") -> MechanismRecord:
    return MechanismRecord(sampling_probability=q, noise_multiplier=sigma, steps=steps, l2_clip_norm=1.0, unit=unit)


def of_row(row: dict[str, Any], unit: Unit = "patient") -> list[MechanismRecord]:
    return [record(row["sampling_probability"], row["noise_multiplier"], row["steps"], unit)]


def gaussian_delta(mu: float, epsilon: float) -> float:
    return math.exp(log_ndtr(-epsilon / mu + mu / 2)) - math.exp(epsilon + log_ndtr(-epsilon / mu - mu / 2))


@pytest.mark.parametrize("row", VECTORS["rows"], ids=lambda row: f"q={row['sampling_probability']}-T={row['steps']}")
def test_known_answers(row: dict[str, Any]) -> None:
    epsilon = accountant.epsilon_pld(of_row(row), row["delta"])
    assert epsilon == pytest.approx(row["epsilon_pld"], abs=TOLERANCE)
    assert row["prv_lower"] - TOLERANCE <= epsilon <= row["prv_upper"] + TOLERANCE
    # The RDP column is that of dp-accounting 0.6.0, no smaller than the exact one (test_gaussian_orders.py).
    rdp = accountant.epsilon_rdp(of_row(row), row["delta"])
    assert epsilon < 0.99 * row["epsilon_rdp"] < rdp < row["epsilon_rdp"] + TOLERANCE


def test_one_round_of_few_steps() -> None:
    row = VECTORS["one_round"]
    assert accountant.epsilon_pld(of_row(row), row["delta"]) == pytest.approx(row["epsilon_pld"], abs=TOLERANCE)
    assert accountant.epsilon_rdp(of_row(row), row["delta"]) == pytest.approx(row["epsilon_rdp"], abs=0.002)


@pytest.mark.parametrize(("sigma", "steps"), [(10.0, 50), (3.0, 1), (100.0, 1000), (0.7, 4)])
def test_without_sampling_it_is_the_closed_form_of_the_gaussian(sigma: float, steps: int) -> None:
    """Balle and Wang 2018, Theorem 8: T full releases are one Gaussian with mu = sqrt(T)/sigma."""
    mu = math.sqrt(steps) / sigma
    for delta in (1e-3, 1e-5, 1e-8):
        epsilon = accountant.epsilon_pld([record(1.0, sigma, steps)], delta)
        assert gaussian_delta(mu, epsilon) <= delta  # never below the truth
        assert gaussian_delta(mu, epsilon - 1e-3) >= delta  # and no more than 1e-3 above it
    assert accountant.mu_gdp([record(1.0, sigma, steps)], 1e-5) == pytest.approx(mu, rel=5e-3)


def test_rounds_compose_as_events_and_never_as_a_sum() -> None:
    one = accountant.epsilon_pld([record(0.01, 1.0, 500)], 1e-5)
    both = accountant.epsilon_pld([record(0.01, 1.0, 500)] * 2, 1e-5)
    assert both == accountant.epsilon_pld([record(0.01, 1.0, 1000)], 1e-5)
    assert one < both < 2 * one
    mixed = [record(0.01, 1.0, 500), record(0.02, 1.3, 200)]
    assert accountant.epsilon_pld(mixed, 1e-5) == accountant.epsilon_pld(mixed[::-1], 1e-5)
    assert max(one, accountant.epsilon_pld(mixed[1:], 1e-5)) < accountant.epsilon_pld(mixed, 1e-5)
    assert accountant.epsilon_pld(mixed, 1e-5) < accountant.epsilon_rdp(mixed, 1e-5)


def test_nothing_costs_nothing_and_no_noise_is_unbounded() -> None:
    assert accountant.epsilon_pld([], 1e-5) == accountant.epsilon_rdp([], 1e-5) == accountant.mu_gdp([], 1e-5) == 0.0
    bare = [record(0.01, 1.0, 10), record(0.01, 0.0, 1)]
    assert accountant.epsilon_pld(bare, 1e-5) == accountant.epsilon_rdp(bare, 1e-5) == math.inf
    assert accountant.mu_gdp(bare, 1e-5) == accountant.epsilon_k_images(bare, 1e-5, 2) == math.inf
    assert accountant.delta_profile(bare, [1.0]) == (1.0,)
    assert accountant.delta_profile([], [0.0, 1.0]) == (0.0, 0.0)


def test_a_patient_in_two_hospitals() -> None:
    row = VECTORS["two_hospitals"]
    mine = of_row(row)
    epsilon = accountant.epsilon_two_hospitals(mine, row["delta"])
    assert epsilon == pytest.approx(row["epsilon_pld"], abs=TOLERANCE)
    assert accountant.epsilon_two_hospitals(mine, row["delta"], other=[]) == accountant.epsilon_pld(mine, row["delta"])


@pytest.mark.parametrize("row", VECTORS["image_groups"]["rows"], ids=lambda row: f"images={row['images']}")
def test_a_patient_with_several_images(row: dict[str, Any]) -> None:
    group = VECTORS["image_groups"]
    by_image = accountant.epsilon_k_images(of_row(group, "image"), group["delta"], row["images"])
    assert by_image == pytest.approx(row["epsilon_pld"], abs=TOLERANCE)
    by_patient = accountant.epsilon_k_images(of_row(group), group["delta"], row["images"])
    assert by_patient == accountant.epsilon_pld(of_row(group), group["delta"])


@pytest.mark.parametrize(
    ("images", "q", "sigma"), [(1, 0.01, 1.0), (1, 0.3, 0.6), (3, 0.1, 1.5), (8, 0.01, 0.8136), (12, 0.02, 5.0)]
)
def test_the_vectorised_step_is_the_library_s(images: int, q: float, sigma: float) -> None:
    from dp_accounting.pld import privacy_loss_distribution as pld

    if not hasattr(pld, "from_mixture_gaussian_mechanism"):
        pytest.skip("this version of dp-accounting has no mixture of Gaussians to compare with")
    weights = [math.comb(images, i) * q**i * (1 - q) ** (images - i) for i in range(images + 1)]
    grid = 2e-2
    theirs = pld.from_mixture_gaussian_mechanism(
        sigma, list(range(images + 1)), weights, value_discretization_interval=grid
    )
    ours = image_groups.one_step(q, sigma, images, grid)
    for steps, delta in ((1, 1e-5), (50, 1e-6), (500, 1e-2), (500, 1e-9)):
        assert ours.self_compose(steps).get_epsilon_for_delta(delta) == pytest.approx(
            theirs.self_compose(steps).get_epsilon_for_delta(delta), rel=1e-6
        )


def test_mu_covers_the_proved_profile_and_no_smaller_one_does() -> None:
    run = [record(0.02, 0.9, 300)]
    delta = 1e-5
    mu = accountant.mu_gdp(run, delta)
    epsilons = [accountant.epsilon_pld(run, delta) * i / 40 for i in range(41)]
    proved = accountant.delta_profile(run, epsilons)
    assert all(gaussian_delta(mu, e) >= d * (1 - 1e-9) for e, d in zip(epsilons, proved, strict=True))
    assert any(gaussian_delta(mu * 0.99, e) < d for e, d in zip(epsilons, proved, strict=True))


def test_profiles_agree_with_each_other() -> None:
    run = [record(0.05, 1.1, 100)]
    deltas = [1e-3, 1e-5, 1e-7]
    epsilons = accountant.epsilon_profile(run, deltas)
    assert list(epsilons) == sorted(epsilons)
    assert accountant.delta_profile(run, epsilons) == pytest.approx(deltas, rel=1e-6)


REALISTIC = {
    "q": st.floats(0.005, 0.5),
    "sigma": st.floats(0.6, 8.0),
    "steps": st.integers(1, 200),
    "delta": st.sampled_from([1e-2, 1e-4, 1e-6]),
}


@settings(max_examples=8, deadline=None)
@given(**REALISTIC)
def test_more_data_use_costs_more_and_more_noise_less(q: float, sigma: float, steps: int, delta: float) -> None:
    def epsilon(q: float, sigma: float, steps: int) -> float:
        return accountant.epsilon_pld([record(q, sigma, steps)], delta)

    here = epsilon(q, sigma, steps)
    slack = 1e-3  # the grid's
    assert epsilon(q, sigma, steps * 2) >= here - slack
    assert epsilon(q, sigma * 1.3, steps) <= here + slack
    assert epsilon(q / 2, sigma, steps) <= here + slack
    assert accountant.epsilon_pld([record(q, sigma, steps)], delta / 10) >= here
    assert accountant.epsilon_rdp([record(q, sigma, steps)], delta) >= here - slack


def test_calibration_known_answer() -> None:
    asked = VECTORS["calibration"]
    sigma = accountant.calibrate_noise_multiplier(
        **{name: asked[name] for name in ("sampling_probability", "steps", "epsilon", "delta")}
    )
    assert sigma == pytest.approx(asked["noise_multiplier"], abs=TOLERANCE)


@settings(max_examples=6, deadline=None)
@given(
    q=st.floats(0.005, 1.0),
    steps=st.integers(1, 300),
    epsilon=st.floats(0.05, 20.0),
    delta=st.sampled_from([1e-2, 1e-4, 1e-6]),
)
@example(q=0.05, steps=20_000, epsilon=1.0, delta=1e-6)
@example(q=0.5, steps=10, epsilon=20.0, delta=1e-2)
def test_calibrated_noise_keeps_the_target(q: float, steps: int, epsilon: float, delta: float) -> None:
    sigma = accountant.calibrate_noise_multiplier(sampling_probability=q, steps=steps, epsilon=epsilon, delta=delta)
    assert accountant.epsilon_pld([record(q, sigma, steps)], delta) <= epsilon
    if sigma > accountant.NOISE_MIN:
        assert accountant.epsilon_pld([record(q, sigma * (1 - 2e-3), steps)], delta) > epsilon


def test_a_target_out_of_reach_names_the_nearest_one() -> None:
    with pytest.raises(UnreachableTarget) as caught:
        accountant.calibrate_noise_multiplier(sampling_probability=0.5, steps=10**4, epsilon=0.01, delta=1e-6)
    nearest = caught.value.nearest_epsilon
    assert 0.01 < nearest < 10
    assert accountant.round_up(nearest) in str(caught.value)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    reached = accountant.calibrate_noise_multiplier(
        sampling_probability=0.5, steps=10**4, epsilon=nearest * 1.01, delta=1e-6
    )
    assert reached <= accountant.NOISE_MAX


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, 1e-13, math.nan, True])
def test_a_bad_delta_is_refused(delta: float) -> None:
    with pytest.raises(RecordInvalid, match="delta"):
        accountant.epsilon_pld([record(0.1, 1.0, 1)], delta)


@pytest.mark.parametrize(
    "change", [{"epsilon": 0.0}, {"epsilon": math.inf}, {"sampling_probability": 0.0}, {"steps": 0}, {"delta": 2.0}]
)
def test_calibration_refuses_bad_values(change: dict[str, Any]) -> None:
    asked = {"sampling_probability": 0.1, "steps": 10, "epsilon": 1.0, "delta": 1e-5, **change}
    with pytest.raises(RecordInvalid, match=next(iter(change))):
        accountant.calibrate_noise_multiplier(**asked)


def test_what_is_not_proved_is_refused() -> None:
    shared = record(0.1, 1.0, 1).model_copy(update={"noise_placement": "distributed"})
    replace = record(0.1, 1.0, 1).model_copy(update={"neighbouring_relation": "replace_one"})
    shuffle = record(0.1, 1.0, 1).model_copy(update={"sampler": "shuffle"})
    mixed = [record(0.1, 1.0, 1), record(0.1, 1.0, 1, "image")]
    for wrong in ([shared], [replace], [shuffle], mixed):
        for figure in (accountant.epsilon_pld, accountant.epsilon_rdp, accountant.mu_gdp):
            with pytest.raises(NotAccounted):
                figure(wrong, 1e-5)
        with pytest.raises(NotAccounted):
            accountant.colluder_figures(wrong)


@pytest.mark.parametrize(
    ("q", "sigma", "steps"), [(1.0, 1e-6, 10), (0.5, 0.2, 100_000), (1.0, 0.05, 2**40), (0.01, 0.05, 9)]
)
def test_absurd_noise_gives_a_large_figure_and_no_crash(q: float, sigma: float, steps: int) -> None:
    assert accountant.epsilon_pld([record(q, sigma, steps)], 1e-5) > 50


def test_hardly_any_loss_is_still_resolved() -> None:
    tiny = accountant.epsilon_pld([record(0.01, 1000.0, 1000)], 1e-5)
    assert 0 < tiny < 1e-3
    assert tiny <= accountant.epsilon_rdp([record(0.01, 1000.0, 1000)], 1e-5)


@given(st.floats(0, 1e6), st.integers(0, 6))
def test_rounding_never_goes_down(value: float, digits: int) -> None:
    from fractions import Fraction

    shown = Fraction(accountant.round_up(value, digits))
    assert 0 <= shown - Fraction(value) < Fraction(1, 10**digits)


def test_rounding_names_the_unbounded() -> None:
    assert accountant.round_up(math.inf) == "unbounded"
    assert accountant.round_up(1.8282) == "1.8282" or accountant.round_up(1.8282) == "1.8283"
    assert accountant.round_up(0.31650001) == "0.3166"
    with pytest.raises(RecordInvalid):
        accountant.round_up(math.nan)


def test_importing_the_room_loads_neither_tensorflow_nor_the_accounting_library() -> None:
    code = (
        "import sys, fedgan_audits.accounting.accountant, fedgan_audits.accounting.budget, fedgan_audits.ledger.ledger;"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'dp_accounting', 'fedgan_protocols')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("delta", [1e-8, 1e-5, 1e-2])
def test_one_cached_step_composes_to_the_figure_of_the_other_library_to_the_last_bit(delta: float) -> None:
    """dp-accounting multiplies one step's RDP by the number of steps: so does the quick bound, from what it holds after
    one."""
    import dp_accounting as dp

    orders = [2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45, 64, 128]
    steps = [(0.01, 4.0, 1), (0.01, 4.0, 9990), (0.1, 1.4, 20), (1.0, 3.0, 7)]
    for count in range(1, len(steps) + 1):
        theirs = dp.rdp.RdpAccountant(orders)
        for q, sigma, times in sorted(steps[:count]):
            theirs.compose(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma)), times)
        assert loss_distribution.quick_bound(tuple(sorted(steps[:count])), delta) == theirs.get_epsilon(delta)


def test_very_many_very_small_steps_are_composed_by_doubling() -> None:
    """dp-accounting composes a distribution of one point step by step: 2^40 of them would never end."""
    assert accountant.epsilon([record(1e-9, 1e9, 2**40)], 1e-4) < 1e-3
    assert 0 < accountant.epsilon([record(1e-4, 1e3, 2**30)], 1e-4) < 0.1
    step = loss_distribution.one_step(0.1, 1.4, 1, 1e-3, False)
    for count in (1, 2, 13, 100):
        doubled, usual = loss_distribution._doubled(step, count), step.self_compose(count)
        assert doubled.get_epsilon_for_delta(1e-5) == pytest.approx(usual.get_epsilon_for_delta(1e-5), abs=1e-9)
