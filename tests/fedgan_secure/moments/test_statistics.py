"""Moments of coefficients: exact coefficients, and a clipped sum that one patient moves by at most the clip norm."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.errors import InputError
from fedgan_secure.moments import statistics
from fedgan_secure.moments.basis import coefficients, cosines
from fedgan_secure.moments.layout import MOST_COORDINATES, MOST_ORDER, MomentsLayout, moments_layout
from fedgan_secure.moments.releases import read_layout
from fedgan_secure.moments.statistics import moments_sum
from fedgan_secure.statistics import sums as vectors
from fedgan_secure.statistics.sums import ImageStatistics, contributions

LAYOUTS = [
    MomentsLayout(classes, 8, channels, order, 3.0) for classes, channels, order in [(0, 1, 3), (3, 1, 2), (2, 3, 1)]
]


def made(seed: int, layout: MomentsLayout, patients: int, scale: float = 1.0) -> ImageStatistics:
    """Random coefficients: one to three images a patient, in disorder, some without a label."""
    rng = np.random.default_rng(seed)
    patient = rng.permutation(np.concatenate([[one] * rng.integers(1, 4) for one in range(patients)] or [[]]))
    count = len(patient)
    return ImageStatistics(
        (scale * rng.standard_normal((count, layout.features))).astype(np.float32),
        np.zeros((count, 0), np.float32),
        rng.integers(-1, max(layout.classes, 1), count).astype(np.int32),
        patient.astype(np.int32),
        patients,
    )


def without(images: ImageStatistics, gone: int) -> ImageStatistics:
    """The same hospital without one patient."""
    kept = images.patient != gone
    owner = images.patient[kept]
    owner = np.where(owner > gone, owner - 1, owner)
    return ImageStatistics(images.features[kept], images.codes[kept], images.labels[kept], owner, images.patients - 1)


def plainly(layout: MomentsLayout, images: ImageStatistics, clip_norm: float) -> np.ndarray:
    """The sum by the definition, patient by patient, in float64 and without a grid."""
    total = np.zeros(layout.dimension)
    for one in range(images.patients):
        rows = np.flatnonzero(images.patient == one)
        vector = np.zeros((layout.blocks, layout.width))
        for row in rows:
            f, label = images.features[row].astype(np.float64), int(images.labels[row]) if layout.classes else 0
            if label < 0:
                continue
            pairs = [f[i] * f[j] * (1 if i == j else math.sqrt(2)) for i in range(len(f)) for j in range(i, len(f))]
            first, second = layout.first_weight * f, layout.second_weight * np.array(pairs)
            vector[label] += np.concatenate([[layout.count_weight], first, second]) / len(rows)
        norm = float(np.linalg.norm(vector))
        total += (vector * min(1.0, clip_norm / norm) if norm else vector).reshape(-1)
    return total


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: f"{one.classes}-{one.channels}-{one.order}")
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 30.0]), clip=st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=40)
def test_the_sum_is_that_of_the_definition(layout: MomentsLayout, seed: int, scale: float, clip: float) -> None:
    images = made(seed, layout, seed % 9, scale)
    found = moments_sum(layout, images, clip)
    assert found.patients == images.patients and found.largest_norm <= clip
    assert np.allclose(found.total, plainly(layout, images, clip), atol=1e-5 * clip * max(images.patients, 1))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: f"{one.classes}-{one.channels}-{one.order}")
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 1e4, 1e30]))
@settings(max_examples=40)
def test_one_patient_moves_the_sum_by_at_most_the_clip_norm_exactly(
    layout: MomentsLayout, seed: int, scale: float
) -> None:
    images = made(seed, layout, 1 + seed % 7, scale)
    gone, clip = seed % images.patients, 1.0
    apart = moments_sum(layout, images, clip).total - moments_sum(layout, without(images, gone), clip).total
    squared = sum((Fraction(float(value)) ** 2 for value in apart), Fraction(0))
    assert squared <= Fraction(clip) ** 2
    mine = images.patient == gone
    alone = ImageStatistics(
        images.features[mine], images.codes[mine], images.labels[mine], np.zeros(mine.sum(), np.int32), 1
    )
    assert np.array_equal(apart, moments_sum(layout, alone, clip).total)  # nothing of it depends on the others


def test_many_patients_are_summed_in_chunks_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS[1]
    images = made(4, layout, 50)
    whole = moments_sum(layout, images, 1.0)
    monkeypatch.setattr(statistics, "CHUNK_VALUES", 1)
    assert np.array_equal(moments_sum(layout, images, 1.0).total, whole.total)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
@pytest.mark.parametrize("label", [0, 1])
def test_a_patient_who_is_not_finite_gives_nothing(spoilt: float, label: int) -> None:
    layout = LAYOUTS[1]
    images = made(1, layout, 1)
    images.features[0, 0], images.labels[:] = spoilt, [0, *[label] * (len(images.labels) - 1)]
    found = moments_sum(layout, images, 1.0)
    assert not found.total.any() and found.not_finite == 1


def test_contributions_are_those_of_the_other_release() -> None:
    """One clipping for both kinds: what is proved of it holds here."""
    assert statistics.contributions is contributions is vectors.contributions


# coefficients -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), size=st.sampled_from([8, 28, 64, 256]), channels=st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_an_images_coefficients_are_the_same_to_the_bit_in_any_batch(seed: int, size: int, channels: int) -> None:
    layout = MomentsLayout(0, size, channels, min(7, size), 5.0)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (5, size, size, channels), np.uint8)
    together = coefficients(layout, pixels)
    assert together.dtype == np.float32 and together.shape == (5, layout.features)
    for place in range(5):
        assert np.array_equal(coefficients(layout, pixels[place : place + 1])[0], together[place])
    basis = cosines(layout.order, size) * 2**14  # whole numbers: added up without any rounding
    plane = basis @ pixels[0, :, :, 0].astype(object) @ basis.T
    exact = [float(Fraction(int(value), 2**28)) / (255 * 5.0) for value in plane.reshape(-1)]
    assert np.array_equal(together[0, : len(exact)], np.array(exact, np.float32))


def test_the_basis_is_nearly_orthonormal() -> None:
    for size in (8, 28, 64, 256):
        basis = cosines(min(size, 20), size)
        assert np.abs(basis @ basis.T - np.eye(len(basis))).max() < 1e-3


# layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [(28, 1, 10), (28, 1, 2), (64, 3, 5), (64, 1, 0), (8, 1, 3), (256, 3, 20), (28, 1, 999)]
)
def test_the_layout_of_a_kind_of_pictures_fits_and_is_read_back(kind: tuple[int, int, int]) -> None:
    layout = moments_layout(*kind)
    assert layout.dimension <= MOST_COORDINATES and layout.order <= MOST_ORDER
    told = json.loads(json.dumps(layout.to_json()))
    assert read_layout(told) == layout and read_layout(told).digest() == layout.digest()


def test_a_layout_that_is_wrong_is_refused() -> None:
    told: dict[str, Any] = LAYOUTS[1].to_json()
    wrong = [
        {**told, "order": 9}, {**told, "order": True}, {**told, "scale": 0}, {**told, "scale": float("nan")},
        {**told, "classes": -1}, {**told, "image_size": 512}, {**told, "channels": 4}, {**told, "second_weight": 2.0},
        {**told, "more": 1}, {key: value for key, value in told.items() if key != "order"}, {**told, "version": "2"},
    ]  # fmt: skip
    for values in wrong:
        with pytest.raises(InputError):
            read_layout(values)
    with pytest.raises(InputError, match="coordinates"):
        MomentsLayout(1000, 28, 1, 14, 12.0)


@pytest.mark.parametrize("change", ["features", "labels", "patient"])
def test_arrays_that_do_not_fit_are_refused(change: str) -> None:
    layout, images = LAYOUTS[1], made(2, LAYOUTS[1], 4)
    wrong = {
        "features": images.features[:, :-1], "labels": images.labels + 9, "patient": images.patient + 9,
    }[change]  # fmt: skip
    fields = {**images.__dict__, change: wrong}
    with pytest.raises(InputError):
        moments_sum(layout, ImageStatistics(**fields), 1.0)
