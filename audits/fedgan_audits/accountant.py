"""What a sequence of mechanisms costs: epsilon at delta, its whole profile, and the noise that a target needs.

Covered: add/remove one unit; Poisson sampling; Gaussian noise added by each hospital to its own sum (Abadi et al.
2016). Mechanisms are composed as events, equal ones merged; two epsilons are never added up. Two ways, from
dp-accounting:

* PLD, the figure that is reported: the privacy loss distribution of one step (Zhu, Dong and Wang 2022 for the
  dominating pair of Poisson sampling), put on a grid by the pessimistic "connect the dots" rounding (Doroshenko et
  al. 2022) and convolved. Every rounding and truncation raises epsilon.
* RDP, a second opinion: Mironov, Talwar and Zhang 2019, with the conversion of Canonne, Kamath and Steinke 2020.

Rules: anything outside that is refused with :class:`NotAccounted`: another neighbouring relation or sampler,
`distributed` noise, units mixed in one sequence. What it rests on and does not cover: docs/privacy.md.

dp-accounting is imported on first use. It is used at 0.4.3 and at 0.6.0: the PLD figures are the same.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgan_audits import image_groups
from fedgan_audits.errors import NotAccounted, RecordInvalid, UnreachableTarget
from fedgan_audits.mechanism import MechanismRecord

DELTA_MIN = 1e-12
"""Below this delta the truncated tails of the discretised distribution are no longer negligible."""

GRID = 1e-4
"""Usual spacing of the privacy-loss grid; coarser by powers of ten where the losses are huge, finer where tiny."""

NOISE_MIN, NOISE_MAX = 0.05, 1000.0
"""Bounds of the noise multipliers that calibration looks at."""

_TAIL = 1e-15
_MAX_STEP_POINTS, _MAX_COMPOSED_POINTS = 1e6, 4e6
_FINER_BELOW_POINTS, _FINER_COMPOSED_POINTS = 500.0, 5e5

_Array = NDArray[np.float64]
_Merged = tuple[tuple[float, float, int], ...]
"""Sorted (sampling probability, noise multiplier, steps), each pair of the first two once."""


def accountant_name() -> str:
    """The accountant and its version, for the record of how a figure was made."""
    return f"dp-accounting {version('dp-accounting')}, PLD (pessimistic, connect the dots)"


def check_delta(delta: float) -> float:
    """Return `delta`; raise RecordInvalid unless it is in [DELTA_MIN, 1)."""
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not DELTA_MIN <= delta < 1:
        raise RecordInvalid(
            f"delta is {delta}, but a number of at least {DELTA_MIN:g} and below 1 is expected",
            hint="A usual choice is 1 / (10 x the declared number of patients).",
        )
    return float(delta)


def refuse_unaccounted(mechanisms: Sequence[MechanismRecord]) -> None:
    """Raise NotAccounted for a sequence whose cost is not proved here."""
    units = sorted({record.unit for record in mechanisms})
    if len(units) > 1:
        raise NotAccounted(
            "mechanisms whose unit is the patient and mechanisms whose unit is the image were to be composed, but "
            "the two protect different things and have no common epsilon",
            hint="Keep one ledger (site directory) per unit, or run everything with unit 'patient'.",
        )
    for record in mechanisms:
        if record.noise_placement != "per_hospital":
            raise NotAccounted(
                f"noise_placement is '{record.noise_placement}', but only 'per_hospital' is accounted so far",
                hint='Set noise_placement = "per_hospital".',
            )
        if record.neighbouring_relation != "add_or_remove_one" or record.sampler != "poisson":
            raise NotAccounted(
                f"the mechanism has neighbours '{record.neighbouring_relation}' and sampler '{record.sampler}', but "
                "'add_or_remove_one' and 'poisson' are expected"
            )


def _merge(mechanisms: Sequence[MechanismRecord]) -> _Merged | None:
    """The mechanisms as a canonical key, or None where one adds no noise."""
    refuse_unaccounted(mechanisms)
    steps: dict[tuple[float, float], int] = {}
    for record in mechanisms:
        if record.noise_multiplier == 0.0:
            return None
        pair = (record.sampling_probability, record.noise_multiplier)
        steps[pair] = steps.get(pair, 0) + record.steps
    return tuple((q, sigma, count) for (q, sigma), count in sorted(steps.items()))


def _pld() -> Any:
    return importlib.import_module("dp_accounting.pld.privacy_loss_distribution")


def _rdp_epsilon(merged: _Merged, delta: float, orders: Sequence[float] | None) -> float:
    if not merged:
        return 0.0
    dp = importlib.import_module("dp_accounting")
    absl = importlib.import_module("absl.logging")
    accountant = dp.rdp.RdpAccountant(orders)
    before = absl.get_verbosity()
    absl.set_verbosity(absl.ERROR)  # an order that does not converge is left out, which can only raise epsilon
    try:
        for q, sigma, steps in merged:
            accountant.compose(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma)), steps)
        return float(accountant.get_epsilon(delta))
    finally:
        absl.set_verbosity(before)


@lru_cache(maxsize=512)
def _epsilon_rdp(merged: _Merged, delta: float) -> float:
    return _rdp_epsilon(merged, delta, None)


@lru_cache(maxsize=1024)
def _quick_bound(merged: _Merged, delta: float) -> float:
    """An upper bound on epsilon in about a millisecond: RDP at a few integer orders."""
    return _rdp_epsilon(merged, delta, (2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45, 64, 128))


def _grid(merged: _Merged, images: int) -> float:
    """Spacing of the loss grid: GRID where that is neither too many points nor too few; math.inf where none will do."""
    composed = 2.0 * min(images, 8) * _quick_bound(merged, _TAIL)
    coarsest = -math.inf
    for q, sigma, steps in merged:
        width = image_groups.loss_width(q, sigma / math.sqrt(steps) if q == 1 else sigma, images)
        power = -4 if images == 1 else -3  # for several images a hundredth of a percent, for a tenth of the time
        while (
            power > -6
            and width < _FINER_BELOW_POINTS * 10.0**power
            and composed < _FINER_COMPOSED_POINTS * 10.0 ** (power - 1)
        ):
            power -= 1
        while power <= 0 and (width > _MAX_STEP_POINTS * 10.0**power or composed > _MAX_COMPOSED_POINTS * 10.0**power):
            power += 1
        coarsest = max(coarsest, power)
    return 10.0**coarsest if coarsest <= 0 else math.inf


@lru_cache(maxsize=16)
def _one_step(q: float, sigma: float, images: int, grid: float, quick: bool) -> Any:
    if images > 1 or (quick and q < 1):
        return image_groups.one_step(q, sigma, images, grid)
    return _pld().from_gaussian_mechanism(sigma, sampling_prob=q, value_discretization_interval=grid)


@lru_cache(maxsize=32)
def _composed(merged: _Merged, images: int, grid: float, quick: bool = False) -> Any:
    """The composed privacy loss distribution; `quick` takes our own vectorised discretisation (for searching only)."""
    parts = []
    for q, sigma, steps in merged:
        if q == 1.0:  # Gaussians without sampling compose exactly, into one
            parts.append(_one_step(q, sigma / math.sqrt(steps), images, grid, quick))
        else:
            parts.append(_one_step(q, sigma, images, grid, quick).self_compose(steps))
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return total


@lru_cache(maxsize=4096)
def _epsilon(merged: _Merged, images: int, delta: float) -> float:
    if not merged:
        return 0.0
    grid = _grid(merged, images)
    if math.isinf(grid):  # losses in the hundred thousands: no grid holds them, and no figure would mean anything
        return _epsilon_rdp(merged, delta) if images == 1 else math.inf
    return float(_composed(merged, images, grid).get_epsilon_for_delta(delta))


def epsilon_pld(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """The proved epsilon at `delta` of all `mechanisms` together, for one unit in one hospital's data.

    Returns 0.0 for no mechanisms and math.inf where one of them adds no noise. Guarantee: an upper bound on the
    hockey-stick divergence in both directions (add and remove), up to floating-point error of the convolution.
    Where the losses are so large that no grid holds them (epsilon in the hundred thousands), it is the RDP bound.
    Results are cached: a repeated call costs nothing, one new figure .1 to 1 s.

    Raises RecordInvalid for a bad delta and NotAccounted for what is not proved.
    """
    delta = check_delta(delta)
    merged = _merge(mechanisms)
    return math.inf if merged is None else _epsilon(merged, 1, delta)


def epsilon_rdp(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """The same figure by Rényi differential privacy: a looser bound, by other mathematics. Raises as epsilon_pld."""
    delta = check_delta(delta)
    merged = _merge(mechanisms)
    return math.inf if merged is None else _epsilon_rdp(merged, delta)


def epsilon_two_hospitals(
    mechanisms: Sequence[MechanismRecord], delta: float, other: Sequence[MechanismRecord] | None = None
) -> float:
    """Epsilon for a patient known to two hospitals: the composition of both hospitals' mechanisms.

    `other` is what the second hospital ran; None means the same mechanisms once more. With `per_hospital` noise the
    two outputs have independent noise and samples, so that composition is exact. Raises as epsilon_pld.
    """
    second = mechanisms if other is None else other
    return epsilon_pld([*mechanisms, *second], delta)


def epsilon_k_images(mechanisms: Sequence[MechanismRecord], delta: float, images: int) -> float:
    """Epsilon for a patient who has `images` images in one hospital's data.

    Unit "patient": the patient is one record whatever the number, so this is epsilon_pld. Unit "image": each image is
    drawn and clipped by itself, so that a step's shift is up to Binomial(images, q) clip norms; the mixture of
    Gaussians with these sensitivities dominates (Choquette-Choo et al. 2024, "Privacy Amplification for Matrix
    Mechanisms"). Raises RecordInvalid unless 1 <= images <= 1024, else as epsilon_pld.
    """
    if isinstance(images, bool) or not isinstance(images, int) or not 1 <= images <= 1024:
        raise RecordInvalid(f"the number of images is {images}, but a whole number from 1 to 1024 is expected")
    delta = check_delta(delta)
    merged = _merge(mechanisms)
    if merged is None:
        return math.inf
    by_patient = not mechanisms or mechanisms[0].unit == "patient"
    return _epsilon(merged, 1 if by_patient else images, delta)


def colluder_figures(mechanisms: Sequence[MechanismRecord]) -> str:
    """What a number of colluders changes, in words: with `per_hospital` noise, nothing. Raises as epsilon_pld."""
    refuse_unaccounted(mechanisms)
    return (
        "not applicable: every hospital adds all of its noise itself, so the figure holds against the coordinator and "
        "any number of other hospitals together"
    )


def delta_profile(mechanisms: Sequence[MechanismRecord], epsilons: Sequence[float]) -> tuple[float, ...]:
    """The proved delta at each epsilon. Raises as epsilon_pld; RecordInvalid for one below 0 or not finite."""
    for epsilon in epsilons:
        if not (epsilon >= 0 and math.isfinite(epsilon)):
            raise RecordInvalid(f"epsilon is {epsilon}, but a finite number of at least 0 is expected")
    merged = _merge(mechanisms)
    if merged is None:
        return tuple(1.0 for _ in epsilons)
    if not merged:
        return tuple(0.0 for _ in epsilons)
    grid = _grid(merged, 1)
    if math.isinf(grid):
        return tuple(1.0 for _ in epsilons)
    total = _composed(merged, 1, grid)
    return tuple(min(1.0, max(0.0, float(total.get_delta_for_epsilon(epsilon)))) for epsilon in epsilons)


def epsilon_profile(mechanisms: Sequence[MechanismRecord], deltas: Sequence[float]) -> tuple[float, ...]:
    """The proved epsilon at each delta. Raises as epsilon_pld."""
    return tuple(epsilon_pld(mechanisms, delta) for delta in deltas)


def _gaussian_deltas(mu: float, epsilons: _Array) -> _Array:
    """Delta at each epsilon of a Gaussian of sensitivity/deviation `mu` (Balle and Wang 2018, Theorem 8)."""
    special = importlib.import_module("scipy.special")
    first = special.log_ndtr(-epsilons / mu + mu / 2)
    second = epsilons + special.log_ndtr(-epsilons / mu - mu / 2)
    return np.asarray(np.exp(first) * -np.expm1(np.minimum(0.0, second - first)), dtype=np.float64)


@lru_cache(maxsize=256)
def _mu(merged: _Merged, delta: float) -> float:
    top = _epsilon(merged, 1, delta)
    grid = _grid(merged, 1)
    if not math.isfinite(top) or math.isinf(grid):
        return math.inf
    total = _composed(merged, 1, grid * 10, True)  # pessimistic as well, and a tenth of the time
    if total.get_epsilon_for_delta(delta) > top * 1.001:
        total = _composed(merged, 1, grid)
    epsilons = np.linspace(0.0, top, 4001)
    deltas = np.asarray(total.get_delta_for_epsilon(list(epsilons)), dtype=np.float64)
    # Between two points the proved delta only falls: the left point's delta at the right point's epsilon covers it.
    right = np.concatenate([[0.0], epsilons[1:], [top]])
    needed = np.concatenate([[deltas[0]], deltas[:-1], [delta]])
    low, high = 0.0, 1e-6
    while not bool(np.all(_gaussian_deltas(high, right) >= needed)):
        low, high = high, high * 2
        if high > 1e6:
            return math.inf
    while high - low > 1e-7 * high:
        middle = (low + high) / 2
        if bool(np.all(_gaussian_deltas(middle, right) >= needed)):
            high = middle
        else:
            low = middle
    return high


def mu_gdp(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """The mu of Gaussian differential privacy whose profile covers the proved one wherever that is at least `delta`.

    It is found from the PLD profile (Dong, Roth and Su 2022 define mu-GDP), never from a central limit theorem. The
    restriction to deltas of at least `delta` is part of the statement: for Poisson sampling the smallest mu without
    it is that of the unsampled mechanism, sqrt(steps)/sigma, as rare steps decide the far tail. Returns 0.0 for no
    mechanisms, math.inf without noise. Never below the smallest such mu, and above it by a few thousandths. Raises as
    epsilon_pld.
    """
    delta = check_delta(delta)
    merged = _merge(mechanisms)
    if merged is None:
        return math.inf
    return _mu(merged, delta) if merged else 0.0


def calibrate_noise_multiplier(*, sampling_probability: float, steps: int, epsilon: float, delta: float) -> float:
    """The smallest noise multiplier (to about 1e-4 of itself, rounded up) whose PLD epsilon does not exceed `epsilon`.

    `steps` is the number of steps of the whole run, spare rounds included. The result r satisfies
    epsilon_pld(r) <= epsilon, checked. Looks at multipliers from NOISE_MIN to NOISE_MAX.

    Raises UnreachableTarget (with `nearest_epsilon`) where even NOISE_MAX costs more, RecordInvalid for a bad value.
    """
    delta = check_delta(delta)
    if not (isinstance(epsilon, int | float) and epsilon > 0 and math.isfinite(epsilon)):
        raise RecordInvalid(f"the target epsilon is {epsilon}, but a finite number above 0 is expected")
    if not 0 < sampling_probability <= 1:
        raise RecordInvalid(
            f"sampling_probability is {sampling_probability}, but a number above 0 and at most 1 is expected"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 2**40:
        raise RecordInvalid(f"steps is {steps}, but a whole number from 1 to 2**40 is expected")
    return _calibrated(float(sampling_probability), steps, float(epsilon), delta)


@lru_cache(maxsize=128)
def _calibrated(q: float, steps: int, target: float, delta: float) -> float:
    def bound(log_sigma: float) -> float:
        return _quick_bound(((q, math.exp(log_sigma), steps),), delta)

    def quick(log_sigma: float, factor: float = 1.0) -> float:
        merged = ((q, math.exp(log_sigma), steps),)
        grid = _grid(merged, 1)
        if math.isinf(grid):
            return bound(log_sigma)
        return float(_composed(merged, 1, grid * factor, True).get_epsilon_for_delta(delta))

    def coarse(log_sigma: float) -> float:
        return quick(log_sigma, 10.0)

    low, high = math.log(NOISE_MIN), math.log(NOISE_MAX)
    if bound(high) > target:
        nearest = _epsilon(((q, NOISE_MAX, steps),), 1, delta)
        if nearest > target:
            raise UnreachableTarget(
                f"no noise multiplier up to {NOISE_MAX:g} reaches epsilon {target:g} with {steps} steps at sampling "
                f"probability {q:g} and delta {delta:g}: the smallest epsilon within reach is {round_up(nearest)}",
                nearest_epsilon=nearest,
            )
        upper = high
    else:
        # RDP is an upper bound as well: noise that satisfies it is enough, and the search starts there.
        upper = low if bound(low) <= target else _crossing(bound, target, low, high, 1e-2)
    upper = _search_down(coarse, target, low, upper)
    given_away = 1 - quick(upper) / target  # what the coarse grid and the tolerance cost; little, as a rule
    if given_away > 5e-4:
        upper = _search_down(quick, target, low, upper)
    # The figure itself comes from dp-accounting's own discretisation: check it, and give way upwards where it differs.
    result = NOISE_MIN if upper <= low else _up(math.exp(upper))
    while _epsilon(((q, result, steps),), 1, delta) > target and result < NOISE_MAX:
        result = min(NOISE_MAX, _up(result * (1 + 2e-4)))
    return result


def _search_down(function: Callable[[float], float], target: float, low: float, start: float) -> float:
    """The least point from `low` on (to 1e-4) with function(point) <= target, searched for downwards from `start`."""
    lower, upper, width = start, start, 0.05
    while function(lower) <= target:
        if lower <= low:
            return low
        upper, lower, width = lower, max(low, lower - width), width * 2
    if lower == upper:
        return start
    return _crossing(function, target, lower, upper, 1e-4)


def _crossing(function: Callable[[float], float], target: float, low: float, high: float, tolerance: float) -> float:
    """A point at most `tolerance` above where the decreasing `function` falls to `target`; its value is within it.

    Expects function(low) > target >= function(high). Regula falsi on the logarithm, halved where one end stays.
    """

    def excess(point: float) -> float:
        return math.log(max(function(point), 1e-300)) - math.log(target)

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


def _up(value: float) -> float:
    """`value` rounded up to six significant digits."""
    exact = Decimal(value)
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 5), rounding=ROUND_CEILING))


def round_up(epsilon: float, digits: int = 4) -> str:
    """`epsilon` as text with `digits` decimals, rounded up and never below the value; "unbounded" for math.inf.

    Raises RecordInvalid for not-a-number.
    """
    if math.isnan(epsilon):
        raise RecordInvalid("epsilon is not a number")
    if math.isinf(epsilon):
        return "unbounded"
    return str(Decimal(epsilon).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))
