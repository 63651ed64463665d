"""Planning: the schedule is composed, the target kept with spare rounds, the cap's remainder counted."""

from __future__ import annotations

import math

import pytest

from fedgan_audits.accounting import accountant, budget, renyi
from fedgan_audits.errors import NotAccounted, RecordInvalid


def test_the_schedule_keeps_the_target_with_every_spare_round() -> None:
    plan = budget.plan_run(
        sampling_probability=0.1, steps_per_round=20, rounds=3, spare_rounds=2, delta=1e-4, epsilon=8.0
    )
    assert plan.rounds_scheduled == 5
    schedule = plan.schedule
    assert len(schedule) == 5
    assert list(schedule) == sorted(schedule)
    assert 7.9 < schedule[-1] == plan.epsilon_total <= 8.0
    assert schedule[1] < 2 * schedule[0]
    assert plan.epsilon_after(0) == 0.0
    with pytest.raises(RecordInvalid):
        plan.epsilon_after(6)


def test_fixed_noise_and_no_noise() -> None:
    plan = budget.plan_run(
        sampling_probability=0.1, steps_per_round=20, rounds=3, delta=1e-4, noise_multiplier=1.2, l2_clip_norm=2.0
    )
    assert plan.mechanism.noise_multiplier == 1.2
    assert plan.mechanism.l2_clip_norm == 2.0
    assert plan.mechanism.steps == 20
    bare = budget.plan_run(sampling_probability=0.1, steps_per_round=20, rounds=3, delta=1e-4, noise_multiplier=0.0)
    assert bare.epsilon_total == math.inf


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epsilon": 1.0}, "noise_multiplier and epsilon"),
        ({"noise_multiplier": None}, "noise_multiplier and epsilon"),
        ({"rounds": 0}, "rounds"),
        ({"spare_rounds": -1}, "spare_rounds"),
        ({"sampling_probability": 1.5}, "sampling_probability"),
        ({"steps_per_round": 0}, "steps"),
        ({"delta": 0.0}, "delta"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"unit": "study"}, "unit"),
    ],
)
def test_bad_plans_name_what_is_wrong(change: dict[str, object], named: str) -> None:
    good: dict[str, object] = {
        "sampling_probability": 0.1,
        "steps_per_round": 20,
        "rounds": 3,
        "delta": 1e-4,
        "noise_multiplier": 1.0,
    }
    with pytest.raises(RecordInvalid, match=named):
        budget.plan_run(**{**good, **change})  # type: ignore[arg-type]


def test_distributed_noise_of_unknown_shares_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(NotAccounted, match="distributed"):
        budget.plan_run(
            sampling_probability=0.1,
            steps_per_round=20,
            rounds=3,
            delta=1e-4,
            epsilon=1.0,
            noise_placement="distributed",
        )


@pytest.mark.parametrize(("patients", "delta"), [(1, 0.1), (75, 1 / 750), (10_000, 1e-5), (10**9, 1e-10)])
def test_advised_delta_is_a_tenth_of_a_patient(patients: int, delta: float) -> None:
    assert budget.advised_delta(patients) == delta


@pytest.mark.parametrize("patients", [0, -1, 2.5, True])
def test_advised_delta_needs_a_number_of_patients(patients: int) -> None:
    with pytest.raises(RecordInvalid, match="declared_patients"):
        budget.advised_delta(patients)


def test_standing_counts_the_rounds_that_the_cap_allows() -> None:
    one = budget.mechanism_record(
        sampling_probability=0.1, noise_multiplier=1.0, steps=20, l2_clip_norm=1.0, unit="patient"
    )
    free = budget.standing(earlier=[], mechanism=one, delta=1e-5)
    assert (free.spent, free.remaining, free.rounds_left) == (0.0, None, None)
    at = budget.standing(earlier=[], this_run=[one], mechanism=one, delta=1e-5, cap=6.0)
    assert at.rounds_left is not None
    allowed = [one] * (1 + at.rounds_left)
    assert accountant.epsilon_pld(allowed, 1e-5) <= 6.0 < accountant.epsilon_pld([*allowed, one], 1e-5)
    assert at.remaining == pytest.approx(6.0 - accountant.epsilon_pld([one], 1e-5))
    used_up = budget.standing(earlier=[], this_run=allowed, mechanism=one, delta=1e-5, cap=6.0)
    assert used_up.rounds_left == 0
    bare = one.model_copy(update={"noise_multiplier": 0.0})
    over = budget.standing(earlier=[bare], mechanism=one, delta=1e-5, cap=6.0)
    assert (over.spent, over.remaining, over.rounds_left) == (math.inf, 0.0, 0)


def test_several_runs_are_held_by_the_filter_and_one_run_by_its_schedule() -> None:
    one = budget.mechanism_record(
        sampling_probability=0.1, noise_multiplier=1.0, steps=20, l2_clip_norm=1.0, unit="patient"
    )
    everything = [one, one]
    assert budget.capped_epsilon({"a": everything}, 1e-5) == accountant.epsilon_pld(everything, 1e-5)
    assert budget.capped_epsilon({"a": everything, "b": []}, 1e-5) == accountant.epsilon_pld(everything, 1e-5)
    assert budget.capped_epsilon({}, 1e-5) == 0.0
    two = {"a": [one], "b": [one]}
    curve = accountant.curve(everything)
    order = renyi.filter_order(accountant.step_noise(one), 1e-5, 5.0)
    assert budget.capped_epsilon(two, 1e-5, 5.0) == renyi.filtered_epsilon(curve, 1e-5, order)
    assert budget.capped_epsilon(two, 1e-5) == renyi.filtered_epsilon(curve, 1e-5)
    # What the filter costs: a fixed order is no better than the best one, several watched orders cost more.
    assert accountant.epsilon_rdp(everything, 1e-5) < budget.capped_epsilon(two, 1e-5, 5.0)
    assert budget.capped_epsilon(two, 1e-5, 5.0) < budget.capped_epsilon(two, 1e-5)
    bare = one.model_copy(update={"noise_multiplier": 0.0})
    assert budget.capped_epsilon({"a": [one], "b": [bare]}, 1e-5) == math.inf
