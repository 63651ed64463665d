"""What a sum says: exactly the moments without noise, shrunk ones with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.errors import InputError
from fedgan_secure.statistics.decoding import CUT, LEAST_COUNT, LEAST_VARIANCE, cut_histogram, decode, shrink
from fedgan_secure.statistics.layout import ReleaseLayout
from fedgan_secure.statistics.sums import ImageStatistics

BLOCKS = ((0, 3), (3, 8))


def hospital(layout: ReleaseLayout, patients: int, seed: int = 0) -> ImageStatistics:
    rng = np.random.default_rng(seed)
    labels = np.arange(patients) % max(layout.classes, 1)
    features = rng.uniform(-1, 1, (patients, layout.features)) * 0.5 + 0.1 * labels[:, None]
    codes = np.linspace(layout.colour_bins.low, layout.colour_bins.high, patients)
    return ImageStatistics(features.astype(np.float32), codes.astype(np.float32), labels, np.arange(patients), patients)


@pytest.mark.parametrize("classes", [0, 1, 5, 10])
@pytest.mark.parametrize("bins", [(6,), (2, 3, 2)])
def test_without_noise_the_moments_come_back(classes: int, bins: tuple[int, ...]) -> None:
    layout = ReleaseLayout(classes, 8, bins)
    images = hospital(layout, 60)
    found = decode(layout, images.clipped_sum(layout, 1.0).total, 0.0, BLOCKS)
    assert found.mean.shape == found.std.shape == (layout.blocks, 8)
    for k in range(layout.blocks):
        own = images.features[images.labels == k].astype(np.float64)
        assert found.count[k] == pytest.approx(len(own), abs=1e-5)
        assert found.mean[k] == pytest.approx(own.mean(0), abs=1e-5)
        assert found.std[k] == pytest.approx(np.maximum(own.std(0), math.sqrt(LEAST_VARIANCE)), abs=1e-4)
    cells = np.bincount(layout.colour_bins.index(images.codes), minlength=layout.colour_bins.cells)
    assert found.histogram == pytest.approx(cells / 60, abs=1e-6)
    assert (found.deviation == 0).all()


def test_an_empty_class_takes_the_mean_of_all_and_says_so() -> None:
    layout = ReleaseLayout(3, 8, (4,))
    images = hospital(ReleaseLayout(2, 8, (4,)), 40)
    found = decode(layout, images.clipped_sum(layout, 1.0).total, 0.0, BLOCKS)
    assert math.isinf(found.deviation[2]) and found.count[2] == 0
    assert found.mean[2] == pytest.approx(images.features.mean(0), abs=1e-5)
    nobody = decode(layout, np.zeros(layout.dimension), 0.0, BLOCKS)
    assert np.isfinite(nobody.mean).all() and nobody.histogram.sum() == 1


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), deviation=st.sampled_from([0.01, 0.5, 3.0, 1e3]), classes=st.sampled_from([0, 1, 5]))
def test_whatever_the_noise_the_result_is_finite(seed: int, deviation: float, classes: int) -> None:
    layout = ReleaseLayout(classes, 8, (2, 3, 2))
    noise = np.random.default_rng(seed).standard_normal(layout.dimension)
    found = decode(layout, hospital(layout, 30).clipped_sum(layout, 1.0).total + deviation * noise, deviation, BLOCKS)
    for values in (found.mean, found.std, found.deviation, found.count, found.histogram):
        assert np.isfinite(values).all()
    assert (found.std**2 >= LEAST_VARIANCE * 0.999).all() and (found.count >= LEAST_COUNT).all()
    assert found.histogram.sum() == pytest.approx(1) and (found.histogram >= 0).all()


def test_the_stated_deviation_is_that_of_the_means() -> None:
    layout, deviation = ReleaseLayout(2, 400, (4,)), 0.5
    total = (
        ImageStatistics(
            np.zeros((2000, 400), np.float32),
            np.zeros((2000, 1), np.float32),
            np.arange(2000) % 2,
            np.arange(2000),
            2000,
        )
        .clipped_sum(layout, 1.0)
        .total
    )
    rng = np.random.default_rng(0)
    columns = slice(1, 401)
    spread = []
    for _ in range(30):
        noisy = total + deviation * rng.standard_normal(layout.dimension)
        found = decode(layout, noisy, deviation, [(0, 400)])
        spread.append((noisy[columns] / layout.scales[1] / found.count[0]).std() / found.deviation[0])
    assert np.mean(spread) == pytest.approx(1, abs=0.02)


def test_means_and_squares_are_shrunk_by_their_own_noise() -> None:
    layout, deviation = ReleaseLayout(3, 8, (4,)), 0.2
    noise = np.random.default_rng(5).standard_normal(layout.dimension)
    total = hospital(layout, 60).clipped_sum(layout, 1.0).total + deviation * noise
    found = decode(layout, total, deviation, BLOCKS)
    sums = total[: 3 * layout.width].reshape(3, -1)
    count = sums[:, 0] / 0.25
    scales = 1 / 1.6 / math.sqrt(8), 0.5 / 3 / math.sqrt(8)
    first, second = sums[:, 1:9] / scales[0] / count[:, None], 1 + sums[:, 9:] / scales[1] / count[:, None]
    mean, square = (
        shrink(values, count, deviation / scale / count, BLOCKS)
        for values, scale in zip((first, second), scales, strict=True)
    )
    assert found.mean == pytest.approx(mean) and found.count == pytest.approx(count)
    assert found.std == pytest.approx(np.sqrt(np.maximum(square - mean**2, LEAST_VARIANCE)))


def test_james_stein_keeps_all_without_noise_and_nothing_where_there_is_only_noise() -> None:
    rng = np.random.default_rng(0)
    values, count = rng.standard_normal((4, 8)), np.array([5.0, 10, 20, 40])
    pooled = count @ values / count.sum()
    assert shrink(values, count, np.zeros(4), BLOCKS) == pytest.approx(values)
    assert shrink(values, count, np.full(4, np.inf), BLOCKS) == pytest.approx(np.tile(pooled, (4, 1)))
    assert shrink(values, count, np.full(4, 1e6), BLOCKS) == pytest.approx(np.tile(pooled, (4, 1)))
    assert shrink(values[:1], count[:1], np.ones(1), BLOCKS) == pytest.approx(values[:1])
    deviation = 0.4
    some = shrink(values, count, np.full(4, deviation), BLOCKS)
    for first, end in BLOCKS:
        apart = values[:, first:end] - pooled[first:end]
        kept = np.maximum(0, 1 - (end - first) * deviation**2 / (apart**2).sum(1))
        assert some[:, first:end] == pytest.approx(pooled[first:end] + kept[:, None] * apart)


def test_shrinking_brings_noisy_means_nearer_to_the_truth() -> None:
    rng = np.random.default_rng(1)
    truth, count = 0.1 * rng.standard_normal((5, 40)), np.ones(5)
    noisy = truth + 0.3 * rng.standard_normal(truth.shape)
    shrunk = shrink(noisy, count, np.full(5, 0.3), [(0, 20), (20, 40)])
    assert ((shrunk - truth) ** 2).sum() < 0.5 * ((noisy - truth) ** 2).sum()


def test_cells_that_could_be_noise_are_cut() -> None:
    noisy = np.array([10.0, CUT - 0.1, -4.0, CUT + 0.1])
    assert cut_histogram(noisy, 1.0) == pytest.approx(np.array([10, 0, 0, CUT + 0.1]) / (10 + CUT + 0.1))
    assert cut_histogram(np.array([-3.0, -1.0, -2.0]), 1.0).tolist() == [0, 1, 0]
    assert cut_histogram(np.array([0.5, 0.25, 0.0]), 0.0) == pytest.approx([2 / 3, 1 / 3, 0])


def test_what_cannot_be_decoded_is_refused() -> None:
    layout = ReleaseLayout(2, 8, (4,))
    total = np.ones(layout.dimension)
    for wrong in (total[1:], np.full(layout.dimension, np.nan), np.full(layout.dimension, np.inf)):
        with pytest.raises(InputError):
            decode(layout, wrong, 1.0, BLOCKS)
    for deviation in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError):
            decode(layout, total, deviation, BLOCKS)
    for blocks in ([], [(0, 8), (8, 8)], [(0, 7)], [(1, 8)], [(0, 3), (4, 8)], [(0, 9)]):
        with pytest.raises(InputError):
            decode(layout, total, 1.0, blocks)
