"""The discriminators that train a public generator; they are not kept in the start."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from fedgan_secure.networks import SLOPE, SPREAD_FLOOR, initialisers
from fedgan_secure.starts import IMAGE_SIZE, Architecture

WIDTHS = (24, 48, 96, 128, 128)
HIDDEN = 128
SIDE = 4
GAMMA_CHANGE = 0.30
GAIN_CHANGE = 0.35


class Judge:
    """Tell public pictures from generated ones, knowing the class (by projection) or not."""

    def __init__(self, architecture: Architecture, *, conditional: bool, seed: int) -> None:
        """Build it untrained; equal seeds give equal weights."""
        layers = keras.layers
        fresh = initialisers(seed)
        x = keras.Input((IMAGE_SIZE, IMAGE_SIZE, architecture.channels))
        hidden: Any = x
        for index, width in enumerate(WIDTHS):
            kernel, stride = (3, 1) if index == 0 else (4, 2)
            conv = layers.Conv2D(width, kernel, strides=stride, padding="same", kernel_initializer=fresh("fan"))
            hidden = layers.ReLU(negative_slope=SLOPE)(conv(hidden))
        self._trunk = keras.Model(x, hidden)
        flat = keras.Input((SIDE * SIDE * (WIDTHS[-1] + 1),))
        told = layers.ReLU(negative_slope=SLOPE)(layers.Dense(HIDDEN, kernel_initializer=fresh("fan"))(flat))
        self._head = keras.Model(flat, [told, layers.Dense(1, kernel_initializer=fresh("fan"))(told)])
        self._table = tf.Variable(tf.zeros((architecture.classes, HIDDEN))) if conditional else None

    def __call__(self, x: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Return a logit of being real, float32[n], for pictures float32[n, 64, 64, channels] in [-1, 1]."""
        hidden = self._trunk(x, training=True)
        off = hidden - tf.reduce_mean(hidden, axis=0, keepdims=True)
        # how much the pictures of a batch differ: a generator that repeats itself is found out
        variety = tf.reduce_mean(tf.sqrt(tf.reduce_mean(tf.square(off), axis=0) + SPREAD_FLOOR))
        hidden = tf.concat([hidden, tf.fill((tf.shape(x)[0], SIDE, SIDE, 1), variety)], axis=3)
        told, score = self._head(tf.reshape(hidden, (-1, SIDE * SIDE * (WIDTHS[-1] + 1))), training=True)
        if self._table is None or labels is None:
            return score[:, 0]
        return score[:, 0] + tf.reduce_sum(tf.gather(self._table, labels) * told, axis=1)

    @property
    def variables(self) -> list[Any]:
        """Everything that is trained, in a fixed order."""
        table = [] if self._table is None else [self._table]
        return [*self._trunk.trainable_variables, *self._head.trainable_variables, *table]


def recolour(x: tf.Tensor, seed: tf.Tensor, strength: float = 1.0) -> tf.Tensor:
    """Change the colours of pictures at random: a gamma for each, a gain for each of its channels.

    Args:
        x: float32[n, H, W, channels] in [-1, 1].
        seed: int32[2]; equal seeds give equal changes.
        strength: 1 changes the logarithm of gamma by up to .30 and of a gain by up to .35.

    Returns:
        float32 of the same shape in [-1, 1].
    """
    count, channels = tf.shape(x)[0], x.shape[3]
    gamma = tf.random.stateless_uniform((count, 1, 1, 1), seed, -1.0, 1.0)
    gain = tf.random.stateless_uniform((count, 1, 1, channels), seed + tf.constant([0, 1]), -1.0, 1.0)
    level = tf.clip_by_value((x + 1.0) * 0.5, 1e-4, 1.0)
    changed = tf.pow(level, tf.exp(strength * GAMMA_CHANGE * gamma)) * tf.exp(strength * GAIN_CHANGE * gain)
    return tf.clip_by_value(changed, 0.0, 1.0) * 2.0 - 1.0
