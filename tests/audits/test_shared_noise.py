"""Figures for noise that hospitals share: the proved one, its approximation, colluders, two hospitals, calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting import accountant, budget, colluders, integer_noise, loss_distribution, renyi
from fedgan_audits.accounting.mechanism import DistributedMechanism, IntegerNoise, MechanismRecord, NoiseShares, Unit
from fedgan_audits.errors import NotAccounted, RecordInvalid, UnreachableTarget

DELTA = 1e-5


def shared(
    q: float = 0.01,
    sigma: float = 1.0,
    steps: int = 1000,
    *,
    threshold: int = 7,
    colluding: int = 3,
    grid: float = 1e-5,
    dimension: int = 1_000_000,
    noise: IntegerNoise = "discrete_gaussian",
    unit: Unit = "patient",
) -> DistributedMechanism:
    return DistributedMechanism(
        sampling_probability=q,
        noise_multiplier=sigma,
        steps=steps,
        l2_clip_norm=1.0,
        unit=unit,
        shares=NoiseShares(threshold=threshold, colluders=colluding, grid_step=grid, dimension=dimension, noise=noise),
    )


def own(q: float = 0.01, sigma: float = 1.0, steps: int = 1000, unit: Unit = "patient") -> MechanismRecord:
    return MechanismRecord(sampling_probability=q, noise_multiplier=sigma, steps=steps, l2_clip_norm=1.0, unit=unit)


def test_the_proved_figure_is_renyi_s_and_the_approximation_is_named_so() -> None:
    run = [shared()]
    proved = accountant.epsilon(run, DELTA)
    assert proved == accountant.epsilon_rdp(run, DELTA)
    assert accountant.epsilon_rdp([own()], DELTA) <= proved <= accountant.epsilon_rdp([own()], DELTA) * 1.02
    assert accountant.epsilon_gaussian_approximation(run, DELTA) == accountant.epsilon_pld([own()], DELTA) < proved
    assert accountant.epsilon([own()], DELTA) == accountant.epsilon_pld([own()], DELTA)
    with pytest.raises(NotAccounted, match="distributed"):
        accountant.epsilon_pld(run, DELTA)
    assert "integer-order" in accountant.accountant_name(run)
    assert "PLD" in accountant.accountant_name([own()]) == accountant.accountant_name()
    assert accountant.epsilon([shared(sigma=0.0)], DELTA) == math.inf


def test_a_coarse_grid_costs_what_its_inflation_says_and_skellam_its_own() -> None:
    """d = 16, g = 1, three honest shares: tau and Skellam's correction are no longer negligible."""
    coarse = {"grid": 1.0, "dimension": 16, "threshold": 3, "colluding": 0, "sigma": 0.3}
    gaussian = accountant.epsilon([own(sigma=0.3)], DELTA)
    integer = accountant.epsilon([shared(**coarse)], DELTA)  # type: ignore[arg-type]
    skellam = accountant.epsilon([shared(**coarse, noise="skellam")], DELTA)  # type: ignore[arg-type]
    assert gaussian < accountant.epsilon_rdp([own(sigma=0.3)], DELTA) < integer
    assert accountant.epsilon_rdp([own(sigma=0.3)], DELTA) < skellam
    fine = accountant.epsilon([shared(sigma=0.3)], DELTA)
    assert fine < integer
    with pytest.raises(NotAccounted, match="grid steps"):
        accountant.epsilon([shared(grid=100.0, dimension=1, sigma=0.3)], DELTA)


def test_ledgers_of_both_kinds_compose_order_by_order() -> None:
    together = accountant.epsilon([shared(), own(steps=500)], DELTA)
    curve = accountant.curve([shared()]) + accountant.curve([own(steps=500)])
    assert together == pytest.approx(renyi.epsilon_of(curve, DELTA), rel=1e-9)
    assert together > accountant.epsilon([shared()], DELTA)
    assert together == accountant.epsilon([own(steps=500), shared(steps=400), shared(steps=600)], DELTA)
    assert np.all(np.isinf(accountant.curve([shared(), own(sigma=0.0)])))


def test_a_record_must_say_how_its_noise_is_shared() -> None:
    silent = own().model_copy(update={"noise_placement": "distributed"})
    contradictory = shared().model_copy(update={"noise_placement": "per_hospital"})
    for wrong in ([silent], [contradictory], [shared(), shared(unit="image")]):
        for figure in (accountant.epsilon, accountant.epsilon_rdp, accountant.mu_gdp, accountant.epsilon_two_hospitals):
            with pytest.raises(NotAccounted):
                figure(wrong, DELTA)


def test_colluders_take_their_shares_away() -> None:
    run = [shared(threshold=5, colluding=2)]
    rows = colluders.table(run, DELTA)
    assert [row.colluders for row in rows] == [0, 1, 2, 3, 4]
    assert [row.declared for row in rows] == [False, False, True, False, False]
    assert rows[2].epsilon == accountant.epsilon(run, DELTA)
    assert [row.epsilon for row in rows] == sorted(row.epsilon for row in rows)
    assert [row.noise_multiplier for row in rows] == pytest.approx([math.sqrt((5 - c) / 3) for c in range(5)])
    for count in range(5):  # a share stays what it is, whoever looks at it
        seen = colluders.against(run[0], count)
        assert integer_noise.share_variance(seen) == pytest.approx(integer_noise.share_variance(run[0]), rel=1e-9)
        assert accountant.epsilon([seen], DELTA) == rows[count].epsilon
    with pytest.raises(RecordInvalid, match="colluders"):
        colluders.against(run[0], 5)
    assert colluders.table([own()], DELTA) == ()
    many = run[0].shares.model_copy(update={"threshold": 1_000_000, "colluders": 2})
    wide = colluders.table([run[0].model_copy(update={"shares": many})], DELTA)
    assert len(wide) <= colluders.MOST_ROWS and wide[-1].colluders == 999_999
    assert [row.colluders for row in wide if row.declared] == [2]
    assert "declared number" in accountant.colluder_figures(run)
    both = colluders.table([*run, own()], DELTA)
    assert all(more.epsilon > less.epsilon for more, less in zip(both, rows, strict=True))


def test_a_patient_in_two_hospitals_enters_one_sum_twice() -> None:
    """The known answer, 3.979, is that of a mixture of Gaussians with Binomial(2, q); the proved one lies above."""
    run = [shared()]
    approximate = accountant.epsilon_gaussian_approximation(run, DELTA, records=2)
    assert approximate == pytest.approx(3.9791, abs=1e-3)
    proved = accountant.epsilon_two_hospitals(run, DELTA)
    assert approximate < proved < 2.5 * accountant.epsilon(run, DELTA)
    assert accountant.epsilon_two_hospitals(run, DELTA, other=run) == proved
    # Fewer steps of the other cost less, and never less than if the hospitals had met in none or in all of them.
    for steps in (10, 400):
        some = accountant.epsilon_two_hospitals(run, DELTA, other=[shared(steps=steps)])
        met = renyi.two_records(accountant.curve([shared(steps=steps)])) + accountant.curve(
            [shared(steps=1000 - steps)]
        )
        assert (
            max(renyi.epsilon_of(met, DELTA), accountant.epsilon([shared(steps=1000 + steps)], DELTA)) < some < proved
        )
    # Own noise composes beside it
    # (at a fine grid one step of either costs the same, and still only one of them is shared).
    assert accountant.step_noise(run[0]) == accountant.step_noise(own())
    beside = accountant.epsilon_two_hospitals(run, DELTA, other=[*run, own(steps=500)])
    apart = renyi.two_records(accountant.curve(run)) + accountant.curve([own(steps=500)])
    assert beside == pytest.approx(renyi.epsilon_of(apart, DELTA), rel=1e-9)
    assert beside > proved
    alone = accountant.epsilon_two_hospitals([own()], DELTA)
    assert alone == accountant.epsilon_pld([own(steps=2000)], DELTA)
    assert accountant.epsilon_two_hospitals(run, DELTA, other=[own(sigma=0.0)]) == math.inf


def test_a_patient_in_several_hospitals() -> None:
    run = [shared(steps=100)]
    figures = [accountant.epsilon_several_hospitals([run] * count, DELTA) for count in (1, 2, 3, 4)]
    assert figures[0] == accountant.epsilon(run, DELTA)
    assert figures[1] == accountant.epsilon_two_hospitals(run, DELTA)
    assert figures == sorted(figures)
    curve = accountant.curve(run)
    assert figures[2] == pytest.approx(renyi.epsilon_of(renyi.records(curve, 3), DELTA), rel=1e-9)
    # Four hospitals that met three at a time cost 4/3 of the steps at the curve of four records.
    assert renyi.share_of_group(4) * 4 == pytest.approx(4 / 3)
    three_at_a_time = renyi.records(accountant.curve([shared(steps=400)]), 3) / 3
    assert figures[3] >= renyi.epsilon_of(three_at_a_time, DELTA) * (1 - 1e-9)
    alone = accountant.epsilon_several_hospitals([[own(steps=100)]] * 3, DELTA)
    assert alone == accountant.epsilon([own(steps=300)], DELTA)
    with pytest.raises(RecordInvalid, match="no ledger"):
        accountant.epsilon_several_hospitals([], DELTA)


@pytest.mark.parametrize("count", range(1, 20))
def test_the_group_s_share_covers_every_way_to_meet(count: int) -> None:
    """A step of j hospitals stands in j of the ledgers; the curves of groups at least double with every doubling."""
    curve = accountant.curve([shared(q=0.2, sigma=2.0, steps=1)])[:20]
    whole = renyi.records(accountant.curve([shared(q=0.2, sigma=2.0, steps=1)]), count)[:20]
    for met in range(1, count + 1):
        cost = renyi.records(accountant.curve([shared(q=0.2, sigma=2.0, steps=1)]), met)[:20]
        finite = np.isfinite(whole)
        assert np.all(cost[finite] <= (met * renyi.share_of_group(count) * whole)[finite] * (1 + 1e-9))
        assert np.all(cost >= met * curve * (1 - 1e-9))


def test_several_images_of_a_patient_are_a_group() -> None:
    by_image = [shared(unit="image", steps=100)]
    figures = [accountant.epsilon_k_images(by_image, DELTA, images) for images in (1, 2, 4)]
    assert figures[0] == accountant.epsilon(by_image, DELTA) < figures[1] < figures[2]
    assert figures[1] > accountant.epsilon_gaussian_approximation(by_image, DELTA, records=2)
    assert accountant.epsilon_k_images(by_image, DELTA, 3) == figures[2]
    assert accountant.epsilon_k_images([shared(steps=100)], DELTA, 4) == figures[0]


def test_mu_covers_the_proved_profile() -> None:
    run = [shared()]
    mu = accountant.mu_gdp(run, DELTA)
    epsilons = np.linspace(0.5, accountant.epsilon(run, DELTA), 30)
    proved = accountant.delta_profile(run, list(epsilons))
    covered = loss_distribution.gaussian_deltas(mu, epsilons)
    assert all(gaussian >= delta * (1 - 1e-6) for gaussian, delta in zip(covered, proved, strict=True))
    assert accountant.mu_gdp([own()], DELTA) < mu < 2 * accountant.mu_gdp([own()], DELTA)
    assert accountant.delta_profile(run, accountant.epsilon_profile(run, [1e-3, 1e-7])) == pytest.approx([1e-3, 1e-7])


@pytest.mark.parametrize("target", [0.5, 3.0, 10.0])
def test_calibration_keeps_the_target_and_no_more_noise_than_that(target: float) -> None:
    sigma = accountant.calibrate(shared(), target=target, delta=DELTA)
    assert accountant.epsilon([shared(sigma=sigma)], DELTA) <= target
    assert accountant.epsilon([shared(sigma=sigma * (1 - 1e-3))], DELTA) > target


def test_calibration_out_of_reach_and_shares_too_small() -> None:
    with pytest.raises(UnreachableTarget) as caught:
        accountant.calibrate(shared(q=0.5, steps=10**6), target=0.01, delta=DELTA)
    assert caught.value.nearest_epsilon > 0.01
    coarse = shared(q=0.001, steps=1, grid=2.0, dimension=1)
    sigma = accountant.calibrate(coarse, target=500.0, delta=1e-2)
    least = coarse.model_copy(update={"noise_multiplier": sigma})
    assert integer_noise.share_variance(least) >= integer_noise.LEAST_DEVIATION**2
    with pytest.raises(RecordInvalid, match="target"):
        accountant.calibrate(shared(), target=0.0, delta=DELTA)


def test_a_run_is_planned_with_its_shares() -> None:
    fields = {"sampling_probability": 0.01, "steps_per_round": 50, "rounds": 8, "spare_rounds": 2, "delta": DELTA}
    shares = shared().shares
    plan = budget.plan_run(
        **fields,  # type: ignore[arg-type]
        epsilon=4.0,
        noise_placement="distributed",
        shares=shares,
    )
    assert isinstance(plan.mechanism, DistributedMechanism)
    assert plan.mechanism.shares == shares
    assert 3.99 < plan.epsilon_total <= 4.0
    assert list(plan.schedule) == sorted(plan.schedule)
    with pytest.raises(RecordInvalid, match="noise_placement"):
        budget.plan_run(**fields, noise_multiplier=1.0, shares=shares)  # type: ignore[arg-type]
    standing = budget.standing(earlier=[], mechanism=plan.mechanism, delta=DELTA, cap=4.0)
    assert standing.rounds_left == 10
    assert budget.capped_epsilon({"a": [plan.mechanism], "b": [own(steps=50)]}, DELTA, 4.0) >= accountant.epsilon(
        [plan.mechanism, own(steps=50)], DELTA
    )


@settings(max_examples=15, deadline=None)
@given(
    q=st.floats(0.001, 1.0),
    sigma=st.floats(0.5, 10.0),
    steps=st.integers(1, 500),
    threshold=st.integers(2, 12),
    noise=st.sampled_from(["discrete_gaussian", "skellam"]),
)
def test_more_of_anything_costs_more(q: float, sigma: float, steps: int, threshold: int, noise: IntegerNoise) -> None:
    def epsilon(q: float, sigma: float, steps: int, grid: float = 1e-3) -> float:
        record = shared(
            q, sigma, steps, threshold=threshold, colluding=threshold - 1, grid=grid, dimension=400, noise=noise
        )
        return accountant.epsilon([record], DELTA)

    here = epsilon(q, sigma, steps)
    slack = 1e-9 * (1 + here)
    assert epsilon(q, sigma, steps + 1) >= here - slack
    assert epsilon(q, sigma * 1.2, steps) <= here + slack
    assert epsilon(q / 2, sigma, steps) <= here + slack
    assert epsilon(q, sigma, steps, grid=1e-2) >= here - slack
