"""Statistics that may be looked at after every step and are wrong with a stated probability, for any data set.

Sampling is tested by betting (Ville 1939; Ramdas et al., "Game-Theoretic Statistics and Safe Anytime-Valid Inference",
2023): a likelihood ratio of a fixed or past-chosen alternative against independent coins of probability q is a
non-negative martingale that starts at 1, and so is a mixture of such; it ever exceeds 1/alpha with probability at most
alpha. No asymptotics, and no limit on how often one looks.

Noise is tested by its moments with explicit tail bounds. For n independent values that are sub-Gaussian with variance
parameter 1, have variance 1 and fourth moment at most 3 (the standard normal; a discrete Gaussian over its parameter,
whose variance falls short of it by less than 1e-7 from one grid step on), and x = ln(2 / alpha):

    P[|sum z| > sqrt(2 n x)] <= alpha
    P[sum z^2 > n + 2 sqrt(n x) + 2 x] <= alpha / 2     from E exp(s z^2) <= (1 - 2 s)^(-1/2) (Laurent and Massart 2000)
    P[sum z^2 < n - sqrt(6 n x)] <= alpha / 2           z^2 is non-negative with E z^4 <= 3 (Maurer 2003)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

ROUNDING = 1e-4
"""Share of n by which float32 may move a sum; thousands of times what it does."""
_SMOOTH = 0.05
"""Share of the coins' own law in an alternative that would otherwise call some outcomes impossible."""
_TEMPERS = (4.0, 16.0, 0.25)
"""Alternatives that scatter half, a quarter and twice as much as coins."""
_WIDEST = 1 << 20
IMPOSSIBLE = 1e300
"""Log evidence of what independent coins cannot give."""


@dataclass
class Moments:
    """Of noise in units of its recorded standard deviation: how many values, their sum, the sum of their squares."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def mean_fits(self, alpha: float) -> bool:
        """Whether the sum is within its bound; False for NaN."""
        room = math.sqrt(2.0 * self.count * math.log(2.0 / alpha)) + ROUNDING * self.count
        return abs(self.total) <= room

    def variance_fits(self, alpha: float) -> bool:
        """Whether the sum of squares is within its bounds; False for NaN."""
        n, x = self.count, math.log(2.0 / alpha)
        slack = ROUNDING * n
        return n - math.sqrt(6.0 * n * x) - slack <= self.squares <= n + 2.0 * math.sqrt(n * x) + 2.0 * x + slack


def sees_half_noise(count: int, alpha: float, miss: float) -> bool:
    """Whether `variance_fits` finds normal noise of half the recorded deviation but with probability `miss`."""
    x, y = math.log(2.0 / alpha), math.log(1.0 / miss)
    most = 0.25 * (count + 2.0 * math.sqrt(count * y) + 2.0 * y)
    return most < count - math.sqrt(6.0 * count * x) - ROUNDING * count


def _log_binomial(trials: int, probability: float) -> np.ndarray:
    """float64[trials + 1], the logarithms of a binomial law; q in (0, 1)."""
    from scipy.special import gammaln

    k = np.arange(trials + 1, dtype=np.float64)
    ways = gammaln(trials + 1.0) - gammaln(k + 1.0) - gammaln(trials - k + 1.0)
    return np.asarray(ways + k * math.log(probability) + (trials - k) * math.log1p(-probability))


def _log_sum(values: np.ndarray) -> float:
    top = float(values.max())
    return top if math.isinf(top) else top + math.log(float(np.exp(values - top).sum()))


@lru_cache(maxsize=16)
def _ratios(trials: int, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """(log law, float64[tempers, trials + 1] log ratios of the tempered laws to it)."""
    law = _log_binomial(trials, probability)
    bets = np.stack([temper * law - _log_sum(temper * law) - law for temper in _TEMPERS])
    return law, bets


def rate_evidence(drawn: int, coins: int, probability: float) -> float:
    """Log evidence that `drawn` heads of `coins` are not of coins of `probability`, in (0, 1).

    The alternative is a coin of unknown bias under Jeffreys' prior Beta(1/2, 1/2).
    """
    from scipy.special import betaln

    mixed = float(betaln(drawn + 0.5, coins - drawn + 0.5) - betaln(0.5, 0.5))
    return mixed - drawn * math.log(probability) - (coins - drawn) * math.log1p(-probability)


@dataclass
class SizeEvidence:
    """Log evidence against independent coins from the sizes of batches, one bet after the other.

    Attributes:
        first: the size of the first batch: one alternative is that all later ones have it, too.
        logs: the bets' logarithms: constant size, then `_TEMPERS`.
    """

    first: int | None = None
    logs: list[float] = field(default_factory=lambda: [0.0] * (1 + len(_TEMPERS)))

    def add(self, size: int, trials: int, probability: float) -> None:
        """One batch of `size` of `trials` patients; a size that coins cannot give is `IMPOSSIBLE`."""
        if not 0 <= size <= trials:
            self.logs = [IMPOSSIBLE] * len(self.logs)
            return
        if trials > _WIDEST:
            return
        law, bets = _ratios(trials, probability)
        if self.first is None:
            self.first = size
        else:
            same = math.log1p(-_SMOOTH) - float(law[size]) if size == self.first else -math.inf
            self.logs[0] += float(np.logaddexp(math.log(_SMOOTH), same))
        for place in range(len(_TEMPERS)):
            self.logs[1 + place] += float(bets[place, size])

    @property
    def log(self) -> float:
        """Of the mixture of all bets in equal shares."""
        return _log_sum(np.array(self.logs)) - math.log(len(self.logs))


@dataclass
class CountEvidence:
    """Log evidence against independent coins from how often each patient was drawn in a round.

    Attributes:
        logs: the bets' logarithms: everybody within one of the first patient; whole passes over shuffled patients; the
            same patients in every step; `_TEMPERS`.
    """

    logs: list[float] = field(default_factory=lambda: [0.0] * (3 + len(_TEMPERS)))

    def add(self, counts: np.ndarray, steps: int, probability: float) -> None:
        """int[patients], how often each was drawn in `steps` steps; more than `steps` is `IMPOSSIBLE`."""
        if not len(counts) or not steps:
            return
        if counts.max() > steps or counts.min() < 0:
            self.logs = [IMPOSSIBLE] * len(self.logs)
            return
        times = np.bincount(counts, minlength=steps + 1).astype(np.float64)
        law, bets = _ratios(steps, probability)
        alike = _alike(law, int(counts[0]))
        self.logs[0] += float(times @ alike) - float(alike[counts[0]])  # the first was looked at, not bet on
        for place, bet in enumerate((*_passes(law, steps, probability), *bets), start=1):
            self.logs[place] += float(times @ bet)

    @property
    def log(self) -> float:
        """Of the mixture of all bets in equal shares."""
        return _log_sum(np.array(self.logs)) - math.log(len(self.logs))


def _alike(law: np.ndarray, count: int) -> np.ndarray:
    """Log ratios, float64[steps + 1]: everybody is drawn `count` times or one more or less."""
    near = np.arange(max(count - 1, 0), min(count + 2, len(law)))
    bet = np.full(len(law), math.log(_SMOOTH))
    bet[near] = np.logaddexp(bet[near], math.log1p(-_SMOOTH) - math.log(len(near)) - law[near])
    return bet


def _passes(law: np.ndarray, steps: int, probability: float) -> list[np.ndarray]:
    """Log ratios, float64[steps + 1] each: shuffled passes give every patient floor(T q) or one more; a fixed batch
    gives T or nothing."""
    whole = min(int(steps * probability), steps)
    part = min(max(steps * probability - whole, 0.0), 1.0)
    shuffled, fixed = np.zeros(steps + 1), np.zeros(steps + 1)
    shuffled[whole] += 1.0 - part
    shuffled[min(whole + 1, steps)] += part
    fixed[0], fixed[steps] = 1.0 - probability, probability
    with np.errstate(divide="ignore"):
        laws = [np.log(shuffled), np.log(fixed)]
    return [np.logaddexp(math.log(_SMOOTH), math.log1p(-_SMOOTH) + other - law) for other in laws]


def sees_double_rate(coins: int, probability: float, limit: float, miss: float) -> bool:
    """Whether `rate_evidence` over so many coins passes `limit` if the rate is doubled or halved, but for `miss`."""
    from scipy.stats import binom

    def extreme(other: float, side: float) -> float:
        return float(binom.ppf(side, coins, other))

    low, high = extreme(probability / 2.0, 1.0 - miss), extreme(min(1.0, 2.0 * probability), miss)
    inside = low < probability * coins < high
    found = (rate_evidence(int(k), coins, probability) > limit for k in (low, high))
    return inside and all(found)


def constant_size_evidence(batches: int, trials: int, probability: float) -> float:
    """Log evidence that `batches` batches of the most likely size would give."""
    made = SizeEvidence()
    size = int((trials + 1) * probability)
    for _ in range(batches):
        made.add(min(size, trials), trials, probability)
    return made.log


def shuffled_count_evidence(rounds: int, steps: int, trials: int, probability: float) -> float:
    """Log evidence that `rounds` rounds of shuffled passes over `trials` patients would give."""
    whole = int(steps * probability)
    more = round((steps * probability - whole) * trials)
    counts = np.full(trials, whole)
    counts[:more] += 1
    made = CountEvidence()
    made.add(np.minimum(counts, steps), steps, probability)
    made.logs = [rounds * value for value in made.logs]
    return made.log
