"""What a search for good settings costs the patients it is done on, as a curve of Rényi divergences.

Three ways to charge, by what is released and how trials are chosen (`fedgan_audits.accounting.mechanism.SearchTerms`):

* "each_once": the trials are fixed beforehand, all of them may be released. Plain composition; the accountant takes the
  trials as so many mechanisms, so that privacy loss distributions stay the proved figure.
* "any_of": each trial is one of the settings, chosen with knowledge of what earlier trials gave. Composition in RDP of
  so many times the largest curve: whatever is chosen, at every order a trial costs at most that (Mironov 2017,
  Proposition 1), and the bound is fixed beforehand, so that all orders may be looked at.
* "winner_alone": Papernot and Steinke 2021 ("Hyperparameter Tuning with Rényi Differential Privacy", arXiv
  2110.03620). The number K of trials is random, of a public distribution, and stays secret; every trial draws its
  setting independently from one public distribution and scores itself by what is private already; the best trial's
  setting, model and score alone are released. A trial, its setting included, is one mechanism Q, whose divergence is at
  most the largest over the settings (quasi-convexity). Theorem 2 for truncated negative binomial K, Theorem 6 for
  Poisson K.

"winner_alone" holds against whoever sees the winner and nothing else. Whoever sees trials as they run (the operator of
the search; in a federation across machines the coordinator and the other hospitals) sees more than the theorem allows
for: there the charge is one of the other two.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from fedgan_audits.accounting import renyi
from fedgan_audits.accounting.mechanism import SearchTerms, TrialSetting
from fedgan_audits.accounting.renyi import Curve, SampledNoise
from fedgan_audits.errors import RecordInvalid

_UP = 1 + 1e-11
_MOST_TRIALS = 1_000_000


def trial_curve(setting: TrialSetting) -> Curve:
    """One trial's divergences at renyi.ORDERS."""
    return renyi.composed([(SampledNoise(setting.sampling_probability, setting.noise_multiplier), setting.steps)])


def worst_curve(settings: tuple[TrialSetting, ...]) -> Curve:
    """At every order the largest divergence of any of `settings`: a bound for a setting chosen in any way."""
    return np.max([trial_curve(setting) for setting in sorted(set(settings), key=repr)], axis=0)


@lru_cache(maxsize=64)
def curve(terms: SearchTerms) -> Curve:
    """The whole search's divergences at renyi.ORDERS, float64, for adding or removing one unit; read-only."""
    if terms.charge == "each_once":
        result = np.sum([trial_curve(setting) for setting in terms.settings], axis=0)
    elif terms.charge == "any_of":
        result = (terms.trials or 0) * worst_curve(terms.settings)
    else:
        result = winner_curve(worst_curve(terms.settings), terms.mean_trials or 1.0, terms.shape)
    result = np.asarray(result * _UP)
    result.setflags(write=False)
    return result


def winner_curve(trial: Curve, mean: float, shape: float | None) -> Curve:
    """Divergences of releasing the best of K trials alone, from those of one trial, both at renyi.ORDERS.

    Args:
        trial: of one trial, at most; its own score and setting included.
        mean: expected number of trials, at least 1.
        shape: None for Poisson K; 0 logarithmic, 1 geometric, else truncated negative binomial of that shape.

    With eps(a) the divergence of one trial at order a, for every a the sum is eps(a) + log(mean)/(a-1) and
      * Theorem 2: the least over b of (1 + shape) ((1 - 1/b) eps(b) + log(1/gamma)/b), gamma from the mean;
      * Theorem 6 (Poisson): mean times the delta that one trial has at epsilon log(1 + 1/(a-1)).
    Divergences grow with the order, so a larger order's smaller value is taken. Raises RecordInvalid.
    """
    _check_distribution(mean, shape)
    orders = renyi.ORDERS.astype(np.float64)
    if not np.all(np.isfinite(trial)):
        return np.full(len(orders), np.inf)
    beyond = math.log(mean) / (orders - 1)
    if shape is None:
        deltas = renyi.deltas_of(trial, np.log1p(1 / (orders - 1)))
        # Delta is at most the total variation, within sqrt(1 - exp(-D)) of any order (Bretagnolle and Huber 1979).
        deltas = np.minimum(deltas, math.sqrt(-math.expm1(-float(trial[0]))))
        result = trial + mean * deltas + beyond
    else:
        gamma = gamma_of(mean, shape)
        least = float(np.min((1 - 1 / orders) * trial - math.log(gamma) / orders))
        result = trial + beyond + (1 + shape) * least
    return np.asarray(np.minimum.accumulate(result[::-1])[::-1])


def _check_distribution(mean: float, shape: float | None) -> None:
    if not (math.isfinite(mean) and mean >= 1) or (shape is not None and not (math.isfinite(shape) and shape >= 0)):
        raise RecordInvalid(
            f"the number of trials has mean {mean} and shape {shape}, but at least 1 and at least 0 are expected"
        )


def mean_of(gamma: float, shape: float) -> float:
    """Expected number of trials of the truncated negative binomial (Papernot and Steinke 2021, Definition 1)."""
    if shape == 0:
        return (1 / gamma - 1) / math.log(1 / gamma) if gamma < 1 else 1.0
    return shape * (1 - gamma) / (gamma * -math.expm1(shape * math.log(gamma))) if gamma < 1 else 1.0


@lru_cache(maxsize=64)
def gamma_of(mean: float, shape: float) -> float:
    """The gamma whose mean is `mean`, to 1e-12 of itself, rounded down (a smaller gamma costs more)."""
    if shape == 1:
        return 1 / mean
    low, high = 1e-9, 1.0
    if mean <= 1:
        return 1.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if mean_of(middle, shape) < mean:
            high = middle
        else:
            low = middle
    return low


def draw_trials(mean: float, shape: float | None, random_bits: Callable[[int], int] = secrets.randbits) -> int:
    """The secret number of trials, by inversion of a 62-bit coin of the operating system.

    Poisson draws may be 0: then nothing is tried, and what is released does not depend on anybody. `random_bits` is the
    source of entropy, replaced in tests. Never print or log what comes out. Raises RecordInvalid as winner_curve.
    """
    _check_distribution(mean, shape)
    coin = (random_bits(62) + 0.5) / 2**62
    if shape is None:
        count, log_weight = 0, -mean
    else:
        gamma = gamma_of(mean, shape)
        if gamma >= 1:
            return 1
        count = 1
        start = -math.log(math.log(1 / gamma)) if shape == 0 else math.log(shape / math.expm1(-shape * math.log(gamma)))
        log_weight = math.log1p(-gamma) + start
    reached = math.exp(log_weight)
    while coin > reached and count < _MOST_TRIALS:
        if shape is None:
            log_weight += math.log(mean) - math.log(count + 1)
        elif shape == 0:
            log_weight += math.log1p(-gamma) + math.log(count / (count + 1))
        else:
            log_weight += math.log1p(-gamma) + math.log((count + shape) / (count + 1))
        count += 1
        before, reached = reached, reached + math.exp(log_weight)
        if reached == before and math.exp(log_weight) < 1e-19:
            break
    return count
