"""A hospital's side of a run with a public start: which images count, their features, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.federation.families import adapted_hospital
from fedgan_secure.federation.families.adapted_hospital import AdaptedTrainer, HeadsToGo, HospitalFeatures, evenly
from fedgan_secure.federation.families.adapted_optimiser import AdaptedOptimiser
from fedgan_secure.federation.released.limits import MOST_IMAGES
from fedgan_secure.head_training.head_data import FakeFeatures
from fedgan_secure.heads.head_settings import HeadSettings
from fedgan_secure.heads.vector import AdaptedLayout, heads_spec
from fedgan_secure.models.errors import ModelError
from fedgan_secure.starts.shared import digests_of
from fedgan_secure.starts.start import shipped_start
from tests.fedgan_secure.adaptation.toy_start import spec_of, toy_start

OWNERS = st.lists(st.integers(0, 5), max_size=60).map(lambda owners: np.array(owners, np.int32))


@given(owner=OWNERS, most=st.integers(1, 12))
def test_of_every_owner_at_most_so_many_count_in_their_order(owner: np.ndarray, most: int) -> None:
    kept = evenly(owner, most)
    assert np.array_equal(kept, np.unique(kept)) and kept.dtype == np.int64
    for one in np.unique(owner):
        own = np.flatnonzero(owner == one)
        assert (owner[kept] == one).sum() == min(len(own), most)


@given(owner=OWNERS, most=st.integers(1, 5), others=OWNERS)
def test_which_images_count_depends_on_their_own_owner_alone(owner: np.ndarray, most: int, others: np.ndarray) -> None:
    """With all other patients gone, or others come, the same images of a patient count: it is one patient's matter."""
    mixed = np.concatenate([others + 10, owner])
    kept = evenly(mixed, most) - len(others)
    for one in np.unique(owner):
        own = np.flatnonzero(owner == one)
        alone = own[evenly(np.zeros(len(own), np.int32), most)]
        assert np.array_equal(kept[np.isin(kept, own)], alone)


@given(images=st.integers(1, 500), most=st.integers(1, 64))
def test_they_are_spread_over_all_of_an_owners_images(images: int, most: int) -> None:
    kept = evenly(np.zeros(images, np.int32), most)
    steps = np.diff(kept)
    assert kept[0] < images / len(kept) and images - 1 - kept[-1] < images / len(kept) + 1
    assert not len(steps) or steps.max() - steps.min() <= 1


# features -------------------------------------------------------------------------------------------------------


def dataset(images: np.ndarray, labels: np.ndarray | None = None, patient: np.ndarray | None = None) -> PatientDataset:
    count = len(images)
    return PatientDataset(
        images=images,
        labels=(np.arange(count) % 3).astype(np.int32) if labels is None else labels.astype(np.int32),
        patient=np.arange(count, dtype=np.int32) if patient is None else patient.astype(np.int32),
        classes=5,
    )


def pictures(count: int, size: int = 64, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 255, (count, size, size, channels), np.uint8)


class Counted:
    """A network that says of every picture its mean, and keeps the shapes that it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def of_images(self, images: np.ndarray) -> np.ndarray:
        self.seen.append(images.shape)
        return np.tile(images.mean(axis=(1, 2, 3))[:, None], (1, 12)).astype(np.float32)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted()
    monkeypatch.setattr(adapted_hospital, "feature_network", lambda layout: made)
    monkeypatch.setattr(adapted_hospital, "BATCH", 7)
    return made


TOY = AdaptedLayout(spec_of(toy_start()), toy_start(), None)


@pytest.mark.parametrize(("size", "channels"), [(28, 3), (64, 1)])
def test_pictures_of_another_kind_are_refused(size: int, channels: int) -> None:
    with pytest.raises(InputError, match="the public start makes 64 and 3") as refused:
        HospitalFeatures(TOY, dataset(pictures(3, size, channels)), "patient")
    assert "--start none" in refused.value.hint


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_the_model_has_not_are_refused(label: int) -> None:
    images = dataset(pictures(3), np.array([0, label, 1]))
    with pytest.raises(InputError, match="labels must be 0 to 2"):
        HospitalFeatures(TOY, images, "patient")
    bare = AdaptedLayout(spec_of(toy_start(), classes=0), toy_start(), None)
    assert not HospitalFeatures(bare, images, "patient").labels().any()


def test_features_are_computed_once_in_batches_of_one_shape(network: Counted) -> None:
    images = pictures(16)
    features = HospitalFeatures(TOY, dataset(images), "patient")
    told: list[tuple[int, int]] = []
    found, codes = features.compute(lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(found[:, 0], images.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert found.shape == (16, 12) and codes.shape == (16, 3) and told == [(7, 16), (14, 16), (16, 16)]
    assert set(network.seen) == {(7, 64, 64, 3)}
    features.compute()
    features.feature_set()
    assert len(network.seen) == 3


def test_a_hospital_without_images_has_features_of_none(network: Counted) -> None:
    found, codes = HospitalFeatures(TOY, dataset(pictures(0)), "patient").compute()
    assert found.shape == (0, 12) and codes.shape == (0, 3) and network.seen == []


def test_the_release_takes_so_many_images_of_a_patient(network: Counted) -> None:
    patient = np.array([0] * (MOST_IMAGES + 9) + [1] * 3)
    features = HospitalFeatures(TOY, dataset(pictures(len(patient)), patient=patient), "patient")
    images = features.statistics()
    assert np.bincount(images.patient).tolist() == [MOST_IMAGES, 3] and images.patients == 2
    assert features.feature_set().patients == 2 and len(features.feature_set().features) == len(patient)
    single = HospitalFeatures(TOY, dataset(pictures(len(patient)), patient=patient), "image").statistics()
    assert single.patients == len(patient) and np.array_equal(single.patient, np.arange(len(patient)))


def test_a_picture_that_the_start_was_trained_on_is_refused(network: Counted) -> None:
    from dataclasses import replace

    images = pictures(9)
    start = replace(toy_start(), picture_digests=digests_of(images[8:]))
    with pytest.raises(InputError, match="1 of these images are among the public pictures"):
        HospitalFeatures(AdaptedLayout(spec_of(start), start, None), dataset(images), "patient").compute()


def test_features_do_not_depend_on_who_else_is_in_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sensitivity of the release is one patient's vector: the vectors of the others must stay as they are."""
    monkeypatch.setattr(adapted_hospital, "BATCH", 8)
    start = shipped_start()
    layout = AdaptedLayout(spec_of(start), start, None)
    images = pictures(11)
    whole, codes = HospitalFeatures(layout, dataset(images), "patient").compute()
    less, fewer = HospitalFeatures(layout, dataset(images[1:]), "patient").compute()
    np.testing.assert_allclose(less, whole[1:], atol=1e-5)
    assert np.array_equal(fewer, codes[1:])
    single, _ = HospitalFeatures(layout, dataset(images[3:4]), "patient").compute()
    np.testing.assert_allclose(single[0], whole[3], atol=1e-5)


# what is asked in the wrong order -------------------------------------------------------------------------------

SETTINGS = HeadSettings(sampling_probability=0.5, expected_batch_size=8.0, noise_multiplier=1.0)


def heads_to_go(vector: np.ndarray) -> HeadsToGo:
    fakes = FakeFeatures(np.zeros((6, 12), np.float32), np.arange(6, dtype=np.int32) % 3)
    return HeadsToGo(vector[TOY.heads_slice], fakes, np.zeros(12, np.float32))


def trainer(policy: Any) -> AdaptedTrainer:
    features = HospitalFeatures(TOY, dataset(pictures(4)), "patient")
    return AdaptedTrainer(policy, features, heads_to_go, SETTINGS, lambda size: b"\0" * size, None)  # type: ignore[arg-type]


def test_a_release_or_a_step_that_the_policy_has_not_is_refused() -> None:
    made = trainer(SimpleNamespace(release=None, distributed=None))
    with pytest.raises(ModelError, match="the policy has none"):
        made.release(None, None)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="the policy shares none"):
        made.begin(TOY.initial_vector(0))
    for ask in (lambda: made.step(None), made.end_round, made.statistics):
        with pytest.raises(ModelError, match="before a round has begun"):
            ask()


def test_a_trainer_without_heads_keeps_nothing(tmp_path: Path) -> None:
    trainer(SimpleNamespace(release=None, distributed=None)).save(tmp_path / "kept")
    assert not list(tmp_path.iterdir())


def test_the_coordinators_optimiser_moves_the_heads_and_leaves_the_release() -> None:
    from fedgan_secure.statistics.layout import ReleaseLayout

    layout = AdaptedLayout(spec_of(toy_start()), toy_start(), ReleaseLayout(classes=3, features=12, bins=(2, 2, 2)))

    def to_go(vector: np.ndarray) -> HeadsToGo:
        return HeadsToGo(vector[layout.heads_slice], heads_to_go(TOY.initial_vector(0)).fakes, np.zeros(12, np.float32))

    made = AdaptedOptimiser(heads_spec(layout.spec), SETTINGS, layout.heads_slice, to_go)
    with pytest.raises(ModelError, match="before it began"):
        made.finish()
    vector = layout.initial_vector(0)
    vector[: layout.release_size] = 3.0
    kept = vector.copy()
    made.begin(vector)
    stepped = made.step(np.full(layout.heads.size, 0.1))
    after = made.finish()
    assert np.array_equal(vector, kept) and np.array_equal(after[: layout.release_size], kept[: layout.release_size])
    assert np.array_equal(after[layout.heads_slice], stepped)
    assert not np.array_equal(after[layout.heads_slice], kept[layout.heads_slice])
