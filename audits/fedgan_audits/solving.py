"""The other two unknowns of a schedule: how many steps, and which sampling probability, a target epsilon allows.

Epsilon from a schedule is `accountant.epsilon`, the noise for a target `accountant.calibrate_noise_multiplier` and
`calibrate_distributed`. Here a Rényi bound brackets the answer, coarse privacy loss distributions narrow it, and the
proved figure decides: what comes out never costs more than the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from fedgan_audits import accountant, calibration, loss_distribution, renyi
from fedgan_audits.errors import NotAccounted, RecordInvalid, UnreachableTarget
from fedgan_audits.mechanism import DistributedMechanism, MechanismRecord

STEPS_MAX = 2**40
PROBABILITY_MIN = 1e-8
"""Bounds of what is looked at."""

_COARSER = 10.0
_GIVE_WAY = 5e-5
_RESOLUTION = 20_000


def most_steps(mechanism: MechanismRecord, *, target: float, delta: float) -> int:
    """The largest number of steps of `mechanism` (its own `steps` is not looked at) whose epsilon is at most `target`.

    Epsilon grows with every step: up to 20,000 steps one more would cost more than `target`, beyond that one part in
    20,000 more. At most STEPS_MAX. Raises UnreachableTarget where one step costs more
    (`nearest_epsilon` is that of one step), RecordInvalid for a bad value, NotAccounted as the accountant.
    """
    delta = _checked(mechanism, target, delta)

    def exact(steps: int) -> float:
        return accountant.epsilon([mechanism.model_copy(update={"steps": steps})], delta)

    if (one := exact(1)) > target:
        raise UnreachableTarget(
            f"no number of steps reaches epsilon {target:g} with noise multiplier {mechanism.noise_multiplier:g} at "
            f"sampling probability {mechanism.sampling_probability:g} and delta {delta:g}: one step costs "
            f"{accountant.round_up(one)}",
            nearest_epsilon=one,
            hint="Ask for a larger epsilon or delta, more noise, or a smaller sampling probability.",
        )
    if isinstance(mechanism, DistributedMechanism):
        step = renyi.step_curve(accountant.step_noise(mechanism))
        return _last(lambda steps: renyi.epsilon_of(steps * step * (1 + 1e-11), delta) <= target, 1, STEPS_MAX)
    q, sigma = mechanism.sampling_probability, mechanism.noise_multiplier

    def bound(steps: int) -> bool:
        return loss_distribution.quick_bound(((q, sigma, steps),), delta) <= target

    low = _last(bound, 1, STEPS_MAX) if bound(1) else 1
    if low == STEPS_MAX:
        return low if exact(low) <= target else _last(lambda steps: exact(steps) <= target, 1, STEPS_MAX)

    def quick(minus_log: float) -> float:
        return _quick(q, sigma, max(1, round(math.exp(-minus_log))), delta)

    start, width = -math.log(low), 0.02
    floor = -math.log(STEPS_MAX)
    while start - width > floor and quick(start - width) <= target:
        start, width = start - width, width * 2
    guess = round(math.exp(-calibration.crossing(quick, target, max(floor, start - width), start, 1e-3)))
    return _settle(exact, target, max(1, guess))


def largest_probability(mechanism: MechanismRecord, *, target: float, delta: float) -> float:
    """The largest sampling probability (to about 1e-4 of itself, rounded down) whose epsilon is at most `target`.

    `mechanism` gives everything else. 1.0 where even that costs no more. Raises UnreachableTarget where PROBABILITY_MIN
    costs more, RecordInvalid for a bad value, NotAccounted as the accountant.
    """
    delta = _checked(mechanism, target, delta)

    def exact(q: float) -> float:
        try:
            return accountant.epsilon([mechanism.model_copy(update={"sampling_probability": q})], delta)
        except NotAccounted:
            return math.inf

    shared = isinstance(mechanism, DistributedMechanism)
    quick = exact if shared else lambda q: _quick(q, mechanism.noise_multiplier, mechanism.steps, delta)
    if exact(1.0) <= target:
        return 1.0
    if (nearest := exact(PROBABILITY_MIN)) > target:
        raise UnreachableTarget(
            f"no sampling probability down to {PROBABILITY_MIN:g} reaches epsilon {target:g} with noise multiplier "
            f"{mechanism.noise_multiplier:g}, {mechanism.steps} steps and delta {delta:g}: the smallest epsilon within "
            f"reach is {accountant.round_up(nearest)}",
            nearest_epsilon=nearest,
            hint="Ask for a larger epsilon or delta, more noise, or fewer steps.",
        )
    low, high = 0.0, -math.log(PROBABILITY_MIN)
    if not shared:
        # RDP bounds epsilon from above: a probability that satisfies it is small enough, and the search starts there.
        def bound(minus_log: float) -> float:
            merged = ((math.exp(-minus_log), mechanism.noise_multiplier, mechanism.steps),)
            return loss_distribution.quick_bound(merged, delta)

        if bound(high) <= target:
            high = calibration.crossing(bound, target, low, high, 1e-2) if bound(low) > target else high
            width = 0.1
            while high - width > low and quick(math.exp(-(high - width))) <= target:
                high, width = high - width, width * 2
            low = max(low, high - width)
    minus_log = calibration.crossing(lambda point: quick(math.exp(-point)), target, low, high, _GIVE_WAY)
    if not shared:
        minus_log = _refined(mechanism, target, delta, minus_log)
    result = _six_digits_down(math.exp(-minus_log))
    while exact(result) > target and result > PROBABILITY_MIN:
        result = _six_digits_down(result * (1 - _GIVE_WAY))
    return result


def _refined(mechanism: MechanismRecord, target: float, delta: float, minus_log: float) -> float:
    """A larger probability on the accountant's own grid, where the coarse one gave more than a little away."""

    def fine(point: float) -> float:
        return _quick(math.exp(-point), mechanism.noise_multiplier, mechanism.steps, delta, 1.0)

    given_away = 1 - fine(minus_log) / target
    if given_away < 2e-4:
        return minus_log
    lowest = max(0.0, minus_log - 4 * given_away)
    if fine(lowest) <= target:
        return lowest
    return calibration.crossing(fine, target, lowest, minus_log, _GIVE_WAY)


def _checked(mechanism: MechanismRecord, target: float, delta: float) -> float:
    if not (isinstance(target, int | float) and target > 0 and math.isfinite(target)):
        raise RecordInvalid(f"the target epsilon is {target}, but a finite number above 0 is expected")
    if mechanism.noise_multiplier == 0:
        raise RecordInvalid("noise_multiplier is 0, and without noise no epsilon is ever reached")
    accountant.refuse_unaccounted([mechanism])
    return accountant.check_delta(delta)


def _quick(q: float, sigma: float, steps: int, delta: float, coarser: float = _COARSER) -> float:
    """An upper bound on epsilon close to the proved figure, for searching."""
    merged = ((q, sigma, steps),)
    grid = loss_distribution.grid_of(merged, 1)
    if math.isinf(grid):
        return loss_distribution.quick_bound(merged, delta)
    return float(loss_distribution.composed(merged, 1, grid * coarser, True).get_epsilon_for_delta(delta))


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest whole number from `low` to `high` for which `holds`, which stays false once it is; `low` if none."""
    if holds(high):
        return high
    while high - low > 1:
        middle = math.isqrt(low * high) if high > 4 * low else (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def _settle(figure: Callable[[int], float], target: float, guess: int) -> int:
    """The last number of steps whose growing `figure` is within `target`, from a good guess, in few evaluations."""
    low, high, slope = 0, STEPS_MAX, 0.7
    at: dict[int, float] = {}
    steps = guess
    while high - low > max(1, low // _RESOLUTION):
        value = at[steps] = figure(steps)
        if value <= target:
            low = steps
        else:
            high = steps
        if value <= 0:
            steps = min(max(2 * steps, low + 1), high - 1)
            continue
        if math.isinf(value):  # no figure at all: go half-way back
            del at[steps]
            steps = max(low + 1, min((low + high) // 2, high - 1))
            continue
        if len(at) > 1 and min(at.values()) > 0:
            (first, of_first), (second, of_second) = sorted(at.items(), key=lambda pair: abs(pair[0] - steps))[:2]
            if of_first != of_second:
                slope = min(max(math.log(of_first / of_second) / math.log(first / second), 0.3), 1.5)
        unit = max(1, steps // _RESOLUTION)
        wanted = int(steps * (target / value) ** (1 / slope))
        steps = min(max(wanted, low + unit), max(high - unit, low + 1), high - 1)
    return low


def _six_digits_down(value: float) -> float:
    digits = 5 - math.floor(math.log10(value))
    return math.floor(value * 10.0**digits) / 10.0**digits
