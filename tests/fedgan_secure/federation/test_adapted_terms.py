"""Which public start a run adapts, and the mechanisms of its rounds: the target is met, and nearly used up."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.accounting.accountant import epsilon
from fedgan_audits.accounting.budget import scheduled
from fedgan_audits.accounting.mechanism import DistributedMechanism
from fedgan_audits.errors import UnreachableTarget
from fedgan_secure.errors import InputError
from fedgan_secure.federation.families.adapted_policy import (
    COARSE_BINS,
    COARSEST_BINS,
    adapted_terms,
    recipe_with_start,
    start_of,
)
from fedgan_secure.federation.released.limits import MOST_IMAGES
from fedgan_secure.federation.released.release_terms import NOISE_RATIO, StartTerms
from fedgan_secure.heads.heads import HeadsLayout
from fedgan_secure.heads.vector import heads_spec
from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.policy.defaults import LEAST_COHORT
from fedgan_secure.policy.settings import RunSettings
from fedgan_secure.starts import start as start_module
from fedgan_secure.starts.start import shipped_start
from fedgan_secure.statistics.layout import ReleaseLayout

SHIPPED = Path(start_module.__file__).parent / "shipped" / "fundus64.npz"
FUNDUS = "fundus-crop/1"


def settings(**values: Any) -> RunSettings:
    """Settings by dotted names, with __ for the dot."""
    return RunSettings.merged({}, {name.replace("__", "."): value for name, value in values.items()})


def test_colour_fundus_pictures_of_64_pixels_take_the_shipped_start() -> None:
    for preprocessing in (FUNDUS, None):
        start = start_of(settings(), preprocessing)
        assert start is not None and start.name == "fundus64/1"


@pytest.mark.parametrize(
    "values",
    [
        {"data__image_size": 28}, {"data__image_size": 128}, {"data__channels": 1}, {"training__start": "none"},
        {"training__discriminator_learning_rate": 1e-3}, {"training__generator_learning_rate": 1e-3},
        {"training__steps_per_generator_step": 2}, {"training__latent_dim": 16},
    ],
)  # fmt: skip
def test_other_pictures_and_settings_of_a_dcgan_take_none(values: dict[str, Any]) -> None:
    assert start_of(settings(**values), FUNDUS) is None
    assert start_of(settings(**values), None) is None


def test_other_preparation_or_another_runs_model_take_none() -> None:
    for preprocessing in ("plain/1", "ct-abdomen-window/1"):
        assert start_of(settings(), preprocessing) is None
    assert start_of(settings(), FUNDUS, from_run=True) is None


def test_a_start_that_is_asked_for_is_taken_whatever_the_pictures_show() -> None:
    start = start_of(settings(training__start="fundus64/1"), "plain/1")
    assert start is not None and start.digest == shipped_start().digest


def test_a_start_may_be_a_file(tmp_path: Path) -> None:
    place = shutil.copy(SHIPPED, tmp_path / "own.npz")
    start = start_of(settings(training__start=str(place)), FUNDUS)
    assert start is not None and start.digest == shipped_start().digest


@pytest.mark.parametrize(
    ("values", "said", "hint"),
    [
        ({"training__start": "fundus65/1"}, "neither a public start that comes with this version", "fundus64/1, none"),
        ({"training__start": "/"}, "neither", "pretrain"),
        ({"training__start": "fundus64/1", "data__image_size": 28}, "makes colour pictures of 64", "size"),
        ({"training__start": "fundus64/1", "data__channels": 1}, "trains grey pictures", "channels"),
        ({"training__start": "fundus64/1", "training__latent_dim": 8}, "training.latent_dim", "--start none"),
        (
            {"training__start": "fundus64/1", "training__generator_learning_rate": 0.1},
            "training.generator_learning_rate",
            "leave training.generator_learning_rate out",
        ),
    ],
)
def test_a_start_that_cannot_be_taken_is_refused(values: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        start_of(settings(**values), FUNDUS)
    assert hint in refused.value.hint


def test_a_file_that_is_no_start_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(SHIPPED.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a usable public start"):
        start_of(settings(training__start=str(tmp_path / "own.npz")), FUNDUS)


def test_a_start_and_another_runs_model_exclude_each_other() -> None:
    with pytest.raises(InputError, match="one of the two"):
        start_of(settings(training__start="fundus64/1"), FUNDUS, from_run=True)
    assert start_of(settings(training__start="none"), FUNDUS, from_run=True) is None


# the mechanisms -------------------------------------------------------------------------------------------------


@functools.cache
def _terms(declared: int, hospitals: int, classes: int, given: tuple[tuple[str, Any], ...]) -> StartTerms:
    return adapted_terms(settings(**dict(given)), shipped_start(), declared, hospitals, classes)


def terms(declared: int = 3000, hospitals: int = 4, classes: int = 5, **values: Any) -> StartTerms:
    return _terms(declared, hospitals, classes, tuple(sorted(values.items())))


def cost(found: StartTerms) -> float:
    """Epsilon of everything that is scheduled."""
    own = scheduled(found.mechanism.record(), found.rounds, found.release.record())
    return epsilon(own, found.mechanism.delta)


SHARED = {"privacy__noise_placement": "distributed"}
WHOLE: dict[str, tuple[dict[str, Any], float, int]] = {
    "default": ({}, 8.0, 6),
    "shared": (SHARED, 8.0, 6),
    "alone": ({"federation__rounds": 1}, 8.0, 1),
    "alone, shared": ({"federation__rounds": 1, **SHARED}, 8.0, 1),
    "a small cohort": ({"declared": 300, "privacy__epsilon": 4.0}, 4.0, 1),
    "few steps, spare rounds": (
        {
            "privacy__epsilon": 3.0,
            "federation__rounds": 3,
            "federation__spare_rounds": 2,
            "federation__steps_per_round": 5,
        },
        3.0,
        5,
    ),
    "given noise of the release": ({"privacy__release_noise_multiplier": 5.0}, 8.0, 6),
    "images": ({"data__unit": "image", "federation__rounds": 1}, 8.0, 1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_schedule_costs_the_target_and_little_less(name: str) -> None:
    values, target, rounds = WHOLE[name]
    found = terms(**values)
    assert found.rounds == rounds and found.mechanism.epsilon_target == target
    assert 0.98 * target < cost(found) <= target


def test_a_cohort_below_a_thousand_has_the_release_alone() -> None:
    for declared, alone in ((LEAST_COHORT - 1, True), (LEAST_COHORT, False)):
        assert (recipe_with_start(settings(), declared).rounds == 1) == alone


@pytest.mark.parametrize("values", [{}, SHARED], ids=["per_hospital", "distributed"])
def test_a_release_alone_is_the_mechanism_too(values: dict[str, Any]) -> None:
    found = terms(federation__rounds=1, **values)
    record = found.mechanism.record()
    assert record == found.release.record() and (record.sampling_probability, record.steps) == (1.0, 1)
    assert found.ring == found.release.ring
    assert (found.mechanism.expected_batch_size, found.mechanism.declared_patients) == (3000.0, 3000)


def test_the_steps_are_of_the_heads_and_the_release_is_of_all_images() -> None:
    found = terms(**SHARED)
    spec = AdaptedSpec.from_json(found.model)
    record, release = found.mechanism.record(), found.release.record()
    assert isinstance(record, DistributedMechanism) and isinstance(release, DistributedMechanism)
    assert record.shares.dimension == HeadsLayout.of(heads_spec(spec)).size
    assert release.shares.dimension == found.release.release_layout().dimension == found.release.dimension
    assert (record.shares.threshold, record.shares.colluders) == (release.shares.threshold, release.shares.colluders)
    assert found.release.images_per_patient == MOST_IMAGES and release.l2_clip_norm == 1.0
    assert found.release.ring.fraction_bits < 30 and found.release.headroom
    own = terms()
    assert own.release.shares is None and own.mechanism.noise_placement == "per_hospital"


def test_of_unit_image_every_image_is_one_contribution() -> None:
    values = dict(WHOLE["images"][0])
    found = terms(**values)
    assert (found.release.unit, found.release.images_per_patient, found.mechanism.images_per_patient) == ("image", 1, 1)
    steps = terms(data__unit="image", privacy__noise_multiplier=1.0)
    assert (steps.release.unit, steps.mechanism.unit, steps.mechanism.images_per_patient) == ("image", "image", 1)


def test_noise_that_is_given_is_taken() -> None:
    """The release's follows from the steps' where that alone is given."""
    both = terms(privacy__noise_multiplier=1.25)
    assert (both.mechanism.noise_multiplier, both.release.noise_multiplier) == (1.25, NOISE_RATIO * 1.25)
    assert both.mechanism.epsilon_target is None
    own = terms(privacy__noise_multiplier=1.25, privacy__release_noise_multiplier=4.5)
    assert (own.mechanism.noise_multiplier, own.release.noise_multiplier) == (1.25, 4.5)
    alone = terms(privacy__noise_multiplier=1.25, federation__rounds=1)
    assert alone.release.noise_multiplier == alone.mechanism.noise_multiplier == 1.25
    released = terms(privacy__release_noise_multiplier=4.5, federation__rounds=1)
    assert released.release.noise_multiplier == 4.5 and released.mechanism.epsilon_target is None
    shared = terms(privacy__release_noise_multiplier=5.0, **SHARED)
    assert shared.release.noise_multiplier == 5.0 and cost(shared) <= 8.0
    shared = terms(privacy__noise_multiplier=1.25, **SHARED)
    assert (shared.mechanism.noise_multiplier, shared.release.noise_multiplier) == (1.25, NOISE_RATIO * 1.25)


def test_without_privacy_neither_has_noise() -> None:
    for rounds in (1, 4):
        found = terms(privacy__no_privacy=True, federation__rounds=rounds)
        assert found.mechanism.noise_multiplier == found.release.noise_multiplier == 0.0
        assert found.mechanism.epsilon_target is None and cost(found) == float("inf")


@pytest.mark.parametrize("other", [{"privacy__epsilon": 4.0}, {"privacy__noise_multiplier": 2.0}])
def test_a_release_alone_takes_one_noise_or_one_target(other: dict[str, Any]) -> None:
    """The release is all there is: of two settings that decide its noise one would be ignored."""
    with pytest.raises(InputError, match="release_noise_multiplier") as refused:
        terms(privacy__release_noise_multiplier=0.3, federation__rounds=1, **other)
    assert "leave" in refused.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"federation__steps_per_round": 5}, {"privacy__sampling_probability": 0.1}, {"privacy__l2_clip_norm": 0.5},
        {"data__images_per_patient": 3},
    ],
)  # fmt: skip
def test_settings_of_steps_are_refused_where_the_release_is_all_there_is(given: dict[str, Any]) -> None:
    name = next(iter(given)).replace("__", ".")
    with pytest.raises(InputError, match=f"^{name}: this run is the release alone") as refused:
        terms(declared=LEAST_COHORT - 1, **given)
    assert "--rounds 2" in refused.value.hint
    assert terms(declared=LEAST_COHORT - 1, federation__rounds=2, **given).rounds == 2


def test_noise_of_a_release_without_privacy_is_refused() -> None:
    with pytest.raises(InputError, match="no `release_noise_multiplier` with `no_privacy`"):
        settings(privacy__no_privacy=True, privacy__release_noise_multiplier=1.0)


def test_a_release_that_leaves_nothing_of_the_target_is_refused() -> None:
    with pytest.raises(UnreachableTarget):
        terms(privacy__release_noise_multiplier=0.2, privacy__epsilon=2.0, federation__steps_per_round=2)


@pytest.mark.parametrize("classes", [0, 2, 10])
def test_any_number_of_classes_is_released(classes: int) -> None:
    found = terms(declared=100, classes=classes, privacy__noise_multiplier=1.0)
    spec, layout = AdaptedSpec.from_json(found.model), found.release.release_layout()
    assert (spec.classes, layout.classes, layout.blocks) == (classes, classes, max(classes, 1))
    assert found.release.dimension == layout.dimension and layout.digest() == found.release.layout_sha256


def test_much_noise_takes_fewer_cells_of_colour() -> None:
    fine, coarse = (
        terms(declared=1000, privacy__noise_multiplier=noise, federation__rounds=1).release.release_layout()
        for noise in (7.9, 8.0)
    )
    few = terms(declared=100, privacy__noise_multiplier=1.0, federation__rounds=1)
    assert few.release.release_layout().bins == COARSEST_BINS and few.model["transfer_width"] == 0
    assert fine == ReleaseLayout(classes=5, features=271, bins=(8, 10, 10)) and coarse.bins == COARSE_BINS


def test_the_policy_names_the_start_and_the_seed_of_the_model() -> None:
    found, start = terms(declared=100, seed=11, privacy__noise_multiplier=1.0), shipped_start()
    assert (found.start.name, found.start.digest, found.start.statement) == (start.name, start.digest, start.statement)
    spec = AdaptedSpec.from_json(found.model)
    assert (spec.start_sha256, spec.features, spec.seed) == (start.digest, start.features, 11)
