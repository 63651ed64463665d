"""What a truncated batch, or any rare departure from the mechanism, adds to delta: by exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting import accountant, failures
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.errors import RecordInvalid

DELTA = 1e-5


def record(steps: int = 1000) -> MechanismRecord:
    return MechanismRecord(
        sampling_probability=0.01, noise_multiplier=1.0, steps=steps, l2_clip_norm=1.0, unit="patient"
    )


def exact_tail(units: int, q: Fraction, capacity: int) -> Fraction:
    return sum(
        (math.comb(units, i) * q**i * (1 - q) ** (units - i) for i in range(capacity + 1, units + 1)), Fraction(0)
    )


@settings(deadline=None)
@given(st.integers(0, 120), st.integers(1, 99), st.integers(0, 130))
def test_the_overflow_is_the_binomial_tail_and_never_below_it(units: int, percent: int, capacity: int) -> None:
    q = percent / 100
    truth = exact_tail(units, Fraction(q), capacity)
    ours = Fraction(failures.overflow_probability(units, q, capacity))
    assert truth <= ours <= truth * (1 + Fraction(1, 10**7)) + Fraction(1, 10**290)


def test_overflow_at_the_edges() -> None:
    assert failures.overflow_probability(100, 0.5, 100) == 0.0
    assert failures.overflow_probability(100, 0.0, 0) == 0.0
    assert failures.overflow_probability(100, 1.0, 99) == 1.0
    assert 0 < failures.overflow_probability(10**6, 1e-4, 900) < 1e-290
    for wrong in ((-1, 0.5, 1), (10, 1.5, 1), (10, 0.5, -1), (10.5, 0.5, 1), (True, 0.5, 1)):
        with pytest.raises(RecordInvalid):
            failures.overflow_probability(*wrong)  # type: ignore[arg-type]


def test_the_charge_holds_for_a_mechanism_small_enough_to_enumerate() -> None:
    """Release the number of drawn units, cut off at `capacity`, with two-sided geometric noise: all by fractions."""
    ratio, q, capacity = Fraction(1, 2), Fraction(1, 4), 2  # the noise has epsilon ln 2 for one unit
    window = range(-60, 70)

    def law(units: int, cut: bool) -> dict[int, Fraction]:
        out = dict.fromkeys(window, Fraction(0))
        for drawn in range(units + 1):
            weight = math.comb(units, drawn) * q**drawn * (1 - q) ** (units - drawn)
            # What the cut-off releases gives the batch away altogether: the worst that a departure may do.
            shown = 65 if cut and drawn > capacity else drawn
            for x in window:
                noise = (1 - ratio) / (1 + ratio) * ratio ** abs(x - drawn) if shown == drawn else Fraction(x == shown)
                out[x] += weight * noise
        return out

    def delta(first: dict[int, Fraction], second: dict[int, Fraction], factor: Fraction) -> Fraction:
        return sum((max(Fraction(0), first[x] - factor * second[x]) for x in window), Fraction(0))

    factor = Fraction(5, 4)  # e^epsilon of the sampled mechanism: 1 + q (2 - 1)
    bare = max(delta(law(5, False), law(4, False), factor), delta(law(4, False), law(5, False), factor))
    assert bare <= Fraction(1, 10**15)  # pure differential privacy, but for the window
    overflow = exact_tail(5, q, capacity)
    cut = max(delta(law(5, True), law(4, True), factor), delta(law(4, True), law(5, True), factor))
    assert 0 < cut <= bare + (1 + factor) * overflow
    assert (1 + factor) * overflow <= Fraction(failures.delta_charge(math.log(1.25), float(overflow)))


def test_epsilon_with_failures_solves_for_delta() -> None:
    run = [record()]
    plain = accountant.epsilon(run, DELTA)
    assert accountant.epsilon_with_failures(run, DELTA, 0.0) == plain
    for total in (1e-12, 1e-8, 1e-7, 5e-7):
        epsilon = accountant.epsilon_with_failures(run, DELTA, total)
        spent = accountant.delta_profile(run, [epsilon])[0] + failures.delta_charge(epsilon, total)
        assert plain <= epsilon
        assert DELTA * (1 - 1e-5) <= spent <= DELTA * (1 + 1e-9)
    assert accountant.epsilon_with_failures(run, DELTA, 1e-5) == math.inf
    assert accountant.epsilon_with_failures(run, DELTA, 1.0) == math.inf
    assert failures.delta_charge(0.0, 0.0) == 0.0
    assert failures.delta_charge(1e6, 1e-9) == 1.0
    with pytest.raises(RecordInvalid, match="failure_probability"):
        accountant.epsilon_with_failures(run, DELTA, -1e-9)


def test_a_capacity_for_a_planned_batch() -> None:
    """5000 patients at q = .01, batches of 50 expected: twice that is enough, half again is not."""
    assert 1000 * failures.overflow_probability(5000, 0.01, 100) < 1e-6
    assert 1000 * failures.overflow_probability(5000, 0.01, 75) > 1e-2
