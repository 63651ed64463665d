"""Rényi differential privacy at integer orders, for noise of which only a bound on its Rényi divergences is known.

One step draws a unit by a coin of probability q and adds symmetric noise to the sum. Let P be the noise and P_v the
noise moved by the unit's contribution v, and let D_k(P_v || P) <= E_k for all k >= 2. At an integer order a

    exp((a-1) D_a((1-q) P + q P_v || P)) = sum_k C(a,k) (1-q)^(a-k) q^k exp((k-1) D_k(P_v || P)),

by the binomial theorem alone (Mironov, Talwar and Zhang 2019, section 3.3): so E_k may stand for D_k, whatever the
noise is. The other direction, D_a(P || (1-q) P + q P_v), is never larger when some mapping of the outcomes swaps P
and P_v; x -> v - x does for symmetric noise (their Theorem 5; our proof for the discrete case: docs/accounting.md).

Steps compose by adding their curves, also when a step depends on what earlier ones gave (Mironov 2017, Proposition 1).
Orders are the integers of ORDERS; arrays are float64[len(ORDERS)], in that order. Values are rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedgan_audits.errors import RecordInvalid

Curve = NDArray[np.float64]
_Array = Curve

LARGEST_ORDER = 768
ORDERS: NDArray[np.int64] = np.arange(2, LARGEST_ORDER + 1)
"""The orders of every curve: enough for epsilons down to about .03 at delta 1e-5."""

FILTER_ORDERS = (2, 3, 4, 6, 9, 14, 22, 35, 60)
"""The orders that the filter watches, fixed before anything is observed."""

_UP = 1 + 1e-11
_LOG_FACTORIALS: _Array = np.array([math.lgamma(n + 1) for n in range(LARGEST_ORDER + 1)])


@dataclass(frozen=True, order=True)
class SampledNoise:
    """One step: its sampling probability and E_k = k / (2 noise_multiplier^2) + min(slope (2k-1) + offset, ceiling).

    The last three are 0 for Gaussian noise; `fedgan_audits.accounting.integer_noise` makes those of integer noise.
    noise_multiplier is the noise's standard deviation over the sensitivity of the sum, above 0.
    """

    sampling_probability: float
    noise_multiplier: float
    slope: float = 0.0
    offset: float = 0.0
    ceiling: float = 0.0

    def divergences(self, orders: NDArray[np.int64]) -> _Array:
        """E_k at each of `orders`."""
        beyond = np.minimum(self.slope * (2 * orders - 1) + self.offset, self.ceiling)
        with np.errstate(over="ignore"):  # hardly any noise: an infinite divergence
            return np.asarray((orders / (2 * self.noise_multiplier) / self.noise_multiplier + beyond) * _UP)


def _log_expm1(values: _Array) -> _Array:
    """ln(exp(x) - 1) for x > 0, without overflow."""
    large = values > 30.0
    return np.where(large, values, np.log(np.expm1(np.where(large, 1.0, values))))


@lru_cache(maxsize=64)
def step_curve(noise: SampledNoise) -> _Array:
    """The Rényi divergence of one step at ORDERS, the larger of both directions; read-only.

    Where sampling does not help (large orders, little noise) it is E_a itself, which bounds it by convexity.
    """
    q, full = noise.sampling_probability, noise.divergences(ORDERS)
    if q == 1.0 or not np.all(np.isfinite(full)):
        result = full
    else:
        log_q, log_rest = math.log(q), math.log1p(-q)
        # exp((k-1) E_k) - 1, so that a sum near 1 loses no digits: the binomial weights sum to 1 by themselves.
        gains = _log_expm1(np.maximum((ORDERS - 1) * full, 1e-300))
        result = np.empty_like(full)
        for index, order in enumerate(ORDERS):
            k = ORDERS[: index + 1]
            choose = _LOG_FACTORIALS[order] - _LOG_FACTORIALS[k] - _LOG_FACTORIALS[order - k]
            terms = choose + k * log_q + (order - k) * log_rest + gains[: index + 1]
            top = float(terms.max())
            log_sum = top + math.log(float(np.exp(terms - top).sum())) + 1e-11
            result[index] = np.logaddexp(0.0, log_sum) / (order - 1)
        result = np.minimum(result * _UP, full)
    result.setflags(write=False)
    return result


def composed(parts: Sequence[tuple[SampledNoise, int]]) -> _Array:
    """The curve of all `parts`, each of them so many steps; zeros for none. RDP adds up order by order."""
    total = np.zeros(len(ORDERS))
    for noise, steps in parts:
        total += steps * step_curve(noise)
    return np.asarray(total * _UP)


def _conversion(orders: _Array, delta: float) -> _Array:
    """What is added to the divergence of each order for epsilon (Canonne, Kamath and Steinke 2020, Proposition 12)."""
    return np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)


def epsilon_of(curve: _Array, delta: float) -> float:
    """The smallest epsilon at `delta` that the curve proves, at least 0; math.inf for an infinite curve.

    Chords between orders ((a-1) D_a is convex in a) would be valid at fractional orders, and never give a smaller one.
    """
    if not np.any(curve):
        return 0.0
    return max(0.0, float(np.min(curve + _conversion(ORDERS.astype(np.float64), delta)))) * _UP


def deltas_of(curve: _Array, epsilons: _Array) -> _Array:
    """The smallest delta at each of `epsilons` that the curve proves, at most 1; shape as `epsilons`."""
    if not np.any(curve):
        return np.zeros(epsilons.shape)
    orders = ORDERS.astype(np.float64)
    fixed = orders * np.log1p(-1 / orders) - np.log(orders - 1)
    best = np.full(epsilons.shape, np.inf)
    for order, divergence, constant in zip(orders, curve, fixed, strict=True):
        best = np.minimum(best, (order - 1) * (divergence - epsilons) + constant)
    return np.asarray(np.minimum(1.0, np.exp(np.minimum(best, 0.0)) * _UP))


def two_records(curve: _Array) -> _Array:
    """A bound on the curve for a person with two records in the same sums, from the `curve` for one record.

    Both records are added or removed one after the other; the weak triangle inequality joins the two steps: for
    integers a > order and b >= order (a-1)/(a-order),

        D_order(P||R) <= order (a-1) / (a (order-1)) D_a(P||Q) + D_b(Q||R)

    (Mironov 2017, Proposition 11, for any pair of Hölder exponents instead of 2 and 2). Each of the two is a pair of
    neighbours, hence within `curve`. Orders for which no pair (a, b) is on the grid are infinite. Applied twice it
    holds for four records, and so on.
    """
    last = LARGEST_ORDER
    result = np.full(len(ORDERS), np.inf)
    for index, order in enumerate(range(2, last)):
        first = ORDERS[index + 1 :]
        second = -((-order * (first - 1)) // (first - order))
        within = second <= last
        a, b = first[within], second[within]
        if len(a):
            share = order * (a - 1) / (a * (order - 1))
            result[index] = float(np.min(share * curve[a - 2] + curve[b - 2]))
    return np.asarray(result * _UP)


def records(curve: _Array, count: int) -> _Array:
    """The curve for a person with `count` records in the same sums, by doubling: for up to the next power of two."""
    if count < 1:
        raise RecordInvalid(f"the number of records is {count}, but at least 1 is expected")
    for _ in range((count - 1).bit_length()):
        curve = two_records(curve)
    return curve


def share_of_group(count: int) -> float:
    """f/n, by which the group curve of all steps of n = `count` hospitals' ledgers together bounds their joint cost.

    A step in which j of the n hospitals took part stands in j ledgers and costs G(j), the curve of the next power of
    two of j records. Doubling at least doubles a curve: G(j) <= (p_j/p_n) G(n), with p the next power of two. So it
    costs at most (f/n) G(n) for each of its j entries, f being the largest of n p_j / (j p_n). For n = 2 it is 1/2.
    """
    powers = [1 << (j - 1).bit_length() for j in range(1, count + 1)]
    return max(power / (j * powers[-1]) for j, power in enumerate(powers, start=1))


def filtered_epsilon(curve: _Array, delta: float, order: int | None = None) -> float:
    """The epsilon of mechanisms that were chosen adaptively, `curve` being the sum of their curves.

    Guarantee: let mechanisms be chosen one after the other, each with knowledge of all earlier outputs, and let one be
    admitted only while this figure, with it included, is at most a fixed cap. Then everything released is (cap,
    delta)-differentially private.

    Source: for one `order` fixed beforehand, Feldman and Zrnic 2021 (Theorem 4.3), Lécuyer 2021 and, for interleaved
    mechanisms, Haney et al. 2023. Without `order` it is the best of FILTER_ORDERS; the order that decides may then
    depend on the outputs, so delta is divided among them (docs/accounting.md, "The filter"). The smallest over all
    orders at undivided delta, which is right for a fixed schedule, is not known to be right here.
    """
    watched = FILTER_ORDERS if order is None else (order,)
    at = curve[np.array(watched) - 2]
    conversion = _conversion(np.array(watched, dtype=np.float64), delta / len(watched))
    return max(0.0, float(np.min(at + conversion))) * _UP


def filter_order(first: SampledNoise, delta: float, cap: float) -> int:
    """The one order of ORDERS at which most steps of `first` fit under `cap` at `delta`; 2 where none fits.

    It depends on nothing that was observed, if `first` is a ledger's first mechanism and `cap` and `delta` stay: then
    the filter may watch this order alone, and delta is not divided.
    """
    return order_for(step_curve(first), delta, cap)


def order_for(first: Curve, delta: float, cap: float) -> int:
    """As filter_order, for a first mechanism that is known by its curve."""
    room = np.maximum(cap - _conversion(ORDERS.astype(np.float64), delta), 0.0) / first
    return int(ORDERS[int(np.argmax(room))])


def profile(curve: _Array, delta: float) -> tuple[_Array, _Array]:
    """Epsilons from 0 to that at `delta`, and the deltas that the curve proves there, float64[4001] each.

    At epsilon 0 it is at most the total variation, within sqrt(D_2 / 2) (Pinsker; D_1 <= D_2) and within
    sqrt(1 - exp(-D_2)) (Bretagnolle and Huber), which is below 1 however large D_2 is. Delta is a convex function of
    epsilon, so that the lower convex hull of all these bounds is a bound as well.
    """
    epsilons = np.linspace(0.0, epsilon_of(curve, delta), 4001)
    deltas = deltas_of(curve, epsilons)
    deltas[0] = min(deltas[0], math.sqrt(curve[0] / 2) * _UP, math.sqrt(-math.expm1(-curve[0])) * _UP)
    hull: list[int] = []
    for index in range(len(epsilons)):
        while len(hull) > 1:
            left, middle = hull[-2], hull[-1]
            across = (deltas[index] - deltas[left]) * (epsilons[middle] - epsilons[left])
            if (deltas[middle] - deltas[left]) * (epsilons[index] - epsilons[left]) < across:
                break
            hull.pop()
        hull.append(index)
    return epsilons, np.asarray(np.interp(epsilons, epsilons[hull], deltas[hull]) * _UP)
