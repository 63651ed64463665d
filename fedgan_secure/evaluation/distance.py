"""A distance of fixed image features, kept for searches and comparisons with earlier runs. Not a headline.

The features are the oriented filters that the default discriminator sees, and a generator is trained to please exactly
these: on phantoms, blotches had a smaller distance than pictures that a classifier learns the grades from. It does not
see collapse. Judge by TSTR, coverage and recall (`evaluation.score`).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fedgan_secure.evaluation.classifier import to_float
from fedgan_secure.networks import oriented_bank


def feature_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Compute the Fréchet distance between diagonal Gaussians fitted to public image features of two sets.

    The features are colour averages and rectified oriented filters on an 8 x 8 grid, at half resolution: fixed and
    public, not a trained network, so the number is comparable between runs but not with a published FID.

    Args:
        left, right: uint8[n, H, W, C].
    """
    (mean_left, spread_left), (mean_right, spread_right) = _moments(left), _moments(right)
    return float(((mean_left - mean_right) ** 2).sum() + ((spread_left - spread_right) ** 2).sum())


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for start in range(0, len(images), 200):
        pixels = tf.constant(to_float(images[start : start + 200]))
        half = tf.nn.avg_pool2d(pixels, 2, 2, "VALID")
        grey = tf.reduce_mean(half, axis=-1, keepdims=True)
        edges = tf.nn.relu(tf.nn.conv2d(grey, oriented_bank(), 1, "SAME"))
        stack = tf.concat([half, edges], axis=-1)
        window = max(int(stack.shape[1]) // 8, 1)
        pooled = tf.nn.avg_pool2d(stack, window, window, "VALID")
        parts.append(pooled.numpy().reshape(len(pixels), -1).astype(np.float64))
    values = np.concatenate(parts)
    return values.mean(axis=0), values.std(axis=0)
