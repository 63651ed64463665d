"""Per-patient gradient norms of one layer, from its input and the gradient of its output.

Book-keeping (Bu, Wang, Zha, Karypis, "Differentially Private Optimization on Large Model at Small Cost", 2022): the
gradient of a weight is a sum of products of what went into the layer and what came back to its output, so a
patient's norm follows without running the backward pass again. A patient's images stand side by side: cross terms
between them are part of the norm.

Rounding is part of the guarantee. Whoever chooses the weights can make the terms of a patient's gradient cancel, so
that neither a norm computed in float32 nor the gradient itself has a correct digit left. Three things keep the norm
at or above what the patient then contributes:

* where a norm follows from inner products (the Gram trick), these are float64: they cancel below 1e-16 of the terms;
* every rule adds ``ALLOWANCE * B**2`` to the squared norm. B, the *mass*, is the sum of the norms of the terms before
  they cancel, over all images and places of the patient: ``sum |input| |gradient|``. A float32 sum of these terms, in
  any order, is off by a small multiple of ``2**-24 * B``; the norm is at least ``sqrt(ALLOWANCE) * B``, some 3700 times
  ``2**-24 * B``, so that error, once clipped, stays far inside the margin that `clipping.MARGIN` leaves for it;
* what has no rule is summed from explicit per-patient gradients, of which these are the norms (`one_by_one`).

Norms of inputs are taken in float32 on purpose: an input beyond 1e19 gives an infinite mass, and the patient is left
out. Otherwise the output gradient, once scaled, could underflow and count for much all the same.

A rule is a function ``rule(layer, inputs, gradient, patients) -> float64[patients]``: the squared norm of every
patient's gradient over all trainable weights of the layer, allowance included (`with_allowance`). `register` adds
one: that is the extension point. A layer without a rule, or used in a way its rule does not cover, is handled by
`one_by_one`, which is right for any layer and slow, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Rule = Callable[[Any, tuple[Any, ...], Any, Any], Any]

ALLOWANCE = 5e-8
"""Added to a squared norm, in squared masses: a floor under every norm of 2.2e-4 B. An ordinary gradient has B of 3 to
16 norms, and its norm grows by at most 6e-6 of itself."""

_LEAST = 1e-30
"""Least squared norm of an input in a mass: what underflows in float32 may meet a gradient beyond 1e19."""
_DOUBT = 1e-6
"""How much of the squared mean may be missing from a variance, depending on how a group normalisation computes it."""

_RULES: dict[type, tuple[Rule, Callable[[Any], bool]]] = {}


def register(kind: type, rule: Rule, covers: Callable[[Any], bool] = lambda layer: True) -> None:
    """Use a rule for layers of exactly this class (a subclass may compute something else) that it covers."""
    _RULES[kind] = (rule, covers)


def measure(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> tuple[Any, list[Any] | None]:
    """Squared norms as `squared_norms`, and for a layer without a rule the gradients of `one_by_one` themselves.

    Where there are such gradients, a clipped sum has to be made from them: another way of summing may round otherwise,
    and of a layer without a rule nothing says by how much.
    """
    rule, covers = _RULES.get(type(layer), (None, lambda layer: False))
    if rule is not None and covers(layer):
        return rule(layer, inputs, gradient, patients), None
    warnings.warn(
        f"layer {layer.name} ({type(layer).__name__}) has no norm rule for this use: "
        "its per-patient gradients are computed one by one, exactly but slowly",
        stacklevel=3,
    )
    gradients = one_by_one(layer, inputs, gradient, patients)
    squares = [_square_sum(tf.reshape(tf.cast(value, tf.float64), [patients, -1])) for value in gradients]
    return tf.add_n(squares), gradients


def squared_norms(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    """Squared norm of every patient's gradient over the layer's trainable weights.

    Args:
        layer: a Keras layer with trainable weights.
        inputs: what it was called with; leading axis patients * m, a patient's m images in a row.
        gradient: of the loss by the layer's output, same leading axis.
        patients: their number (a scalar tensor).

    Returns:
        float64[patients], at least the true value and at least ``ALLOWANCE * B**2`` (where the layer has a rule).
    """
    return measure(layer, inputs, gradient, patients)[0]


def with_allowance(squares: Any, mass: Any) -> Any:
    """Squared norms that are safe to clip by.

    Args: squares: [patients], as computed; mass: [patients], sums of the norms of the terms before they cancel.

    Returns:
        float64[patients].
    """
    return tf.cast(squares, tf.float64) + ALLOWANCE * tf.square(tf.cast(mass, tf.float64))


def variable(weight: Any) -> tf.Variable:
    """The TensorFlow variable behind a Keras weight, in Keras 2 and Keras 3."""
    inner = weight.value
    return weight if callable(inner) else inner


def by_patient(tensor: Any, patients: Any) -> Any:
    """[patients * m, ...] -> [patients, m, ...] for any m (also when there are no patients)."""
    shape = tf.shape(tensor)
    images = tf.math.floordiv(shape[0], tf.maximum(patients, 1))
    return tf.reshape(tensor, tf.concat([[patients, images], shape[1:]], axis=0))


def _rows(tensor: Any, patients: Any) -> Any:
    """[patients * m, ..., c] -> [patients, m * ..., c]."""
    channels = tensor.shape[-1]
    shape = tf.shape(tensor)
    places = tf.math.floordiv(tf.reduce_prod(shape[:-1]), tf.maximum(patients, 1))
    return tf.reshape(tensor, tf.stack([patients, places, channels]))


def _square_sum(tensor: Any) -> Any:
    return tf.reduce_sum(tf.square(tensor), axis=list(range(1, tensor.shape.rank)))


def _products(left: Any, right: Any, places: int) -> Any:
    """Squared norm of ``left^T right`` per patient, by the cheaper of the explicit product and the Gram trick.

    Args: left [P, places, a], right [P, places, b].

    Returns:
        float64[P]; the explicit product is the float32 sum the layer itself would make.
    """
    a, b = int(left.shape[-1]), int(right.shape[-1])
    if places * (a + b) < a * b:
        left, right = tf.cast(left, tf.float64), tf.cast(right, tf.float64)
        return tf.reduce_sum(
            tf.matmul(left, left, transpose_b=True) * tf.matmul(right, right, transpose_b=True), axis=[1, 2]
        )
    return tf.cast(_square_sum(tf.matmul(left, right, transpose_a=True)), tf.float64)


def _bias(layer: Any, rows: Any) -> Any:
    if not layer.use_bias:
        return tf.zeros([], tf.float64)
    return tf.cast(_square_sum(tf.reduce_sum(rows, axis=1)), tf.float64)


def _lengths(rows: Any) -> Any:
    """[P, places, c] -> float64[P, places]: norms that neither overflow nor underflow."""
    return tf.sqrt(tf.reduce_sum(tf.square(tf.cast(rows, tf.float64)), axis=2))


def _mass(layer: Any, left_squares: Any, right: Any) -> Any:
    """``sum of sqrt(|input|^2 + 1) |gradient|`` over the places, without the 1 where there is no bias.

    Args: left_squares: float32[P, places], squared norms of the inputs; right [P, places, b].

    Returns:
        float64[P].
    """
    constant = 1.0 if layer.use_bias else _LEAST
    return tf.reduce_sum(tf.sqrt(tf.cast(left_squares, tf.float64) + constant) * _lengths(right), axis=1)


def _linear(layer: Any) -> bool:
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _dense(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    left, right = _rows(inputs[0], patients), _rows(gradient, patients)
    places = int(np.prod(inputs[0].shape[1:-1], dtype=np.int64)) if inputs[0].shape.rank > 2 else 1
    mass = _mass(layer, tf.reduce_sum(tf.square(left), axis=2), right)
    return with_allowance(_products(left, right, places) + _bias(layer, right), mass)


def _convolution(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    def patches(images: Any) -> Any:
        height, width = layer.kernel_size
        strides, rates = (1, *layer.strides, 1), (1, *layer.dilation_rate, 1)
        return tf.image.extract_patches(images, (1, height, width, 1), strides, rates, layer.padding.upper())

    left, right = _rows(patches(inputs[0]), patients), _rows(gradient, patients)
    places = int(np.prod(gradient.shape[1:-1], dtype=np.int64))
    pixels = _rows(patches(tf.reduce_sum(tf.square(inputs[0]), axis=3, keepdims=True)), patients)
    mass = _mass(layer, tf.reduce_sum(pixels, axis=2), right)
    return with_allowance(_products(left, right, places) + _bias(layer, right), mass)


def _embedding(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    right = tf.cast(_rows(gradient, patients), tf.float64)
    index = tf.reshape(tf.cast(inputs[0], tf.int32), tf.shape(right)[:2])
    same = tf.cast(tf.equal(index[:, :, None], index[:, None, :]), right.dtype)
    squares = tf.reduce_sum(same * tf.matmul(right, right, transpose_b=True), axis=[1, 2])
    return with_allowance(squares, tf.reduce_sum(_lengths(right), axis=1))


def _group_normalisation(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    """The layer may compute ``x / s - mean / s`` and the variance as ``E x^2 - mean^2``, which cancel too: the mass
    holds ``(|x| + |mean|) / s``, with the largest ``1 / s`` it could have."""
    features = inputs[0]
    channels = int(features.shape[-1])
    groups = channels if layer.groups == -1 else int(layer.groups)
    shape = tf.shape(features)
    split = tf.reshape(features, tf.stack([shape[0], -1, groups, channels // groups]))
    mean, variance = tf.nn.moments(split, axes=[1, 3], keepdims=True)
    total = tf.zeros([patients], tf.float64)
    mass = tf.zeros([patients], tf.float64)
    if layer.scale:
        normal = tf.reshape((split - mean) * tf.math.rsqrt(variance + layer.epsilon), shape)
        scale = _rows(tf.reshape(normal * gradient, tf.shape(gradient)), patients)
        sums = tf.reduce_sum(tf.ensure_shape(scale, (None, None, channels)), axis=1)
        total += tf.cast(_square_sum(sums), tf.float64)
        steepest = tf.math.rsqrt(tf.nn.relu(variance - _DOUBT * tf.square(mean)) + layer.epsilon)
        largest = tf.reshape((tf.abs(split) + tf.abs(mean)) * steepest, shape) * gradient
        mass += tf.reduce_sum(_lengths(_rows(tf.reshape(largest, tf.shape(gradient)), patients)), axis=1)
    if layer.center:
        rows = _rows(gradient, patients)
        total += tf.cast(_square_sum(tf.reduce_sum(rows, axis=1)), tf.float64)
        mass += tf.reduce_sum(_lengths(rows), axis=1)
    return with_allowance(total, mass)


def one_by_one(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> list[Any]:
    """Every patient's gradient by itself, for any layer, with ``tf.vectorized_map``.

    Nothing is known of the terms inside such a layer, so there is no mass to be careful by. What is sound instead: the
    clipped sum is made of these very tensors, each scaled to its own norm, whatever digits they have lost.

    Returns:
        float32[patients, ...] per trainable weight, in their order; zero where the output does not depend on it.
    """
    weights = [variable(weight) for weight in layer.trainable_weights]
    parted = tuple(tf.nest.map_structure(lambda x: by_patient(x, patients), entry) for entry in inputs)

    def one(arguments: Any) -> list[Any]:
        mine, came_back = arguments
        with tf.GradientTape() as tape:
            output = layer(*mine)
        found = tape.gradient(
            output, weights, output_gradients=came_back, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [tf.convert_to_tensor(value) for value in found]

    return list(tf.vectorized_map(one, (parted, by_patient(gradient, patients)), fallback_to_while_loop=True))


register(keras.layers.Dense, _dense, _linear)
register(
    keras.layers.Conv2D,
    _convolution,
    lambda layer: (
        _linear(layer)
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and layer.padding in ("same", "valid")
    ),
)
register(
    keras.layers.Embedding,
    _embedding,
    lambda layer: not layer.mask_zero,
)
register(
    keras.layers.GroupNormalization,
    _group_normalisation,
    lambda layer: layer.axis in (-1, 3),
)
