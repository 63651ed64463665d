"""Means and covariances out of a sum: exact without noise, and nearer to the truth than the noisy ones with it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from fedgan_secure.errors import InputError
from fedgan_secure.models.moments_spec import MomentsSpec
from fedgan_secure.moments.basis import coefficients, cosines
from fedgan_secure.moments.decoding import decode_moments, denoised
from fedgan_secure.moments.layout import MomentsLayout
from fedgan_secure.moments.statistics import moments_sum
from fedgan_secure.networks.dcgan import draw_levels
from fedgan_secure.networks.moments_generator import TABLES_GRID, build_moments_generator, parameters
from fedgan_secure.statistics.sums import ImageStatistics

LAYOUT = MomentsLayout(2, 12, 1, 4, 12.0)


def hospital(seed: int, patients: int = 400) -> ImageStatistics:
    """Coefficients with a mean and a covariance of a few directions, another one for each class."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(patients) % 2).astype(np.int32)
    directions = np.random.default_rng(9).standard_normal((2, 3, LAYOUT.features)) * [[[0.2]], [[0.1]]]
    centres = np.random.default_rng(8).standard_normal((2, LAYOUT.features)) * 0.1
    found = centres[labels] + np.einsum("nk,nkd->nd", rng.standard_normal((patients, 3)), directions[labels])
    return ImageStatistics(
        found.astype(np.float32), np.zeros((patients, 0), np.float32), labels, np.arange(patients), patients
    )


def test_without_noise_mean_and_covariance_are_those_of_the_patients() -> None:
    images = hospital(1)
    moments = decode_moments(LAYOUT, moments_sum(LAYOUT, images, 100.0).total, 0.0)
    for label in range(2):
        own = images.features[images.labels == label].astype(np.float64)
        assert np.allclose(moments.mean[label], own.mean(axis=0), atol=1e-5)
        assert np.allclose(moments.root[label], moments.root[label].T)
        assert np.allclose(moments.root[label] @ moments.root[label], np.cov(own.T, bias=True), atol=1e-5)
    assert moments.count == pytest.approx([200, 200], abs=1e-3)


@pytest.mark.parametrize("deviation", [0.5, 3.0])
def test_with_noise_the_covariance_is_nearer_to_the_truth_than_the_noisy_one(deviation: float) -> None:
    images, rng = hospital(2, 2000), np.random.default_rng(3)
    total = moments_sum(LAYOUT, images, 100.0).total
    truth = decode_moments(LAYOUT, total, 0.0)
    noisy = total + deviation * rng.standard_normal(len(total))
    found, raw = decode_moments(LAYOUT, noisy, deviation), decode_moments(LAYOUT, noisy, 0.0)
    for label in range(2):
        target = truth.root[label] @ truth.root[label]
        apart = [np.linalg.norm(one.root[label] @ one.root[label] - target) for one in (found, raw)]
        assert apart[0] < apart[1]
        assert np.linalg.norm(found.mean[label] - truth.mean[label]) < 2 * np.linalg.norm(
            raw.mean[label] - truth.mean[label]
        )


def test_noise_alone_leaves_no_spread_at_all() -> None:
    total = np.random.default_rng(5).standard_normal(LAYOUT.dimension)
    total[:: LAYOUT.width] += 1000 * LAYOUT.count_weight
    moments = decode_moments(LAYOUT, total, 1.5)  # told a little more than there is: no eigenvalue stands out
    assert not moments.root.any() and np.isfinite(moments.mean).all()


def test_a_class_of_nobody_and_a_sum_of_nothing_are_defined() -> None:
    assert not decode_moments(LAYOUT, np.zeros(LAYOUT.dimension), 0.0).root.any()
    images = hospital(4)
    one = ImageStatistics(images.features, images.codes, np.zeros_like(images.labels), images.patient, images.patients)
    for deviation in (0.0, 1.0):
        moments = decode_moments(LAYOUT, moments_sum(LAYOUT, one, 1.0).total, deviation)
        assert np.isfinite(moments.mean).all() and np.isfinite(moments.root).all()
    same = denoised(np.ones((2, 3, 3)), np.zeros(2), np.zeros(2))
    assert np.allclose(same, 1.0)


@pytest.mark.parametrize(("total", "deviation"), [(np.zeros(3), 1.0), (np.full(LAYOUT.dimension, np.nan), 1.0)])
def test_what_is_no_released_sum_is_refused(total: np.ndarray, deviation: float) -> None:
    with pytest.raises(InputError):
        decode_moments(LAYOUT, total, deviation)
    with pytest.raises(InputError):
        decode_moments(LAYOUT, np.zeros(LAYOUT.dimension), float("nan"))


# the generator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 0), (3, 4)])
def test_drawn_pictures_have_the_mean_and_the_covariance_that_were_given(channels: int, classes: int) -> None:
    spec = MomentsSpec(12, channels, classes, 3)
    rng = np.random.default_rng(0)
    size, rows = spec.latent_dim, max(classes, 1)
    middle = np.zeros((channels, 3, 3))
    middle[:, 0, 0] = 0.5  # half grey, so that nothing is clipped
    mean = middle.reshape(-1) + 0.01 * rng.standard_normal((rows, size))
    half = 0.003 * rng.standard_normal((rows, size, size))
    root = (half + half.transpose(0, 2, 1)) / 2
    model = build_moments_generator(spec, 12.0, mean, root)
    assert sum(weight.shape.num_elements() for weight in model.weights) == parameters(spec)
    labels = np.full(4000, rows - 1, np.int32) if classes else None
    levels = draw_levels(model, spec, labels, 4000, 1)
    assert levels.min() > 0 and levels.max() < 255
    basis = cosines(3, 12)
    planes = np.moveaxis(levels.astype(np.float64) / 255, 3, 1)
    found = (basis @ planes @ basis.T).reshape(4000, size) / 12.0
    assert np.abs(found.mean(axis=0) - mean[-1]).max() < 0.002
    assert np.abs(np.cov(found.T) - root[-1] @ root[-1]).max() < 0.1 * np.abs(root[-1] @ root[-1]).max()


def test_coefficients_of_a_drawn_picture_lead_back_to_it() -> None:
    """What is released of an image and what is drawn of a release are the same transform, the axes not exchanged."""
    layout = MomentsLayout(0, 12, 3, 12, 7.0)
    pixels = np.random.default_rng(2).integers(0, 256, (1, 12, 12, 3), np.uint8)
    mean = coefficients(layout, pixels)
    model = build_moments_generator(MomentsSpec(12, 3, 0, 12), 7.0, mean, np.zeros((1, 432, 432)))
    drawn = draw_levels(model, MomentsSpec(12, 3, 0, 12), None, 1, 0)
    assert np.abs(drawn[0] - pixels[0]).max() < 0.5 * 255 * 7 * 12 * TABLES_GRID


def test_the_generator_opens_in_plain_keras(tmp_path: object) -> None:
    from pathlib import Path

    spec = MomentsSpec(8, 1, 3, 2)
    model = build_moments_generator(spec, 4.0, np.full((3, 4), 0.1), np.zeros((3, 4, 4)))
    place = Path(str(tmp_path)) / "generator.keras"
    model.save(place)
    again = keras.models.load_model(place, compile=False)
    inputs = [np.zeros((3, 4), np.float32), np.array([[0], [1], [2]], np.int32)]
    assert np.array_equal(np.asarray(again(inputs)), np.asarray(model(inputs)))
