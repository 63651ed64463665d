from __future__ import annotations

import hashlib
import hmac
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgan_secure.data import PatientDataset, pseudonym
from fedgan_secure.errors import InputError


def _dataset() -> PatientDataset:
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1)
    return PatientDataset(images, [0, 2, 1, -1, -1, 1], [0, 0, 1, 1, 2, 3], 3, ("w", "x", "y", "z"))


def test_it_counts_patients_and_finds_their_images() -> None:
    dataset = _dataset()
    assert (len(dataset), dataset.patients, dataset.image_size, dataset.channels) == (6, 4, 2, 1)
    assert dataset.images_of(1).tolist() == [2, 3]
    assert dataset.patient_labels().tolist() == [2, 1, -1, 1]
    with pytest.raises(IndexError):
        dataset.images_of(4)


def test_float_pixels_cover_minus_one_to_one() -> None:
    dataset = PatientDataset(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), [-1, -1], [0, 1], 0)
    floats = dataset.to_float([0, 1])
    assert floats.dtype == np.float32
    assert floats.ravel().tolist() == [-1.0, 1.0]


def test_it_is_immutable_and_stays_home() -> None:
    dataset = _dataset()
    with pytest.raises(AttributeError):
        dataset.classes = 7  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        dataset.labels[0] = 2
    with pytest.raises(TypeError, match="never leaves"):
        pickle.dumps(dataset)


def test_its_repr_tells_nothing_private() -> None:
    assert repr(_dataset()) == "PatientDataset(images of 2x2x1)"


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [0, 3, 1, -1, -1, 1]},
        {"labels": [0]},
        {"patient": [0, 0, 1, 1, 2, 4]},
        {"patient": [0, 0, 1, 1, 2, -1]},
        {"pseudonyms": ("w", "w", "y", "z")},
        {"images": np.zeros((6, 2, 2, 1), np.float32)},
    ],
)
def test_arrays_that_disagree_are_refused(change: dict[str, object]) -> None:
    good: dict[str, object] = {
        "images": np.zeros((6, 2, 2, 1), np.uint8),
        "labels": [0, 2, 1, -1, -1, 1],
        "patient": [0, 0, 1, 1, 2, 3],
        "classes": 3,
    }
    PatientDataset(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        PatientDataset(**{**good, **change})  # type: ignore[arg-type]


@given(st.data())
def test_a_subset_holds_exactly_the_chosen_patients(data: st.DataObject) -> None:
    patients = data.draw(st.integers(1, 8))
    extra = data.draw(st.lists(st.integers(0, patients - 1), max_size=12))
    patient = np.array([*range(patients), *extra])
    images = np.arange(len(patient), dtype=np.uint8).reshape(-1, 1, 1, 1)
    dataset = PatientDataset(images, np.full(len(patient), -1), patient, 0)
    chosen = data.draw(st.lists(st.integers(0, patients - 1), unique=True))
    subset = dataset.subset(chosen)
    assert subset.patients == len(chosen)
    for new, old in enumerate(chosen):
        assert subset.pseudonyms[new] == dataset.pseudonyms[old]
        assert subset.pixels(subset.images_of(new)).tolist() == dataset.pixels(dataset.images_of(old)).tolist()
    assert len(subset) == sum(len(dataset.images_of(old)) for old in chosen)
    assert np.array_equal(subset.images, subset.pixels(np.arange(len(subset))))


def test_a_subset_shares_the_pixels() -> None:
    dataset = _dataset()
    part = dataset.subset([3, 1]).subset([0])
    dataset.images[5] = 9  # the test owns the array: whoever shares it sees the change
    assert part.pixels([0]).ravel().tolist() == [9, 9, 9, 9]


def test_labelled_drops_images_without_label_and_their_patients() -> None:
    labelled = _dataset().labelled()
    assert labelled.labels.tolist() == [0, 2, 1, 1]
    assert labelled.pseudonyms == ("w", "x", "z")
    with pytest.raises(InputError, match="none of the images has a label"):
        PatientDataset(np.zeros((1, 1, 1, 1), np.uint8), [-1], [0], 3).labelled()


def test_a_pseudonym_is_keyed() -> None:
    secret = bytes(range(32))
    expected = hmac.new(secret, b"fedgan-secure/patient/1\0ID-7", hashlib.sha256).hexdigest()[:32]
    assert pseudonym(secret, "ID-7") == expected
    assert pseudonym(bytes(32), "ID-7") != expected
    with pytest.raises(ValueError, match="at least 16"):
        pseudonym(b"short", "ID-7")
