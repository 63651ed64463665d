"""Discrete Gaussian noise against its exact distribution, and the decisions that double precision cannot make.

Bytes repeat from run to run (a counter under a hash), so a test that passes keeps passing. For fresh bytes the stated
false-alarm rates are those of the test on correct noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from fedgan_secure.privacy import integer_noise
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.privacy.integer_noise import LARGEST_DEVIATION, DiscreteGaussian

ALARM = 1e-9


def repeatable(label: str) -> Callable[[int], bytes]:
    """An entropy source that repeats."""
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{label}/{count}".encode()).digest(size)

    return draw


def probabilities(variance: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Values and their exact probabilities, out to 14 standard deviations."""
    with localcontext(prec=50):
        reach = math.isqrt(int(200 * variance)) + 3
        values = range(-reach, reach + 1)
        weights = [(-Decimal(x * x) * variance.denominator / (2 * variance.numerator)).exp() for x in values]
        total = sum(weights)
        return np.array(values), np.array([float(weight / total) for weight in weights])


def alarm_of(draws: np.ndarray, variance: Fraction) -> float:
    """P value of Pearson's chi-squared test; cells expected fewer than 20 times are joined with their neighbours."""
    values, chances = probabilities(variance)
    expected, observed = [0.0], [0]
    counts = np.bincount(draws - values[0], minlength=len(values))
    assert counts.sum() == len(draws) == counts[: len(values)].sum()
    for chance, count in zip(chances, counts, strict=True):
        if expected[-1] >= 20:
            expected.append(0.0)
            observed.append(0)
        expected[-1] += chance * len(draws)
        observed[-1] += int(count)
    expected[-2] += expected.pop()
    observed[-2] += observed.pop()
    statistic = sum((seen - due) ** 2 / due for seen, due in zip(observed, expected, strict=True))
    return float(stats.chi2.sf(statistic, len(expected) - 1))


VARIANCES = [Fraction(1, 16), Fraction(1, 3), Fraction(1), Fraction(9), Fraction(1000, 7), Fraction(40_000)]


@pytest.mark.parametrize("variance", VARIANCES, ids=str)
def test_the_distribution_is_the_stated_one(variance: Fraction) -> None:
    """Chi-squared over all integers, false-alarm rate 1e-9; two million draws."""
    draws = DiscreteGaussian(variance, repeatable(f"fit/{variance}")).draw(2_000_000)
    assert draws.dtype == np.int64
    assert alarm_of(draws, variance) > ALARM


@pytest.mark.parametrize("variance", [Fraction(1, 3), Fraction(9), Fraction(2500)], ids=str)
def test_decisions_made_exactly_have_the_same_distribution(variance: Fraction, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a guard of 1/4 about half of all decisions take the exact way; false-alarm rate 1e-9."""
    monkeypatch.setattr(integer_noise, "GUARD", 0.25)
    draws = DiscreteGaussian(variance, repeatable(f"exact/{variance}")).draw(12_000)
    assert alarm_of(draws, variance) > ALARM


@pytest.mark.parametrize("deviation", [0.5, 1.0, 7.3, 1e4, 3e7, float(LARGEST_DEVIATION)])
def test_mean_variance_and_tail(deviation: float) -> None:
    """Six standard errors for mean and variance, false-alarm rate 4e-9 each; tail by Canonne et al.: 2e-12."""
    n = 500_000
    variance = Fraction(deviation) ** 2
    draws = DiscreteGaussian(variance, repeatable(f"moments/{deviation}")).draw(n)
    scaled = draws / deviation
    if deviation <= 10:
        values, chances = probabilities(variance)
        second, fourth = (float((chances * (values / deviation) ** power).sum()) for power in (2, 4))
    else:
        second, fourth = 1.0, 3.0
    assert abs(scaled.mean()) < 6 * math.sqrt(second / n)
    assert abs((scaled**2).mean() - second) < 6 * math.sqrt((fourth - second**2) / n)
    assert np.abs(scaled).max() <= math.sqrt(2 * math.log(2 * n / 2e-12))
    assert abs((np.abs(scaled) > 2.5).mean() - 2 * stats.norm.sf(2.5)) < 1e-3 or deviation <= 10


def test_large_deviations_are_normal_to_the_eye_of_kolmogorov() -> None:
    """For s = 1e6 the distance to the normal is below 1e-6; the test's false-alarm rate is 1e-9."""
    draws = DiscreteGaussian(Fraction(10**12), repeatable("normal")).draw(400_000)
    assert stats.kstest(draws / 1e6, "norm").pvalue > ALARM


def test_draws_do_not_depend_on_how_they_are_asked_for_in_distribution_only() -> None:
    draws = DiscreteGaussian(Fraction(4), repeatable("pieces"))
    pieces = np.concatenate([draws.draw(size) for size in (0, 1, 2, 40_000, 7)])
    assert len(pieces) == 40_010 and alarm_of(pieces, Fraction(4)) > ALARM
    assert abs(np.corrcoef(pieces[:-1], pieces[1:])[0, 1]) < 6 / math.sqrt(len(pieces))


def test_blocks_start_where_the_square_root_says() -> None:
    for variance in (Fraction(9), Fraction(1, 4), Fraction(10**18), Fraction(10**18 + 1), Fraction(2, 7)):
        noise = DiscreteGaussian(variance, repeatable("starts"))
        for k in range(13):
            start = int(noise._starts[k])
            assert Fraction(start) ** 2 >= k * k * variance
            assert start == 0 or Fraction(start - 1) ** 2 < k * k * variance


class Scripted:
    """A bit stream that gives the bits it was told to, 64 at a time."""

    def __init__(self, bits: str) -> None:
        self.left = bits

    def bits(self, count: int) -> int:
        head, self.left = self.left[:count], self.left[count:]
        return int(head.ljust(count, "0"), 2)


def binary(value: Decimal, places: int) -> str:
    with localcontext(prec=400):
        return format(int(value * Decimal(2) ** places), f"0{places}b")


@pytest.mark.parametrize("flip", [70, 130, 200])
def test_a_tie_in_64_bits_is_decided_by_the_bits_that_follow(flip: int) -> None:
    """The uniform number agrees with the probability in `flip` bits and differs in the next one, both ways."""
    noise = DiscreteGaussian(Fraction(1000, 7), repeatable("ties"))
    value = 31
    block = next(k for k in range(12) if noise._start(k) <= value < noise._start(k + 1))
    with localcontext(prec=300):
        chance = (-(Decimal(value * value * 7) / 1000 - block * block) / 2).exp()
    bits = binary(chance, 320)
    for other in (flip, next(i for i in range(flip, 320) if bits[i] != bits[flip])):
        near = bits[:other] + ("1" if bits[other] == "0" else "0") + bits[other + 1 :]
        noise._stream = Scripted(near[64:])  # type: ignore[assignment]
        assert noise._below(int(near[:64], 2), value, block) is (bits[other] == "1")


@pytest.mark.parametrize("k", [0, 1, 4, 6, 9, 13, 20])
def test_a_tie_between_blocks_is_decided_by_the_bits_that_follow(k: int) -> None:
    """Just below P[K <= k] is block k, just above it block k + 1: also where 31 bits are all ones."""
    noise = DiscreteGaussian(Fraction(5), repeatable("blocks"))
    bound = integer_noise._block_bounds(200)[k]
    with localcontext(prec=300):
        for step, block in ((-1, k), (1, k + 1)):
            bits = binary(bound + step * Decimal(2) ** -400, 480)
            noise._stream = Scripted(bits[31:])  # type: ignore[assignment]
            assert noise._block_of(int(bits[:31], 2)) == block


def test_a_far_block_is_placed_and_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the twelve blocks of the quick comparison: the value lies in its block, the decision is the exact one."""
    noise = DiscreteGaussian(Fraction(100), repeatable("far"))
    same = DiscreteGaussian(Fraction(100), repeatable("far"))._stream.take(16)
    pick = int(np.frombuffer(same, "<u4", 1, offset=8)[0]) >> 1
    asked: list[tuple[int, int]] = []

    def kept(chance: int, value: int, block: int) -> bool:
        asked.append((value, block))
        return True

    monkeypatch.setattr(noise, "_quick", [2**31] * 11 + [pick])
    monkeypatch.setattr(noise, "_block_of", lambda picked: 14)
    monkeypatch.setattr(noise, "_below", kept)
    drawn = noise._kept(1)
    assert [block for _, block in asked] == [14] and 140 <= asked[0][0] < 150
    assert abs(int(drawn[0])) == asked[0][0]


def test_double_precision_is_never_off_by_the_guard() -> None:
    """The quick exponent against 60 digits, at 3,000 places of every block and for small and large deviations."""
    for variance in (Fraction(1, 4), Fraction(10**6 + 1, 3), Fraction(LARGEST_DEVIATION) ** 2):
        noise = DiscreteGaussian(variance, repeatable("guard"))
        for k in range(12):
            first, last = int(noise._starts[k]), int(noise._starts[k + 1])
            for value in np.unique(np.linspace(first, max(first, last - 1), 80).astype(np.int64)):
                quick = float(noise._quick_chance(np.array([k]), np.array([value - first]))[0])
                with localcontext(prec=60):
                    exact = (Fraction(int(value)) ** 2 / variance - k * k) / 2
                    off = abs(Decimal(quick) - (-Decimal(exact.numerator) / exact.denominator).exp())
                assert off < integer_noise.GUARD / 1000


@pytest.mark.parametrize("variance", [Fraction(0), Fraction(-1), Fraction(LARGEST_DEVIATION**2 + 1)])
def test_a_variance_out_of_range_is_refused(variance: Fraction) -> None:
    with pytest.raises(PrivacyRefused, match="variance of integer noise"):
        DiscreteGaussian(variance)


def test_short_entropy_is_refused_and_keys_are_fresh() -> None:
    with pytest.raises(PrivacyRefused, match="entropy"):
        DiscreteGaussian(Fraction(1), lambda size: b"x" * (size - 1))
    one, two = DiscreteGaussian(Fraction(10**6)).draw(50), DiscreteGaussian(Fraction(10**6)).draw(50)
    assert not np.array_equal(one, two)
