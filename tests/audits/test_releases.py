"""Release rounds: what they and the steps after them cost together, held against dp-accounting itself."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import dp_accounting as dp
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedgan_audits.accounting import accountant, budget, releases
from fedgan_audits.accounting.mechanism import MechanismRecord, NoiseShares
from fedgan_audits.errors import NotAccounted, RecordInvalid, UnreachableTarget
from fedgan_audits.facts.records import PrivacySettings, ReleaseFacts

SHARES = NoiseShares(threshold=3, colluders=1, grid_step=1e-3, dimension=3_515)
"""Of a release's sum: its own dimension and grid."""
STEP_SHARES = NoiseShares(threshold=3, colluders=1, grid_step=1e-4, dimension=9_100)

SCHEDULES = {
    "phantoms at 8": (2.285, 0.064, 0.9527, 300, 3.3e-5, 7.9994),
    "phantoms at 1": (13.82, 0.064, 4.097, 300, 3.3e-5, 0.9997),
    "one release at 8": (2.285, 0.064, 0.0, 0, 3.3e-5, 1.5879),
    "one release at 1": (3.4553, 0.064, 0.0, 0, 3.3e-5, 1.0000),
    "real at 8": (1.63, 0.25, 2.614, 300, 1e-4, 8.0002),
    "real at 8, within": (1.63, 0.25, 2.6143, 300, 1e-4, 7.9991),
    "real, one release": (0.5431, 0.25, 0.0, 0, 1e-4, 7.9995),
}
"""Noise of the release, sampling probability, noise and number of the steps, delta, epsilon rounded to four digits."""


@cache
def by_dp_accounting(release: float, q: float, sigma: float, steps: int, delta: float) -> float:
    """The composed epsilon by dp-accounting's own PLD accountant, which shares no code with ours above its events."""
    theirs = dp.pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-4)
    theirs.compose(dp.GaussianDpEvent(release))
    if steps:
        theirs.compose(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma)), steps)
    return float(theirs.get_epsilon(delta))


def release_of(sigma: float, **fields: Any) -> MechanismRecord:
    return releases.record(**{"noise_multiplier": sigma, "l2_clip_norm": 1.0, "unit": "patient", **fields})


def run_of(release: float, q: float, sigma: float, steps: int, delta: float) -> budget.RunBudget:
    """The release, and the steps in rounds of ten."""
    if not steps:
        return releases.plan(delta=delta, noise_multiplier=release)
    return budget.plan_run(
        sampling_probability=q,
        steps_per_round=10,
        rounds=1 + steps // 10,
        delta=delta,
        noise_multiplier=sigma,
        release=release_of(release),
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_release_and_its_steps_cost_what_dp_accounting_says(name: str) -> None:
    *schedule, expected = SCHEDULES[name]
    theirs = by_dp_accounting(*schedule)
    assert round(theirs, 4) == pytest.approx(expected, abs=1.01e-4)
    ours = run_of(*schedule)
    assert ours.epsilon_total == pytest.approx(theirs, abs=5e-5)
    assert ours.epsilon_after(0) == 0.0
    assert ours.epsilon_after(1) == pytest.approx(by_dp_accounting(schedule[0], 1.0, 1.0, 0, schedule[4]), abs=5e-5)


@pytest.mark.parametrize("name", [name for name, values in SCHEDULES.items() if values[3] == 0])
def test_one_gaussian_costs_what_its_closed_form_says(name: str) -> None:
    """Balle and Wang 2018, Theorem 8: delta of the Gaussian mechanism at epsilon, by the error function alone."""
    sigma, _, _, _, delta, _ = SCHEDULES[name]
    epsilon = releases.plan(delta=delta, noise_multiplier=sigma).epsilon_total

    def tail(x: float) -> float:
        return math.erfc(x / math.sqrt(2)) / 2

    def exact(at: float) -> float:
        return tail(at * sigma - 0.5 / sigma) - math.exp(at) * tail(at * sigma + 0.5 / sigma)

    assert exact(epsilon) <= delta <= exact(epsilon * (1 - 1e-4))


def test_the_ledger_holds_what_the_plan_says() -> None:
    plan = run_of(*SCHEDULES["phantoms at 8"][:5])
    reserved = [plan.release, *[plan.mechanism] * 30]
    assert budget.capped_epsilon({"run": reserved}, plan.delta, 8.0) == plan.epsilon_total  # type: ignore[dict-item]
    assert round(plan.epsilon_total, 4) == 7.9994


@pytest.mark.parametrize(("epsilon", "sigma"), [(8.0, 2.285)])
def test_the_steps_noise_is_calibrated_to_what_the_release_leaves(epsilon: float, sigma: float) -> None:
    plan = budget.plan_run(
        sampling_probability=0.064,
        steps_per_round=10,
        rounds=25,
        spare_rounds=6,
        delta=3.3e-5,
        epsilon=epsilon,
        release=release_of(sigma),
    )
    noise = plan.mechanism.noise_multiplier
    assert plan.rounds_scheduled == 31
    assert by_dp_accounting(sigma, 0.064, noise, 300, 3.3e-5) <= epsilon
    assert by_dp_accounting(sigma, 0.064, noise * (1 - 4e-4), 300, 3.3e-5) > epsilon
    bare = budget.plan_run(sampling_probability=0.064, steps_per_round=10, rounds=30, delta=3.3e-5, epsilon=epsilon)
    assert noise > bare.mechanism.noise_multiplier * 1.01


def test_a_release_alone_is_calibrated_and_its_noise_multiplied() -> None:
    plan = releases.plan(delta=3.3e-5, epsilon=1.0)
    assert plan.release == plan.mechanism and plan.rounds_scheduled == 1
    assert 0.9995 < plan.epsilon_total <= 1.0
    assert plan.mechanism.noise_multiplier == pytest.approx(3.4553, abs=2e-4)
    assert releases.noise(1.0, 3.3e-5, 4.0) == pytest.approx(4 * plan.mechanism.noise_multiplier, rel=1e-5)
    assert releases.noise(1.0, 3.3e-5, 4.0) >= 4 * plan.mechanism.noise_multiplier
    for factor in (0.99, math.nan, 1001):
        with pytest.raises(RecordInvalid, match="factor"):
            releases.noise(1.0, 3.3e-5, factor)


def test_shared_noise_has_its_own_shares_for_the_release() -> None:
    alone = releases.plan(delta=1e-5, epsilon=8.0, shares=SHARES)
    assert alone.mechanism.noise_placement == "distributed"
    assert 7.99 < alone.epsilon_total <= 8.0
    release = release_of(releases.noise(8.0, 1e-5, 4.0, shares=SHARES), shares=SHARES)
    plan = budget.plan_run(
        sampling_probability=0.064,
        steps_per_round=10,
        rounds=31,
        delta=1e-5,
        epsilon=8.0,
        noise_placement="distributed",
        shares=STEP_SHARES,
        release=release,
    )
    assert 7.99 < plan.epsilon_total <= 8.0
    assert plan.epsilon_total == accountant.epsilon([release, *[plan.mechanism] * 30], 1e-5)
    assert plan.epsilon_after(1) == accountant.epsilon([release], 1e-5)
    # More noise in the release leaves more to the steps, and no release leaves most.
    assert plan.mechanism.noise_multiplier > accountant.calibrate(
        plan.mechanism.model_copy(update={"steps": 300}), target=8.0, delta=1e-5
    )


def test_a_release_that_costs_the_target_leaves_nothing() -> None:
    with pytest.raises(UnreachableTarget) as refused:
        budget.plan_run(
            sampling_probability=0.064, steps_per_round=10, rounds=3, delta=3.3e-5, epsilon=1.0, release=release_of(3.4)
        )
    assert refused.value.nearest_epsilon > 1.0
    bare = release_of(0.0)
    with pytest.raises(UnreachableTarget):
        budget.plan_run(
            sampling_probability=0.064, steps_per_round=10, rounds=3, delta=3.3e-5, epsilon=1.0, release=bare
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 1}, "leaves none"),
        ({"release": release_of(2.0).model_copy(update={"steps": 2})}, "2 steps"),
        ({"release": release_of(2.0).model_copy(update={"sampling_probability": 0.5})}, "probability 0.5"),
        ({"release": release_of(2.0, unit="image")}, "unit"),
    ],
)
def test_bad_releases_are_named(change: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {
        "sampling_probability": 0.1,
        "steps_per_round": 5,
        "rounds": 3,
        "delta": 1e-4,
        "noise_multiplier": 1.0,
        "release": release_of(2.0),
    }
    with pytest.raises((RecordInvalid, NotAccounted), match=said):
        budget.plan_run(**{**good, **change})


def test_standing_counts_the_release_first() -> None:
    plan = run_of(*SCHEDULES["phantoms at 8"][:5])
    before = budget.standing(
        earlier=[], mechanism=plan.mechanism, release=plan.release, delta=plan.delta, cap=8.0, most=40
    )
    assert before.rounds_left == 31
    assert plan.release is not None
    after = budget.standing(
        earlier=[],
        mechanism=plan.mechanism,
        release=plan.release,
        this_run=[plan.release],
        delta=plan.delta,
        cap=8.0,
        most=40,
    )
    assert (after.rounds_left, after.spent) == (30, plan.epsilon_after(1))
    tight = budget.standing(earlier=[], mechanism=plan.mechanism, release=plan.release, delta=plan.delta, cap=1.5)
    assert tight.rounds_left == 0


def facts(**changes: Any) -> ReleaseFacts:
    values: dict[str, Any] = {
        "mechanism": release_of(2.285),
        "statistic": "Class moments of public features and a histogram of colours.",
        "dimension": 3_515,
        "layout_sha256": "a" * 64,
        "features": "271 features of fundus64/1.",
    }
    return ReleaseFacts(**{**values, **changes})


@pytest.mark.parametrize(
    "mechanism",
    [
        release_of(2.0).model_copy(update={"sampling_probability": 0.5}),
        release_of(2.0).model_copy(update={"steps": 2}),
        release_of(2.0, shares=SHARES.model_copy(update={"dimension": 4})),
    ],
)
def test_facts_of_a_release_are_of_one_sum_of_everyone(mechanism: MechanismRecord) -> None:
    assert facts().mechanism == release_of(2.285)
    assert facts(mechanism=release_of(2.0, shares=SHARES)).mechanism.noise_placement == "distributed"
    with pytest.raises(ValidationError, match=r"expected probability 1|numbers"):
        facts(mechanism=mechanism)


def test_the_first_scheduled_round_is_the_release() -> None:
    step = release_of(1.0).model_copy(update={"sampling_probability": 0.064, "steps": 10})
    values: dict[str, Any] = {
        "unit": "patient",
        "noise_placement": "per_hospital",
        "delta": 3.3e-5,
        "planned": step,
        "images_per_patient": 2,
        "sampling": "coins",
        "noise": "Gaussian",
        "clipping": "norm 1",
    }
    plain = PrivacySettings(**values)
    assert plain.release is None and plain.scheduled(1) == step
    settings = PrivacySettings(**values, release=facts())
    assert [settings.scheduled(number) for number in (1, 2, 31)] == [facts().mechanism, step, step]
    for mechanism in (release_of(2.0, unit="image"), release_of(2.0, shares=SHARES)):
        with pytest.raises(ValidationError, match="no common figure"):
            PrivacySettings(**values, release=facts(mechanism=mechanism))


@settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.floats(1.5, 40.0), st.floats(0.01, 0.4), st.integers(2, 40), st.floats(0.5, 10.0), st.booleans())
def test_no_calibrated_schedule_costs_more_than_its_target(
    sigma: float, q: float, rounds: int, target: float, spare: bool
) -> None:
    """With shared noise, whose accountant is quick; the target holds with spare rounds too."""
    try:
        plan = budget.plan_run(
            sampling_probability=q,
            steps_per_round=5,
            rounds=rounds,
            spare_rounds=3 if spare else 0,
            delta=1e-5,
            epsilon=target,
            noise_placement="distributed",
            shares=STEP_SHARES,
            release=release_of(sigma, shares=SHARES),
        )
    except UnreachableTarget as refused:
        assert refused.nearest_epsilon > target
        assert accountant.epsilon([release_of(sigma, shares=SHARES)], 1e-5) > target * 0.95
        return
    assert plan.epsilon_total <= target
    less = plan.mechanism.model_copy(update={"noise_multiplier": plan.mechanism.noise_multiplier * 0.995})
    weaker = budget.scheduled(less, plan.rounds_scheduled, plan.release)
    assert accountant.epsilon(weaker, 1e-5) > target or plan.mechanism.noise_multiplier <= accountant.NOISE_MIN * 1.01
