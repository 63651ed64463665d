"""Shapes, determinism, files, and the flat vector, for every supported size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.models.errors import ModelError
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.dcgan import (
    build_discriminator,
    build_generator,
    discriminator_graph,
    draw_images,
    generator_inputs,
)
from fedgan_secure.networks.features import binomial_kernel, oriented_bank, surround_bank
from fedgan_secure.networks.vectors import VectorLayout, named_weights, save_models
from fedgan_secure.synthesis.loading import load_generator

TINY = ModelSpec(28, 1, 3, 4, (6, 4), (5,), 6)


def small(image_size: int, channels: int, classes: int, features: str = "oriented") -> ModelSpec:
    doublings = {28: 2, 64: 4, 128: 5}[image_size]
    return ModelSpec(image_size, channels, classes, 5, (8,) * doublings, (8, 8), 8, features)


@pytest.mark.parametrize("features", ["oriented", "none"])
@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [28, 64, 128])
def test_shapes_and_ranges(image_size: int, channels: int, classes: int, features: str) -> None:
    spec = small(image_size, channels, classes, features)
    generator, discriminator = build_generator(spec, 1), build_discriminator(spec, 1)
    z = tf.constant(np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32))
    labels = tf.constant([[0], [1], [3]] if classes else [[0]] * 3)
    images = generator(generator_inputs(spec, z, labels))
    assert tuple(images.shape) == (3, image_size, image_size, channels)
    assert float(tf.reduce_max(tf.abs(images))) <= 1.0
    outputs = discriminator([images, labels] if classes else images)
    if classes:
        assert [tuple(part.shape) for part in outputs] == [(3, 1), (3, classes)]
    else:
        assert tuple(outputs.shape) == (3, 1)


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    layout = VectorLayout.of(TINY)
    assert np.array_equal(layout.initial_vector(5), layout.initial_vector(5))
    assert not np.array_equal(layout.initial_vector(5), layout.initial_vector(6))


def test_the_class_changes_the_image_and_the_realness() -> None:
    spec = small(28, 1, 4)
    generator, discriminator = build_generator(spec, 1), build_discriminator(spec, 1)
    for name, weight in named_weights(discriminator):
        if "d_label" in name:
            weight.assign(np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32))
    z = tf.ones([1, 5])
    first, second = (generator(generator_inputs(spec, z, tf.constant([[k]]))) for k in (0, 1))
    assert float(tf.reduce_max(tf.abs(first - second))) > 1e-3
    scores = [float(discriminator([first, tf.constant([[k]])])[0][0, 0]) for k in (0, 1)]
    assert scores[0] != scores[1]


def test_the_engine_and_keras_share_one_topology() -> None:
    spec = small(28, 3, 4)
    model = build_discriminator(spec, 1)
    layers = {layer.name: layer for layer in model.layers}
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 28, 28, 3)).astype(np.float32))
    labels = tf.constant([[1], [2]])
    ours = discriminator_graph(spec, lambda name, *inputs: layers[name](*inputs), images, labels)
    for left, right in zip(ours, model([images, labels]), strict=True):
        assert np.allclose(left, right, atol=1e-6)


def test_the_discriminator_never_mixes_a_batch() -> None:
    for normalization in ("none", "group"):
        spec = dataclasses.replace(small(28, 1, 0), normalization=normalization)
        model = build_discriminator(spec, 1)
        images = np.random.default_rng(0).uniform(-1, 1, (3, 28, 28, 1)).astype(np.float32)
        alone = model(tf.constant(images[:1]))
        assert np.allclose(model(tf.constant(images))[:1], alone, atol=1e-5)
        assert not any("Batch" in type(layer).__name__ for layer in model.layers)


def test_models_survive_a_file(tmp_path: Path) -> None:
    layout = VectorLayout.of(TINY)
    vector = layout.initial_vector(3)
    save_models(vector, TINY, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["discriminator.keras", "generator.keras"]
    generator = load_generator(tmp_path / "generator.keras", TINY)
    discriminator = keras.models.load_model(tmp_path / "discriminator.keras", compile=False)
    assert np.array_equal(layout.flatten(generator, discriminator), vector)
    fresh = build_generator(TINY, 9)
    layout.assign(vector, fresh, build_discriminator(TINY, 9))
    labels = np.array([0, 1, 2], np.int32)
    assert np.array_equal(draw_images(generator, TINY, labels, 3, seed=4), draw_images(fresh, TINY, labels, 3, seed=4))


def test_a_generator_file_needs_no_code_of_ours(tmp_path: Path) -> None:
    generator = build_generator(TINY, 1)
    assert all(type(layer).__module__.split(".")[0] == "keras" for layer in generator.layers)


def test_a_missing_or_broken_generator_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no generator") as caught:
        load_generator(tmp_path / "generator.keras")
    assert caught.value.exit_code == 2
    (tmp_path / "generator.keras").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="has no policy"):
        load_generator(tmp_path / "generator.keras")
    with pytest.raises(ModelError, match="has 11 bytes, expected"):
        load_generator(tmp_path / "generator.keras", TINY)


def test_drawing_is_deterministic_and_checks_labels() -> None:
    generator = build_generator(TINY, 1)
    labels = np.array([0, 1, 2, 0, 1], np.int32)
    first = draw_images(generator, TINY, labels, 5, seed=1, batch=2)
    assert first.dtype == np.uint8
    assert first.shape == (5, 28, 28, 1)
    assert np.array_equal(first, draw_images(generator, TINY, labels, 5, seed=1, batch=5))
    assert not np.array_equal(first, draw_images(generator, TINY, labels, 5, seed=2))
    for wrong in (None, labels[:2], np.array([0, 1, 2, 3, 0])):
        with pytest.raises(ModelError, match="labels"):
            draw_images(generator, TINY, wrong, 5, seed=1)


# --- vectors ----------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_vector_goes_round(seed: int) -> None:
    layout = VectorLayout.of(TINY)
    vector = np.random.default_rng(seed).standard_normal(layout.size).astype(np.float32)
    generator, discriminator = build_generator(TINY, 0), build_discriminator(TINY, 0)
    layout.assign(vector, generator, discriminator)
    assert np.array_equal(layout.flatten(generator, discriminator), vector)


def test_the_layout_covers_every_trained_weight_once() -> None:
    layout = VectorLayout.of(TINY)
    generator, discriminator = build_generator(TINY, 0), build_discriminator(TINY, 0)
    trained = sum(int(np.prod(weight.shape)) for weight in generator.trainable_weights)
    assert layout.generator_slice == slice(0, trained)
    judged = sum(int(np.prod(weight.shape)) for weight in discriminator.trainable_weights)
    assert layout.size == trained + judged
    stops = [0, *(entry.stop for entry in layout.entries)]
    assert [entry.start for entry in layout.entries] == stops[:-1]
    assert len({entry.name for entry in layout.entries}) == len(layout.entries)


def test_the_layout_hash_is_the_same_everywhere_and_differs_between_models() -> None:
    # The same under every supported Keras: names, shapes and order are ours, not the library's.
    assert VectorLayout.of(TINY).layout_hash == "c28cfeebbbb304b21eac1c2ab7587d0c502f836504f3f4d63bc9e4355f4791b5"
    assert VectorLayout.of(dataclasses.replace(TINY, latent_dim=5)).layout_hash != VectorLayout.of(TINY).layout_hash


@pytest.mark.parametrize("fault", ["dtype", "length", "nan", "inf"])
def test_a_wrong_vector_is_refused(fault: str) -> None:
    layout = VectorLayout.of(TINY)
    vector = layout.initial_vector(0)
    if fault == "dtype":
        vector = vector.astype(np.float64)
    elif fault == "length":
        vector = vector[:-1]
    else:
        vector[7] = np.nan if fault == "nan" else np.inf
    with pytest.raises(ModelError):
        layout.assign(vector, build_generator(TINY, 0), build_discriminator(TINY, 0))


def test_another_models_weights_are_refused() -> None:
    other = dataclasses.replace(TINY, discriminator_dense=7)
    with pytest.raises(ModelError, match="layout"):
        VectorLayout.of(TINY).flatten(build_generator(other, 0), build_discriminator(other, 0))


# --- public features --------------------------------------------------------------------------------------------


def test_the_public_filters_see_no_constant_and_come_in_pairs() -> None:
    for bank in (oriented_bank(), surround_bank(3)):
        assert np.abs(bank.sum(axis=(0, 1))).max() < 1e-5
        assert np.allclose(bank[..., 0::2], -bank[..., 1::2])


def test_the_smoothing_removes_a_checkerboard() -> None:
    board = np.indices((16, 16)).sum(axis=0) % 2 * 2.0 - 1.0
    image = tf.constant(np.repeat(board[None, :, :, None], 3, axis=3).astype(np.float32))
    smooth = tf.nn.conv2d(image, binomial_kernel(3), 1, "VALID")
    assert float(tf.reduce_max(tf.abs(smooth))) < 1e-6
