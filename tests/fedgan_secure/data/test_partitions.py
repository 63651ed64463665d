from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.data import PatientDataset, hospital_names, parse_partition, split
from fedgan_secure.errors import InputError


def _dataset(labels: list[int], patient: list[int], classes: int = 5) -> PatientDataset:
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return PatientDataset(images, labels, patient, classes)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[PatientDataset, int]:
    patients = draw(st.integers(1, 30))
    extra = draw(st.lists(st.integers(0, patients - 1), max_size=20))
    patient = [*range(patients), *extra]
    labels = draw(st.lists(st.integers(0, 4), min_size=len(patient), max_size=len(patient)))
    return _dataset(labels, patient), draw(st.integers(1, min(6, patients)))


@settings(deadline=None)
@given(_cases(), st.sampled_from(["iid", "by-label", "dirichlet:0.5", "dirichlet:100"]), st.integers(0, 2**32))
def test_every_patient_goes_whole_to_one_hospital(case: tuple[PatientDataset, int], kind: str, seed: int) -> None:
    dataset, hospitals = case
    try:
        parts = split(dataset, hospitals, kind, seed)
    except InputError:
        assert kind.startswith("dirichlet")
        return
    assert tuple(parts) == hospital_names(hospitals)
    assert all(part.patients > 0 for part in parts.values())
    seen = [name for part in parts.values() for name in part.pseudonyms]
    assert sorted(seen) == sorted(dataset.pseudonyms)
    images = {name: len(dataset.images_of(index)) for index, name in enumerate(dataset.pseudonyms)}
    for part in parts.values():
        for index, name in enumerate(part.pseudonyms):
            assert len(part.images_of(index)) == images[name]
    again = split(dataset, hospitals, kind, seed)
    assert [part.pseudonyms for part in again.values()] == [part.pseudonyms for part in parts.values()]


def test_iid_deals_evenly_and_depends_on_the_seed() -> None:
    dataset = _dataset([0] * 10, list(range(10)))
    parts = split(dataset, 3, "iid", 1)
    assert sorted(part.patients for part in parts.values()) == [3, 3, 4]
    other = split(dataset, 3, "iid", 2)
    assert [part.pseudonyms for part in parts.values()] != [part.pseudonyms for part in other.values()]


def test_by_label_gives_hospitals_different_labels() -> None:
    dataset = _dataset([0, 1, 2, 3] * 5, list(range(20)))
    parts = split(dataset, 4, "by-label", 1)
    assert [sorted(set(part.patient_labels().tolist())) for part in parts.values()] == [[0], [1], [2], [3]]


def test_by_label_takes_the_worse_eye() -> None:
    dataset = _dataset([0, 4, 1, 1], [0, 0, 1, 1])
    parts = split(dataset, 2, "by-label", 1)
    assert parts["a"].pseudonyms == ("p1",)
    assert parts["b"].labels.tolist() == [0, 4]


def test_a_small_alpha_makes_hospitals_differ_more() -> None:
    dataset = _dataset([index % 5 for index in range(1000)], list(range(1000)))

    def spread(alpha: str) -> float:
        parts = split(dataset, 4, f"dirichlet:{alpha}", 3)
        shares = np.array([np.bincount(part.patient_labels(), minlength=5) for part in parts.values()])
        return float(np.std(shares))

    assert spread("0.2") > 3 * spread("100")


@pytest.mark.parametrize(
    "text", ["", "random", "dirichlet", "dirichlet:", "dirichlet:x", "dirichlet:0", "dirichlet:nan"]
)
def test_an_unknown_partition_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_partition(text)


def test_a_hospital_without_patients_is_refused() -> None:
    with pytest.raises(InputError, match="too few patients"):
        split(_dataset([0], [0]), 2, "iid", 1)
    with pytest.raises(InputError, match="without a patient"):
        split(_dataset([0] * 8, list(range(8))), 8, "dirichlet:0.001", 1)
    with pytest.raises(InputError, match="needs labels"):
        split(_dataset([-1, -1], [0, 1]), 2, "by-label", 1)


def test_hospitals_are_named_after_the_alphabet() -> None:
    assert hospital_names(28)[:3] == ("a", "b", "c")
    assert hospital_names(28)[25:] == ("z", "aa", "ab")
    assert len(set(hospital_names(800))) == 800
