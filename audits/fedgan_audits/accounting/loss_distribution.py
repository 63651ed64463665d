"""Privacy loss distributions of sampled Gaussian mechanisms: grids, composition, epsilon and delta, GDP mu.

One step's distribution (Zhu, Dong and Wang 2022 for the dominating pair of Poisson sampling) is put on a grid by the
pessimistic "connect the dots" rounding (Doroshenko et al. 2022) and convolved over all steps, by dp-accounting, which
is imported on first use. Every rounding and truncation raises epsilon. `accountant` decides what may be asked here.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgan_audits.accounting import gaussian_orders, image_groups

GRID = 1e-4
"""Usual spacing of the privacy-loss grid; coarser by powers of ten where the losses are huge, finer where tiny."""

Merged = tuple[tuple[float, float, int], ...]
"""Sorted (sampling probability, noise multiplier, steps), each pair of the first two once; noise above 0."""

_TAIL = 1e-15
_MANY_STEPS = 2**20
_MAX_STEP_POINTS, _MAX_COMPOSED_POINTS = 1e6, 4e6
_FINER_BELOW_POINTS, _FINER_COMPOSED_POINTS = 500.0, 5e5

_Array = NDArray[np.float64]


def joined(parts: Iterable[tuple[float, float, int]]) -> Merged:
    """Join (sampling probability, noise multiplier, steps) of equal probability and noise, sorted."""
    steps: dict[tuple[float, float], int] = {}
    for q, sigma, count in parts:
        steps[q, sigma] = steps.get((q, sigma), 0) + count
    return tuple((q, sigma, count) for (q, sigma), count in sorted(steps.items()))


def _pld() -> Any:
    return importlib.import_module("dp_accounting.pld.privacy_loss_distribution")


def _rdp_epsilon(merged: Merged, delta: float, orders: tuple[float, ...]) -> float:
    if not merged:
        return 0.0
    curves = [(rdp_of_step(q, sigma, orders), steps) for q, sigma, steps in merged]
    rdp = sum((steps * curve for (_, curve), steps in curves), np.zeros(len(curves[0][0][1])))
    with _quiet():
        epsilon, _ = importlib.import_module("dp_accounting.rdp").compute_epsilon(curves[0][0][0], rdp, delta)
    return float(epsilon)


@contextmanager
def _quiet() -> Iterator[None]:
    """dp-accounting warns of orders that do not converge: it leaves them out, which can only raise epsilon."""
    absl = importlib.import_module("absl.logging")
    before = absl.get_verbosity()
    absl.set_verbosity(absl.ERROR)
    try:
        yield
    finally:
        absl.set_verbosity(before)


@lru_cache(maxsize=64)
def rdp_of_step(q: float, sigma: float, orders: tuple[float, ...]) -> tuple[_Array, _Array]:
    """Orders and one step's RDP at each, as dp-accounting's accountant holds them: it multiplies them by the steps."""
    dp = importlib.import_module("dp_accounting")
    accountant = dp.rdp.RdpAccountant(orders)
    with _quiet():
        accountant.compose(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma)))
    return np.asarray(accountant._orders, dtype=float), np.asarray(accountant._rdp, dtype=float)


@lru_cache(maxsize=512)
def rdp_epsilon(merged: Merged, delta: float) -> float:
    """Epsilon at `delta` by Rényi differential privacy, fractional orders included; 0 for nothing."""
    return gaussian_orders.epsilon(merged, delta)


@lru_cache(maxsize=1024)
def quick_bound(merged: Merged, delta: float) -> float:
    """An upper bound on epsilon in about a millisecond: dp-accounting's RDP at a few integer orders, where all of its
    versions agree."""
    return _rdp_epsilon(merged, delta, (2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45, 64, 128))


def grid_of(merged: Merged, images: int) -> float:
    """Spacing of the loss grid: GRID where that is neither too many points nor too few; math.inf where none will do."""
    composed = 2.0 * min(images, 8) * quick_bound(merged, _TAIL)
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
def one_step(q: float, sigma: float, images: int, grid: float, quick: bool) -> Any:
    """One step's PrivacyLossDistribution; `quick` takes our own vectorised discretisation (for searching only)."""
    if images > 1 or (quick and q < 1):
        return image_groups.one_step(q, sigma, images, grid)
    return _pld().from_gaussian_mechanism(sigma, sampling_prob=q, value_discretization_interval=grid)


def _doubled(step: Any, steps: int) -> Any:
    """`step` composed `steps` times by doubling, for what dp-accounting composes one by one or cannot count."""
    total = None
    while True:
        if steps & 1:
            total = step if total is None else total.compose(step)
        steps >>= 1
        if not steps:
            return total
        step = step.compose(step)


@lru_cache(maxsize=32)
def composed(merged: Merged, images: int, grid: float, quick: bool = False) -> Any:
    """The composed privacy loss distribution; `quick` takes our own vectorised discretisation (for searching only)."""
    parts = []
    for q, sigma, steps in merged:
        if q == 1.0:  # Gaussians without sampling compose exactly, into one
            parts.append(one_step(q, sigma / math.sqrt(steps), images, grid, quick))
        else:
            step = one_step(q, sigma, images, grid, quick)
            tiny = image_groups.loss_width(q, sigma, images) < grid
            parts.append(_doubled(step, steps) if tiny or steps > _MANY_STEPS else step.self_compose(steps))
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return total


@lru_cache(maxsize=4096)
def epsilon(merged: Merged, images: int, delta: float) -> float:
    """Epsilon at `delta` for a unit with `images` records of its own; 0 for nothing.

    For one record it is the Rényi figure where that is the smaller, or where no grid holds the losses.
    """
    if not merged:
        return 0.0
    grid = grid_of(merged, images)
    if math.isinf(grid):  # losses in the hundred thousands: no grid holds them, and no figure would mean anything
        return rdp_epsilon(merged, delta) if images == 1 else math.inf
    with np.errstate(over="ignore"):  # beyond the largest number a loss is infinite, and counted as that
        found = float(composed(merged, images, grid).get_epsilon_for_delta(delta))
    # A grid's tails hold a little of delta, most of a very small one: the other proof's figure is then the smaller.
    return min(found, rdp_epsilon(merged, delta)) if images == 1 else found


def deltas(merged: Merged, epsilons: Sequence[float]) -> tuple[float, ...]:
    """The proved delta at each epsilon (finite, at least 0); 1 where no grid holds the losses."""
    if not merged:
        return tuple(0.0 for _ in epsilons)
    grid = grid_of(merged, 1)
    if math.isinf(grid):
        return tuple(1.0 for _ in epsilons)
    total = composed(merged, 1, grid)
    return tuple(min(1.0, max(0.0, float(total.get_delta_for_epsilon(value)))) for value in epsilons)


def gaussian_deltas(mu: float, epsilons: _Array) -> _Array:
    """Delta at each epsilon of a Gaussian of sensitivity/deviation `mu` (Balle and Wang 2018, Theorem 8)."""
    special = importlib.import_module("scipy.special")
    first = special.log_ndtr(-epsilons / mu + mu / 2)
    second = epsilons + special.log_ndtr(-epsilons / mu - mu / 2)
    return np.asarray(np.exp(first) * -np.expm1(np.minimum(0.0, second - first)), dtype=np.float64)


@lru_cache(maxsize=256)
def mu(merged: Merged, delta: float) -> float:
    """The mu whose Gaussian profile covers that of `merged` down to `delta`; math.inf where there is no figure."""
    top = epsilon(merged, 1, delta)
    grid = grid_of(merged, 1)
    if not math.isfinite(top) or math.isinf(grid):
        return math.inf
    total = composed(merged, 1, grid * 10, True)  # pessimistic as well, and a tenth of the time
    if total.get_epsilon_for_delta(delta) > top * 1.001:
        total = composed(merged, 1, grid)
    epsilons = np.linspace(0.0, top, 4001)
    return covering_mu(epsilons, np.asarray(total.get_delta_for_epsilon(list(epsilons)), dtype=np.float64), delta)


def covering_mu(epsilons: _Array, deltas: _Array, delta: float) -> float:
    """The smallest mu (to 1e-7 of itself, rounded up) whose profile covers a proved one; math.inf above 1e6.

    `deltas` are proved at `epsilons` (increasing from 0, both float64[n]), and `delta` at the last of them.
    """
    # Between two points the proved delta only falls: the left point's delta at the right point's epsilon covers it.
    right = np.concatenate([[0.0], epsilons[1:], epsilons[-1:]])
    needed = np.concatenate([[deltas[0]], deltas[:-1], [delta]])
    low, high = 0.0, 1e-6
    while not bool(np.all(gaussian_deltas(high, right) >= needed)):
        low, high = high, high * 2
        if high > 1e6:
            return math.inf
    while high - low > 1e-7 * high:
        middle = (low + high) / 2
        if bool(np.all(gaussian_deltas(middle, right) >= needed)):
            high = middle
        else:
            low = middle
    return high
