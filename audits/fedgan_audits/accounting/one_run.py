"""How large epsilon must be at least, given how many canaries' coins an attacker guessed (one training run).

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run": m canaries are put in or left out by
independent fair coins, the mechanism runs once, and the attacker guesses r of the coins. If the mechanism is (epsilon,
delta)-DP for adding or removing one record, the number of right guesses is hardly larger than Binomial(r, 1 / (1 +
e^-epsilon)) (their Theorem 5.2): with B of that law,

    P[right >= v] <= P[B >= v] + 2 m delta max over i of P[v > B >= v - i] / i.

A bound that an attack gives is a lower one. It proves nothing good: a better attack may give more, and r guesses cannot
show more than `ceiling`, however private the mechanism is or is not.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

from fedgan_audits.errors import RecordInvalid

_WIDEST = 60.0


def _check(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> None:
    if not 0 <= right <= guesses <= canaries or canaries < 1:
        raise RecordInvalid(
            f"{right} right of {guesses} guesses of {canaries} canaries, but no more right than guessed, and no more "
            "guesses than canaries, are expected"
        )
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise RecordInvalid(f"delta {delta} and confidence {confidence}, but numbers from 0 to 1 are expected")


def p_value(*, canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Bound on the probability that a mechanism which is (epsilon, delta)-DP has so many right guesses, or more.

    Raises RecordInvalid for counts that cannot be, or an epsilon that is negative or no number.
    """
    _check(canaries, guesses, right, delta, 0.5)
    if math.isnan(epsilon) or epsilon < 0:
        raise RecordInvalid(f"epsilon is {epsilon}, but a number of at least 0 is expected")
    binom: Any = importlib.import_module("scipy.stats").binom
    chance = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, chance))
    beneath = binom.pmf(range(right - 1, -1, -1), guesses, chance).cumsum() if right else []
    steepest = max((float(mass) / number for number, mass in enumerate(beneath, start=1)), default=0.0)
    return min(1.0, tail + 2 * canaries * delta * steepest)


def least_epsilon(*, canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """The largest epsilon that so many right guesses refute at this confidence; 0 where they refute none.

    For any (epsilon, delta)-DP mechanism and any way to guess, the bound is above epsilon with probability at most 1 -
    confidence. Raises as p_value.
    """
    _check(canaries, guesses, right, delta, confidence)

    def refuted(epsilon: float) -> bool:
        found = p_value(canaries=canaries, guesses=guesses, right=right, epsilon=epsilon, delta=delta)
        return found < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _WIDEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def ceiling(*, canaries: int, guesses: int, delta: float, confidence: float) -> float:
    """The bound if every guess were right: no attack with so many guesses can show more. Raises as p_value."""
    return least_epsilon(canaries=canaries, guesses=guesses, right=guesses, delta=delta, confidence=confidence)
