"""Which public start a run adapts, and the mechanisms of its rounds: the release first, then steps on the heads."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord
from fedgan_secure.errors import InputError
from fedgan_secure.federation.families.moments_policy import moments_terms
from fedgan_secure.federation.released.release_terms import (
    StartTerms,
    refuse_settings_of_steps,
    refuse_two_noises,
    release_alone,
    release_noise,
    release_policy,
    ring_of_release,
)
from fedgan_secure.heads import HeadSettings, HeadsLayout, heads_spec
from fedgan_secure.models import AdaptedSpec
from fedgan_secure.moments import AnyStart, MomentsStart, moments_start
from fedgan_secure.policy import (
    LEAST_COHORT,
    MechanismPolicy,
    Recipe,
    RingPolicy,
    RunSettings,
    StartPolicy,
    adapted_recipe,
    hospital_mechanism,
    mechanism_fields,
    rounds_of,
    share_noise,
    update_ring,
)
from fedgan_secure.starts import SHIPPED, PublicStart, check_fits, read_start, shipped_start
from fedgan_secure.statistics import ColourBins, ReleaseLayout

DEFAULT_START = "fundus64/1"
NONE, MOMENTS = "none", "moments"
KNOWN_STARTS = (*SHIPPED, NONE, MOMENTS)
"""What `training.start` may say beside the name of a file."""
FUNDUS = "fundus-crop/1"
COARSE_NOISE = 8.0
"""From this noise multiplier of a release on, its colour histogram has fewer cells."""
COARSE_BINS = (5, 6, 6)
FEW_PATIENTS = 2000
"""Below so many declared patients of all hospitals together, the histogram has `COARSEST_BINS`."""
COARSEST_BINS = (4, 5, 5)
LOCAL_WIDTH = 16
"""Channels of the transfer's local convolution; a small cohort's transfer has none: it would follow the noise."""
_DCGAN_ALONE = ("discriminator_learning_rate", "generator_learning_rate", "steps_per_generator_step", "latent_dim")


def start_of(settings: RunSettings, preprocessing: str | None, *, from_run: bool = False) -> AnyStart | None:
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
            f"training.{chosen[0]} with --start {asked}: no generator is trained, so this setting would do nothing",
            hint=f"leave training.{chosen[0]} out, or train from a seed: --start none",
        )
    if asked == MOMENTS:
        return moments_start(data.image_size, data.channels)
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
            hint=f"known: {', '.join(KNOWN_STARTS)}; or the file that `fedgan-secure pretrain` wrote",
        )
    return read_start(path)


def recipe_with_start(settings: RunSettings, declared: int) -> Recipe:
    """Return the public defaults for these settings and this declared cohort."""
    phantoms = settings.data.dataset is None and not settings.data.hospital
    return adapted_recipe(declared_patients=declared, phantoms=phantoms, unit=settings.data.unit)


def adapted_terms(settings: RunSettings, start: AnyStart, declared: int, hospitals: int, classes: int) -> StartTerms:
    """Return the mechanisms of a run with a public start or with that of moments, their noise calibrated together.

    Raises:
        InputError, BudgetRefused, UnreachableTarget: no grid fits, or the budget cannot be met.
    """
    if isinstance(start, MomentsStart):
        return moments_terms(settings, start, declared, hospitals, classes)
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
        refuse_two_noises(settings)
        refuse_settings_of_steps(settings)
    noise = release_noise(settings, recipe, declared, alone=rounds == 1)
    layout = _layout(spec, noise, declared * hospitals)
    ring = ring_of_release(settings, recipe, layout, noise, declared, hospitals)
    release = release_policy(ring, layout)
    if rounds == 1:
        mechanism, own = release_alone(settings, recipe, release, declared), release.ring
    else:
        mechanism, own = _steps(settings, recipe, ring.mechanism, spec, declared, hospitals)
    constants = {"decay_steps": max(rounds - 1, 1) * mechanism.steps_per_round, **recipe.constants}
    fields = mechanism_fields(mechanism)
    table = HeadSettings(**{**fields, **constants}).to_json()
    return StartTerms(
        mechanism=mechanism,
        ring=own,
        release=release,
        model=spec.to_json(),
        training={key: value for key, value in table.items() if key not in fields},
        start=StartPolicy(name=start.name, digest=start.digest, statement=start.statement),
        rounds=rounds,
    )


def _layout(spec: AdaptedSpec, noise: float, patients: int) -> ReleaseLayout:
    """The released vector: fewer colour cells where noise is large, or where few patients would fill them."""
    bins = ColourBins.for_channels(spec.channels).bins
    if spec.channels == 3 and patients < FEW_PATIENTS:
        bins = COARSEST_BINS
    elif spec.channels == 3 and noise >= COARSE_NOISE:
        bins = COARSE_BINS
    return ReleaseLayout(classes=spec.classes, features=spec.features, bins=bins)


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
