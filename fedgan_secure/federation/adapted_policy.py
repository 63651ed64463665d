"""Which public start a run adapts, and the mechanisms of its rounds: the release first, then steps on the heads."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedgan_audits import releases
from fedgan_audits.binding import colluders_against_lying
from fedgan_audits.mechanism import DistributedMechanism, MechanismRecord, NoiseShares
from fedgan_protocols.parameters import default_threshold
from fedgan_secure.adaptation.colours import ColourBins
from fedgan_secure.adaptation.head_settings import HeadSettings
from fedgan_secure.adaptation.heads import HeadsLayout
from fedgan_secure.adaptation.layout import ReleaseLayout
from fedgan_secure.adaptation.vector import heads_spec
from fedgan_secure.errors import InputError
from fedgan_secure.federation.adapted_limits import MOST_IMAGES
from fedgan_secure.federation.defaults import LEAST_COHORT, RELEASE_FACTOR, Recipe, adapted_recipe
from fedgan_secure.federation.mechanisms import (
    delta_of,
    hospital_mechanism,
    mechanism_fields,
    rounds_of,
    share_noise,
    update_ring,
)
from fedgan_secure.federation.release_ring import ReleaseRing, ReleaseTerms, release_ring
from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.policy import (
    DistributedMechanismPolicy,
    MechanismPolicy,
    ReleasePolicy,
    RingPolicy,
    StartPolicy,
)
from fedgan_secure.settings import RunSettings
from fedgan_secure.starts.start import SHIPPED, PublicStart, check_fits, read_start, shipped_start

DEFAULT_START = "fundus64/1"
NONE = "none"
FUNDUS = "fundus-crop/1"
NOISE_RATIO = 2.4
"""Noise of the release over that of the steps where a run gives the latter alone and no target."""
COARSE_NOISE = 8.0
"""From this noise multiplier of a release on, its colour histogram has fewer cells."""
COARSE_BINS = (5, 6, 6)
FEW_PATIENTS = 2000
"""Below so many declared patients of all hospitals together, the histogram has `COARSEST_BINS`."""
COARSEST_BINS = (4, 5, 5)
LOCAL_WIDTH = 16
"""Channels of the transfer's local convolution; a small cohort's transfer has none: it would follow the noise."""
_DCGAN_ALONE = ("discriminator_learning_rate", "generator_learning_rate", "steps_per_generator_step", "latent_dim")


@dataclass(frozen=True)
class AdaptedTerms:
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


def start_of(settings: RunSettings, preprocessing: str | None, *, from_run: bool = False) -> PublicStart | None:
    """Return the public start of a run, or None for a run without one.

    Args:
        settings: what is asked for; where nothing is, colour fundus pictures of 64 pixels take `DEFAULT_START`.
        preprocessing: of the images, or None before they were read.
        from_run: the run starts from another run's model.

    Raises:
        InputError: the start cannot be read or does not fit the pictures, or other options that do not go with one.
    """
    asked, data = settings.training.start, settings.data
    chosen = [name for name in _DCGAN_ALONE if getattr(settings.training, name) is not None]
    if asked is None:
        fits = (data.image_size, data.channels) == (64, 3) and preprocessing in (FUNDUS, None) and _keras_fits()
        return shipped_start(DEFAULT_START) if fits and not chosen and not from_run else None
    if asked == NONE:
        return None
    if not _keras_fits():
        raise InputError(
            f"--start {asked}: runs with a public start need Keras 3, found {version('keras')}",
            hint="install tensorflow 2.16 or newer, or train from a seed: --start none",
        )
    if from_run:
        raise InputError("--start with --init-from: a run starts from one of the two", hint="leave one of them out")
    if chosen:
        raise InputError(
            f"training.{chosen[0]} with the public start {asked!r}: the start's generator is not trained, so this "
            "setting would do nothing",
            hint=f"leave training.{chosen[0]} out, or train from a seed: --start none",
        )
    start = shipped_start(asked) if asked in SHIPPED else _read(asked)
    check_fits(start, data.image_size, data.channels)
    return start


def _keras_fits() -> bool:
    """Whether the installed Keras has the operations that the published generator is made of."""
    return int(version("keras").split(".")[0]) >= 3


def _read(text: str) -> PublicStart:
    path = Path(text)
    if not path.is_file():
        raise InputError(
            f"--start {text!r}: neither a public start that comes with this version nor a file",
            hint=f"known: {', '.join(SHIPPED)}, none; or the file that `fedgan-secure pretrain` wrote",
        )
    return read_start(path)


def recipe_with_start(settings: RunSettings, declared: int) -> Recipe:
    """Return the public defaults for these settings and this declared cohort."""
    phantoms = settings.data.dataset is None and not settings.data.hospital
    return adapted_recipe(declared_patients=declared, phantoms=phantoms, unit=settings.data.unit)


def adapted_terms(
    settings: RunSettings, start: PublicStart, declared: int, hospitals: int, classes: int
) -> AdaptedTerms:
    """Return the mechanisms of a run with a public start, their noise calibrated together.

    Raises:
        InputError, BudgetRefused, UnreachableTarget: no grid fits, or the budget cannot be met.
    """
    recipe = recipe_with_start(settings, declared)
    rounds = rounds_of(settings, recipe) + settings.federation.spare_rounds
    spec = AdaptedSpec(
        start_sha256=start.digest,
        image_size=start.image_size,
        channels=start.channels,
        classes=classes,
        features=start.features,
        seed=settings.seed,
        transfer_width=0 if declared < LEAST_COHORT else LOCAL_WIDTH,
    )
    if rounds == 1:
        _refuse_two_noises(settings)
        _refuse_settings_of_steps(settings)
    noise = _release_noise(settings, recipe, declared, alone=rounds == 1)
    layout = _layout(spec, noise, declared * hospitals)
    ring = _ring(settings, recipe, layout, noise, declared, hospitals)
    release = _release_policy(ring, layout)
    if rounds == 1:
        mechanism, own = _release_alone(settings, release, declared), release.ring
    else:
        mechanism, own = _steps(settings, recipe, ring.mechanism, spec, declared, hospitals)
    constants = {"decay_steps": max(rounds - 1, 1) * mechanism.steps_per_round, **recipe.constants}
    fields = mechanism_fields(mechanism)
    table = HeadSettings(**{**fields, **constants}).to_json()
    return AdaptedTerms(
        mechanism=mechanism,
        ring=own,
        release=release,
        model=spec.to_json(),
        training={key: value for key, value in table.items() if key not in fields},
        start=StartPolicy(name=start.name, digest=start.digest, statement=start.statement),
        rounds=rounds,
    )


def _refuse_two_noises(settings: RunSettings) -> None:
    """A release alone has one noise: a second setting that decides it would be ignored."""
    privacy = settings.privacy
    other = "epsilon" if privacy.epsilon is not None else "noise_multiplier"
    if privacy.release_noise_multiplier is not None and getattr(privacy, other) is not None:
        raise InputError(
            f"privacy.release_noise_multiplier and privacy.{other}: this run is the release alone, whose noise either "
            "would decide",
            hint=f"leave one of them out, or let rounds of the heads follow (--rounds 2 or more; a cohort below "
            f"{LEAST_COHORT} has none by default)",
        )


def _refuse_settings_of_steps(settings: RunSettings) -> None:
    """A release alone has no steps: what is set for them would be ignored."""
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
            hint=f"leave it out; or let rounds of the heads follow (--rounds 2 or more; a cohort below {LEAST_COHORT} "
            "has none by default); or train from a seed (--start none)",
        )


def _target(settings: RunSettings, recipe: Recipe) -> float | None:
    privacy = settings.privacy
    return None if privacy.no_privacy or privacy.noise_multiplier is not None else privacy.epsilon or recipe.epsilon


def _release_noise(settings: RunSettings, recipe: Recipe, declared: int, *, alone: bool) -> float:
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


def _layout(spec: AdaptedSpec, noise: float, patients: int) -> ReleaseLayout:
    """The released vector: fewer colour cells where noise is large, or where few patients would fill them."""
    bins = ColourBins.for_channels(spec.channels).bins
    if spec.channels == 3 and patients < FEW_PATIENTS:
        bins = COARSEST_BINS
    elif spec.channels == 3 and noise >= COARSE_NOISE:
        bins = COARSE_BINS
    return ReleaseLayout(classes=spec.classes, features=spec.features, bins=bins)


def _ring(
    settings: RunSettings, recipe: Recipe, layout: ReleaseLayout, noise: float, declared: int, hospitals: int
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


def _release_policy(ring: ReleaseRing, layout: ReleaseLayout) -> ReleasePolicy:
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


def _release_alone(settings: RunSettings, release: ReleasePolicy, declared: int) -> MechanismPolicy:
    """The release as the mechanism of the only round."""
    privacy = settings.privacy
    recipe = recipe_with_start(settings, declared)
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


def _steps(
    settings: RunSettings,
    recipe: Recipe,
    release: MechanismRecord,
    spec: AdaptedSpec,
    declared: int,
    hospitals: int,
) -> tuple[MechanismPolicy, RingPolicy]:
    """The mechanism of a round of the heads, its noise calibrated to what the release leaves of the target."""
    shared = isinstance(release, DistributedMechanism)
    if not shared:
        return hospital_mechanism(settings, recipe, declared, release), update_ring(settings, hospitals)
    plain = hospital_mechanism(settings, recipe, declared, _as_own_noise(release))
    heads = HeadsLayout.of(heads_spec(spec))
    return share_noise(settings, recipe, plain, hospitals, heads.size, release)


def _as_own_noise(release: MechanismRecord) -> MechanismRecord:
    """The release as if each hospital added all of its noise; for a first calibration, not for any account."""
    fields = release.model_dump(exclude={"shares", "noise_placement"})
    return MechanismRecord(**fields)
