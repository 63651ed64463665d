"""Several batches in one pass: bounded and free parts, explicit and Gram layers, against a loop over patients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.dpsgd.clipping import Part, PerPatientGradients
from fedgan_secure.dpsgd.norms import by_patient, measure, variable
from fedgan_secure.dpsgd.products import explicit_is_cheaper, patches
from fedgan_secure.dpsgd.step import discriminator_gradient
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.dcgan import build_discriminator, discriminator_graph
from fedgan_secure.networks.losses import fake_loss, real_loss
from fedgan_secure.networks.vectors import named_weights

SPEC = ModelSpec(
    28,
    1,
    3,
    generator_widths=(8, 8),
    discriminator_widths=(8, 24, 32),
    discriminator_dense=12,
    features="none",
    normalization="group",
)
MODEL = build_discriminator(SPEC, 1)
WEIGHTS = [variable(weight) for _, weight in named_weights(MODEL)]
SIZE = sum(int(np.prod(weight.shape)) for weight in WEIGHTS)


def graph(call: Callable[..., Any], images: Any, labels: Any) -> Any:
    return discriminator_graph(SPEC, call, images, labels)


ENGINE = PerPatientGradients(graph, {layer.name: layer for layer in MODEL.layers}, WEIGHTS)


def of_real(outputs: Any, labels: Any) -> Any:
    return real_loss(outputs, labels, 0.5)


def of_fake(outputs: Any, labels: Any) -> Any:
    return fake_loss(outputs)


def part(seed: int, patients: int, m: int, loss: Any, bound: float | None, factor: float) -> Part:
    rng = np.random.default_rng(seed)
    count = rng.integers(0, m + 1, patients)  # images that each patient has: none for padding
    weights = np.where(np.arange(m) < count[:, None], 1 / np.maximum(count, 1)[:, None], 0).astype(np.float32)
    images = rng.uniform(-1, 1, (patients * m, 28, 28, 1)).astype(np.float32)
    labels = rng.integers(0, 3, (patients * m, 1)).astype(np.int32)
    return Part(tf.constant(images), tf.constant(labels), tf.constant(weights), loss, bound, factor)


def loop(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Each patient by a backward pass of their own through Keras' model: the clipped sum, and the norms."""
    weights = part.weights.numpy()
    m = weights.shape[1]
    total, norms = np.zeros(SIZE), []
    for patient, own in enumerate(weights):
        at = slice(patient * m, patient * m + m)
        with tf.GradientTape() as tape:
            outputs = MODEL([part.images[at], part.labels[at]])
            mean = tf.reduce_sum(part.loss(outputs, part.labels[at]) * own)
        found = tape.gradient(mean, WEIGHTS, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        row = np.concatenate([tf.convert_to_tensor(value).numpy().astype(np.float64).ravel() for value in found])
        norm = np.linalg.norm(row)
        norms.append(norm)
        total += row * (1 if part.bound is None else min(1, part.bound / max(norm, 1e-300)))
    return total * part.factor, np.array(norms)


def summed(parts: list[Part]) -> list[tuple[np.ndarray, ...]]:
    found = [(one.gradient, *([] if one.norms is None else [one.norms])) for one in ENGINE.summed(parts)]
    return [tuple(value.numpy() for value in one) for one in found]


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 999),
    patients=st.integers(1, 5),
    m=st.integers(1, 3),
    fakes=st.integers(1, 5),
    bound=st.sampled_from([1e-3, 0.5, 2.0, 1e3]),
    bound_fakes=st.sampled_from([None, 0.3]),
)
def test_two_parts_equal_the_loop(
    seed: int, patients: int, m: int, fakes: int, bound: float, bound_fakes: float | None
) -> None:
    """Nobody, some or all clipped; patients without images; generated images bounded or not."""
    parts = [
        part(seed, patients, m, of_real, bound, 0.25),
        part(seed + 1, fakes, 1, of_fake, bound_fakes, 1 / fakes),
    ]
    found = summed(parts)
    sums, norms = zip(*(loop(one) for one in parts), strict=True)
    expected = sum(sums)
    assert np.linalg.norm(found[0][0] - expected) <= 1e-5 * np.linalg.norm(expected) + 1e-12
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(norms[0], rel=1e-5, abs=1e-7)


def test_the_network_reaches_every_kind_of_rule() -> None:
    kinds = set()
    for layer in MODEL.layers:
        if isinstance(layer, keras.layers.Conv2D):
            places = int(np.prod(layer.output.shape[1:3]))
            a, b = int(np.prod(layer.kernel.shape[:3])), int(layer.kernel.shape[3])
            kinds.add(explicit_is_cheaper(places, a, b))
    assert kinds == {True, False}
    assert any(isinstance(layer, keras.layers.GroupNormalization) for layer in MODEL.layers)


def test_an_empty_batch_of_patients_leaves_the_other_part_alone() -> None:
    nobody = Part(tf.zeros([0, 28, 28, 1]), tf.zeros([0, 1], tf.int32), tf.zeros([0, 2]), of_real, 1.0, 0.5)
    fakes = part(3, 4, 1, of_fake, None, 0.25)
    (gradient, norms), _ = summed([nobody, fakes])
    assert norms.shape == (0,)
    assert np.linalg.norm(gradient - loop(fakes)[0]) <= 1e-5 * np.linalg.norm(gradient)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("bound_fakes", [None, 0.3])
def test_a_patient_that_is_not_finite_drops_out_of_a_joint_step(poison: float, bound_fakes: float | None) -> None:
    real, fakes = part(5, 4, 1, of_real, 0.5, 0.25), part(6, 3, 1, of_fake, bound_fakes, 1 / 3)
    weights = np.ones((4, 1), np.float32)
    images = real.images.numpy()
    images[2, 5, 5] = poison
    poisoned = Part(tf.constant(images), real.labels, tf.constant(weights), of_real, 0.5, 0.25)
    (gradient, norms), *_ = summed([poisoned, fakes])
    weights[2] = 0
    others = Part(real.images, real.labels, tf.constant(weights), of_real, 0.5, 0.25)
    expected = loop(others)[0] + loop(fakes)[0]
    assert np.isfinite(norms).tolist() == [True, True, False, True]
    assert np.linalg.norm(gradient - expected) <= 1e-5 * np.linalg.norm(expected)


def test_the_whole_step_is_noise_plus_the_two_sums_over_their_public_divisors() -> None:
    real, fakes = part(8, 5, 2, of_real, None, 1.0), part(9, 6, 1, of_fake, None, 1.0)
    noise = np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)
    for bound_fakes in (True, False):
        found, clipped, mean = discriminator_gradient(
            ENGINE,
            (real.images, real.labels, real.weights),
            (fakes.images, fakes.labels),
            tf.constant(noise),
            clip_norm=0.4,
            noise_multiplier=1.5,
            expected_batch_size=7.0,
            real_loss=of_real,
            fake_loss=fake_loss,
            bound_fakes=bound_fakes,
        )
        ones = tf.ones([6, 1])
        sums = (
            loop(Part(real.images, real.labels, real.weights, of_real, 0.4 * 0.995, 1 / 7))[0]
            + loop(Part(fakes.images, fakes.labels, ones, of_fake, 0.4 if bound_fakes else None, 1 / 6))[0]
        )
        expected = sums + 1.5 * 0.4 / 7 * noise
        assert np.linalg.norm(found.numpy() - expected) <= 1e-5 * np.linalg.norm(sums)
        assert clipped.norms.shape == (5,)
        assert float(mean) == pytest.approx(
            float(tf.reduce_mean(fake_loss(MODEL([fakes.images, fakes.labels])))), rel=1e-5
        )


def test_a_batch_that_is_worked_through_in_chunks_gives_the_same_as_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = [part(11, 7, 2, of_real, 0.5, 1.0), part(12, 5, 1, of_fake, None, 0.2)]
    whole = summed(parts)
    monkeypatch.setattr("fedgan_secure.dpsgd.products._CHUNK", 20_000)
    pieces = summed(parts)
    assert np.linalg.norm(whole[0][0] - pieces[0][0]) <= 1e-6 * np.linalg.norm(whole[0][0])
    assert whole[0][1] == pytest.approx(pieces[0][1], rel=1e-6)


def test_a_float16_layer_gets_no_rule_made_for_float32() -> None:
    layer = keras.layers.Dense(3, dtype="float16")
    inputs = tf.constant(np.random.default_rng(1).standard_normal((4, 5)).astype(np.float16))
    with pytest.warns(UserWarning, match="no norm rule"):
        measure(layer, (inputs,), tf.ones_like(layer(inputs)), tf.constant(2))


def test_an_unknown_layer_in_a_network_is_right_and_warns() -> None:
    class Gain(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")
            super().build(shape)

        def call(self, inputs: Any) -> Any:
            return tf.tanh(inputs * tf.convert_to_tensor(self.gain))

    layers = {"gain": Gain(), "dense": keras.layers.Dense(1)}
    for layer, width in ((layers["gain"], 6), (layers["dense"], 6)):
        layer.build((None, width))
    weights = [variable(weight) for layer in layers.values() for weight in layer.trainable_weights]
    engine = PerPatientGradients(lambda call, x, y: call("dense", call("gain", x)), layers, weights)
    rng = np.random.default_rng(4)
    images = rng.standard_normal((8, 6)).astype(np.float32)
    shares = np.full((4, 2), 0.5, np.float32)

    def total(outputs: Any, labels: Any) -> Any:
        return tf.nn.softplus(outputs[:, 0])

    with pytest.warns(UserWarning, match="no norm rule"):
        found = engine.clipped_sum(tf.constant(images), None, tf.constant(shares), 0.3, total, margin=0.0)
    expected = np.zeros(found.gradient.shape[0])
    for patient in range(4):
        with tf.GradientTape() as tape:
            rows = images[2 * patient : 2 * patient + 2]
            mean = tf.reduce_mean(total(layers["dense"](layers["gain"](rows)), None))
        row = np.concatenate([np.ravel(value) for value in tape.gradient(mean, weights)]).astype(np.float64)
        expected += row * min(1, 0.3 / np.linalg.norm(row))
    assert np.linalg.norm(found.gradient.numpy() - expected) <= 1e-5 * np.linalg.norm(expected)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(4, 11), st.integers(4, 11)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from(["same", "valid"]),
)
def test_patches_are_those_of_tensorflow(
    size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], padding: str
) -> None:
    images = tf.reshape(tf.range(2 * size[0] * size[1] * 3, dtype=tf.float32), (2, *size, 3))
    expected = tf.image.extract_patches(images, (1, *kernel, 1), (1, *strides, 1), (1, 1, 1, 1), padding.upper())
    assert np.array_equal(patches(images, kernel, strides, (1, 1), padding), expected)


@settings(max_examples=15, deadline=None)
@given(
    places=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    groups=st.sampled_from([1, 2, 3, -1]),
    m=st.integers(1, 3),
    mean=st.sampled_from([0.0, 3.0]),
)
def test_group_normalisation_is_keras_own_forward_and_backward(
    places: tuple[int, int], groups: int, m: int, mean: float
) -> None:
    from fedgan_secure.dpsgd.norms import row_forward

    rng = np.random.default_rng(6)
    inputs = tf.constant((mean + rng.standard_normal((2 * m, *places, 6))).astype(np.float32))
    layer = keras.layers.GroupNormalization(groups=groups, epsilon=1e-2)
    layer.build(inputs.shape)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape).astype(np.float32))
    back = tf.constant(rng.standard_normal(inputs.shape).astype(np.float32))
    own = [variable(weight) for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        expected = layer(inputs)
    wanted = tape.gradient(expected, [inputs, *own], output_gradients=back)
    forward = row_forward(layer)
    assert forward is not None
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output, rows = forward(layer, inputs, watch=tape.watch)
    found = tape.gradient(output, [inputs, *rows], output_gradients=back)
    assert output.numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
    assert found[0].numpy() == pytest.approx(wanted[0].numpy(), rel=1e-3, abs=1e-4)
    for row, whole in zip(found[1:], wanted[1:], strict=True):
        assert row.numpy().sum(0) == pytest.approx(whole.numpy(), rel=1e-3, abs=1e-4)
        assert by_patient(row, tf.constant(2)).shape == (2, m, 6)


@pytest.mark.parametrize("name", ["TF_SET_ONEDNN_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE"])
def test_arithmetic_of_fewer_bits_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from fedgan_secure.dpsgd.arithmetic import require_float32_arithmetic
    from fedgan_secure.privacy.errors import PrivacyRefused

    monkeypatch.setenv(name, "BF16")
    with pytest.raises(PrivacyRefused, match=name):
        PerPatientGradients(graph, {}, [])
    monkeypatch.setenv(name, "STRICT")
    tf.config.experimental.enable_tensor_float_32_execution(True)
    require_float32_arithmetic()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
