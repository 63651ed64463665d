"""The transfer: a small network that gives a public picture the colour, light and contrast that a release tells of.

A picture's own mean colour is replaced by a wanted one; a smooth gain map and a contrast per colour follow, then a
local convolution that starts as the identity: about 3,800 trained values. It is trained on released sums and public
pictures alone, so whatever it does is post-processing of them. Built-in Keras layers, so that it can be saved inside
the published generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from fedgan_secure.statistics import disc_mask

GRID = 4
"""The gain map has so many values a side, blown up bilinearly."""
SLOPE = 0.2


@dataclass(frozen=True)
class TransferShape:
    """The architecture of a transfer; part of a policy.

    Attributes:
        image_size: pixels a side, a multiple of 4.
        channels: 1 or 3.
        width: channels of the local convolution.
        local: whether there is a local convolution; without it gain map and contrast alone are trained.
        most_gain: the colour transfer multiplies a colour by at most this.
    """

    image_size: int = 64
    channels: int = 3
    width: int = 16
    local: bool = True
    most_gain: float = 3.0


def build_transfer(shape: TransferShape) -> keras.Model:
    """Build a transfer that changes the mean colour and nothing else yet.

    Args:
        shape: the architecture.

    Returns:
        A Keras model from ``[picture float32[n, H, W, C] in [-1, 1], colour float32[n, C] in [0, 1]]`` to
        ``[picture float32[n, H, W, C] in [-1, 1], change float32[n, H, W, C]]``, the second what the local convolution
        added (zero outside of the disc).
    """
    layers, ops = keras.layers, keras.ops
    size, channels = shape.image_size, shape.channels
    picture = keras.Input((size, size, channels), name="picture")
    colour = keras.Input((channels,), name="colour")
    disc, radius = _constants(size)
    u = ops.clip((picture + 1.0) * 0.5, 0.0, 1.0)
    bright = ops.clip(ops.max(u, axis=-1, keepdims=True) * 8.0, 0.0, 1.0)
    mask = layers.AveragePooling2D(3, strides=1, padding="same", name="t_soft")(bright) * disc
    covered = ops.maximum(ops.sum(mask, axis=(1, 2)), 1.0)
    own = ops.sum(u * mask, axis=(1, 2)) / covered
    gain = ops.minimum(colour / ops.maximum(own, 0.02), shape.most_gain)
    u = u * ops.reshape(gain, (-1, 1, 1, channels))
    wanted = ops.reshape(own * gain, (-1, 1, 1, channels))
    # a trained constant in built-in layers: the one row of an embedding
    first = ops.zeros_like(colour[:, :1], dtype="int32")
    gains = layers.Embedding(1, GRID * GRID * channels, embeddings_initializer="zeros", name="t_gain")(first)
    gains = layers.Reshape((GRID, GRID, channels), name="t_gain_grid")(gains)
    gains = layers.UpSampling2D(size // GRID, interpolation="bilinear", name="t_gain_map")(gains)
    contrast = layers.Embedding(1, channels, embeddings_initializer="zeros", name="t_contrast")(first)
    contrast = layers.Reshape((1, 1, channels), name="t_contrast_row")(contrast)
    u = wanted + (u * ops.exp(gains) - wanted) * ops.exp(contrast)
    change = ops.zeros_like(u)
    if shape.local:
        spread = ops.zeros_like(u)
        seen = ops.concatenate([u, spread[..., :1] + radius, spread + wanted], axis=-1)
        hidden = seen
        for index, dilation in enumerate((1, 2)):
            kernel = keras.initializers.VarianceScaling(
                scale=1.0 / 3.0, mode="fan_in", distribution="uniform", seed=11 + index
            )
            convolution = layers.Conv2D(
                shape.width, 3, padding="same", dilation_rate=dilation, kernel_initializer=kernel, name=f"t_conv{index}"
            )
            hidden = convolution(hidden)
            hidden = ops.maximum(hidden, SLOPE * hidden)
        last = layers.Conv2D(channels, 3, padding="same", kernel_initializer="zeros", name="t_conv2")(hidden)
        change = last * mask
        u = u + last
    u = u / ops.maximum(ops.max(u, axis=-1, keepdims=True), 1.0)  # what is too bright keeps its hue
    final = ops.clip(u * mask, 0.0, 1.0) * 2.0 - 1.0
    return keras.Model([picture, colour], [final, change], name="transfer")


def _constants(size: int) -> tuple[Any, Any]:
    """float32[1, H, W, 1] each: the soft disc that a picture fills, and the squared distance from its middle."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / (size / 2) - 1.0
    squared = np.minimum(axis[None] ** 2 + axis[:, None] ** 2, 1.0)
    return disc_mask(size)[None, :, :, None].astype(np.float32), squared[None, :, :, None].astype(np.float32)
