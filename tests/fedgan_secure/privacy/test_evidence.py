"""The self-tests' statistics: false-alarm rates by exact sums and simulation, and what each of them sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.privacy import evidence
from fedgan_secure.privacy.evidence import CountEvidence, Moments, SizeEvidence, rate_evidence

COINS = st.floats(0.01, 0.99)


def mean(trials: int, probability: float, logs: np.ndarray) -> np.ndarray:
    """Means of wealth, float64[bets], under the coins' law; logs float64[trials + 1, bets]. Nothing overflows."""
    terms = evidence._log_binomial(trials, probability)[:, None] + logs
    return np.exp(np.logaddexp.reduce(terms, axis=0))


@given(trials=st.integers(1, 300), probability=COINS)
@settings(max_examples=60)
def test_the_evidence_of_a_rate_is_a_fair_bet(trials: int, probability: float) -> None:
    """Its mean under independent coins is 1, whatever the number of coins: Markov's inequality then bounds it."""
    logs = np.array([[rate_evidence(k, trials, probability)] for k in range(trials + 1)])
    assert mean(trials, probability, logs) == pytest.approx([1.0], rel=1e-6)


@given(trials=st.integers(1, 200), probability=COINS, first=st.data())
@settings(max_examples=60)
def test_every_bet_on_a_size_is_fair_given_the_past(trials: int, probability: float, first: st.DataObject) -> None:
    earlier = first.draw(st.integers(0, trials))
    logs = []
    for size in range(trials + 1):
        made = SizeEvidence(first=earlier)
        made.add(size, trials, probability)
        logs.append(made.logs)
    means = mean(trials, probability, np.array(logs))
    assert means == pytest.approx(np.ones(len(means)), rel=1e-6)


@given(steps=st.integers(1, 120), probability=COINS, first=st.data())
@settings(max_examples=60)
def test_every_bet_on_a_count_is_fair(steps: int, probability: float, first: st.DataObject) -> None:
    """Two patients: the second's bets are fair given the first, and so are the first's alone."""
    earlier = first.draw(st.integers(0, steps))
    single, pair = [], []
    for count in range(steps + 1):
        for counts, logs in (([count], single), ([earlier, count], pair)):
            made = CountEvidence()
            made.add(np.array(counts), steps, probability)
            logs.append(made.logs)
    alone = CountEvidence()
    alone.add(np.array([earlier]), steps, probability)
    assert mean(steps, probability, np.array(single)) == pytest.approx(np.ones(len(alone.logs)), rel=1e-6)
    given_first = np.array(pair) - np.array(alone.logs)
    assert mean(steps, probability, given_first) == pytest.approx(np.ones(len(alone.logs)), rel=1e-6)


def test_patients_and_rounds_multiply() -> None:
    both, one, other = CountEvidence(), CountEvidence(), CountEvidence()
    both.add(np.array([3, 5]), 10, 0.3)
    one.add(np.array([3]), 10, 0.3)
    other.add(np.array([5]), 10, 0.3)
    assert both.logs[1:] == pytest.approx([a + b for a, b in zip(one.logs[1:], other.logs[1:], strict=True)])


@pytest.mark.parametrize("alpha", [1e-2, 1e-3])
def test_moments_of_sound_noise_are_refused_at_most_as_often_as_stated(alpha: float) -> None:
    """20,000 draws of 400 normals; five standard errors above alpha (false alarm of this test below 3e-7)."""
    draws = np.random.default_rng(1).standard_normal((20_000, 400))
    sums, squares = draws.sum(axis=1), (draws**2).sum(axis=1)
    missed = [
        sum(not Moments(400, float(s), 400.0).mean_fits(alpha) for s in sums),
        sum(not Moments(400, 0.0, float(q)).variance_fits(alpha) for q in squares),
    ]
    allowed = 20_000 * alpha + 5 * math.sqrt(20_000 * alpha)
    assert max(missed) <= allowed


@given(count=st.integers(1_200, 3_000_000))
def test_noise_that_is_off_or_halved_is_seen_from_the_stated_number_of_values_on(count: int) -> None:
    assert evidence.sees_half_noise(count, 1e-40, 1e-6)
    assert not Moments(count, 0.0, 0.0).variance_fits(1e-40)
    assert not Moments(count, 0.0, count / 4).variance_fits(1e-40)
    assert not Moments(count, 0.0, count * 4.0).variance_fits(1e-40)
    assert Moments(count, 0.0, float(count)).variance_fits(1e-40)


def test_a_shifted_mean_is_seen_and_nan_never_fits() -> None:
    assert not Moments(1_000_000, 20_000.0, 1_000_000.0).mean_fits(1e-40)
    assert not Moments(1_000_000, math.nan, math.nan).mean_fits(1e-40)
    assert not Moments(1_000_000, math.nan, math.nan).variance_fits(1e-40)


def test_constant_batches_and_shuffled_passes_are_seen_and_coins_are_not() -> None:
    trials, probability, steps = 400, 0.1, 200
    rng = np.random.default_rng(2)
    limit = -math.log(1e-40)
    fixed, sound, wide = SizeEvidence(), SizeEvidence(), SizeEvidence()
    for _ in range(steps):
        fixed.add(40, trials, probability)
        sound.add(int(rng.binomial(trials, probability)), trials, probability)
        wide.add(int(rng.binomial(trials, rng.choice([0.05, 0.15]))), trials, probability)
    assert fixed.log > limit > sound.log
    assert wide.log > limit
    shuffled, coins, same = CountEvidence(), CountEvidence(), CountEvidence()
    shuffled.add(np.full(trials, 20), steps, probability)
    coins.add(rng.binomial(steps, probability, trials), steps, probability)
    same.add(np.where(np.arange(trials) < 40, steps, 0), steps, probability)
    assert shuffled.log > limit > coins.log
    assert same.log > limit


def test_doubled_and_halved_rates_are_seen_once_it_says_so() -> None:
    coins = next(n for n in range(500, 20_000, 500) if evidence.sees_double_rate(n, 0.1, 92.1, 1e-6))
    assert rate_evidence(int(0.2 * coins), coins, 0.1) > 92.1
    assert rate_evidence(int(0.05 * coins), coins, 0.1) > 92.1
    assert not evidence.sees_double_rate(coins // 10, 0.1, 92.1, 1e-6)


@pytest.mark.parametrize("size", [-1, 11])
def test_what_coins_cannot_give_is_impossible(size: int) -> None:
    made = SizeEvidence()
    made.add(size, 10, 0.5)
    assert made.log > 1e299
    counts = CountEvidence()
    counts.add(np.array([4, size]), 10, 0.5)
    assert counts.log > 1e299
