"""The vector of an adapted model: what names it, what it begins with, and what the release writes into it."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgan_secure.heads.head_start import public_heads
from fedgan_secure.heads.heads import SLOPE, HeadsLayout
from fedgan_secure.heads.vector import CENTRE_GRID, HEADS_GRID, AdaptedLayout, heads_spec
from fedgan_secure.models.errors import ModelError
from fedgan_secure.statistics.layout import ReleaseLayout
from fedgan_secure.statistics.sums import Noise, patient_vectors
from tests.fedgan_secure.adaptation.toy_start import spec_of, toy_start

START = toy_start()
RELEASE = ReleaseLayout(classes=3, features=12, bins=(2, 2, 2))
LAYOUT = AdaptedLayout(spec_of(START), START, RELEASE)
SILENT = Noise(0.0)


@functools.cache
def released_sum(patients: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The exact sum of made-up patients, one image each; their features and labels."""
    rng = np.random.default_rng(3)
    labels = (np.arange(patients) % 3).astype(np.int32)
    features = (rng.standard_normal((patients, 12)) + labels[:, None]).astype(np.float32)
    codes = np.tile(np.array([[-1.0, 0.5, -0.5]], np.float32), (patients, 1))
    rows = np.concatenate(list(patient_vectors(RELEASE, features, codes, labels, np.arange(patients), patients)))
    return rows.astype(np.float64).sum(axis=0), features, labels


def class_logits(layout: AdaptedLayout, vector: np.ndarray, features: np.ndarray) -> np.ndarray:
    """What the heads in a vector say of features, float64[n, classes]."""
    features = features - layout.centre(layout.moments(vector, SILENT))
    parts = layout.heads.parts(vector[layout.heads_slice].astype(np.float64))
    hidden = (features / np.sqrt(12)) @ parts["h_hidden/kernel"] + parts["h_hidden/bias"]
    return np.asarray(
        np.where(hidden > 0, hidden, SLOPE * hidden) @ parts["h_classes/kernel"] + parts["h_classes/bias"]
    )


def test_the_parts_follow_each_other() -> None:
    heads = HeadsLayout.of(heads_spec(LAYOUT.spec))
    assert LAYOUT.release_size == RELEASE.dimension + 1
    assert LAYOUT.size == LAYOUT.release_size + heads.size
    assert LAYOUT.heads_slice == slice(LAYOUT.release_size, LAYOUT.size)
    bare = AdaptedLayout(LAYOUT.spec, START, None)
    assert (bare.release_size, bare.size) == (0, heads.size)


def test_the_name_of_the_layout_covers_release_start_and_heads() -> None:
    other = toy_start(digest="6" * 64)
    names = {
        LAYOUT.layout_hash,
        AdaptedLayout(LAYOUT.spec, START, None).layout_hash,
        AdaptedLayout(LAYOUT.spec, START, replace(RELEASE, bins=(2, 2, 1))).layout_hash,
        AdaptedLayout(LAYOUT.spec, START, replace(RELEASE, count_weight=0.5)).layout_hash,
        AdaptedLayout(spec_of(other), other, RELEASE).layout_hash,
        AdaptedLayout(spec_of(START, hidden=9), START, RELEASE).layout_hash,
    }
    assert len(names) == 6 and all(len(name) == 64 for name in names)
    assert AdaptedLayout(spec_of(START), toy_start(), replace(RELEASE)).layout_hash == LAYOUT.layout_hash


@pytest.mark.parametrize("change", [{"digest": "6" * 64}, {"image_size": 28}, {"channels": 1}])
def test_another_start_than_the_models_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="not the one that the model names"):
        AdaptedLayout(spec_of(START), replace(START, **change), RELEASE)


def test_equal_seeds_give_the_same_first_vector_to_the_bit_in_another_process() -> None:
    mine = LAYOUT.initial_vector(7)
    assert mine.tobytes() == LAYOUT.initial_vector(7).tobytes() != LAYOUT.initial_vector(8).tobytes()
    code = (
        "import hashlib\n"
        "from tests.fedgan_secure.adaptation.toy_start import spec_of, toy_start\n"
        "from fedgan_secure.statistics.layout import ReleaseLayout\n"
        "from fedgan_secure.heads.vector import AdaptedLayout\n"
        "start = toy_start()\n"
        "layout = AdaptedLayout(spec_of(start), start, ReleaseLayout(classes=3, features=12, bins=(2, 2, 2)))\n"
        "print(hashlib.sha256(layout.initial_vector(7).tobytes()).hexdigest())"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "9"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == hashlib.sha256(mine.tobytes()).hexdigest()


def test_the_first_vector_has_released_nothing_and_lies_on_the_grid() -> None:
    vector = LAYOUT.initial_vector(0)
    assert vector.dtype == np.float32 and not vector[: LAYOUT.release_size].any()
    heads = vector[LAYOUT.heads_slice].astype(np.float64)
    assert heads.any() and np.array_equal(np.rint(heads / HEADS_GRID) * HEADS_GRID, heads)
    assert LAYOUT.moments(vector, SILENT) is None
    LAYOUT.check(vector)


def test_the_heads_begin_with_the_public_classes_only_where_they_are_the_runs() -> None:
    """Another number of classes has nothing public to begin with: the class head is then that of the seed."""
    logits = class_logits(LAYOUT, LAYOUT.initial_vector(0), START.public_means)
    assert np.array_equal(logits.argmax(axis=1), np.arange(3))
    for classes in (0, 2):
        other = AdaptedLayout(spec_of(START, classes=classes), START, None)
        own = public_heads(heads_spec(other.spec), None, 0)
        assert np.abs(other.initial_vector(0) - own).max() <= HEADS_GRID / 2


@pytest.mark.parametrize("wrong", ["short", "long", "float64", "nan", "infinite", "square"])
def test_a_vector_of_another_kind_is_refused(wrong: str) -> None:
    vector = LAYOUT.initial_vector(0)
    broken = {
        "short": vector[:-1],
        "long": np.append(vector, np.float32(0)),
        "float64": vector.astype(np.float64),
        "nan": np.where(np.arange(len(vector)) == 5, np.float32("nan"), vector),
        "infinite": np.where(np.arange(len(vector)) == len(vector) - 1, np.float32("inf"), vector),
        "square": vector[:, None],
    }[wrong]
    with pytest.raises(ModelError, match="model vector"):
        LAYOUT.check(broken)


def test_what_the_release_wrote_is_read_back_as_moments() -> None:
    total, features, labels = released_sum()
    before = LAYOUT.initial_vector(0)
    kept = before.copy()
    after = LAYOUT.with_release(before, total, 4, SILENT, 0)
    assert np.array_equal(before, kept) and after.dtype == np.float32
    assert np.array_equal(after[: RELEASE.dimension], total.astype(np.float32))
    moments = LAYOUT.moments(after, SILENT)
    assert moments is not None
    found = np.stack([features[labels == label].mean(axis=0) for label in range(3)])
    np.testing.assert_allclose(moments.mean, found, atol=2e-3)
    np.testing.assert_allclose(moments.count, np.bincount(labels), rtol=1e-4)
    assert moments.histogram.max() == 1.0


def test_the_heads_start_from_the_released_classes() -> None:
    """After the release the class head tells the made-up classes apart, whose means lie apart along every feature."""
    total, features, labels = released_sum()
    after = LAYOUT.with_release(LAYOUT.initial_vector(0), total, 3, SILENT, 0)
    assert (class_logits(LAYOUT, after, features).argmax(axis=1) == labels).mean() > 0.6
    public = class_logits(LAYOUT, LAYOUT.initial_vector(0), features)
    assert (public.argmax(axis=1) == labels).mean() < 0.5


def test_the_heads_are_centred_by_the_released_mean_on_a_grid() -> None:
    total, features, _ = released_sum()
    after = LAYOUT.with_release(LAYOUT.initial_vector(0), total, 3, SILENT, 0)
    centre = LAYOUT.centre(LAYOUT.moments(after, SILENT))
    np.testing.assert_allclose(centre, features.mean(axis=0), atol=5e-3)
    assert centre.dtype == np.float32 and np.array_equal(np.rint(centre / CENTRE_GRID) * CENTRE_GRID, centre)
    assert not LAYOUT.centre(LAYOUT.moments(LAYOUT.initial_vector(0), SILENT)).any()


@given(survivors=st.integers(1, 99), each=st.floats(0.0, 1e4))
def test_the_noise_of_a_sum_is_that_of_its_survivors(survivors: int, each: float) -> None:
    """The number of hospitals in the sum travels in the vector, whole, and scales the noise that decoding expects."""
    total, _, _ = released_sum()
    noise = Noise(each)
    after = LAYOUT.with_release(LAYOUT.initial_vector(0), total, survivors, noise, 0)
    assert after[RELEASE.dimension] == survivors
    moments = LAYOUT.moments(after, noise)
    assert moments is not None and noise.deviation(survivors) == pytest.approx((each * survivors) ** 0.5)
    first = RELEASE.scales[1]
    np.testing.assert_allclose(moments.deviation, noise.deviation(survivors) / first / moments.count, rtol=1e-9)


def test_a_release_into_a_model_without_one_or_a_sum_of_nan_is_refused() -> None:
    bare = AdaptedLayout(LAYOUT.spec, START, None)
    with pytest.raises(ModelError, match="has none"):
        bare.with_release(bare.initial_vector(0), np.zeros(3), 3, SILENT, 0)
    without = AdaptedLayout(spec_of(START, classes=0), START, ReleaseLayout(classes=0, features=12, bins=(2, 2, 2)))
    assert without.release is not None
    total = np.full(without.release.dimension, np.nan)
    with pytest.raises(ModelError, match="NaN or infinity"):
        without.with_release(without.initial_vector(0), total, 3, SILENT, 0)


def test_there_are_two_hidden_units_for_every_class() -> None:
    assert heads_spec(spec_of(START, classes=50, hidden=8)).hidden == 100
    assert heads_spec(spec_of(START, classes=2, hidden=8)).hidden == 8
