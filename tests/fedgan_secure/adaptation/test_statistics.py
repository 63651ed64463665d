"""The vector of a patient and the clipped sum: one patient moves it by at most the clip norm, exactly."""

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
from fedgan_secure.statistics import sums as statistics
from fedgan_secure.statistics.colours import ColourBins
from fedgan_secure.statistics.layout import ReleaseLayout
from fedgan_secure.statistics.sums import (
    ImageStatistics,
    clipped_sum,
    contributions,
    grid_of,
    patient_vectors,
    patients_at_a_time,
)

COLOUR, GREY = (3, 2, 4), (5,)


def made(seed: int, layout: ReleaseLayout, patients: int, scale: float = 1.0, most_images: int = 4) -> ImageStatistics:
    """Random statistics: every patient has an image, images in disorder, some without a label."""
    rng = np.random.default_rng(seed)
    patient = np.concatenate([[one] * rng.integers(1, most_images + 1) for one in range(patients)] or [[]])
    patient = rng.permutation(patient).astype(np.int32)
    count = len(patient)
    features = (scale * rng.standard_normal((count, layout.features))).astype(np.float32)
    labels = rng.integers(-1, max(layout.classes, 1), count).astype(np.int32)
    codes = rng.standard_normal((count, len(layout.bins))).astype(np.float32)
    return ImageStatistics(features, codes, labels, patient, patients)


def without(images: ImageStatistics, gone: int) -> ImageStatistics:
    """The same hospital without one patient."""
    kept = images.patient != gone
    patient = images.patient[kept]
    patient = np.where(patient > gone, patient - 1, patient)
    return ImageStatistics(images.features[kept], images.codes[kept], images.labels[kept], patient, images.patients - 1)


def exact_norm(vector: np.ndarray) -> Fraction:
    """The squared Euclidean norm, in exact arithmetic."""
    return sum((Fraction(float(value)) ** 2 for value in vector), Fraction(0))


LAYOUTS = [
    ReleaseLayout(classes, features, bins)
    for classes, features, bins in [(0, 7, GREY), (1, 5, COLOUR), (5, 11, COLOUR), (10, 3, GREY), (2, 1, (1,))]
]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    layout=st.sampled_from(LAYOUTS),
    patients=st.integers(1, 9),
    scale=st.sampled_from([1e-30, 0.3, 1.0, 4.0, 1e6, 1e18, 1e30]),
    clip_norm=st.sampled_from([1.0, 0.1, 0.7, 3.0, 1e-5]),
)
def test_one_patient_changes_the_sum_by_at_most_the_clip_norm(
    seed: int, layout: ReleaseLayout, patients: int, scale: float, clip_norm: float
) -> None:
    images = made(seed, layout, patients, scale)
    whole = images.clipped_sum(layout, clip_norm)
    for gone in range(patients):
        rest = without(images, gone).clipped_sum(layout, clip_norm)
        assert exact_norm(whole.total - rest.total) <= Fraction(clip_norm) ** 2
    assert whole.largest_norm <= clip_norm


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), layout=st.sampled_from(LAYOUTS), chunk=st.integers(1, 9))
def test_neither_order_nor_chunks_change_a_bit(seed: int, layout: ReleaseLayout, chunk: int) -> None:
    images = made(seed, layout, 8, 2.0)
    found = images.clipped_sum(layout, 1.0).total
    parts = list(patient_vectors(layout, images.features, images.codes, images.labels, images.patient, 8, chunk))
    assert max(len(part) for part in parts) <= chunk and sum(map(len, parts)) == 8
    assert (clipped_sum(parts, 1.0).total == found).all()
    assert (clipped_sum(np.concatenate(parts), 1.0).total == found).all()
    order = np.random.default_rng(seed).permutation(8)
    renamed = ImageStatistics(images.features, images.codes, images.labels, order[images.patient], 8)
    assert (renamed.clipped_sum(layout, 1.0).total == found).all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_vector_is_the_mean_over_a_patients_images(layout: ReleaseLayout) -> None:
    images = made(3, layout, 6)
    rows = np.concatenate(
        list(patient_vectors(layout, images.features, images.codes, images.labels, images.patient, 6))
    )
    root, cells = math.sqrt(layout.features), ColourBins(layout.bins).index(images.codes)
    for one in range(6):
        expected = np.zeros(layout.dimension)
        own = np.flatnonzero(images.patient == one)
        for image in own:
            label = int(images.labels[image]) if layout.classes else 0
            feature = images.features[image].astype(np.float64)
            expected[layout.blocks * layout.width + cells[image]] += 0.35 / len(own)
            if label >= 0:
                block = [[0.25], feature / 1.6 / root, 0.5 / 3 / root * (feature**2 - 1)]
                expected[label * layout.width :][: layout.width] += np.concatenate(block) / len(own)
        assert rows[one] == pytest.approx(expected, abs=1e-6)


def test_what_is_short_is_not_clipped_and_what_is_long_keeps_its_direction() -> None:
    vectors = np.array([[0.3, -0.4], [30, -40], [0, 0], [6e-30, 8e-30]], np.float32)
    whole, norms = contributions(vectors, 1.0)
    given = whole * grid_of(1.0)
    assert norms == pytest.approx([0.5, 50, 0, 1e-29])
    assert given[0] == pytest.approx([0.3, -0.4], abs=1e-7)
    assert given[1] == pytest.approx([0.6, -0.8], abs=1e-7)
    assert (given[2:] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("where", ["features", "codes"])
def test_a_patient_whose_vector_is_no_number_adds_nothing(value: float, where: str) -> None:
    layout = LAYOUTS[2]
    images = made(1, layout, 5)
    if where == "codes" and math.isfinite(value):
        value = math.nan
    getattr(images, where)[np.flatnonzero(images.patient == 3)[0], 0] = value
    images.labels[:] = 1
    found = images.clipped_sum(layout, 1.0)
    assert (found.total == without(images, 3).clipped_sum(layout, 1.0).total).all()
    assert found.not_finite == 1 and found.patients == 5


def test_many_images_count_once() -> None:
    layout = LAYOUTS[2]
    images = made(1, layout, 1, 50.0, most_images=1)
    many = ImageStatistics(
        np.repeat(images.features, 64, axis=0),
        np.repeat(images.codes, 64, axis=0),
        np.arange(64, dtype=np.int32) % layout.classes,
        np.zeros(64, np.int32),
        1,
    )
    assert exact_norm(many.clipped_sum(layout, 1.0).total) <= 1
    same = ImageStatistics(many.features, many.codes, np.repeat(images.labels, 64), many.patient, 1)
    assert same.clipped_sum(layout, 1.0).total == pytest.approx(images.clipped_sum(layout, 1.0).total, abs=1e-7)


def test_nobody_gives_zero_and_a_patient_without_images_gives_nothing() -> None:
    layout = LAYOUTS[0]
    nobody = made(0, layout, 0)
    assert (nobody.clipped_sum(layout, 1.0).total == np.zeros(layout.dimension)).all()
    images = made(0, layout, 3)
    more = ImageStatistics(images.features, images.codes, images.labels, images.patient, 4)
    assert (more.clipped_sum(layout, 1.0).total == images.clipped_sum(layout, 1.0).total).all()
    with pytest.raises(InputError):
        clipped_sum([], 1.0)


def test_a_large_cohort_is_taken_in_chunks() -> None:
    layout = ReleaseLayout(5, 271, (8, 10, 10))
    assert layout.dimension == 3515
    assert patients_at_a_time(layout) * layout.dimension <= statistics.CHUNK_VALUES
    assert patients_at_a_time(ReleaseLayout(1, 500_000, (1,))) == 1


def test_a_layout_survives_json_and_its_digest_names_all_of_it() -> None:
    layout = ReleaseLayout(5, 271, (8, 10, 10))
    assert ReleaseLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    others = [
        ReleaseLayout(4, 271, (8, 10, 10)),
        ReleaseLayout(5, 270, (8, 10, 10)),
        ReleaseLayout(5, 271, (10, 8, 10)),
        ReleaseLayout(5, 271, (8, 10, 10), count_weight=0.2),
        ReleaseLayout(5, 271, (8, 10, 10), colour_weight=0.3),
    ]
    assert len({one.digest() for one in [layout, *others]}) == 6
    assert layout.digest() == ReleaseLayout(5, 271, (8, 10, 10)).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"classes": -1}, {"classes": True}, {"classes": 2.0}, {"features": 0}, {"features": 2**20}, {"bins": []},
        {"bins": "88"}, {"bins": [8, -1, 1]}, {"count_weight": 0.0}, {"count_weight": float("nan")},
        {"first_weight": "1"}, {"colour_weight": 2.0}, {"version": "other"}, {"colours": None}, {"more": 1},
        {"colours": {"low": [0.0], "high": [1.0]}},
    ],
)  # fmt: skip
def test_a_layout_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ReleaseLayout.from_json({**ReleaseLayout(5, 3, (8, 10, 10)).to_json(), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"features": np.zeros((4, 3), np.float32)}, {"features": np.zeros((4, 7))}, {"codes": np.zeros((4, 3))},
        {"labels": np.zeros(3, int)}, {"labels": np.array([0, 0, 0, 2])}, {"labels": np.array([0, 0, 0, -2])},
        {"labels": np.zeros(4)}, {"patient": np.array([0, 1, 2, 3])}, {"patient": np.array([0, 1, -1, 0])},
        {"patients": -1}, {"patients": 2**22 + 1},
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused_at_once(change: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {
        "features": np.zeros((4, 7), np.float32), "codes": np.zeros((4, 1), np.float32),
        "labels": np.zeros(4, np.int32), "patient": np.array([0, 1, 2, 0]), "patients": 3,
    }  # fmt: skip
    patient_vectors(ReleaseLayout(2, 7, GREY), **arrays)
    with pytest.raises(InputError):
        patient_vectors(ReleaseLayout(2, 7, GREY), **{**arrays, **change})


def test_sums_of_what_is_no_vector_are_refused() -> None:
    good = np.zeros((2, 3), np.float32)
    for wrong in (good.astype(np.float64), good[0], [good, good[:, :2]]):
        with pytest.raises(InputError):
            clipped_sum(wrong, 1.0)
    for clip_norm in (0.0, -1.0, math.nan, math.inf, 1e9):
        with pytest.raises(InputError):
            clipped_sum(good, clip_norm)
