"""Per-patient gradient norms of one layer, from its input and the gradient of its output.

Book-keeping (Bu, Wang, Zha, Karypis, "Differentially Private Optimization on Large Model at Small Cost", 2022): the
gradient of a weight is a sum of products of what went into the layer and what came back to its output, so a
patient's norm follows without running the backward pass again. A patient's images stand side by side: cross terms
between them are part of the norm.

A rule is a function ``rule(layer, inputs, gradient, patients) -> float32[patients]``: the squared norm of every
patient's gradient over all trainable weights of the layer. `register` adds one: that is the extension point. A layer
without a rule, or used in a way its rule does not cover, is handled by `looped`, which is right for any layer and
slow, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Rule = Callable[[Any, tuple[Any, ...], Any, Any], Any]

_RULES: dict[type, tuple[Rule, Callable[[Any], bool]]] = {}


def register(kind: type, rule: Rule, covers: Callable[[Any], bool] = lambda layer: True) -> None:
    """Use a rule for layers of exactly this class (a subclass may compute something else) that it covers."""
    _RULES[kind] = (rule, covers)


def squared_norms(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    """Squared norm of every patient's gradient over the layer's trainable weights.

    Args:
        layer: a Keras layer with trainable weights.
        inputs: what it was called with; leading axis patients * m, a patient's m images in a row.
        gradient: of the loss by the layer's output, same leading axis.
        patients: their number (a scalar tensor).

    Returns:
        float32[patients].
    """
    rule, covers = _RULES.get(type(layer), (looped, lambda layer: True))
    if rule is looped or not covers(layer):
        warnings.warn(
            f"layer {layer.name} ({type(layer).__name__}) has no norm rule for this use: "
            "its per-patient gradients are computed one by one, exactly but slowly",
            stacklevel=2,
        )
        rule = looped
    return rule(layer, inputs, gradient, patients)


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
    """
    a, b = int(left.shape[-1]), int(right.shape[-1])
    if places * (a + b) < a * b:
        return tf.reduce_sum(
            tf.matmul(left, left, transpose_b=True) * tf.matmul(right, right, transpose_b=True), axis=[1, 2]
        )
    return _square_sum(tf.matmul(left, right, transpose_a=True))


def _bias(layer: Any, rows: Any) -> Any:
    return _square_sum(tf.reduce_sum(rows, axis=1)) if layer.use_bias else 0.0


def _linear(layer: Any) -> bool:
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _dense(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    left, right = _rows(inputs[0], patients), _rows(gradient, patients)
    places = int(np.prod(inputs[0].shape[1:-1], dtype=np.int64)) if inputs[0].shape.rank > 2 else 1
    return _products(left, right, places) + _bias(layer, right)


def _convolution(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    height, width = layer.kernel_size
    patches = tf.image.extract_patches(
        inputs[0],
        (1, height, width, 1),
        (1, *layer.strides, 1),
        (1, *layer.dilation_rate, 1),
        layer.padding.upper(),
    )
    left, right = _rows(patches, patients), _rows(gradient, patients)
    places = int(np.prod(gradient.shape[1:-1], dtype=np.int64))
    return _products(left, right, places) + _bias(layer, right)


def _embedding(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    right = _rows(gradient, patients)
    index = tf.reshape(tf.cast(inputs[0], tf.int32), tf.shape(right)[:2])
    same = tf.cast(tf.equal(index[:, :, None], index[:, None, :]), right.dtype)
    return tf.reduce_sum(same * tf.matmul(right, right, transpose_b=True), axis=[1, 2])


def _group_normalisation(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    features = inputs[0]
    channels = int(features.shape[-1])
    groups = channels if layer.groups == -1 else int(layer.groups)
    shape = tf.shape(features)
    split = tf.reshape(features, tf.stack([shape[0], -1, groups, channels // groups]))
    mean, variance = tf.nn.moments(split, axes=[1, 3], keepdims=True)
    normal = tf.reshape((split - mean) * tf.math.rsqrt(variance + layer.epsilon), shape)
    total = tf.zeros([patients], gradient.dtype)
    if layer.scale:
        scale = _rows(tf.reshape(normal * gradient, tf.shape(gradient)), patients)
        total += _square_sum(tf.reduce_sum(tf.ensure_shape(scale, (None, None, channels)), axis=1))
    if layer.center:
        total += _square_sum(tf.reduce_sum(_rows(gradient, patients), axis=1))
    return total


def looped(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    """The rule for any layer: every patient's gradient by itself, with ``tf.vectorized_map``."""
    weights = [variable(weight) for weight in layer.trainable_weights]
    parted = tuple(tf.nest.map_structure(lambda x: by_patient(x, patients), entry) for entry in inputs)

    def one(arguments: Any) -> Any:
        mine, came_back = arguments
        with tf.GradientTape() as tape:
            output = layer(*mine)
        found = tape.gradient(output, weights, output_gradients=came_back)
        return tf.add_n([tf.reduce_sum(tf.square(tf.convert_to_tensor(g))) for g in found if g is not None])

    return tf.vectorized_map(one, (parted, by_patient(gradient, patients)), fallback_to_while_loop=True)


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
