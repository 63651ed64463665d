"""The published generator: from noise and label to a picture, by a class's mean and covariance of coefficients.

    picture = clip(basis^T (mean + root z) basis, 0, 1), in [-1, 1]

with z standard normal: a Gaussian for every class, cut to the range of pixels. Built-in Keras layers and operations
only, so that the file opens anywhere Keras does.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from fedgan_secure.models import MomentsSpec
from fedgan_secure.moments import cosines
from fedgan_secure.statistics import on_grid

MEAN, ROOT = "m_mean", "m_root"
TABLES_GRID = 2.0**-14
"""Means and roots are published in multiples of this (`adaptation.rounding`)."""
TABLES_SLACK = 2.0**-24
"""Means and roots that another machine found for the same sum differ by less than this before rounding: eigenvalues by
some 1e-16, and a root near zero by the root of that."""


def build_moments_generator(spec: MomentsSpec, scale: float, mean: np.ndarray, root: np.ndarray) -> keras.Model:
    """Build the generator that a run publishes.

    Args:
        spec: of the model.
        scale: of the coefficients (`MomentsLayout.scale`).
        mean: float[k, d], of the scaled coefficients; rounded to `TABLES_GRID`.
        root: float[k, d, d], of their covariance; rounded likewise.

    Returns:
        A Keras model from ``[z float32[n, d], label int32[n, 1]]`` (``z`` alone when unconditional) to
        float32[n, H, W, C] in [-1, 1].
    """
    layers, ops = keras.layers, keras.ops
    size = spec.latent_dim
    z = keras.Input((size,), name="z")
    label = keras.Input((1,), dtype="int32", name="label") if spec.conditional else None
    row = ops.zeros_like(z[:, :1], dtype="int32") if label is None else label
    centre = layers.Flatten(name="m_centre")(_table(mean, MEAN)(row))
    spread = layers.Reshape((size, size), name="m_spread")(_table(root.reshape(len(root), -1), ROOT)(row))
    found = centre + ops.reshape(ops.matmul(spread, ops.reshape(z, (-1, size, 1))), (-1, size))
    planes = ops.reshape(found, (-1, spec.channels, spec.order, spec.order))
    inverse = _inverse(spec, scale)
    wide = inverse(planes)  # (n, C, order, W)
    whole = inverse(ops.transpose(wide, (0, 1, 3, 2)))  # (n, C, W, H)
    pixels = ops.transpose(whole, (0, 3, 2, 1))
    final = layers.Activation("linear", name="g_image")(2.0 * ops.clip(pixels, 0.0, 1.0) - 1.0)
    inputs: Any = z if label is None else [z, label]
    model = keras.Model(inputs, final, name="generator")
    model.trainable = False
    return model


def _inverse(spec: MomentsSpec, scale: float) -> keras.layers.Layer:
    """From the coefficients of an axis, the last one, to its pixels; used once for each axis."""
    layer = keras.layers.Dense(spec.image_size, use_bias=False, trainable=False, name="m_basis")
    layer.build((None, spec.channels, spec.order, spec.order))
    layer.set_weights([(cosines(spec.order, spec.image_size) * np.sqrt(scale)).astype(np.float32)])
    return layer


def _table(values: np.ndarray, name: str) -> keras.layers.Layer:
    rows = on_grid(values, TABLES_GRID)
    layer = keras.layers.Embedding(*rows.shape, trainable=False, name=name)
    layer.build((None, 1))
    layer.set_weights([rows])
    return layer


def parameters(spec: MomentsSpec) -> int:
    """Return how many weights the generator has."""
    size = spec.latent_dim
    return max(spec.classes, 1) * (size + size**2) + spec.order * spec.image_size
