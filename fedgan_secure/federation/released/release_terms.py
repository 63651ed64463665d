"""What a policy says of a release round: its noise, its ring, and the mechanism of a run that has no other round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord, NoiseShares, releases
from fedgan_audits.facts import colluders_against_lying
from fedgan_protocols import default_threshold
from fedgan_secure.errors import InputError
from fedgan_secure.federation.released.limits import MOST_IMAGES
from fedgan_secure.federation.released.release_ring import ReleaseRing, ReleaseTerms, release_ring
from fedgan_secure.moments import AnyLayout
from fedgan_secure.policy import (
    LEAST_COHORT,
    RELEASE_FACTOR,
    DistributedMechanismPolicy,
    MechanismPolicy,
    Recipe,
    ReleasePolicy,
    RingPolicy,
    RunSettings,
    StartPolicy,
    delta_of,
    rounds_of,
)

NOISE_RATIO = 2.4
"""Noise of the release over that of the steps where a run gives the latter alone and no target."""


@dataclass(frozen=True)
class StartTerms:
    """What a policy says of a run with a public start.

    Attributes:
        mechanism, ring: of the rounds after the release; of the release where it is the only round.
        release: the first round.
        model, training, start: the policy's tables.
        rounds: scheduled, spare ones included.
    """

    mechanism: MechanismPolicy
    ring: RingPolicy
    release: ReleasePolicy
    model: dict[str, Any]
    training: dict[str, Any]
    start: StartPolicy
    rounds: int


ROUNDS_MAY_FOLLOW = (
    f"let rounds of the heads follow (--rounds 2 or more; a cohort below {LEAST_COHORT} has none by default)"
)


def refuse_two_noises(settings: RunSettings, otherwise: str = ROUNDS_MAY_FOLLOW) -> None:
    """A release alone has one noise: a second setting that decides it would be ignored. Args: otherwise: what else."""
    privacy = settings.privacy
    other = "epsilon" if privacy.epsilon is not None else "noise_multiplier"
    if privacy.release_noise_multiplier is not None and getattr(privacy, other) is not None:
        raise InputError(
            f"privacy.release_noise_multiplier and privacy.{other}: this run is the release alone, whose noise either "
            "would decide",
            hint=f"leave one of them out, or {otherwise}",
        )


def refuse_settings_of_steps(settings: RunSettings, otherwise: str = ROUNDS_MAY_FOLLOW) -> None:
    """A release alone has no steps: what is set for them would be ignored. Args: otherwise: what else to do."""
    federation, privacy = settings.federation, settings.privacy
    given = {
        "federation.steps_per_round": federation.steps_per_round,
        "privacy.sampling_probability": privacy.sampling_probability,
        "privacy.l2_clip_norm": privacy.l2_clip_norm,
        "data.images_per_patient": settings.data.images_per_patient,
    }
    ignored = [name for name, value in given.items() if value is not None]
    if ignored:
        raise InputError(
            f"{', '.join(ignored)}: this run is the release alone, which has no steps, so this would do nothing",
            hint=f"leave it out; or {otherwise}; or train from a seed (--start none)",
        )


def _target(settings: RunSettings, recipe: Recipe) -> float | None:
    privacy = settings.privacy
    return None if privacy.no_privacy or privacy.noise_multiplier is not None else privacy.epsilon or recipe.epsilon


def release_noise(settings: RunSettings, recipe: Recipe, declared: int, *, alone: bool) -> float:
    """The release's noise multiplier, where each hospital adds all of it."""
    privacy = settings.privacy
    if privacy.no_privacy:
        return 0.0
    if privacy.release_noise_multiplier is not None:
        return privacy.release_noise_multiplier
    target = _target(settings, recipe)
    if target is None:
        given = privacy.noise_multiplier or 0.0
        return given if alone else NOISE_RATIO * given
    return releases.noise(target, delta_of(settings, declared), _factor(recipe, alone=alone))


def _factor(recipe: Recipe, *, alone: bool) -> float:
    return 1.0 if alone else max(recipe.release_factor, RELEASE_FACTOR)


def ring_of_release(
    settings: RunSettings, recipe: Recipe, layout: AnyLayout, noise: float, declared: int, hospitals: int
) -> ReleaseRing:
    """The release's mechanism with its ring; where the noise is shared, calibrated for its grid."""
    threshold = settings.federation.threshold or default_threshold(hospitals)
    shared = settings.privacy.noise_placement == "distributed"
    images = 1 if settings.data.unit == "image" else MOST_IMAGES
    fields: dict[str, Any] = {"l2_clip_norm": 1.0, "unit": settings.data.unit, "images_per_patient": images}
    terms = ReleaseTerms(
        dimension=layout.dimension,
        declared_patients=declared,
        hospitals=hospitals,
        ring_bits=settings.training.ring_bits,
        threshold=threshold,
        colluders=colluders_against_lying(hospitals, threshold),
        fraction_bits=None,
    )
    if not shared:
        return release_ring(releases.record(noise_multiplier=noise, **fields), terms)
    target = _target(settings, recipe)
    alone = rounds_of(settings, recipe) + settings.federation.spare_rounds == 1
    fixed = settings.privacy.release_noise_multiplier is not None or target is None

    def calibrate(shares: NoiseShares) -> DistributedMechanism:
        found = noise
        if not fixed and target is not None:
            factor = _factor(recipe, alone=alone)
            found = releases.noise(target, delta_of(settings, declared), factor, shares=shares)
        made = releases.record(noise_multiplier=found, shares=shares, **fields)
        assert isinstance(made, DistributedMechanism)  # noqa: S101 - shares were given
        return made

    return release_ring(_unplaced(noise, fields), terms, calibrate)


def _unplaced(noise: float, fields: dict[str, Any]) -> MechanismRecord:
    """A record that says where the noise is added before its shares are known."""
    return releases.record(noise_multiplier=noise, noise_placement="distributed", **fields)


def release_policy(ring: ReleaseRing, layout: AnyLayout) -> ReleasePolicy:
    mechanism, codec = ring.mechanism, ring.codec
    return ReleasePolicy(
        noise_multiplier=mechanism.noise_multiplier,
        l2_clip_norm=mechanism.l2_clip_norm,
        unit=mechanism.unit,
        images_per_patient=mechanism.images_per_patient,
        dimension=layout.dimension,
        layout=layout.to_json(),
        layout_sha256=layout.digest(),
        ring=RingPolicy.model_validate(
            {"ring_bits": codec.ring_bits, "update_bound": codec.bound, "fraction_bits": codec.fraction_bits}
        ),
        shares=mechanism.shares if isinstance(mechanism, DistributedMechanism) else None,
        headroom=ring.headroom,
    )


def release_alone(settings: RunSettings, recipe: Recipe, release: ReleasePolicy, declared: int) -> MechanismPolicy:
    """The release as the mechanism of the only round."""
    privacy = settings.privacy
    fields: dict[str, Any] = {
        "sampling_probability": 1.0,
        "noise_multiplier": release.noise_multiplier,
        "l2_clip_norm": release.l2_clip_norm,
        "steps_per_round": 1,
        "delta": delta_of(settings, declared),
        "epsilon_target": None if privacy.release_noise_multiplier is not None else _target(settings, recipe),
        "declared_patients": declared,
        "expected_batch_size": float(declared),
        "unit": release.unit,
        "images_per_patient": release.images_per_patient,
        "hospitals_per_patient": privacy.hospitals_per_patient,
    }
    if release.shares is None:
        return MechanismPolicy(**fields)
    return DistributedMechanismPolicy(**fields, shares=release.shares)
