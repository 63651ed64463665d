"""What mechanisms cost, of one hospital or of several: epsilon at delta, its profile, the noise that a target needs.

Covered: add/remove one unit; Poisson sampling; clipped sums with Gaussian noise added by each hospital to its own sum
(Abadi et al. 2016) or with integer noise shared among the hospitals of one secure sum (Kairouz, Liu and Steinke 2021).
Mechanisms are composed as events, equal ones merged; two epsilons are never added up. The ways:

* PLD (`loss_distribution`): the figure that is reported where all noise is Gaussian and each hospital's own.
* RDP: there a second opinion, computed here (`gaussian_orders`: Mironov, Talwar and Zhang 2019; conversion of Canonne,
  Kamath and Steinke 2020). Where a mechanism's noise is shared (`noise_placement` "distributed"), RDP at integer orders
  (`renyi`, `integer_noise`) is the proved figure, and PLD is offered as a Gaussian approximation only. So it is for a
  search for settings whose trials were chosen as it went, or whose winner alone is released (`selection`).

:func:`epsilon` is the proved figure of either kind. Anything else is refused with :class:`NotAccounted`: another
neighbouring relation or sampler, shared noise of which the shares are not recorded, units mixed in one sequence. What
it rests on and does not cover: docs/accounting.md, docs/privacy.md.

dp-accounting is imported on first use. It is used at 0.4.3 and at 0.6.0: the PLD figures agree to 1e-7 of themselves.
Its RDP figures at fractional orders do not: none is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version

import numpy as np

from fedgan_audits.accounting import (
    calibration,
    failures,
    gaussian_orders,
    integer_noise,
    loss_distribution,
    renyi,
    selection,
)
from fedgan_audits.accounting.calibration import NOISE_MAX, NOISE_MIN
from fedgan_audits.accounting.loss_distribution import GRID
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord, SearchMechanism, SearchTerms
from fedgan_audits.accounting.renyi import SampledNoise
from fedgan_audits.accounting.rounding import round_up
from fedgan_audits.errors import NotAccounted, RecordInvalid, UnreachableTarget

__all__ = [
    "DELTA_MIN", "GRID", "NOISE_MAX", "NOISE_MIN", "RENYI", "accountant_name", "calibrate",
    "calibrate_noise_multiplier", "check_delta", "clear_caches", "colluder_figures", "curve", "delta_profile",
    "epsilon", "epsilon_gaussian_approximation", "epsilon_k_images", "epsilon_pld", "epsilon_profile", "epsilon_rdp",
    "epsilon_several_hospitals", "epsilon_two_hospitals", "epsilon_with_failures", "gaussian_parts", "is_distributed",
    "mu_gdp", "refuse_unaccounted", "rests_on_curve", "round_up", "step_noise",
]  # fmt: skip

DELTA_MIN = 1e-12
"""Below this delta the truncated tails of the discretised distribution are no longer negligible."""

RENYI = "Rényi differential privacy at orders 1.1 to 1,024, computed by fedgan-secure"
"""How a report names the accountant of a figure, or of a second opinion, that is `epsilon_rdp`'s."""

_Steps = tuple[tuple[SampledNoise, int], ...]
"""Each kind of step once, sorted, with its number of steps."""

_Searches = tuple[tuple[SearchTerms, int], ...]
"""Searches that are known by their curve alone, each once, with how often it was done."""


def accountant_name(
    mechanisms: Sequence[MechanismRecord] = (), delta: float | None = None, library: str | None = None
) -> str:
    """Name how the figure of `mechanisms` (at `delta`) was made; `library`: by which dp-accounting, by default this."""
    if is_distributed(mechanisms):
        return f"integer-order RDP (orders 2 to {renyi.LARGEST_ORDER}) of shared integer noise"
    if _searches_of(mechanisms):
        return f"integer-order RDP (orders 2 to {renyi.LARGEST_ORDER}), a search for settings included"
    library = f"dp-accounting {library or version('dp-accounting')}"
    figure = 0.0 if delta is None else epsilon(mechanisms, delta)
    if delta is not None and 0 < figure < math.inf and figure == epsilon_rdp(mechanisms, delta):
        return RENYI  # the smaller of the two proofs, or the only one
    return f"{library}, PLD (pessimistic, connect the dots)"


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
        shared = isinstance(record, DistributedMechanism)
        if record.noise_placement != ("distributed" if shared else "per_hospital"):
            raise NotAccounted(
                f"noise_placement is '{record.noise_placement}', but the record "
                + ("divides the noise among hospitals" if shared else "does not say how the noise is shared"),
                hint='Set noise_placement = "per_hospital", or record the shares (DistributedMechanism).',
            )
        if record.neighbouring_relation != "add_or_remove_one" or record.sampler != "poisson":
            raise NotAccounted(
                f"the mechanism has neighbours '{record.neighbouring_relation}' and sampler '{record.sampler}', but "
                "'add_or_remove_one' and 'poisson' are expected"
            )


def is_distributed(mechanisms: Sequence[MechanismRecord]) -> bool:
    """Whether any of `mechanisms` rests on noise that several hospitals share."""
    return any(isinstance(record, DistributedMechanism) for record in mechanisms)


def _searches_of(mechanisms: Sequence[MechanismRecord]) -> _Searches:
    """The searches among `mechanisms` that no sequence of steps describes."""
    counts: dict[SearchTerms, int] = {}
    for record in mechanisms:
        if isinstance(record, SearchMechanism) and record.search.charge != "each_once":
            counts[record.search] = counts.get(record.search, 0) + record.steps
    return tuple(sorted(counts.items(), key=repr))


def rests_on_curve(mechanisms: Sequence[MechanismRecord]) -> bool:
    """Whether RDP at integer orders is the proved figure of `mechanisms`: shared noise, or a search of that kind."""
    return is_distributed(mechanisms) or bool(_searches_of(mechanisms))


def step_noise(record: MechanismRecord) -> SampledNoise:
    """One step of `record` as the Rényi accountant takes it; noise_multiplier above 0. Raises NotAccounted."""
    if isinstance(record, SearchMechanism):
        raise NotAccounted("a search is not a sequence of equal steps, but one step was asked for")
    if isinstance(record, DistributedMechanism):
        return integer_noise.sampled_noise(record)
    return SampledNoise(record.sampling_probability, record.noise_multiplier)


def _steps_of(mechanisms: Sequence[MechanismRecord]) -> _Steps | None:
    """The mechanisms as a canonical key, or None where one adds no noise."""
    refuse_unaccounted(mechanisms)
    steps: dict[SampledNoise, int] = {}
    for record in mechanisms:
        if record.noise_multiplier == 0.0:
            return None
        if isinstance(record, SearchMechanism):
            trials = record.search.settings if record.search.charge == "each_once" else ()
            parts = [(SampledNoise(t.sampling_probability, t.noise_multiplier), t.steps) for t in trials]
        else:
            parts = [(step_noise(record), 1)]
        for kind, count in parts:
            steps[kind] = steps.get(kind, 0) + count * record.steps
    return tuple(sorted(steps.items()))


@lru_cache(maxsize=256)
def _curve_of(steps: _Steps, searches: _Searches) -> renyi.Curve:
    total = renyi.composed(steps)
    for terms, count in searches:
        total = total + count * selection.curve(terms)
    return np.asarray(total)


def _merged(steps: _Steps) -> loss_distribution.Merged:
    """The Gaussian part of each kind of step: all of it, unless noise is shared."""
    return loss_distribution.joined((kind.sampling_probability, kind.noise_multiplier, count) for kind, count in steps)


def gaussian_parts(mechanisms: Sequence[MechanismRecord]) -> loss_distribution.Merged:
    """Return `mechanisms` as `loss_distribution` takes them, for searches that compose them with what is searched for.

    Raises NotAccounted for shared noise, a search for settings, or a mechanism that is not proved; UnreachableTarget
    where one of them adds no noise, since no target is reached beside it.
    """
    if rests_on_curve(mechanisms):
        raise NotAccounted(
            "shared noise or a search for settings is among the mechanisms, and no privacy loss distribution describes "
            "it",
            hint="Take accountant.calibrate.",
        )
    steps = _steps_of(mechanisms)
    if steps is None:
        raise UnreachableTarget(
            "no target is reached beside a mechanism without noise: its epsilon is unbounded", nearest_epsilon=math.inf
        )
    return _merged(steps)


@lru_cache(maxsize=1024)
def _integer_rdp(steps: _Steps, searches: _Searches, delta: float, records: int) -> float:
    return renyi.epsilon_of(renyi.records(_curve_of(steps, searches), records), delta) if steps or searches else 0.0


def curve(mechanisms: Sequence[MechanismRecord]) -> renyi.Curve:
    """The RDP curve of all `mechanisms` at renyi.ORDERS; infinite where one adds no noise. Raises NotAccounted."""
    steps = _steps_of(mechanisms)
    return np.full(len(renyi.ORDERS), np.inf) if steps is None else _curve_of(steps, _searches_of(mechanisms))


def epsilon(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """The proved epsilon at `delta` of all `mechanisms` together: PLD, or integer-order RDP where noise is shared.

    This is the binding figure. For shared noise it holds against the coordinator and the declared number of colluding
    hospitals, and rests on secure aggregation. Returns and raises as epsilon_pld.
    """
    delta = check_delta(delta)
    steps = _steps_of(mechanisms)
    if steps is None:
        return math.inf
    if rests_on_curve(mechanisms):
        return _integer_rdp(steps, _searches_of(mechanisms), delta, 1)
    return loss_distribution.epsilon(_merged(steps), 1, delta)


def epsilon_pld(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """The proved epsilon at `delta` by privacy loss distributions, for one unit in one hospital's data.

    Returns 0.0 for no mechanisms and math.inf where one of them adds no noise. Guarantee: an upper bound on the
    hockey-stick divergence in both directions (add and remove), up to floating-point error of the convolution.
    Where the losses are so large that no grid holds them (epsilon in the hundred thousands), or delta so small (1e-8)
    that the grid's own tails count, it is the RDP bound, if that is the smaller.
    Results are cached: a repeated call costs nothing, one new figure .1 to 1 s.

    Raises RecordInvalid for a bad delta and NotAccounted for what is not proved so: shared noise among it.
    """
    if is_distributed(mechanisms):
        raise NotAccounted(
            "noise_placement is 'distributed', but privacy loss distributions are proved for 'per_hospital' alone",
            hint="Take accountant.epsilon, the proved figure; the other is epsilon_gaussian_approximation.",
        )
    if _searches_of(mechanisms):
        raise NotAccounted(
            "a search for settings is among the mechanisms, and no privacy loss distribution describes it",
            hint="Take accountant.epsilon, the proved figure.",
        )
    return epsilon(mechanisms, delta)


def epsilon_gaussian_approximation(mechanisms: Sequence[MechanismRecord], delta: float, records: int = 1) -> float:
    """The PLD figure as if shared integer noise were the Gaussian of its variance: a comparison, not a guarantee.

    `records` of one person in the same sums give the mixture of Gaussians with Binomial(records, q) shifts. Without
    shared noise it is epsilon_pld; with a search that is known by its curve, the figure of that. Returns and raises as
    epsilon.
    """
    delta = check_delta(delta)
    steps = _steps_of(mechanisms)
    if steps is None:
        return math.inf
    if searches := _searches_of(mechanisms):
        return _integer_rdp(steps, searches, delta, records)
    return loss_distribution.epsilon(_merged(steps), records, delta)


def epsilon_rdp(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """The same figure by Rényi differential privacy: a looser bound, by other mathematics. Raises as epsilon.

    With shared noise it is that of :func:`epsilon`, which is Rényi's already.
    """
    delta = check_delta(delta)
    steps = _steps_of(mechanisms)
    if steps is None:
        return math.inf
    if rests_on_curve(mechanisms):
        return _integer_rdp(steps, _searches_of(mechanisms), delta, 1)
    return loss_distribution.rdp_epsilon(_merged(steps), delta)


def epsilon_two_hospitals(
    mechanisms: Sequence[MechanismRecord], delta: float, other: Sequence[MechanismRecord] | None = None
) -> float:
    """Epsilon for a patient known to two hospitals: epsilon_several_hospitals of both.

    `other` is what the second hospital ran; None means the same mechanisms once more. Raises as epsilon.
    """
    return epsilon_several_hospitals([mechanisms, mechanisms if other is None else other], delta)


def epsilon_several_hospitals(ledgers: Sequence[Sequence[MechanismRecord]], delta: float) -> float:
    """Epsilon for a patient known to several hospitals, `ledgers` being what each of them ran.

    With `per_hospital` noise the outputs have independent noise and samples, so that composition is exact. With shared
    noise the patient's records enter one sum wherever several of the hospitals took part in a step, which the ledgers
    do not say: the bound of groups (renyi.records) holds however their steps coincide (docs/accounting.md). Raises as
    epsilon, and RecordInvalid for no ledger.
    """
    delta = check_delta(delta)
    count = len(ledgers)
    if not count:
        raise RecordInvalid("no ledger is given, but one of each hospital that knows the patient is expected")
    together = [record for ledger in ledgers for record in ledger]
    if not rests_on_curve(together):
        return epsilon(together, delta)
    refuse_unaccounted(together)
    own = _steps_of([record for record in together if not isinstance(record, DistributedMechanism)])
    shared = _steps_of([record for record in together if isinstance(record, DistributedMechanism)])
    if own is None or shared is None:
        return math.inf
    # One search may have looked at the data of several of them: its winner is then a function of all of the records.
    group = renyi.records(_curve_of(shared, _searches_of(together)), count) * renyi.share_of_group(count)
    return renyi.epsilon_of(group + renyi.composed(own), delta)


def epsilon_k_images(mechanisms: Sequence[MechanismRecord], delta: float, images: int) -> float:
    """Epsilon for a patient who has `images` images in one hospital's data.

    Unit "patient": the patient is one record whatever the number, so this is epsilon. Unit "image": each image is
    drawn and clipped by itself, so that a step's shift is up to Binomial(images, q) clip norms; the mixture of
    Gaussians with these sensitivities dominates (Choquette-Choo et al. 2024, "Privacy Amplification for Matrix
    Mechanisms"). With shared noise it is group privacy (renyi.records), for the next power of two of images. Raises
    RecordInvalid unless 1 <= images <= 1024, else as epsilon.
    """
    if isinstance(images, bool) or not isinstance(images, int) or not 1 <= images <= 1024:
        raise RecordInvalid(f"the number of images is {images}, but a whole number from 1 to 1024 is expected")
    delta = check_delta(delta)
    steps = _steps_of(mechanisms)
    if steps is None:
        return math.inf
    by_patient = not mechanisms or mechanisms[0].unit == "patient"
    count = 1 if by_patient else images
    if rests_on_curve(mechanisms):
        return _integer_rdp(steps, _searches_of(mechanisms), delta, count)
    return loss_distribution.epsilon(_merged(steps), count, delta)


def colluder_figures(mechanisms: Sequence[MechanismRecord]) -> str:
    """What a number of colluders changes, in words; the figures are `colluders.table`'s. Raises as epsilon."""
    refuse_unaccounted(mechanisms)
    if is_distributed(mechanisms):
        return (
            "the figure holds against the coordinator together with the declared number of colluding hospitals; each "
            "further one takes a share of the noise away"
        )
    return (
        "not applicable: every hospital adds all of its noise itself, so the figure holds against the coordinator and "
        "any number of other hospitals together"
    )


def delta_profile(mechanisms: Sequence[MechanismRecord], epsilons: Sequence[float]) -> tuple[float, ...]:
    """The proved delta at each epsilon. Raises as epsilon; RecordInvalid for one below 0 or not finite."""
    for value in epsilons:
        if not (value >= 0 and math.isfinite(value)):
            raise RecordInvalid(f"epsilon is {value}, but a finite number of at least 0 is expected")
    steps = _steps_of(mechanisms)
    if steps is None:
        return tuple(1.0 for _ in epsilons)
    if rests_on_curve(mechanisms):
        found = renyi.deltas_of(_curve_of(steps, _searches_of(mechanisms)), np.array(epsilons, dtype=float))
        return tuple(float(value) for value in found)
    return loss_distribution.deltas(_merged(steps), epsilons)


def epsilon_profile(mechanisms: Sequence[MechanismRecord], deltas: Sequence[float]) -> tuple[float, ...]:
    """The proved epsilon at each delta. Raises as epsilon."""
    return tuple(epsilon(mechanisms, delta) for delta in deltas)


def epsilon_with_failures(mechanisms: Sequence[MechanismRecord], delta: float, failure_probability: float) -> float:
    """Epsilon at `delta` when, with at most `failure_probability` in all, a step is not the mechanism recorded.

    A batch of fixed capacity that overflows with probability p per step makes it T p (`failures.overflow_probability`),
    a test whose false alarm shows in the output T times its rate. math.inf where delta does not suffice. Raises as
    epsilon, and RecordInvalid for a probability out of range.
    """
    delta = check_delta(delta)

    def at(left: float) -> float:
        return epsilon(mechanisms, left) if left >= DELTA_MIN else math.inf

    return failures.epsilon_with_failures(at, delta, failure_probability)


def mu_gdp(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """The mu of Gaussian differential privacy whose profile covers the proved one wherever that is at least `delta`.

    It is found from the proved profile (Dong, Roth and Su 2022 define mu-GDP), never from a central limit theorem. The
    restriction to deltas of at least `delta` is part of the statement: for Poisson sampling the smallest mu without
    it is that of the unsampled mechanism, sqrt(steps)/sigma, as rare steps decide the far tail. Returns 0.0 for no
    mechanisms, math.inf without noise. Never below the smallest such mu, and above it by a few thousandths (more with
    shared noise, whose proved profile is Rényi's). Raises as epsilon.
    """
    delta = check_delta(delta)
    steps = _steps_of(mechanisms)
    if steps is None:
        return math.inf
    searches = _searches_of(mechanisms)
    if not steps and not searches:
        return 0.0
    if not rests_on_curve(mechanisms):
        return loss_distribution.mu(_merged(steps), delta)
    epsilons, deltas = renyi.profile(_curve_of(steps, searches), delta)
    return loss_distribution.covering_mu(epsilons, deltas, delta)


def _check_schedule(sampling_probability: float, steps: int, target: float) -> None:
    if not (isinstance(target, int | float) and target > 0 and math.isfinite(target)):
        raise RecordInvalid(f"the target epsilon is {target}, but a finite number above 0 is expected")
    if not 0 < sampling_probability <= 1:
        raise RecordInvalid(
            f"sampling_probability is {sampling_probability}, but a number above 0 and at most 1 is expected"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 2**40:
        raise RecordInvalid(f"steps is {steps}, but a whole number from 1 to 2**40 is expected")


@lru_cache(maxsize=128)
def _calibrated(q: float, steps: int, target: float, delta: float, before: loss_distribution.Merged) -> float:
    return calibration.sampled_gaussian(q, steps, target, delta, before)


def calibrate_noise_multiplier(
    *,
    sampling_probability: float,
    steps: int,
    epsilon: float,
    delta: float,
    before: Sequence[MechanismRecord] = (),
) -> float:
    """The smallest noise multiplier (to about 1e-4 of itself, rounded up) whose PLD epsilon does not exceed `epsilon`.

    `steps` is the number of steps of the whole run, spare rounds included. `before` are mechanisms of the same fixed
    schedule whose noise is given, such as a release: the figure is that of them and the steps composed. The result r
    satisfies epsilon_pld(r) <= epsilon, checked. Looks at multipliers from NOISE_MIN to NOISE_MAX.

    Raises UnreachableTarget (with `nearest_epsilon`) where even NOISE_MAX costs more, RecordInvalid for a bad value,
    NotAccounted where `before` has shared noise or a search in it (calibrate takes those).
    """
    delta = check_delta(delta)
    _check_schedule(sampling_probability, steps, epsilon)
    return _calibrated(float(sampling_probability), steps, float(epsilon), delta, gaussian_parts(before))


def calibrate(
    mechanism: MechanismRecord, *, target: float, delta: float, before: Sequence[MechanismRecord] = ()
) -> float:
    """The smallest noise multiplier (to about 1e-4 of itself, rounded up) at which the proved figure is within target.

    Args:
        mechanism: everything but the noise multiplier, `steps` being those of the whole run; no search.
        target: the epsilon of `before` and `mechanism` composed.
        delta: of the figure.
        before: mechanisms of the same fixed schedule whose noise is given, such as a release.

    Raises:
        UnreachableTarget: even NOISE_MAX costs more; `nearest_epsilon` says how much.
        RecordInvalid, NotAccounted: a value out of range, or a mechanism that is not proved.
    """
    delta = check_delta(delta)
    _check_schedule(mechanism.sampling_probability, mechanism.steps, target)
    refuse_unaccounted([*before, mechanism])
    if not rests_on_curve([*before, mechanism]):
        return calibrate_noise_multiplier(
            sampling_probability=mechanism.sampling_probability,
            steps=mechanism.steps,
            epsilon=target,
            delta=delta,
            before=before,
        )

    def figure(sigma: float) -> float:
        candidate = mechanism.model_copy(update={"noise_multiplier": sigma})
        try:
            return epsilon([*before, candidate], delta)
        except NotAccounted:
            return math.inf

    return calibration.by(figure, mechanism.sampling_probability, mechanism.steps, float(target), delta)


def clear_caches() -> None:
    """Forget every figure and distribution computed so far: to measure what one costs, or to free memory."""
    for cached in (
        _integer_rdp,
        _curve_of,
        selection.curve,
        _calibrated,
        renyi.step_curve,
        loss_distribution.epsilon,
        loss_distribution.rdp_epsilon,
        gaussian_orders.step_curve,
        loss_distribution.rdp_of_step,
        loss_distribution.quick_bound,
        loss_distribution.composed,
        loss_distribution.one_step,
        loss_distribution.mu,
    ):
        cached.cache_clear()
