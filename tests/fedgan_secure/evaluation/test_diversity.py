"""Variety: known answers, agreement with the definitions written out, collapse near zero, never a NaN."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from fedgan_secure.errors import InputError
from fedgan_secure.evaluation import diversity
from fedgan_secure.evaluation.diversity import (
    COLOURS,
    NEIGHBOURS,
    Diversity,
    cell_averages,
    covered,
    distances,
    image_colours,
    mean_difference,
    measure_diversity,
    recalled,
    wasserstein,
)
from fedgan_secure.evaluation.images import LabelledImages

samples = st.lists(st.floats(-1e3, 1e3, allow_nan=False, width=32), min_size=1, max_size=30)


def pictures(count: int, seed: int, *, size: int = 28, channels: int = 3, classes: int = 2) -> LabelledImages:
    """Smooth pictures: a random colour, a random gradient, brighter for a higher class."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.int32)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    slopes = rng.normal(0, 60, (count, 2, 1, 1))
    colour = rng.uniform(60, 150, (count, 1, 1, channels)) + 20 * labels[:, None, None, None]
    values = colour + (slopes[:, 0] * x + slopes[:, 1] * y)[..., None]
    return LabelledImages(np.clip(values, 0, 255).astype(np.uint8), labels, np.arange(count) // 2)


def embed(images: np.ndarray) -> np.ndarray:
    return cell_averages(images).reshape(len(images), -1)[:, ::3]


def measure(real: LabelledImages, made: LabelledImages, classes: int = 2) -> Diversity:
    return measure_diversity(real, made, classes, embed, seed=1)


def test_neighbourhoods_on_a_line_by_hand() -> None:
    real = np.arange(4.0)[:, None]
    made = np.array([[0.5], [9.0], [9.0], [20.0]])
    across, among_real, among_made = distances(real, made), distances(real, real), distances(made, made)
    assert covered(across, among_real, neighbours=1).tolist() == [True, True, False, False]
    # radii of the generated ones: 8.5, 0, 0, 11; from 0.5 every real one is within 8.5
    assert recalled(across, among_made, neighbours=1).tolist() == [True] * 4
    assert recalled(across[:, 1:3], among_made[1:3, 1:3], neighbours=1).tolist() == [False] * 4


@given(st.integers(0, 2**31), st.integers(7, 14), st.integers(7, 14), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_shares_agree_with_their_definition(seed: int, reals: int, generated: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    real, made = rng.integers(0, 4, (reals, width)) * 1.0, rng.integers(0, 4, (generated, width)) * 1.0

    def far(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.float32(math.sqrt(((left - right) ** 2).sum())))

    def radius(points: np.ndarray, index: int) -> float:
        return sorted(far(points[index], other) for other in points)[NEIGHBOURS]

    expected_covered = [min(far(one, other) for other in made) <= radius(real, i) for i, one in enumerate(real)]
    expected_recalled = [any(far(one, other) <= radius(made, j) for j, other in enumerate(made)) for one in real]
    across = distances(real, made)
    assert covered(across, distances(real, real)).tolist() == expected_covered
    assert recalled(across, distances(made, made)).tolist() == expected_recalled


def test_distances_of_equal_vectors_are_zero_exactly() -> None:
    vectors = np.random.default_rng(0).normal(size=(70, 48)) * 1e3
    assert (np.diag(distances(vectors, vectors)) == 0).all()
    assert distances(vectors, vectors[:3]).shape == (70, 3)


@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_the_mean_difference_is_that_of_all_pairs(seed: int, count: int, width: int) -> None:
    values = np.random.default_rng(seed).normal(size=(count, width))
    pairs = [np.abs(values[i] - values[j]).mean() for i in range(count) for j in range(i)]
    assert mean_difference(values) == pytest.approx(np.mean(pairs))
    assert mean_difference(values[:1]) == 0.0


@given(samples, samples)
@settings(max_examples=60, deadline=None)
def test_the_colour_distance_is_wasserstein(left: list[float], right: list[float]) -> None:
    found = wasserstein(np.array(left), np.array(right))
    assert found == pytest.approx(wasserstein_distance(left, right), rel=1e-6, abs=1e-9)


def test_colours_of_known_pictures() -> None:
    images = np.zeros((3, 28, 28, 3), np.uint8)
    images[0] = (100, 50, 25)
    images[1] = (200, 100, 50)
    codes = image_colours(images)
    assert codes[0, 1] == pytest.approx(math.log(100.5 / 50.5))
    assert codes[1, 0] - codes[0, 0] == pytest.approx(math.log(2), abs=0.01)
    assert np.isfinite(codes).all()  # black, too
    assert image_colours(images[..., :1]).shape == (3, 1)


def test_real_against_real_is_high_and_a_repeated_picture_is_near_zero() -> None:
    real, other = pictures(300, 1), pictures(300, 2)
    good = measure(real, other)
    assert good.coverage is not None and good.recall is not None and good.spread is not None
    assert good.coverage > 0.85 and good.recall > 0.8
    assert good.coverage_real == pytest.approx(good.coverage, abs=0.1)
    assert 0.85 < good.spread < 1.15
    assert max(good.colour_distance.values()) < 0.1
    first = np.stack([other.images[0], other.images[1]])[other.labels].astype(np.int32)
    noisy = first + np.random.default_rng(0).integers(-3, 4, first.shape)
    collapsed = measure(real, LabelledImages(np.clip(noisy, 0, 255).astype(np.uint8), other.labels))
    assert collapsed.coverage is not None and collapsed.recall is not None and collapsed.spread is not None
    assert collapsed.coverage < 0.1 and collapsed.recall < 0.02 and collapsed.spread < 0.05
    assert all(value is not None and value < 0.05 for value in collapsed.spread_by_class)


def test_one_collapsed_class_is_seen_among_others() -> None:
    real, made = pictures(200, 1), pictures(200, 2)
    images = made.images.copy()
    images[made.labels == 1] = images[1]
    by_class = measure(real, LabelledImages(images, made.labels)).spread_by_class
    assert by_class[0] is not None and by_class[0] > 0.8
    assert by_class[1] == 0.0


def test_a_class_that_differs_in_colour_alone_has_no_other_spread() -> None:
    real = pictures(200, 1)
    flat = np.repeat(np.repeat(real.images.mean(axis=(1, 2), keepdims=True).astype(np.uint8), 28, 1), 28, 2)
    found = measure(real, LabelledImages(flat, real.labels))
    assert found.spread is not None and found.spread > 0.5
    assert found.spread_without_colour is not None and found.spread_without_colour < 0.01


def test_another_tint_is_seen_in_its_own_coordinate() -> None:
    real = pictures(200, 1)
    redder = real.images.astype(np.float64)
    redder[..., 0] *= 1.2
    found = measure(real, LabelledImages(np.clip(redder, 0, 255).astype(np.uint8), real.labels)).colour_distance
    assert tuple(found) == COLOURS
    assert found["red_green"] == pytest.approx(math.log(1.2), abs=0.03)
    assert found["blue_green"] < 0.01


def test_the_reference_keeps_a_patients_images_in_one_half() -> None:
    real = pictures(40, 1)
    twins = LabelledImages(np.repeat(real.images, 2, axis=0), np.repeat(real.labels, 2), np.repeat(np.arange(40), 2))
    alone = measure_diversity(LabelledImages(twins.images, twins.labels), real, 2, embed, seed=1)
    whole = measure_diversity(twins, real, 2, embed, seed=1)
    assert whole.recall_real is not None and alone.recall_real is not None
    assert whole.recall_real < alone.recall_real  # an equal picture in the other half counts for nothing


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("classes", [0, 1, 2])
@pytest.mark.parametrize("reals", [1, 2, 5, 11, 40])
@pytest.mark.parametrize("kind", ["varied", "equal", "one", "black"])
def test_edges_give_numbers_or_none(channels: int, size: int, classes: int, reals: int, kind: str) -> None:
    shape: dict[str, Any] = {"size": size, "channels": channels, "classes": max(classes, 1)}
    real = pictures(reals, 1, **shape)
    made = pictures(1 if kind == "one" else 30, 2, **shape)
    if kind in ("equal", "black"):
        made = LabelledImages(np.broadcast_to(made.images[:1] * (kind == "equal"), made.images.shape), made.labels)
    found = measure(real, made, classes).to_json()
    json.dumps(found, allow_nan=False)
    assert (found["coverage"] is None) == (reals < 2 * (NEIGHBOURS + 1) or kind == "one")
    assert len(found["colour_distance"]) == channels
    assert len(found["spread_by_class"]) == max(classes, 1)
    if kind in ("equal", "black") and reals == 40:
        assert found["recall"] <= 1 / reals
        assert found["spread"] == 0.0


def test_equal_real_images_are_no_division_by_zero() -> None:
    real = pictures(1, 1)
    many = LabelledImages(np.repeat(real.images, 20, axis=0), np.zeros(20, np.int32))
    found = measure(many, many, 1)
    assert (found.coverage, found.recall, found.spread) == (1.0, 1.0, None)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "MOST_IMAGES", 20)
    sizes = []

    def counted(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return embed(images)

    found = measure_diversity(pictures(100, 1), pictures(90, 2), 2, counted, seed=1)
    assert found.compared_images == 20
    assert sizes == [20, 20]


def test_wrong_input_is_refused_with_a_sentence() -> None:
    real, made = pictures(20, 1), pictures(20, 2)
    with pytest.raises(InputError, match="0 generated"):
        measure(real, made.first(0))
    with pytest.raises(InputError, match="expected uint8"):
        LabelledImages(real.images.astype(np.float32), real.labels)
    with pytest.raises(InputError, match="19 labels"):
        LabelledImages(real.images, real.labels[:19])
    with pytest.raises(InputError, match="28, 28, 1"):
        measure(real, LabelledImages(made.images[..., :1], made.labels))
    with pytest.raises(InputError, match="not finite"):
        measure_diversity(real, made, 2, lambda images: np.full((len(images), 2), np.nan), seed=1)
