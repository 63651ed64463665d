"""From the settings of a run to the mechanism of one round, its noise calibrated, and the ring that sums live in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord, NoiseShares, advised_delta, plan_run
from fedgan_audits.facts import cohort, colluders_against_lying
from fedgan_protocols import default_threshold
from fedgan_protocols.primitives import widest_fraction_bits
from fedgan_secure.errors import InputError
from fedgan_secure.models import ModelSpec
from fedgan_secure.policy.defaults import Recipe, recipe_for
from fedgan_secure.policy.policy import DistributedMechanismPolicy, MechanismPolicy, RingPolicy
from fedgan_secure.policy.settings import RunSettings
from fedgan_secure.privacy import Schedule, box_of, choose_grid

MAX_FRACTION_BITS = 24


def mechanism_and_ring(
    settings: RunSettings, recipe: Recipe, declared: int, hospitals: int, spec: ModelSpec
) -> tuple[MechanismPolicy, RingPolicy]:
    """What the policy says of the mechanism and of the ring, wherever the noise is added.

    Raises:
        InputError, BudgetRefused, UnreachableTarget: no grid fits, or the budget cannot be met.
    """
    if settings.privacy.noise_placement == "distributed":
        return shared_mechanism(settings, recipe, declared, hospitals, spec)
    return hospital_mechanism(settings, recipe, declared), update_ring(settings, hospitals)


def rounds_of(settings: RunSettings, recipe: Recipe) -> int:
    """How many rounds are scheduled, without spare ones."""
    return settings.federation.rounds or recipe.rounds


def recipe_of(settings: RunSettings, declared: int) -> Recipe:
    """The public defaults for these settings and this declared cohort."""
    return recipe_for(
        image_size=settings.data.image_size,
        declared_patients=declared,
        phantoms=settings.data.dataset is None and not settings.data.hospital,
        unit=settings.data.unit,
    )


def hospital_mechanism(
    settings: RunSettings, recipe: Recipe, declared: int, release: MechanismRecord | None = None
) -> MechanismPolicy:
    """The mechanism of one round, its noise calibrated to the whole schedule where a target is given.

    A `release` is the first scheduled round; the target is then that of everything composed.
    """
    privacy, federation = settings.privacy, settings.federation
    probability = privacy.sampling_probability or recipe.sampling_probability
    steps = federation.steps_per_round or recipe.steps_per_round
    clip = privacy.l2_clip_norm or recipe.l2_clip_norm
    delta = delta_of(settings, declared)
    images = 1 if settings.data.unit == "image" else settings.data.images_per_patient or recipe.images_per_patient
    target = None if privacy.no_privacy or privacy.noise_multiplier is not None else privacy.epsilon or recipe.epsilon
    if privacy.no_privacy:
        noise = 0.0
    else:
        noise = plan_run(
            sampling_probability=probability,
            steps_per_round=steps,
            rounds=rounds_of(settings, recipe),
            spare_rounds=federation.spare_rounds,
            delta=delta,
            noise_multiplier=privacy.noise_multiplier,
            epsilon=target,
            l2_clip_norm=clip,
            unit=settings.data.unit,
            images_per_patient=images,
            release=release,
        ).mechanism.noise_multiplier
    return MechanismPolicy(
        sampling_probability=probability,
        noise_multiplier=noise,
        l2_clip_norm=clip,
        steps_per_round=steps,
        delta=delta,
        epsilon_target=target,
        declared_patients=declared,
        expected_batch_size=probability * declared,
        unit=settings.data.unit,
        images_per_patient=images,
        hospitals_per_patient=privacy.hospitals_per_patient,
    )


def update_ring(settings: RunSettings, hospitals: int) -> RingPolicy:
    """The ring of updates: the finest grid that fits, unless the settings say which."""
    training = settings.training
    bits = training.fraction_bits or min(
        MAX_FRACTION_BITS, widest_fraction_bits(training.update_bound, training.ring_bits, [1] * hospitals)
    )
    return RingPolicy(ring_bits=training.ring_bits, update_bound=training.update_bound, fraction_bits=bits)


def shared_mechanism(
    settings: RunSettings, recipe: Recipe, declared: int, hospitals: int, spec: ModelSpec
) -> tuple[DistributedMechanismPolicy, RingPolicy]:
    """As `_mechanism` for noise that the hospitals share, and the ring that their sums of gradients live in."""
    from fedgan_secure.networks import VectorLayout

    layout = VectorLayout.of(spec)
    plain = hospital_mechanism(settings, recipe, declared)
    return share_noise(settings, recipe, plain, hospitals, layout.size - layout.generator_size)


def share_noise(
    settings: RunSettings,
    recipe: Recipe,
    plain: MechanismPolicy,
    hospitals: int,
    dimension: int,
    release: MechanismRecord | None = None,
) -> tuple[DistributedMechanismPolicy, RingPolicy]:
    """Return `plain` with noise that the hospitals share, and the ring of its sums.

    Args:
        plain: the mechanism of a round, its noise calibrated as if each hospital added all of it.
        dimension: coordinates of a sum.
        release: what the first scheduled round does instead of steps, if anything.
    """
    threshold = settings.federation.threshold or default_threshold(hospitals)
    rounds = rounds_of(settings, recipe) + settings.federation.spare_rounds

    def calibrate(shares: NoiseShares) -> DistributedMechanism:
        planned = plan_run(
            sampling_probability=plain.sampling_probability,
            steps_per_round=plain.steps_per_round,
            rounds=rounds,
            delta=plain.delta,
            noise_multiplier=settings.privacy.noise_multiplier,
            epsilon=plain.epsilon_target,
            l2_clip_norm=plain.l2_clip_norm,
            unit=plain.unit,
            images_per_patient=plain.images_per_patient,
            noise_placement="distributed",
            shares=shares,
            release=release,
        ).mechanism
        assert isinstance(planned, DistributedMechanism)  # noqa: S101 - shares were given
        return planned

    box = box_of(plain.l2_clip_norm, plain.expected_batch_size)
    record, bits = choose_grid(
        calibrate,
        threshold=threshold,
        colluders=colluders_against_lying(hospitals, threshold),
        dimension=dimension,
        box=box,
        ring_bits=settings.training.ring_bits,
        fraction_bits=settings.training.fraction_bits,
        schedule=Schedule(hospitals, (rounds - (release is not None)) * plain.steps_per_round),
    )
    fields = plain.model_dump(exclude={"noise_placement", "noise_multiplier"})
    mechanism = DistributedMechanismPolicy(**fields, noise_multiplier=record.noise_multiplier, shares=record.shares)
    return mechanism, RingPolicy(ring_bits=settings.training.ring_bits, update_bound=box, fraction_bits=bits)


def delta_of(settings: RunSettings, declared: int) -> float:
    """Return the delta that is asked for, or the one advised for a cohort of `declared` in two digits.

    Raises:
        InputError: the delta that is asked for is above one over the patients.
    """
    asked = settings.privacy.delta
    if asked is None:
        return _two_digits_down(advised_delta(declared))
    lax = settings.privacy.no_privacy or settings.privacy.allow_large_delta
    if cohort.exposes_records(asked, declared) and not lax:
        raise InputError(
            f"privacy.delta: {asked:g} with a cohort of {declared}; expected at most 1/{declared} = {1 / declared:.2g}"
            ": a larger one allows publishing somebody's record outright, whatever epsilon says",
            hint=f"leave --delta out for {_two_digits_down(advised_delta(declared)):g}: 1 over ten times the patients "
            "(--allow-large-delta takes it all the same, and every report says STOP)",
        )
    return asked


def with_delta_for(settings: RunSettings, largest: int) -> RunSettings:
    """Return the settings with the delta of the largest cohort: that of a smaller one would be too large for it.

    Raises:
        InputError: as :func:`delta_of`.
    """
    privacy = settings.privacy.model_copy(update={"delta": delta_of(settings, largest)})
    return settings.model_copy(update={"privacy": privacy})


def cohort_of(settings: RunSettings, sizes: Sequence[int], *, phantoms: bool) -> tuple[int, RunSettings]:
    """Return the declared cohort of a hospital, and the settings with their delta.

    Where nothing is declared the smallest cohort decides how often somebody is drawn, the largest how small delta must
    be.

    Args:
        settings: what is asked for.
        sizes: patients (or images, where these are the unit) of each hospital.
        phantoms: whether the patients are phantoms, whose number is public.

    Raises:
        InputError: as :func:`delta_of`.
    """
    settled = settings.privacy.declared_patients or (settings.data.phantom_patients if phantoms else None)
    return settled or min(sizes), with_delta_for(settings, settled or max(sizes))


def _two_digits_down(delta: float) -> float:
    """A delta that people can read: two significant digits, never above the one advised."""
    exponent = math.floor(math.log10(delta)) - 1
    return float(f"{math.floor(delta / 10.0**exponent + 1e-9)}e{exponent}")


def mechanism_fields(mechanism: MechanismPolicy) -> dict[str, Any]:
    """The mechanism's part of :class:`TrainingSettings`, by name."""
    wanted = (
        "sampling_probability", "expected_batch_size", "noise_multiplier", "l2_clip_norm", "images_per_patient", "unit",
    )  # fmt: skip
    fields = mechanism.model_dump()
    if not math.isfinite(fields["expected_batch_size"]):
        raise InputError("the expected batch size is not a number", hint="check privacy.declared_patients")
    return {name: fields[name] for name in wanted}
