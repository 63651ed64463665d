"""A small, fixed convolutional classifier: what TSTR, variety and realism are measured with, in every run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

AT_A_TIME = 2
"""Classifiers that are trained side by side: each is too small to keep more than one processor busy."""
_Seed = TypeVar("_Seed")
_Result = TypeVar("_Result")


class GroupNorm(keras.layers.Layer):
    """Normalise groups of channels, as `keras.layers.GroupNormalization`, in a third of its time on a CPU.

    Means are taken per channel and then per group, so that no operation runs along an axis of two or three numbers.
    """

    def __init__(self, groups: int, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.groups, self.epsilon = groups, epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make scale and shift, and the matrix that gives every channel its group's mean."""
        channels = int(input_shape[-1] or 0)
        self.gamma = self.add_weight(shape=(channels,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(channels,), initializer="zeros", name="beta")
        width = channels // self.groups
        self._share = np.kron(np.eye(self.groups), np.full((width, width), 1.0 / width)).astype(np.float32)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return float32[n, H, W, C] of mean 0 and deviation 1 in every group, scaled and shifted."""
        mean = tf.matmul(tf.reduce_mean(inputs, axis=(1, 2)), self._share)
        square = tf.matmul(tf.reduce_mean(tf.square(inputs), axis=(1, 2)), self._share)
        variance = tf.maximum(square - tf.square(mean), 0.0)
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        return inputs * scale[:, None, None] + (self.beta - mean * scale)[:, None, None]


def build_classifier(image_size: int, channels: int, outputs: int, seed: int) -> keras.Model:
    """Build three convolutions of stride 2, global average beside maximum, one hidden layer.

    Args:
        image_size, channels: of the images.
        outputs: classes; 1 for a real-or-not logit.
        seed: of the initial weights.

    Returns:
        A Keras model from float32[n, H, W, C] in [-1, 1] to logits float32[n, outputs].
    """
    layers = keras.layers
    image = keras.Input((image_size, image_size, channels))
    hidden = image
    for index, width in enumerate((16, 32, 48)):
        start = keras.initializers.HeNormal(seed=seed * 10 + index)
        hidden = layers.Conv2D(width, 5, strides=2, padding="same", kernel_initializer=start)(hidden)
        hidden = GroupNorm(groups=8)(hidden)
        hidden = layers.ReLU()(hidden)
    pooled = layers.Concatenate()([layers.GlobalAveragePooling2D()(hidden), layers.GlobalMaxPooling2D()(hidden)])
    hidden = layers.Dense(48, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=seed * 10 + 8))(
        pooled
    )
    start = keras.initializers.GlorotNormal(seed=seed * 10 + 9)
    return keras.Model(image, layers.Dense(outputs, kernel_initializer=start)(hidden), name="classifier")


def to_float(images: np.ndarray) -> np.ndarray:
    """Return float32 pixels in [-1, 1] for uint8 ones."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def fit(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, *, steps: int, seed: int, batch: int = 64
) -> keras.Model:
    """Train with Adam and cross-entropy for a fixed number of steps: nothing is chosen by looking at a score.

    Args:
        model: of `build_classifier`.
        images: uint8[n, H, W, C].
        labels: int[n]; 0 or 1 for a model of one output.
        steps: of Adam, learning rate 2e-3 falling to zero along a cosine.
        seed: of the order of the images.
        batch: images per step, drawn with replacement.
    """
    rng = np.random.default_rng(seed)
    kind = tuple(model.input_shape[1:]), int(model.output_shape[-1])
    trained, optimiser, step = _trainer(*kind, threading.get_ident())
    trained.set_weights(model.get_weights())
    for variable in optimiser.variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    for done in range(steps):
        rows = rng.integers(0, len(images), batch)
        rate = 2e-3 * 0.5 * (1.0 + np.cos(np.pi * done / steps))
        step(tf.constant(images[rows]), tf.constant(labels[rows].astype(np.int32)), tf.constant(rate, tf.float32))
    model.set_weights(trained.get_weights())
    return model


def side_by_side(work: Callable[[_Seed], _Result], seeds: Iterable[_Seed]) -> list[_Result]:
    """Return ``work(seed)`` for every seed, in order, `AT_A_TIME` at once; each trains with a trainer of its own."""
    return list(_threads().map(work, seeds))


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="classifier")


@lru_cache(maxsize=8)
def _trainer(shape: tuple[int, int, int], outputs: int, thread: int) -> tuple[keras.Model, Any, Any]:
    """Make a model, its optimiser and one compiled step, once for an architecture and a thread: compiling is slow."""
    model = build_classifier(shape[0], shape[2], outputs, 0)
    optimiser = keras.optimizers.Adam(2e-3)
    optimiser.build(model.trainable_variables)

    @tf.function(reduce_retracing=True)
    def step(pixels: tf.Tensor, wanted: tf.Tensor, rate: tf.Tensor) -> None:
        optimiser.learning_rate.assign(rate)
        with tf.GradientTape() as tape:
            logits = model(tf.cast(pixels, tf.float32) / 127.5 - 1.0, training=True)
            if outputs == 1:
                losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(wanted, tf.float32)[:, None], logits)
            else:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimiser.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    return model, optimiser, step


def features(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the last hidden layer, float32[n, 48], for uint8 images."""
    return logits(keras.Model(model.input, model.layers[-2].output), images)


def logits(model: keras.Model, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """Return the model's outputs, float32[n, outputs], for uint8 images."""
    if not len(images):
        return np.zeros((0, int(model.output_shape[-1])), np.float32)
    parts = [
        np.asarray(model(tf.constant(to_float(images[start : start + batch])), training=False))
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts)
