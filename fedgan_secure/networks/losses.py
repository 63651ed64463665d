"""The losses, all separable: one value per image, no statistic over a batch.

Non-saturating logistic loss (Goodfellow et al. 2014) with an auxiliary class head (Odena et al. 2017) on real and
on generated images.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def _parts(outputs: Any) -> tuple[Any, Any]:
    realness, classes = outputs if isinstance(outputs, list | tuple) else (outputs, None)
    return tf.reshape(realness, [-1]), classes


def _class_loss(classes: Any, labels: Any, weight: float) -> Any:
    if classes is None or weight == 0.0:
        return 0.0
    return weight * tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.reshape(labels, [-1]), logits=classes)


def real_loss(outputs: Any, labels: Any, class_weight: float) -> Any:
    """The discriminator's loss on real images, float32[n]: the only term that sees them."""
    realness, classes = _parts(outputs)
    return tf.nn.softplus(-realness) + _class_loss(classes, labels, class_weight)


def fake_loss(outputs: Any) -> Any:
    """The discriminator's loss on generated images, float32[n]."""
    return tf.nn.softplus(_parts(outputs)[0])


def generator_loss(outputs: Any, labels: Any, class_weight: float) -> Any:
    """The generator's loss, float32[n]."""
    realness, classes = _parts(outputs)
    return tf.nn.softplus(-realness) + _class_loss(classes, labels, class_weight)


def lack_of_diversity(images: Any, target: float) -> Any:
    """How far pairs of generated images of one class are from differing by ``target`` on average, from 0 to 1.

    Args:
        images: float32[n, H, W, C]; image i and image i + n - n // 2 have the same class, another noise vector.
        target: mean absolute difference, in the units of the pixels (-1 to 1), beyond which nothing is asked.

    A hinge on the mode-seeking ratio of Mao et al. (CVPR 2019), taken twice: on the images, and on what is left of
    them without their mean colour, so that structure differs and not the tint alone. It looks at generated images only.
    """
    half = tf.shape(images)[0] // 2
    coarse = tf.nn.avg_pool2d(images, 4, 4, "VALID")
    shape = coarse - tf.reduce_mean(coarse, axis=[1, 2], keepdims=True)
    lack = 0.0
    for view, wanted in ((coarse, target), (shape, 0.6 * target)):
        apart = tf.reduce_mean(tf.abs(view[:half] - view[-half:]), axis=[1, 2, 3])
        lack += 0.5 * tf.nn.relu(1.0 - apart / wanted)
    return tf.reduce_mean(lack)
