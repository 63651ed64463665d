"""What it costs that a step may, with a small probability, not be the mechanism that was accounted.

Let M be the accounted mechanism and M' what is really run, equal to M but for an event of probability at most F on
every data set (a batch that had to be cut off, a false alarm of a self-test that shows in the output). Then the two
outputs are within F in total variation, and for neighbours D, D'

    P[M'(D) in S] <= P[M(D) in S] + F <= e^eps P[M(D') in S] + delta + F
                  <= e^eps P[M'(D') in S] + delta + (1 + e^eps) F.

So F adds (1 + e^eps) F to delta; over T steps with probability p each, F = T p (union bound).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

from fedgan_audits.errors import RecordInvalid

_UP = 1 + 1e-9


def check_probability(name: str, value: float) -> float:
    """`value` as float; raises RecordInvalid unless it is in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RecordInvalid(f"{name} is {value}, but a number from 0 to 1 is expected")
    return float(value)


def overflow_probability(units: int, sampling_probability: float, capacity: int) -> float:
    """P[Binomial(units, sampling_probability) > capacity], rounded up: that a batch of `capacity` is too small.

    `units` must bound the number of units from above on both neighbouring data sets, and the result is public where it
    is charged: take a declared bound, which the hospital checks. Raises RecordInvalid for values out of range.
    """
    for name, whole in (("units", units), ("capacity", capacity)):
        if isinstance(whole, bool) or not isinstance(whole, int) or not 0 <= whole < 2**53:
            raise RecordInvalid(f"{name} is {whole}, but a whole number from 0 to 2**53 is expected")
    q = check_probability("sampling_probability", sampling_probability)
    if capacity >= units or q == 0:
        return 0.0
    if q == 1:
        return 1.0
    tail = float(importlib.import_module("scipy.special").betainc(capacity + 1, units - capacity, q))
    return min(1.0, max(tail * _UP, 1e-300))


def delta_charge(epsilon: float, failure_probability: float) -> float:
    """(1 + e^epsilon) F, what a total failure probability F adds to delta, rounded up; at most 1."""
    total = check_probability("failure_probability", failure_probability)
    if total == 0:
        return 0.0
    return min(1.0, (1 + math.exp(min(epsilon, 700.0))) * total * _UP)


def epsilon_with_failures(epsilon_at: Callable[[float], float], delta: float, failure_probability: float) -> float:
    """The smallest epsilon with delta(epsilon) + (1 + e^epsilon) F <= delta, to 1e-9, rounded up; else math.inf.

    `epsilon_at` maps a delta to the accounted epsilon and is decreasing; math.inf where it has no figure.
    """
    total = check_probability("failure_probability", failure_probability)
    if total == 0:
        return epsilon_at(delta)

    def next_value(epsilon: float) -> float:
        left = delta - delta_charge(epsilon, total)
        return epsilon_at(left) if left > 0 else math.inf

    epsilon = epsilon_at(delta)
    for _ in range(200):
        if math.isinf(epsilon):
            return epsilon
        following = next_value(epsilon)
        if following <= epsilon + 1e-9:
            guess = following + 2e-9
            while (needed := next_value(guess)) > guess:  # near the end of the range, small steps until it holds
                if math.isinf(needed):
                    return needed
                guess = needed + 1e-6
            return guess
        epsilon = following
    return math.inf
