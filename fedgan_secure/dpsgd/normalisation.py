"""Group normalisation with its scale and offset given per image, so that one backward pass has their gradients.

Wu and He, "Group Normalization", ECCV 2018. What Keras' layer computes, in fewer passes over the features: the backward
pass needs the sums over places of the gradient and of its product with the centred features, and these are the
per-image gradients of offset and scale. So per-patient gradients of this layer come for nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


def group_normalisation(features: Any, scale: Any, offset: Any, groups: int, epsilon: float) -> Any:
    """Normalise every image by itself.

    Args:
        features: float32[n, ..., c].
        scale: float32[n, c], a row for every image.
        offset: float32[n, c], likewise.
        groups: into which the channels are divided.
        epsilon: added to the variance.

    Returns:
        float32[n, ..., c], differentiable once in the first three arguments.
    """
    shape = tf.shape(features)
    channels = int(features.shape[-1])
    static = features.shape

    group_of_channel = np.repeat(np.arange(groups), channels // groups)

    def per_channel(of_group: Any) -> Any:
        return tf.gather(of_group, group_of_channel, axis=1)

    def per_group(of_channel: Any) -> Any:
        return tf.reduce_sum(tf.reshape(of_channel, [-1, groups, channels // groups]), axis=2)

    @tf.custom_gradient
    def normalise(flat: Any, scale: Any, offset: Any) -> Any:
        size = tf.cast(tf.shape(flat)[1] * (channels // groups), tf.float32)
        mean = per_channel(per_group(tf.reduce_sum(flat, axis=1)) / size)
        centred = flat - mean[:, None]
        variance = per_group(tf.reduce_sum(tf.square(centred), axis=1)) / size
        steepness = per_channel(tf.math.rsqrt(variance + epsilon))
        output = centred * (steepness * scale)[:, None] + offset[:, None]

        def backward(came_back: Any) -> tuple[Any, Any, Any]:
            for_offset = tf.reduce_sum(came_back, axis=1)
            for_scale = tf.reduce_sum(came_back * centred, axis=1) * steepness
            along = per_channel(per_group(scale * for_scale) / size) * tf.square(steepness)
            level = per_channel(per_group(scale * for_offset) / size) * steepness
            for_features = came_back * (steepness * scale)[:, None] - (centred * along[:, None] + level[:, None])
            return for_features, for_scale, for_offset

        return output, backward

    flat = tf.reshape(features, tf.stack([shape[0], tf.reduce_prod(shape[1:-1]), channels]))
    return tf.ensure_shape(tf.reshape(normalise(flat, scale, offset), shape), static)
