"""The four unknowns of a schedule: solved for in turn they agree, and every answer moves the way it must."""

from __future__ import annotations

import math

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting import accountant, solving
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord, NoiseShares
from fedgan_audits.errors import NotAccounted, RecordInvalid, UnreachableTarget

_EPSILONS = {0.001: (0.1, 0.5, 2.0, 8.0, 30.0), 0.2: (0.5, 1.0, 2.0, 8.0, 30.0), 1.0: (2.0, 4.0, 8.0, 15.0, 30.0)}
"""From a sampling probability on: what a noise multiplier of at most 1000 reaches in 60,000 steps."""
SLOW_GRID = [
    (q, steps, epsilon, delta)
    for q in (0.001, 0.01, 0.05, 0.2, 1.0)
    for steps in (40, 600, 5000, 60_000)
    for epsilon in _EPSILONS[max(least for least in _EPSILONS if least <= q)]
    for delta in (1e-5, 1e-6)
]
"""200 settings: (sampling probability, steps, epsilon, delta); the noise multiplier follows."""
LEAN = [(0.01, 1.0, 600, 1e-5), (0.2, 6.0, 40, 1e-6), (1.0, 10.0, 50, 1e-5), (0.02, 0.8, 1, 1e-5)]


def record(q: float, sigma: float, steps: int) -> MechanismRecord:
    return MechanismRecord(
        sampling_probability=q, noise_multiplier=sigma, steps=steps, l2_clip_norm=1.0, unit="patient"
    )


def agree(q: float, sigma: float, steps: int, delta: float) -> None:
    """Each of the four follows from the other three, to 1e-3."""
    mechanism = record(q, sigma, steps)
    epsilon = accountant.epsilon([mechanism], delta)
    found_steps = solving.most_steps(mechanism, target=epsilon, delta=delta)
    assert found_steps == pytest.approx(steps, rel=1e-3)
    found_q = solving.largest_probability(mechanism, target=epsilon, delta=delta)
    assert found_q == pytest.approx(q, rel=1e-3)
    noise = accountant.calibrate_noise_multiplier(sampling_probability=q, steps=steps, epsilon=epsilon, delta=delta)
    assert noise == pytest.approx(sigma, rel=1e-3)
    for answer in (
        record(q, sigma, found_steps), record(found_q, sigma, steps), record(q, noise, steps),
    ):  # fmt: skip
        assert accountant.epsilon([answer], delta) <= epsilon * (1 + 1e-12)


@pytest.mark.parametrize("row", LEAN, ids=str)
def test_each_of_the_four_follows_from_the_other_three(row: tuple[float, float, int, float]) -> None:
    agree(*row)


@pytest.mark.slow
@pytest.mark.parametrize("row", SLOW_GRID, ids=str)
def test_two_hundred_settings_agree(row: tuple[float, int, float, float]) -> None:
    q, steps, epsilon, delta = row
    noise = accountant.calibrate_noise_multiplier(sampling_probability=q, steps=steps, epsilon=epsilon, delta=delta)
    spent = accountant.epsilon([record(q, noise, steps)], delta)
    assert epsilon * 0.999 < spent <= epsilon
    agree(q, noise, steps, delta)


@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.floats(0.005, 0.3), st.floats(1.0, 5.0), st.integers(20, 400), st.floats(1.03, 1.5))
def test_more_is_dearer_and_answers_move_with_the_question(q: float, sigma: float, steps: int, factor: float) -> None:
    delta = 1e-5
    base = accountant.epsilon([record(q, sigma, steps)], delta)
    assert accountant.epsilon([record(min(1.0, q * factor), sigma, steps)], delta) >= base
    assert accountant.epsilon([record(q, sigma * factor, steps)], delta) <= base
    assert accountant.epsilon([record(q, sigma, math.ceil(steps * factor))], delta) >= base
    assert accountant.epsilon([record(q, sigma, steps)], delta * factor) <= base
    few = solving.most_steps(record(q, sigma, 1), target=base, delta=delta)
    assert few == steps
    assert solving.most_steps(record(q, sigma, 1), target=base * factor, delta=delta) >= few
    assert solving.most_steps(record(q, sigma * factor, 1), target=base, delta=delta) >= few


def shared(q: float = 0.01, sigma: float = 1.0, steps: int = 1000) -> DistributedMechanism:
    shares = NoiseShares(threshold=5, colluders=2, grid_step=1e-5, dimension=10_000)
    return DistributedMechanism(**record(q, sigma, steps).model_dump(exclude={"noise_placement"}), shares=shares)


def test_shared_noise_is_solved_for_in_the_same_way() -> None:
    epsilon = accountant.epsilon([shared()], 1e-5)
    assert solving.most_steps(shared(steps=1), target=epsilon, delta=1e-5) == 1000
    assert solving.largest_probability(shared(q=0.5), target=epsilon, delta=1e-5) == pytest.approx(0.01, rel=1e-3)


def test_the_last_step_is_the_last_one() -> None:
    steps = solving.most_steps(record(0.02, 1.1, 1), target=2.0, delta=1e-5)
    assert accountant.epsilon([record(0.02, 1.1, steps)], 1e-5) <= 2.0
    assert accountant.epsilon([record(0.02, 1.1, steps + 1)], 1e-5) > 2.0


@pytest.mark.parametrize(
    ("q", "sigma", "target", "delta"),
    [(0.001, 1000.0, 8.0, 1e-5), (0.001, 3.0, 8.0, 1e-11), (0.01, 10.0, 8.0, 1e-12), (1e-6, 1.0, 1.0, 1e-5)],
)
def test_an_answer_never_costs_more_than_the_target_however_odd_the_question(
    q: float, sigma: float, target: float, delta: float
) -> None:
    steps = solving.most_steps(record(q, sigma, 1), target=target, delta=delta)
    assert steps > 1 and accountant.epsilon([record(q, sigma, steps)], delta) <= target


@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), [(0.005, 4.0, 500_000, 1e-12)])
def test_the_smaller_of_two_proofs_is_the_figure(q: float, sigma: float, steps: int, delta: float) -> None:
    """At such a delta the tails of a loss distribution's grid count: Renyi's figure is below it, and proved as well."""
    one = [record(q, sigma, steps)]
    assert accountant.epsilon(one, delta) == accountant.epsilon_rdp(one, delta)
    assert accountant.accountant_name(one, delta) == accountant.RENYI
    assert "PLD" in accountant.accountant_name(one, 1e-5) == accountant.accountant_name(one)


def test_what_cannot_be_reached_names_the_nearest() -> None:
    with pytest.raises(UnreachableTarget, match=r"one step costs \d") as caught:
        solving.most_steps(record(0.5, 1.0, 1), target=0.01, delta=1e-5)
    assert caught.value.nearest_epsilon == pytest.approx(accountant.epsilon([record(0.5, 1.0, 1)], 1e-5))
    assert caught.value.exit_code == 2
    with pytest.raises(UnreachableTarget, match="no sampling probability"):
        solving.largest_probability(record(0.5, 0.1, 1_000_000), target=1e-4, delta=1e-12)
    assert solving.largest_probability(record(0.5, 100.0, 1), target=8.0, delta=1e-5) == 1.0


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_a_target_that_is_none_is_refused(target: float) -> None:
    with pytest.raises(RecordInvalid, match="target epsilon"):
        solving.most_steps(record(0.1, 1.0, 1), target=target, delta=1e-5)


def test_no_noise_and_other_neighbours_are_refused() -> None:
    with pytest.raises(RecordInvalid, match="noise_multiplier is 0"):
        solving.most_steps(record(0.1, 0.0, 1), target=1.0, delta=1e-5)
    odd = record(0.1, 1.0, 1).model_copy(update={"sampler": "shuffle"})
    with pytest.raises(NotAccounted):
        solving.largest_probability(odd, target=1.0, delta=1e-5)


RELEASE = MechanismRecord(sampling_probability=1.0, noise_multiplier=2.285, steps=1, l2_clip_norm=1.0, unit="patient")


def test_a_release_before_the_steps_is_counted_in_every_answer() -> None:
    steps, delta = record(0.1, 1.5, 60), 3.3e-5
    total = accountant.epsilon([RELEASE, steps], delta)
    assert solving.most_steps(steps, target=total, delta=delta, before=[RELEASE]) == 60
    found = solving.largest_probability(steps, target=total, delta=delta, before=[RELEASE])
    assert found == pytest.approx(0.1, rel=1e-3)
    assert accountant.epsilon([RELEASE, record(found, 1.5, 60)], delta) <= total
    assert solving.most_steps(steps, target=total, delta=delta) > 61


def test_a_shared_release_before_shared_steps_is_counted() -> None:
    noisy = NoiseShares(threshold=3, colluders=1, grid_step=1e-3, dimension=3_515)
    release = DistributedMechanism(
        sampling_probability=1.0, noise_multiplier=2.4, steps=1, l2_clip_norm=1.0, unit="patient", shares=noisy
    )
    steps, delta = shared(0.05, 1.5, 200), 1e-5
    total = accountant.epsilon([release, steps], delta) * (1 + 1e-9)
    assert solving.most_steps(steps, target=total, delta=delta, before=[release]) == 200
    found = solving.largest_probability(steps, target=total, delta=delta, before=[release])
    assert found == pytest.approx(0.05, rel=1e-3)
    assert solving.most_steps(steps, target=total, delta=delta) > 200


def test_a_release_that_costs_the_target_leaves_no_step_and_no_probability() -> None:
    with pytest.raises(UnreachableTarget, match="the release before it cost") as refused:
        solving.most_steps(record(0.064, 1.0, 1), target=1.5, delta=3.3e-5, before=[RELEASE])
    assert refused.value.nearest_epsilon > 1.5
    with pytest.raises(UnreachableTarget, match="after the release"):
        solving.largest_probability(record(0.064, 1.0, 300), target=1.5, delta=3.3e-5, before=[RELEASE])
    bare = RELEASE.model_copy(update={"noise_multiplier": 0.0})
    with pytest.raises(RecordInvalid, match="without noise"):
        solving.most_steps(record(0.064, 1.0, 1), target=8.0, delta=3.3e-5, before=[bare])
