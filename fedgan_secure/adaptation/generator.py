"""The published generator: one Keras model from noise and label to a finished picture.

Inside are tables that say which noise vectors of the start's generator a class is drawn from and which mean colours
there are, the start's generator, and the transfer. Built-in Keras layers and operations only, so that the file opens
anywhere Keras does.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from fedgan_secure.models import AdaptedSpec
from fedgan_secure.starts import LATENT, NOISE_VECTOR
from fedgan_secure.statistics import CHANCES_GRID, ColourBins, on_grid

_MAPS_SEED = 20_260


def build_adapted_generator(
    spec: AdaptedSpec,
    generator: keras.Model,
    transfer: keras.Model,
    pool: tuple[np.ndarray, np.ndarray],
    chances: np.ndarray,
    histogram: tuple[np.ndarray, ColourBins],
) -> keras.Model:
    """Build the generator that a run publishes.

    Args:
        spec: of the model.
        generator: the start's, ``[z, label] -> picture``.
        transfer: trained, ``[picture, colour] -> [picture, change]``.
        pool: float32[m, 64] noise vectors of the start's generator, without their maps, and int[m] the labels that
            they are drawn with. The maps follow from the vectors (`maps_kernel`).
        chances: float64[classes or 1, m], how likely each of them is for a class.
        histogram: float64[cells] of mean colours, and what the cells are.

    Returns:
        A Keras model from ``[z float32[n, latent_dim], label int32[n, 1]]`` (``z`` alone when unconditional) to
        float32[n, H, W, C] in [-1, 1].
    """
    layers, ops = keras.layers, keras.ops
    z = keras.Input((spec.latent_dim,), name="z")
    label = keras.Input((1,), dtype="int32", name="label") if spec.conditional else None
    uniform = 0.5 * (1.0 + ops.erf(z / math.sqrt(2.0)))
    latents, own_labels = pool
    row = ops.zeros_like(uniform[:, :1], dtype="int32") if label is None else label
    chosen = _pick(_table(on_grid(cumulated(chances), CHANCES_GRID), "a_chances")(row), uniform[:, 0:1], len(latents))
    noise = layers.Flatten(name="a_noise")(_table(latents, "a_latents")(chosen))
    drawn_label = ops.cast(layers.Flatten(name="a_label")(_table(own_labels[:, None], "a_labels")(chosen)), "int32")
    picture = generator([ops.concatenate([noise, _maps_layer()(noise)], axis=-1), drawn_label])
    mirrored = ops.reshape(ops.cast(uniform[:, 5:6] < 0.5, "float32"), (-1, 1, 1, 1))
    picture = mirrored * ops.flip(picture, axis=2) + (1.0 - mirrored) * picture
    colour = _colour(uniform, *histogram)
    final, _ = transfer([picture, colour])
    inputs: Any = z if label is None else [z, label]
    model = keras.Model(inputs, layers.Activation("linear", name="g_image")(final), name="generator")
    model.trainable = False
    return model


def _table(values: np.ndarray, name: str) -> keras.layers.Layer:
    """An embedding that looks rows of a fixed table up."""
    rows = np.asarray(values, np.float32)
    layer = keras.layers.Embedding(*rows.shape, trainable=False, name=name)
    layer.build((None, 1))
    layer.set_weights([rows])
    return layer


def cumulated(chances: np.ndarray) -> np.ndarray:
    """Return cumulated chances, float64[rows, m], before they are rounded to the grid that they are published on.

    From the last on that has a chance they are above every number that is drawn: one that rounding brings to 1 would
    lead beyond it.
    """
    possible = chances > 0
    after: np.ndarray = np.cumsum(possible[:, ::-1], axis=1)[:, ::-1] - possible
    return np.where(after > 0, np.cumsum(chances, axis=1), 2.0)


def _pick(cumulated: Any, uniform: Any, count: int) -> Any:
    """int32[n, 1]: where float32[n, 1] in (0, 1) falls in rows of cumulated chances, float32[n, 1, count]."""
    ops = keras.ops
    below = ops.cast(ops.reshape(cumulated, (-1, count)) <= uniform, "int32")
    return ops.minimum(ops.sum(below, axis=1, keepdims=True), count - 1)


def _colour(uniform: Any, histogram: np.ndarray, bins: ColourBins) -> Any:
    """float32[n, C]: a mean colour from the histogram, uniform within its cell."""
    layers, ops = keras.layers, keras.ops
    first = ops.zeros_like(uniform[:, :1], dtype="int32")
    cell = _pick(
        _table(on_grid(cumulated(histogram[None]), CHANCES_GRID), "a_colours")(first), uniform[:, 1:2], bins.cells
    )
    axes = len(bins.bins)
    centre = layers.Flatten(name="a_cell")(_table(bins.centres, "a_cells")(cell))
    width = [(high - low) / count for low, high, count in zip(bins.low, bins.high, bins.bins, strict=True)]
    code = centre + (uniform[:, 2 : 2 + axes] - 0.5) * np.asarray(width, np.float32)[None]
    if axes == 1:
        return ops.exp(code)
    red, blue = ops.exp(code[:, 1:2]), ops.exp(code[:, 2:3])
    green = 3.0 * ops.exp(code[:, 0:1]) / (red + blue + 1.0)
    return ops.concatenate([red * green, green, blue * green], axis=-1)


@lru_cache(maxsize=1)
def maps_kernel() -> np.ndarray:
    """Return float32[64, 1344]: what a noise vector is multiplied by to give the noise maps of its picture.

    The start's generator takes independent maps; here they follow from the vector, each value standard normal, so that
    a picture of the pool is the same whenever it is drawn, and its class was judged on that very picture.
    """
    kernel = np.random.default_rng(_MAPS_SEED).standard_normal((NOISE_VECTOR, LATENT - NOISE_VECTOR))
    return (kernel / np.sqrt(np.square(kernel).sum(axis=0))).astype(np.float32)


def _maps_layer() -> keras.layers.Layer:
    layer = keras.layers.Dense(LATENT - NOISE_VECTOR, use_bias=False, trainable=False, name="a_maps")
    layer.build((None, NOISE_VECTOR))
    layer.set_weights([maps_kernel()])
    return layer
