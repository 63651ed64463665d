"""A small, fixed convolutional classifier: the measuring instrument of TSTR and realism, the same for every run."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


def build_classifier(image_size: int, channels: int, outputs: int, seed: int) -> keras.Model:
    """Three convolutions of stride 2, global average beside maximum, one hidden layer.

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
        hidden = layers.GroupNormalization(groups=8)(hidden)
        hidden = layers.ReLU()(hidden)
    pooled = layers.Concatenate()([layers.GlobalAveragePooling2D()(hidden), layers.GlobalMaxPooling2D()(hidden)])
    hidden = layers.Dense(48, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=seed * 10 + 8))(
        pooled
    )
    start = keras.initializers.GlorotNormal(seed=seed * 10 + 9)
    return keras.Model(image, layers.Dense(outputs, kernel_initializer=start)(hidden), name="classifier")


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 pixels -> float32 in [-1, 1]."""
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
    binary = model.output_shape[-1] == 1
    optimiser = keras.optimizers.Adam(2e-3)
    optimiser.build(model.trainable_variables)

    @tf.function
    def step(pixels: tf.Tensor, wanted: tf.Tensor, rate: tf.Tensor) -> None:
        optimiser.learning_rate.assign(rate)
        with tf.GradientTape() as tape:
            logits = model(tf.cast(pixels, tf.float32) / 127.5 - 1.0, training=True)
            if binary:
                losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(wanted, tf.float32)[:, None], logits)
            else:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimiser.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for done in range(steps):
        rows = rng.integers(0, len(images), batch)
        rate = 2e-3 * 0.5 * (1.0 + np.cos(np.pi * done / steps))
        step(tf.constant(images[rows]), tf.constant(labels[rows].astype(np.int32)), tf.constant(rate, tf.float32))
    return model


def logits(model: keras.Model, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """The model's outputs, float32[n, outputs], for uint8 images."""
    if not len(images):
        return np.zeros((0, int(model.output_shape[-1])), np.float32)
    parts = [
        np.asarray(model(tf.constant(to_float(images[start : start + batch])), training=False))
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts)


def bootstrap_interval(values: np.ndarray, seed: int, draws: int = 1000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of float[n] (Efron 1979)."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
