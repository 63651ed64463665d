"""The other two unknowns of a schedule: how many steps, and which sampling probability, a target epsilon allows.

Epsilon from a schedule is `accountant.epsilon`, the noise for a target `accountant.calibrate_noise_multiplier` and
`calibrate`. Here a Rényi bound brackets the answer, coarse privacy loss distributions narrow it, and the
proved figure decides: what comes out never costs more than the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fedgan_audits.accounting import accountant, calibration, loss_distribution, renyi
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.errors import NotAccounted, RecordInvalid, UnreachableTarget

STEPS_MAX = 2**40
PROBABILITY_MIN = 1e-8
"""Bounds of what is looked at."""

_COARSER = 10.0
_GIVE_WAY = 5e-5
_RESOLUTION = 20_000


def most_steps(
    mechanism: MechanismRecord, *, target: float, delta: float, before: Sequence[MechanismRecord] = ()
) -> int:
    """The largest number of steps of `mechanism` (its own `steps` is not looked at) whose epsilon is at most `target`.

    `before` are mechanisms of the same fixed schedule, such as a release: the figure is that of them and the steps.
    Epsilon grows with every step: up to 20,000 steps one more would cost more than `target`, beyond that one part in
    20,000 more. At most STEPS_MAX. Raises UnreachableTarget where one step costs more
    (`nearest_epsilon` is that of one step), RecordInvalid for a bad value, NotAccounted as the accountant.
    """
    delta = _checked(mechanism, target, delta, before)

    def exact(steps: int) -> float:
        return accountant.epsilon([*before, mechanism.model_copy(update={"steps": steps})], delta)

    if (one := exact(1)) > target:
        raise UnreachableTarget(
            f"no number of steps reaches epsilon {target:g} with noise multiplier {mechanism.noise_multiplier:g} at "
            f"sampling probability {mechanism.sampling_probability:g} and delta {delta:g}: one step"
            f"{' and the release before it cost' if before else ' costs'} {accountant.round_up(one)}",
            nearest_epsilon=one,
            hint="Ask for a larger epsilon or delta, more noise, or a smaller sampling probability.",
        )
    if accountant.rests_on_curve([*before, mechanism]):
        step, held = renyi.step_curve(accountant.step_noise(mechanism)), accountant.curve(before)
        return _last(lambda steps: renyi.epsilon_of((held + steps * step) * (1 + 1e-11), delta) <= target, 1, STEPS_MAX)
    held_parts = accountant.gaussian_parts(before)

    def merged(steps: int) -> loss_distribution.Merged:
        return loss_distribution.joined(
            (*held_parts, (mechanism.sampling_probability, mechanism.noise_multiplier, steps))
        )

    def bound(steps: int) -> bool:
        return loss_distribution.quick_bound(merged(steps), delta) <= target

    low = _last(bound, 1, STEPS_MAX) if bound(1) else 1
    if low == STEPS_MAX:
        return low if exact(low) <= target else _last(lambda steps: exact(steps) <= target, 1, STEPS_MAX)

    def quick(minus_log: float) -> float:
        return _quick(merged(max(1, round(math.exp(-minus_log)))), delta)

    start, width = -math.log(low), 0.02
    floor = -math.log(STEPS_MAX)
    while start - width > floor and quick(start - width) <= target:
        start, width = start - width, width * 2
    guess = round(math.exp(-calibration.crossing(quick, target, max(floor, start - width), start, 1e-3)))
    return _settle(exact, target, max(1, guess))


def largest_probability(
    mechanism: MechanismRecord, *, target: float, delta: float, before: Sequence[MechanismRecord] = ()
) -> float:
    """The largest sampling probability (to about 1e-4 of itself, rounded down) whose epsilon is at most `target`.

    `mechanism` gives everything else, `before` as for most_steps. 1.0 where even that costs no more. Raises
    UnreachableTarget where PROBABILITY_MIN costs more, RecordInvalid for a bad value, NotAccounted as the accountant.
    """
    delta = _checked(mechanism, target, delta, before)
    held = () if accountant.rests_on_curve([*before, mechanism]) else accountant.gaussian_parts(before)

    def exact(q: float) -> float:
        try:
            return accountant.epsilon([*before, mechanism.model_copy(update={"sampling_probability": q})], delta)
        except NotAccounted:
            return math.inf

    def merged(minus_log: float) -> loss_distribution.Merged:
        return loss_distribution.joined((*held, (math.exp(-minus_log), mechanism.noise_multiplier, mechanism.steps)))

    if exact(1.0) <= target:
        return 1.0
    if (nearest := exact(PROBABILITY_MIN)) > target:
        raise UnreachableTarget(
            f"no sampling probability down to {PROBABILITY_MIN:g} reaches epsilon {target:g} with noise multiplier "
            f"{mechanism.noise_multiplier:g}, {mechanism.steps} steps and delta {delta:g}"
            f"{' after the release' if before else ''}: the smallest epsilon within reach is "
            f"{accountant.round_up(nearest)}",
            nearest_epsilon=nearest,
            hint="Ask for a larger epsilon or delta, more noise, or fewer steps.",
        )
    if accountant.rests_on_curve([*before, mechanism]):
        high = -math.log(PROBABILITY_MIN)
        minus_log = calibration.crossing(lambda point: exact(math.exp(-point)), target, 0.0, high, _GIVE_WAY)
    else:
        minus_log = _by_loss_distributions(merged, target, delta)
    result = _six_digits_down(math.exp(-minus_log))
    while exact(result) > target and result > PROBABILITY_MIN:
        result = _six_digits_down(result * (1 - _GIVE_WAY))
    return result


def _by_loss_distributions(merged: Callable[[float], loss_distribution.Merged], target: float, delta: float) -> float:
    """Minus the logarithm of the largest probability, near the answer; `merged` maps it to the whole schedule."""

    def bound(minus_log: float) -> float:
        return loss_distribution.quick_bound(merged(minus_log), delta)

    def quick(minus_log: float) -> float:
        return _quick(merged(minus_log), delta)

    low, high = 0.0, -math.log(PROBABILITY_MIN)
    # RDP bounds epsilon from above: a probability that satisfies it is small enough, and the search starts there.
    if bound(high) <= target:
        high = calibration.crossing(bound, target, low, high, 1e-2) if bound(low) > target else high
        width = 0.1
        while high - width > low and quick(high - width) <= target:
            high, width = high - width, width * 2
        low = max(low, high - width)
    minus_log = calibration.crossing(quick, target, low, high, _GIVE_WAY)
    return _refined(lambda point: _quick(merged(point), delta, 1.0), target, minus_log)


def _refined(fine: Callable[[float], float], target: float, minus_log: float) -> float:
    """A larger probability on the accountant's own grid, where the coarse one gave more than a little away."""
    given_away = 1 - fine(minus_log) / target
    if given_away < 2e-4:
        return minus_log
    lowest = max(0.0, minus_log - 4 * given_away)
    if fine(lowest) <= target:
        return lowest
    return calibration.crossing(fine, target, lowest, minus_log, _GIVE_WAY)


def _checked(mechanism: MechanismRecord, target: float, delta: float, before: Sequence[MechanismRecord]) -> float:
    if not (isinstance(target, int | float) and target > 0 and math.isfinite(target)):
        raise RecordInvalid(f"the target epsilon is {target}, but a finite number above 0 is expected")
    if 0 in (record.noise_multiplier for record in (*before, mechanism)):
        raise RecordInvalid("noise_multiplier is 0, and without noise no epsilon is ever reached")
    accountant.refuse_unaccounted([*before, mechanism])
    return accountant.check_delta(delta)


def _quick(merged: loss_distribution.Merged, delta: float, coarser: float = _COARSER) -> float:
    """An upper bound on epsilon close to the proved figure, for searching."""
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
