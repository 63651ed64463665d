"""Per-patient gradients of one matrix: the products ``left^T right`` of a dense layer or of a convolution's patches.

Two ways to their norms, the cheaper one is taken (`explicit_is_cheaper`):

* *explicit*: every patient's product is made and kept. The clipped sum is then made of these very tensors, so that
  nothing between the norm and the sum can round apart. It replaces that patient's share of the weight gradient.
* *Gram*: ``|left^T right|^2 = <left left^T, right right^T>`` (Goodfellow 2015; over places: Bu et al. 2022). Inner
  products cancel where the explicit product does, but in squares, so float32 is used only where the result shows that
  little cancelled; all other patients are computed again in float64 (`gram`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

Pair = tuple[int, int]

ALLOWANCE = 5e-8
"""Added to a squared norm, in squared masses: a floor under every norm of 2.2e-4 B. An ordinary gradient has B of 3 to
16 norms, and its norm grows by at most 6e-6 of itself."""

CONFIDENT = 8e-3
"""Least squared norm, in squared masses, that a float32 Gram product is believed for (B below 11 norms). Every inner
product is off by at most ``k 2**-24`` of the two lengths, so the squared norm by ``2 k 2**-24 B**2`` and a believed
norm by 7.5e-6 k of itself: below `clipping.MARGIN` up to k = 660. k is the number of additions in a row of a blocked
sum, if all of them round the same way; inputs made for that reached k = 290 (`tests/.../test_rounding.py`)."""

_LEAST = 1e-30
"""Least squared norm of an input in a mass: what underflows in float32 may meet a gradient beyond 1e19."""
_SMALL = 1e-12
"""Masses below this share of what the largest input could give may have lost gradients to underflow, which a huge input
makes count: float64 decides. (What inputs lose to underflow is less than ``_LEAST``, hence in doubt already.)"""
_KEPT = 1 << 17
"""Most entries of a weight whose gradient is kept for every patient."""
_CHUNK = 10_000_000
"""About how many bytes of patches are made at a time: buffers of this size stay in the cache, and the C library keeps
them instead of returning them to the kernel after every use."""
_NOMINAL = 64
"""Patients assumed where the size of a batch is not known when the graph is built; decides chunks, never results."""


def explicit_is_cheaper(places: int, a: int, b: int) -> bool:
    """Whether to make the products of [places, a] and [places, b] rather than their Gram matrices."""
    return places * (a + b) >= a * b and a * b <= _KEPT


def with_allowance(squares: Any, mass: Any) -> Any:
    """Squared norms that are safe to clip by.

    Args: squares: [patients], as computed; mass: [patients], sums of the norms of the terms before they cancel.

    Returns:
        float64[patients].
    """
    return tf.cast(squares, tf.float64) + ALLOWANCE * tf.square(tf.cast(mass, tf.float64))


def square_sum(tensor: Any) -> Any:
    """[patients, ...] -> [patients], in the type of the tensor."""
    return tf.reduce_sum(tf.square(tensor), axis=list(range(1, tensor.shape.rank)))


def lengths(rows: Any) -> Any:
    """[P, places, c] -> float64[P, places]: norms that neither overflow nor underflow."""
    return tf.sqrt(tf.reduce_sum(tf.square(tf.cast(rows, tf.float64)), axis=2))


def chunks(patients: Any, bytes_per_patient: int) -> list[Any]:
    """Sizes of the chunks a batch is worked through in: their number is fixed when the graph is built."""
    static = tf.get_static_value(patients)
    count = -(-(int(static) if static is not None else _NOMINAL) * bytes_per_patient // _CHUNK)
    count = int(min(max(count, 1), 64))
    if count == 1:
        return [patients]
    if static is not None:
        return [(int(static) + count - 1 - index) // count for index in range(count)]
    whole, rest = patients // count, patients % count
    return [whole + tf.cast(index < rest, tf.int32) for index in range(count)]


def split(tensor: Any, sizes: list[Any], rows_per_patient: Any = 1) -> list[Any]:
    """Cut a batch into the patients' chunks along its first axis."""
    if len(sizes) == 1:
        return [tensor]
    return tf.split(tensor, [size * rows_per_patient for size in sizes], num=len(sizes))


def explicit(left: Any, right: Any, bias: bool) -> list[Any]:
    """Products of every patient: float32[P, a, b] of [P, r, a] and [P, r, b]; then float32[P, b] if there is a bias."""
    made = [tf.matmul(left, right, transpose_a=True)]
    return [*made, tf.reduce_sum(right, axis=1)] if bias else made


def gram(left: Any, right: Any, bias: bool, again: Callable[[Any], tuple[Any, Any]]) -> Any:
    """Squared norms of the products, allowance included, by the Gram trick.

    Args:
        left: float32[P, r, a], the layer's inputs.
        right: float32[P, r, b], gradients of its outputs.
        bias: whether the layer has one (a column of ones in the input).
        again: ``again(indices) -> left, right`` of some patients, for those that float32 does not suffice for.

    Returns:
        float64[P].
    """
    return settled(*believed(left, right, bias), bias, again)


def settled(found: Any, doubtful: Any, bias: bool, again: Callable[[Any], tuple[Any, Any]]) -> Any:
    """Squared norms, float64[P], those of doubtful patients (bool[P]) computed again in float64."""

    def corrected() -> Any:
        indices = tf.where(doubtful)
        return tf.tensor_scatter_nd_update(found, indices, precise(*again(indices[:, 0]), bias))

    return tf.cond(tf.reduce_any(doubtful), corrected, lambda: found)


def believed(left: Any, right: Any, bias: bool) -> tuple[Any, Any]:
    """As `gram` from float32 products alone, float64[P], and for whom they do not suffice, bool[P]."""
    peak = tf.reduce_max(tf.abs(right), axis=[1, 2])
    unit = tf.where((peak > 0.0) & tf.math.is_finite(peak), peak, tf.ones_like(peak))
    scaled = right / unit[:, None, None]
    inputs = tf.matmul(left, left, transpose_b=True)
    outputs = tf.matmul(scaled, scaled, transpose_b=True)
    squares = tf.cast(tf.reduce_sum(inputs * outputs, axis=[1, 2]), tf.float64)
    if bias:
        squares += tf.cast(square_sum(tf.reduce_sum(scaled, axis=1)), tf.float64)
    input_squares = tf.cast(tf.linalg.diag_part(inputs), tf.float64)
    output_squares = tf.cast(tf.linalg.diag_part(outputs), tf.float64)
    constant = 1.0 if bias else _LEAST
    mass = tf.reduce_sum(tf.sqrt(input_squares + constant) * tf.sqrt(output_squares), axis=1)
    largest = tf.reduce_max(input_squares, axis=1)
    places = tf.cast(tf.shape(left)[1], tf.float64)
    underflow = mass < _SMALL * places * tf.sqrt(largest)
    doubtful = ((squares < CONFIDENT * tf.square(mass)) | underflow) & (peak > 0.0)
    return with_allowance(squares, mass) * tf.square(tf.cast(unit, tf.float64)), doubtful


def precise(left: Any, right: Any, bias: bool) -> Any:
    """`gram` with inner products in float64, which cancel below 1e-16 of the terms; slower, never in doubt.

    Norms of inputs are taken in float32 on purpose: an input beyond 1e19 gives an infinite mass, and the patient is
    left out. Otherwise the output gradient, once scaled, could underflow and count for much all the same.
    """
    constant = 1.0 if bias else _LEAST
    input_squares = tf.cast(tf.reduce_sum(tf.square(left), axis=2), tf.float64)
    mass = tf.reduce_sum(tf.sqrt(input_squares + constant) * lengths(right), axis=1)
    left, right = tf.cast(left, tf.float64), tf.cast(right, tf.float64)
    products = tf.matmul(left, left, transpose_b=True) * tf.matmul(right, right, transpose_b=True)
    squares = tf.reduce_sum(products, axis=[1, 2])
    if bias:
        squares += square_sum(tf.reduce_sum(right, axis=1))
    return with_allowance(squares, mass)


def patches(images: Any, kernel: Pair, strides: Pair, rates: Pair, padding: str) -> Any:
    """The patches a convolution looks at, as ``tf.image.extract_patches`` orders them: [n, h, w, kh * kw * c].

    Without dilation they are put together from whole blocks of a stride's size, which moves longer runs of memory.
    """
    _, height, width, channels = images.shape
    if None in (height, width, channels) or tuple(rates) != (1, 1) or strides[0] > kernel[0] or strides[1] > kernel[1]:
        return tf.image.extract_patches(images, (1, *kernel, 1), (1, *strides, 1), (1, *rates, 1), padding.upper())
    rows, above, below, deep = _blocks(height, kernel[0], strides[0], padding)
    columns, before, after, wide = _blocks(width, kernel[1], strides[1], padding)
    room = [[0, 0], [max(above, 0), max(below, 0)], [max(before, 0), max(after, 0)], [0, 0]]
    padded = tf.pad(images, room) if np.any(room) else images
    padded = padded[:, : deep * strides[0], : wide * strides[1]]
    blocks = tf.reshape(padded, [-1, deep, strides[0], wide, strides[1] * channels])
    parts = []
    for row in range(kernel[0]):
        down, phase = divmod(row, strides[0])
        line = blocks[:, down : down + rows, phase]
        for first in range(0, kernel[1], strides[1]):
            along, taken = first // strides[1], min(strides[1], kernel[1] - first)
            parts.append(line[:, :, along : along + columns, : taken * channels])
    return tf.concat(parts, axis=3)


def _blocks(size: int, kernel: int, stride: int, padding: str) -> tuple[int, int, int, int]:
    """Output places, padding before and after (negative: to be cut off), and blocks of one stride, along one axis."""
    if padding == "same":
        places = -(-size // stride)
        before = max((places - 1) * stride + kernel - size, 0) // 2
    else:
        places, before = (size - kernel) // stride + 1, 0
    blocks = places - 1 + -(-kernel // stride)
    return places, before, blocks * stride - size - before, blocks
