"""Book-keeping against the oracle: a loop over patients, each with a backward pass of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.dpsgd.clipping import MARGIN, PerPatientGradients, refuse_mixing
from fedgan_secure.dpsgd.norms import variable
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.dcgan import build_discriminator, discriminator_graph
from fedgan_secure.networks.losses import real_loss
from fedgan_secure.networks.vectors import named_weights
from fedgan_secure.privacy.errors import PrivacyRefused

SMALL = {"generator_widths": (8, 8, 8, 8), "discriminator_dense": 12}
SPECS = {
    "oriented": ModelSpec(64, 3, 5, discriminator_widths=(8, 12), **SMALL),
    "pixels, group normalisation": ModelSpec(
        64, 3, 5, discriminator_widths=(8, 16, 16, 16), features="none", normalization="group", **SMALL
    ),
    "28 px, grey, unconditional": ModelSpec(
        28, 1, 0, generator_widths=(8, 8), discriminator_widths=(8, 16), features="none", discriminator_dense=8
    ),
}
WEIGHTS = np.array([[0.5, 0.5], [1, 0], [0.5, 0.5], [0.5, 0.5], [0, 0], [1, 0]], np.float32)


def loss(outputs: Any, labels: Any) -> Any:
    return real_loss(outputs, labels, 0.5)


def flat(gradients: Sequence[Any], weights: Sequence[Any]) -> np.ndarray:
    return np.concatenate(
        [
            np.zeros(int(np.prod(weight.shape)))
            if gradient is None
            else tf.convert_to_tensor(gradient).numpy().astype(np.float64).ravel()
            for gradient, weight in zip(gradients, weights, strict=True)
        ]
    )


def oracle(model: Any, images: Any, labels: Any, weights: np.ndarray) -> np.ndarray:
    """float64[patients, d]: every patient's gradient of the mean loss over their images."""
    trained = [variable(weight) for _, weight in named_weights(model)]
    m = weights.shape[1]
    rows = []
    for patient, own in enumerate(weights):
        at = slice(patient * m, patient * m + m)
        given = None if labels is None else labels[at]
        with tf.GradientTape() as tape:
            outputs = model(images[at] if given is None else [images[at], given])
            total = tf.reduce_sum(loss(outputs, given) * own)
        rows.append(flat(tape.gradient(total, trained), trained))
    return np.stack(rows)


def clipped(rows: np.ndarray, bound: float) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1)
    return (rows * np.minimum(1, bound * (1 - MARGIN) / np.maximum(norms, 1e-300))[:, None]).sum(axis=0)


def relative(found: Any, expected: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


class Case:
    def __init__(self, spec: ModelSpec, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.model = build_discriminator(spec, 1)
        named = [weight for _, weight in named_weights(self.model)]
        for weight in named:
            weight.assign(np.asarray(weight) + 0.05 * rng.standard_normal(weight.shape).astype(np.float32))
        layers = {layer.name: layer for layer in self.model.layers}

        def graph(call: Callable[..., Any], images: Any, labels: Any) -> Any:
            return discriminator_graph(spec, call, images, labels)

        self.engine = PerPatientGradients(graph, layers, named)
        shape = (WEIGHTS.size, spec.image_size, spec.image_size, spec.channels)
        self.images = rng.uniform(-1, 1, shape).astype(np.float32)
        self.labels = rng.integers(0, spec.classes, (WEIGHTS.size, 1)).astype(np.int32) if spec.classes else None
        self._compiled: dict[float, Any] = {}

    def sum(self, bound: float, images: Any = None, weights: Any = WEIGHTS) -> tuple[Any, Any, Any]:
        images = self.images if images is None else images
        labels = None if self.labels is None else self.labels[: len(images)]
        if bound not in self._compiled:

            def run(pixels: Any, classes: Any, shares: Any) -> Any:
                result = self.engine.clipped_sum(pixels, classes, shares, bound, loss)
                return result.gradient, result.norms, result.scales

            self._compiled[bound] = tf.function(run, reduce_retracing=True)
        return self._compiled[bound](tf.constant(images), labels, tf.constant(weights))


@pytest.fixture(scope="module", params=SPECS, ids=list(SPECS))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(SPECS[request.param])


@pytest.fixture(scope="module")
def plain() -> Case:
    return Case(SPECS["oriented"], seed=4)


def test_clipped_and_unclipped_patients_mixed_equal_the_loop(case: Case) -> None:
    rows = oracle(case.model, case.images, case.labels, WEIGHTS)
    norms = np.linalg.norm(rows, axis=1)
    bound = float(np.median(norms[norms > 0]))
    gradient, found, scales = case.sum(bound)
    assert relative(gradient, clipped(rows, bound)) <= 1e-5
    assert np.asarray(found) == pytest.approx(norms, rel=1e-5, abs=1e-7)
    assert 0 < (np.asarray(scales) < 1).sum() < len(norms)


def test_the_clip_is_per_patient_not_per_image(plain: Case) -> None:
    """One patient whose two images' gradients differ: clipping image by image gives another sum."""
    rows = oracle(plain.model, plain.images, plain.labels, WEIGHTS)
    images = oracle(plain.model, plain.images, plain.labels, WEIGHTS.reshape(-1, 1))
    bound = 0.3 * float(np.median(np.linalg.norm(rows, axis=1)))
    gradient, _, _ = plain.sum(bound)
    assert relative(gradient, clipped(rows, bound)) <= 1e-5
    assert relative(gradient, clipped(images, bound)) > 0.05


def test_one_patient_moves_the_sum_by_at_most_the_clip_norm(plain: Case) -> None:
    bound = 0.2
    whole, _, _ = plain.sum(bound)
    for patient in range(len(WEIGHTS)):
        without = WEIGHTS.copy()
        without[patient] = 0
        rest, _, _ = plain.sum(bound, weights=without)
        assert np.linalg.norm(np.asarray(whole) - np.asarray(rest)) <= bound


def test_no_patients_and_padding_alone_give_zero(plain: Case) -> None:
    gradient, norms, _ = plain.sum(1.0, weights=np.zeros_like(WEIGHTS))
    assert not np.asarray(gradient).any()
    assert not np.asarray(norms).any()


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_a_patient_whose_gradient_is_not_finite_contributes_zero(plain: Case, poison: float) -> None:
    images = plain.images.copy()
    images[4, 3, 3, 0] = poison  # patient 2
    gradient, norms, scales = plain.sum(0.5, images=images)
    others = WEIGHTS.copy()
    others[2] = 0
    rows = oracle(plain.model, plain.images, plain.labels, others)
    assert np.isfinite(np.asarray(gradient)).all()
    assert not np.isfinite(np.asarray(norms)[2])
    assert np.asarray(scales)[2] == 0
    assert relative(gradient, clipped(rows, 0.5)) <= 1e-5


def test_a_wrong_loss_weighting_would_be_seen(plain: Case) -> None:
    rows = oracle(plain.model, plain.images, plain.labels, WEIGHTS)
    gradient, _, _ = plain.sum(1e9)
    assert relative(gradient, rows.sum(axis=0)) <= 1e-5
    assert relative(gradient, 2 * rows.sum(axis=0)) > 0.1


# --- single layers, any shape -----------------------------------------------------------------------------------


def layer_case(layer: Any, inputs: np.ndarray, patients: int) -> tuple[Any, np.ndarray]:
    """Norm rule, without its allowance, and loop for one layer under the loss sum(output * fixed weights)."""
    from fedgan_secure.dpsgd.norms import squared_norms

    rng = np.random.default_rng(3)
    output = layer(inputs)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape).astype(np.float32))
    backward = rng.standard_normal(tuple(output.shape)).astype(np.float32)
    trained = [variable(weight) for weight in layer.trainable_weights]
    m = len(inputs) // patients
    rows = []
    for patient in range(patients):
        at = slice(patient * m, patient * m + m)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(inputs[at]) * backward[at])
        rows.append(flat(tape.gradient(total, trained), trained))
    with patch("fedgan_secure.dpsgd.products.ALLOWANCE", 0.0):
        found = squared_norms(layer, (tf.constant(inputs),), tf.constant(backward), tf.constant(patients))
    return np.sqrt(np.asarray(found, np.float64)), np.linalg.norm(np.stack(rows), axis=1)


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid"]),
    dilation=st.integers(1, 2),
    channels=st.integers(1, 5),
    filters=st.integers(1, 40),
    images=st.integers(1, 3),
    bias=st.booleans(),
)
def test_convolution(kernel, stride, padding, dilation, channels, filters, images, bias) -> None:  # type: ignore[no-untyped-def]
    stride = 1 if dilation > 1 else stride
    layer = keras.layers.Conv2D(filters, kernel, strides=stride, padding=padding, dilation_rate=dilation, use_bias=bias)
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((3 * images, 9, 8, channels)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, expected = layer_case(layer, inputs, 3)
    assert found == pytest.approx(expected, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 30), units=st.integers(1, 30), images=st.integers(1, 4), deep=st.booleans())
def test_dense(width: int, units: int, images: int, deep: bool) -> None:
    rng = np.random.default_rng(1)
    shape = (3 * images, 5, width) if deep else (3 * images, width)
    found, expected = layer_case(keras.layers.Dense(units), rng.standard_normal(shape).astype(np.float32), 3)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_embedding_with_the_same_row_used_by_several_images(images: int) -> None:
    indices = np.random.default_rng(2).integers(0, 3, (4 * images, 1)).astype(np.int32)
    found, expected = layer_case(keras.layers.Embedding(3, 7), indices, 4)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("groups", [1, 2, -1])
@pytest.mark.parametrize("scale,center", [(True, True), (True, False), (False, True)])
def test_group_normalisation(groups: int, scale: bool, center: bool) -> None:
    inputs = np.random.default_rng(2).standard_normal((6, 5, 4, 8)).astype(np.float32)
    layer = keras.layers.GroupNormalization(groups=groups, scale=scale, center=center)
    found, expected = layer_case(layer, inputs, 3)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Conv2DTranspose(3, 3, strides=2),
        keras.layers.DepthwiseConv2D(3),
        keras.layers.Conv2D(4, 3, groups=2),
        keras.layers.Dense(5, activation="tanh"),
        keras.layers.LayerNormalization(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_without_a_rule_is_right_and_warns(layer: Any) -> None:
    inputs = np.random.default_rng(2).standard_normal((6, 6, 5, 4)).astype(np.float32)
    with pytest.warns(UserWarning, match="no norm rule"):
        found, expected = layer_case(layer, inputs, 3)
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_subclass_does_not_inherit_the_rule_of_its_class() -> None:
    class Scaled(keras.layers.Dense):
        def call(self, inputs: Any) -> Any:
            return 2.0 * super().call(inputs)

    inputs = np.random.default_rng(2).standard_normal((4, 6)).astype(np.float32)
    with pytest.warns(UserWarning, match="no norm rule"):
        found, expected = layer_case(Scaled(3), inputs, 2)
    assert found == pytest.approx(expected, rel=1e-5)


# --- refusals ---------------------------------------------------------------------------------------------------


def test_batch_normalisation_is_refused() -> None:
    layer = keras.layers.BatchNormalization()
    layer.build((None, 4))
    with pytest.raises(PrivacyRefused, match="mixes patients"):
        PerPatientGradients(lambda call, images, labels: call("n", images), {"n": layer}, layer.trainable_weights)


def test_a_layer_that_mixes_patients_under_another_name_is_refused() -> None:
    def apply(images: Any, labels: Any) -> Any:
        return tf.reduce_mean(images, axis=[1, 2, 3]) + tf.math.reduce_std(images)

    with pytest.raises(PrivacyRefused, match="mixes the examples"):
        refuse_mixing(apply, (8, 8, 1), conditional=False)
    refuse_mixing(lambda images, labels: tf.reduce_mean(images, axis=[1, 2, 3]), (8, 8, 1), conditional=False)


def test_a_layer_used_twice_and_a_forgotten_layer_are_refused() -> None:
    first, second = keras.layers.Dense(4), keras.layers.Dense(4)
    for layer in (first, second):
        layer.build((None, 4))
    images, ones = tf.zeros([2, 4]), tf.ones([2, 1])

    def total(outputs: Any, labels: Any) -> Any:
        return tf.reduce_sum(outputs, axis=1)

    twice = PerPatientGradients(lambda call, x, y: call("a", call("a", x)), {"a": first}, first.trainable_weights)
    with pytest.raises(PrivacyRefused, match="applied twice"):
        twice.clipped_sum(images, None, ones, 1.0, total)
    forgotten = PerPatientGradients(
        lambda call, x, y: call("a", x), {"a": first}, [*first.trainable_weights, *second.trainable_weights]
    )
    with pytest.raises(PrivacyRefused, match="not exactly"):
        forgotten.clipped_sum(images, None, ones, 1.0, total)
