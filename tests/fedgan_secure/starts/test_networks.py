"""The Keras networks compute what their description says: held against the same mathematics written in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from fedgan_secure.data.phantoms.public_phantoms import draw_public
from fedgan_secure.networks.start_networks import (
    Features,
    build_feature_network,
    build_start_generator,
    feature_model,
    generator_model,
    weights_of,
)
from fedgan_secure.pretraining.public_statistics import public_statistics, standardise
from fedgan_secure.starts import LATENT, Architecture, shipped_start

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return {name: value.astype(np.float64) for name, value in shipped_start().weights.items()}


@pytest.fixture(scope="module")
def levels() -> np.ndarray:
    return draw_public(30, first=24_000, workers=1).images


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)


def grouped(x: np.ndarray) -> np.ndarray:
    """Normalise [n,h,w,c] over height, width and each of 8 groups of channels."""
    n, h, w, c = x.shape
    split = x.reshape(n, h, w, 8, c // 8)
    mean, variance = (f(split, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    return ((split - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Correlate [n,h,w,a] with [k,k,a,b], zeros around."""
    side, pad = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = x.shape[1] // stride
    total = np.zeros((len(x), out, out, kernel.shape[3]))
    for i in range(side):
        for j in range(side):
            total += padded[:, i : i + out * stride : stride, j : j + out * stride : stride] @ kernel[i, j]
    return total


def doubled(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Transposed convolution of stride 2: [n,h,w,a] and [4,4,b,a] give [n,2h,2w,b]."""
    n, side = x.shape[:2]
    total = np.zeros((n, 2 * side + 2, 2 * side + 2, kernel.shape[2]))
    for i in range(4):
        for j in range(4):
            total[:, i : i + 2 * side : 2, j : j + 2 * side : 2] += x @ kernel[i, j].T
    return total[:, 1:-1, 1:-1]


def generated(w: Weights, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    mixed = np.concatenate([z[:, :64], w["g_label/0"][labels]], axis=1)
    condition = leaky(mixed @ w["g_mix/0"] + w["g_mix/1"])
    hidden = (condition @ w["g_dense/0"] + w["g_dense/1"]).reshape(len(z), 4, 4, 128)
    first = 64
    for index in range(4):
        scale, shift = (condition @ w[f"g_{kind}{index}/0"] + w[f"g_{kind}{index}/1"] for kind in ("scale", "shift"))
        hidden = grouped(hidden) * scale[:, None, None] + shift[:, None, None]
        hidden = doubled(leaky(hidden), w[f"g_up{index}/0"]) + w[f"g_up{index}/1"]
        if index < 3:
            side = 8 << index
            hidden += z[:, first : first + side * side].reshape(-1, side, side, 1) * w[f"g_noise{index}/0"][0, 0, 0]
            first += side * side
    hidden = leaky(hidden * (condition @ w["g_scale4/0"] + w["g_scale4/1"])[:, None, None])
    return np.tanh(convolved(hidden, w["g_last/0"], 1) + w["g_last/1"])


def featured(w: Weights, x: np.ndarray) -> np.ndarray:
    hidden, responses = x, []
    for index in range(3):
        hidden = grouped(convolved(hidden, w[f"f_conv{index}/0"], 2) + w[f"f_conv{index}/1"])
        hidden = np.maximum(hidden * w[f"f_norm{index}/0"] + w[f"f_norm{index}/1"], 0)
        responses.append(hidden.mean(axis=(1, 2)))
    pooled = np.concatenate([responses[-1], hidden.max(axis=(1, 2))], axis=1)
    told = np.maximum(pooled @ w["f_hidden/0"] + w["f_hidden/1"], 0)
    cells = x.reshape(-1, 4, 16, 4, 16, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(len(x), -1)
    mean = x.mean(axis=(1, 2))
    spread = np.sqrt(((x - mean[:, None, None]) ** 2).mean(axis=(1, 2)) + 1e-6)
    box = np.einsum("ij,co->ijco", np.full((3, 3), 1 / 9), np.eye(3))
    fine = np.abs(x - convolved(x, box, 1)).mean(axis=(1, 2))
    cross = np.stack([mean[:, 0] * mean[:, 1], mean[:, 0] * mean[:, 2], mean[:, 1] * mean[:, 2]], axis=1)
    grade, counts = (told @ w[f"f_{name}/0"] + w[f"f_{name}/1"] for name in ("grade", "counts"))
    return np.concatenate([cells, spread, fine, cross, mean, *responses[:2], pooled, grade, counts], axis=1)


def test_the_generator_computes_what_it_says(weights: Weights) -> None:
    z = np.random.default_rng(1).standard_normal((5, LATENT)).astype(np.float32)
    labels = np.arange(5, dtype=np.int32)
    made = np.asarray(build_start_generator(shipped_start())([z, labels[:, None]]))
    assert made.shape == (5, 64, 64, 3) and made.dtype == np.float32
    assert np.abs(made - generated(weights, z.astype(np.float64), labels)).max() < 1e-4
    assert np.abs(made[0] - made[1]).mean() > 0.01


def test_the_feature_network_computes_what_it_says(weights: Weights, levels: np.ndarray) -> None:
    x = levels[:6].astype(np.float32) / 127.5 - 1
    raw = np.asarray(build_feature_network(shipped_start())(x))
    assert raw.shape == (6, 271)
    assert np.abs(raw - featured(weights, x.astype(np.float64))).max() < 1e-4


def test_features_are_standardised_limited_and_differentiable(levels: np.ndarray) -> None:
    start = shipped_start()
    features = Features(start)
    seen: list[tuple[str, int, int]] = []
    values = features.of_images(levels, progress=lambda *state: seen.append(state))
    raw = np.asarray(build_feature_network(start)(levels.astype(np.float32) / 127.5 - 1))
    by_hand = 6 * np.tanh((raw - start.feature_mean) / start.feature_std / 6)
    by_hand[:, 260:] *= 2
    assert np.abs(values - by_hand).max() < 1e-3
    assert np.abs(values - standardise(raw, start.feature_mean, start.feature_std, start.architecture)).max() < 1e-3
    assert np.abs(values).max() <= 12 and np.abs(values[:, :260]).max() <= 6
    assert seen == [("computing public features", 30, 30)]
    x = tf.constant(levels[:2].astype(np.float32) / 127.5 - 1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(features.of(x))
    slope = tape.gradient(total, x).numpy()
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0
    assert features.of_images(levels[:0]).shape == (0, 271)


def test_the_grade_is_told_on_pictures_that_were_not_trained_on(levels: np.ndarray) -> None:
    labels = draw_public(30, first=24_000, workers=1).labels
    raw = np.asarray(build_feature_network(shipped_start())(levels.astype(np.float32) / 127.5 - 1))
    assert (raw[:, 260:265].argmax(axis=1) == labels).mean() > 0.6


def test_a_start_is_frozen_and_its_weights_come_back() -> None:
    start = shipped_start()
    networks = build_start_generator(start), build_feature_network(start)
    assert not any(network.trainable_variables for network in networks)
    again = weights_of(*networks)
    assert set(again) == set(start.weights)
    assert all(np.array_equal(again[name], start.weights[name]) for name in again)


@pytest.mark.parametrize(("classes", "counts", "channels"), [(5, 6, 3), (2, 0, 1), (7, 1, 3)])
def test_shapes_without_tensorflow_are_the_networks_own(classes: int, counts: int, channels: int) -> None:
    architecture = Architecture(classes, counts, channels)
    generator, network = generator_model(architecture, 4), feature_model(architecture, 4)
    made = weights_of(generator, network)
    assert {name: value.shape for name, value in made.items()} == architecture.weight_shapes()
    assert network.output_shape == (None, architecture.features)
    assert generator.output_shape == (None, 64, 64, channels)
    assert all(
        np.array_equal(value, made[name]) for name, value in weights_of(generator_model(architecture, 4)).items()
    )


def test_statistics_are_of_the_standardised_features() -> None:
    architecture = Architecture(2, 0, 1)
    raw = np.random.default_rng(0).normal(3.0, 2.0, (400, architecture.features)).astype(np.float32)
    raw[:, 5] = 1.0
    labels = np.arange(400) % 2
    raw[labels == 1, 7] += 4
    made = public_statistics(raw, labels, architecture)
    assert made["feature_std"][5] > 0 and np.allclose(made["feature_mean"], raw.mean(axis=0), atol=1e-4)
    values = standardise(raw, made["feature_mean"], made["feature_std"], architecture)
    assert np.allclose(made["public_means"][1], values[labels == 1].mean(axis=0), atol=1e-5)
    within = np.concatenate([values[labels == k] - values[labels == k].mean(axis=0) for k in range(2)])
    assert np.allclose(made["public_covariance"], within.T @ within / 400, atol=1e-4)
    with pytest.raises(ValueError, match="label 1"):
        public_statistics(raw, np.zeros(400, np.int64), architecture)
