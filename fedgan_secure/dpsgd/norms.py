"""Per-patient gradients of one layer, from its input and the gradient of its output: the squared norm of every patient.

Book-keeping (Bu, Wang, Zha, Karypis, "Differentially Private Optimization on Large Model at Small Cost", 2022): the
gradient of a weight is a sum of products of what went into the layer and what came back to its output, so a
patient's norm follows without running the backward pass again. A patient's images stand side by side: cross terms
between them are part of the norm.

Rounding is part of the guarantee. Whoever chooses the weights can make the terms of a patient's gradient cancel, so
that neither a norm computed in float32 nor the gradient itself has a correct digit left. So the norm of a layer is one
of two kinds:

* *of what is summed*: the layer's per-patient gradients are made (`Measured.each`), these are their norms, and the
  clipped sum consists of these very tensors, whatever digits they have lost;
* *from inner products* (the Gram trick), where no such tensors exist. There inner products are float64 unless little
  cancels (`products.gram`), and ``ALLOWANCE * B**2`` is added to the squared norm. B, the *mass*, is the sum of the
  norms of the terms before they cancel, over all images and places of the patient: ``sum |input| |gradient|``. A
  float32 sum of these terms, in any order, is off by a small multiple of ``2**-24 * B``; the norm is at least
  ``sqrt(ALLOWANCE) * B``, some 3700 times ``2**-24 * B``, so that error, once clipped, stays far inside the margin that
  `clipping.MARGIN` leaves for it.

Extension point: `register` a rule, a function ``rule(layer, inputs, gradient, patients) -> Measured``, or
`register_rows` a forward pass whose weights are given per image. A layer with neither, or used in a way they do not
cover, is handled by `one_by_one`, which is right for any layer and slow, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.dpsgd.normalisation import group_normalisation
from fedgan_secure.dpsgd.products import (
    believed,
    chunks,
    explicit,
    explicit_is_cheaper,
    lengths,
    patches,
    settled,
    split,
    square_sum,
    with_allowance,
)


@dataclass(frozen=True)
class Measured:
    """What is known of one layer's per-patient gradients.

    Attributes:
        squares: float64[patients], squared norms over all trainable weights of the layer.
        each: for every trainable weight its per-patient gradients, [patients, *shape], in chunks along the first axis;
            None where they were not made.
    """

    squares: Any
    each: list[list[Any]] | None = None


Rule = Callable[[Any, tuple[Any, ...], Any, Any], Measured]
RowForward = Callable[..., tuple[Any, list[Any]]]
"""``forward(layer, *inputs) -> output, rows``: rows are the trainable weights, one copy for every image."""


def _always(layer: Any) -> bool:
    return True


def _float32(layer: Any) -> bool:
    return str(layer.compute_dtype) == "float32"


_RULES: dict[type, tuple[Rule, Callable[[Any], bool]]] = {}
_ROWS: dict[type, tuple[RowForward, Callable[[Any], bool]]] = {}


def register(kind: type, rule: Rule, covers: Callable[[Any], bool] = _always) -> None:
    """Use a rule for layers of exactly this class (a subclass may compute something else) that it covers."""
    _RULES[kind] = (rule, covers)


def register_rows(kind: type, forward: RowForward, covers: Callable[[Any], bool] = _always) -> None:
    """Use a forward pass with weights per image for layers of exactly this class that it covers.

    ``forward`` computes what the layer computes, from weights repeated for every image (``[n, *shape]``), and returns
    these rows too: their gradients are the per-image gradients. For layers with few weights.
    """
    _ROWS[kind] = (forward, covers)


def row_forward(layer: Any) -> RowForward | None:
    """The forward pass registered for this layer, if it covers this use of it."""
    forward, covers = _ROWS.get(type(layer), (None, _always))
    return forward if forward is not None and _float32(layer) and covers(layer) else None


def measure(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Measured:
    """Squared norms of every patient's gradient over the layer's trainable weights.

    Args:
        layer: a Keras layer with trainable weights.
        inputs: what it was called with; leading axis patients * m, a patient's m images in a row.
        gradient: of the loss by the layer's output, same leading axis.
        patients: their number (a scalar tensor).
    """
    forward = row_forward(layer)
    if forward is not None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            output, rows = forward(layer, *inputs, watch=tape.watch)
        return measure_rows(tape.gradient(output, rows, output_gradients=gradient), patients)
    rule, covers = _RULES.get(type(layer), (None, _always))
    if rule is not None and _float32(layer) and covers(layer):
        return rule(layer, inputs, gradient, patients)
    warnings.warn(
        f"layer {layer.name} ({type(layer).__name__}) has no norm rule for this use: "
        "its per-patient gradients are computed one by one, exactly but slowly",
        stacklevel=3,
    )
    return _measure_each(one_by_one(layer, inputs, gradient, patients))


def measure_rows(rows: list[Any], patients: Any) -> Measured:
    """As `measure`, from per-image gradients of every trainable weight, [patients * m, *shape]."""
    return _measure_each([tf.reduce_sum(by_patient(row, patients), axis=1) for row in rows])


def _measure_each(gradients: list[Any]) -> Measured:
    squares = tf.add_n([_squares(value) for value in gradients])
    return Measured(squares, [[value] for value in gradients])


def _squares(gradients: Any) -> Any:
    """float32[P, ...] -> float64[P]: norms of explicit gradients."""
    count = int(np.prod(gradients.shape[1:]))
    return tf.cast(square_sum(tf.reshape(gradients, [-1, count])), tf.float64)


def squared_norms(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Any:
    """The squared norms of `measure`, float64[patients]."""
    return measure(layer, inputs, gradient, patients).squares


def variable(weight: Any) -> tf.Variable:
    """The TensorFlow variable behind a Keras weight, in Keras 2 and Keras 3."""
    inner = weight.value
    return weight if callable(inner) else inner


def _joined(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tf.concat(values, axis=0)


def by_patient(tensor: Any, patients: Any) -> Any:
    """[patients * m, ...] -> [patients, m, ...] for any m (also when there are no patients)."""
    known = tf.get_static_value(patients)
    if known and tensor.shape.is_fully_defined():
        return tf.reshape(tensor, [int(known), tensor.shape[0] // int(known), *tensor.shape[1:]])
    shape = tf.shape(tensor)
    images = tf.math.floordiv(shape[0], tf.maximum(patients, 1))
    return tf.reshape(tensor, tf.concat([[patients, images], shape[1:]], axis=0))


def _rows(tensor: Any, patients: Any) -> Any:
    """[patients * m, ..., c] -> [patients, m * ..., c]."""
    channels = tensor.shape[-1]
    known = tf.get_static_value(patients)
    if known and tensor.shape.is_fully_defined():
        return tf.reshape(tensor, [int(known), int(np.prod(tensor.shape[:-1])) // int(known), channels])
    shape = tf.shape(tensor)
    places = tf.math.floordiv(tf.reduce_prod(shape[:-1]), tf.maximum(patients, 1))
    return tf.reshape(tensor, tf.stack([patients, places, channels]))


def _linear(layer: Any) -> bool:
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _products(
    layer: Any, features: Any, gradient: Any, patients: Any, prepare: Callable[[Any], Any], width: int
) -> Measured:
    """Norms of a layer whose weights see ``prepare(features)``, [n, ..., width], at every place of its output."""
    units = int(gradient.shape[-1])
    images = tf.math.floordiv(tf.shape(features)[0], tf.maximum(patients, 1))
    fixed, known = features.shape[0], tf.get_static_value(patients)
    m = fixed // known if fixed is not None and known else 1
    places = m * int(np.prod(gradient.shape[1:-1], dtype=np.int64))
    made = explicit_is_cheaper(places, width, units)
    sizes = chunks(patients, 4 * places * width)
    found: list[Any] = []
    before: list[Any] = []
    for size, part, back in zip(sizes, split(features, sizes, images), split(gradient, sizes, images), strict=True):
        with tf.control_dependencies([back, *before]):  # patches neither before they are needed nor all at once
            left, right = _rows(prepare(part), size), _rows(back, size)
        found.append(explicit(left, right, layer.use_bias) if made else believed(left, right, layer.use_bias))
        before = list(found[-1])
    if not made:

        def again(chosen: Any) -> tuple[Any, Any]:
            of_these = [
                tf.reshape(few, tf.concat([[-1], tf.shape(few)[2:]], axis=0))
                for few in (tf.gather(by_patient(whole, patients), chosen) for whole in (features, gradient))
            ]
            count = tf.shape(chosen)[0]
            return (
                _rows(prepare(tf.ensure_shape(of_these[0], (None, *features.shape[1:]))), count),
                _rows(tf.ensure_shape(of_these[1], (None, *gradient.shape[1:])), count),
            )

        squares, doubtful = (_joined(list(of_chunks)) for of_chunks in zip(*found, strict=True))
        return Measured(settled(squares, doubtful, layer.use_bias, again))
    squares = [tf.add_n([_squares(value) for value in part]) for part in found]
    each = [list(of_weight) for of_weight in zip(*found, strict=True)]
    return Measured(_joined(squares), each)


def _dense(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Measured:
    return _products(layer, inputs[0], gradient, patients, lambda features: features, int(inputs[0].shape[-1]))


def _convolution(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Measured:
    def prepare(images: Any) -> Any:
        return patches(images, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)

    width = int(np.prod(layer.kernel_size)) * int(inputs[0].shape[-1])
    found = _products(layer, inputs[0], gradient, patients, prepare, width)
    if found.each is None:
        return found
    shape = [-1, *variable(layer.trainable_weights[0]).shape]
    return Measured(found.squares, [[tf.reshape(part, shape) for part in found.each[0]], *found.each[1:]])


def _embedding(layer: Any, inputs: tuple[Any, ...], gradient: Any, patients: Any) -> Measured:
    right = tf.cast(_rows(gradient, patients), tf.float64)
    index = tf.reshape(tf.cast(inputs[0], tf.int32), tf.shape(right)[:2])
    same = tf.cast(tf.equal(index[:, :, None], index[:, None, :]), right.dtype)
    squares = tf.reduce_sum(same * tf.matmul(right, right, transpose_b=True), axis=[1, 2])
    return Measured(with_allowance(squares, tf.reduce_sum(lengths(right), axis=1)))


def _group_normalisation(layer: Any, features: Any, watch: Callable[[Any], None]) -> tuple[Any, list[Any]]:
    images, channels = tf.shape(features)[0], int(features.shape[-1])

    def rows(weight: Any) -> Any:
        repeated = tf.tile(tf.convert_to_tensor(variable(weight))[None], [images, 1])
        watch(repeated)
        return repeated

    groups = channels if layer.groups == -1 else int(layer.groups)
    scale = rows(layer.gamma) if layer.scale else tf.ones([images, channels])
    offset = rows(layer.beta) if layer.center else tf.zeros([images, channels])
    output = group_normalisation(features, scale, offset, groups, layer.epsilon)
    held = {id(variable(layer.gamma)): scale} if layer.scale else {}
    held |= {id(variable(layer.beta)): offset} if layer.center else {}
    return output, [held[id(variable(weight))] for weight in layer.trainable_weights]


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

    found = tf.vectorized_map(one, (parted, by_patient(gradient, patients)), fallback_to_while_loop=True)
    return [tf.ensure_shape(value, (None, *weight.shape)) for value, weight in zip(found, weights, strict=True)]


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
register_rows(
    keras.layers.GroupNormalization,
    _group_normalisation,
    lambda layer: layer.axis == -1 or (layer.axis == 3 and layer.input_spec is not None and layer.input_spec.ndim == 4),
)
