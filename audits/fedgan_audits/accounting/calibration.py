"""The search for the noise that a target epsilon needs: few evaluations, a result that keeps the target, rounded up."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from fedgan_audits.accounting import loss_distribution
from fedgan_audits.accounting.rounding import round_up, up_to_six_digits
from fedgan_audits.errors import UnreachableTarget

NOISE_MIN, NOISE_MAX = 0.05, 1000.0
"""Bounds of the noise multipliers that calibration looks at."""


@lru_cache(maxsize=128)
def sampled_gaussian(q: float, steps: int, target: float, delta: float, before: loss_distribution.Merged = ()) -> float:
    """The smallest noise multiplier (to about 1e-4 of itself, rounded up) whose PLD epsilon is at most `target`.

    `before` are steps of the same schedule whose noise is given: the figure is that of all of them together. Raises
    UnreachableTarget (with `nearest_epsilon`) where even NOISE_MAX costs more.
    """

    def schedule(sigma: float) -> loss_distribution.Merged:
        return loss_distribution.joined((*before, (q, sigma, steps)))

    def bound(log_sigma: float) -> float:
        return loss_distribution.quick_bound(schedule(math.exp(log_sigma)), delta)

    def quick(log_sigma: float, factor: float = 1.0) -> float:
        merged = schedule(math.exp(log_sigma))
        grid = loss_distribution.grid_of(merged, 1)
        if math.isinf(grid):
            return bound(log_sigma)
        return float(loss_distribution.composed(merged, 1, grid * factor, True).get_epsilon_for_delta(delta))

    def coarse(log_sigma: float) -> float:
        return quick(log_sigma, 10.0)

    low, high = math.log(NOISE_MIN), math.log(NOISE_MAX)
    if bound(high) > target:
        nearest = loss_distribution.epsilon(schedule(NOISE_MAX), 1, delta)
        if nearest > target:
            raise _unreachable(q, steps, target, delta, nearest)
        upper = high
    else:
        # RDP is an upper bound as well: noise that satisfies it is enough, and the search starts there.
        upper = low if bound(low) <= target else crossing(bound, target, low, high, 1e-2)
    upper = _search_down(coarse, target, low, upper)
    given_away = 1 - quick(upper) / target  # what the coarse grid and the tolerance cost; little, as a rule
    if given_away > 5e-4:
        upper = _search_down(quick, target, low, upper)
    # The figure itself comes from dp-accounting's own discretisation: check it, and give way upwards where it differs.
    result = NOISE_MIN if upper <= low else up_to_six_digits(math.exp(upper))
    further = 2e-4
    while loss_distribution.epsilon(schedule(result), 1, delta) > target and result < NOISE_MAX:
        result = min(NOISE_MAX, up_to_six_digits(result * (1 + further)))
        further *= 2  # beside steps whose noise is given, more noise may change the whole figure little
    return result


def by(figure: Callable[[float], float], q: float, steps: int, target: float, delta: float) -> float:
    """The smallest noise multiplier (to about 1e-4, rounded up) at which the decreasing `figure` is at most `target`.

    `figure` maps a noise multiplier to the epsilon of `steps` steps at sampling probability `q`, which are named where
    no multiplier will do. Raises UnreachableTarget as sampled_gaussian.
    """
    low, high = math.log(NOISE_MIN), math.log(NOISE_MAX)
    if (nearest := figure(NOISE_MAX)) > target:
        raise _unreachable(q, steps, target, delta, nearest)

    def of_log(log_sigma: float) -> float:
        return figure(math.exp(log_sigma))

    if of_log(low) <= target:
        return NOISE_MIN
    result = up_to_six_digits(math.exp(crossing(of_log, target, low, high, 1e-4)))
    further = 2e-5
    while figure(result) > target and result < NOISE_MAX:
        result = min(NOISE_MAX, up_to_six_digits(result * (1 + further)))
        further *= 2
    return result


def _unreachable(q: float, steps: int, target: float, delta: float, nearest: float) -> UnreachableTarget:
    return UnreachableTarget(
        f"no noise multiplier up to {NOISE_MAX:g} reaches epsilon {target:g} with {steps} steps at sampling "
        f"probability {q:g} and delta {delta:g}: the smallest epsilon within reach is {round_up(nearest)}",
        nearest_epsilon=nearest,
    )


def _search_down(function: Callable[[float], float], target: float, low: float, start: float) -> float:
    """The least point from `low` on (to 1e-4) with function(point) <= target, searched for downwards from `start`."""
    lower, upper, width = start, start, 0.05
    while function(lower) <= target:
        if lower <= low:
            return low
        upper, lower, width = lower, max(low, lower - width), width * 2
    if lower == upper:
        return start
    return crossing(function, target, lower, upper, 1e-4)


def crossing(function: Callable[[float], float], target: float, low: float, high: float, tolerance: float) -> float:
    """A point at most `tolerance` above where the decreasing `function` falls to `target`; its value is within it.

    Expects function(low) > target >= function(high). Regula falsi on the logarithm, halved where one end stays.
    """

    def excess(point: float) -> float:
        return math.log(min(max(function(point), 1e-300), 1e300)) - math.log(target)

    at_low, at_high = excess(low), excess(high)
    while high - low > tolerance:
        share = at_low / (at_low - at_high) if at_low > at_high else 0.5
        step = (high - low) * min(max(share, 0.02), 0.98)
        point = min(max(low + step, low + tolerance / 2), high - tolerance / 2)
        value = excess(point)
        if value > 0:
            low, at_low, at_high = point, value, at_high / 2
        else:
            high, at_high, at_low = point, value, at_low / 2
    return high
