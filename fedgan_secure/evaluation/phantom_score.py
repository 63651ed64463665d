"""A cheap score of a generator on public phantoms, for the end of the default run: seconds, no privacy at stake.

Never called on patients' images: there it would be a release that nothing pays for.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.classifier import to_float
from fedgan_secure.evaluation.tstr import LabelledImages, accuracy
from fedgan_secure.models.dcgan import draw_images
from fedgan_secure.models.features import oriented_bank
from fedgan_secure.models.spec import ModelSpec

TEST_IMAGES = 600
TRAIN_IMAGES = 800
STEPS = 160


def generator_score(generator: keras.Model, spec: ModelSpec, dataset: PatientDataset, seed: int) -> dict[str, Any]:
    """How well a generator does on phantoms.

    Args:
        generator: of the specification.
        spec: architecture.
        dataset: phantoms.
        seed: of the images drawn and of the classifier.

    Returns:
        ``tstr_accuracy``: a small classifier trained on generated images alone, tested on phantoms (None when
        unconditional; chance is the share of the largest class, ``chance``); ``feature_distance``: see
        `feature_distance`, smaller is better; and the numbers of images.

    Raises:
        InputError: the data set is empty or of another size.
    """
    if not len(dataset) or dataset.image_size != spec.image_size or dataset.channels != spec.channels:
        raise InputError("the phantoms to score on do not have the model's image size and channels")
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(dataset))[:TEST_IMAGES]
    real = dataset.pixels(np.sort(rows))
    labels = np.asarray(dataset.labels)[np.sort(rows)]
    asked = np.arange(TRAIN_IMAGES, dtype=np.int32) % max(spec.classes, 1)
    drawn = draw_images(generator, spec, asked if spec.conditional else None, TRAIN_IMAGES, seed)
    result: dict[str, Any] = {
        "feature_distance": feature_distance(drawn, real),
        "tstr_accuracy": None,
        "chance": None,
        "test_images": len(real),
        "generated_images": len(drawn),
    }
    if spec.conditional:
        test = LabelledImages(real[labels >= 0], labels[labels >= 0])
        hits = accuracy(LabelledImages(drawn, asked), test, spec.classes, (seed,), STEPS)
        result["tstr_accuracy"] = float(hits.mean())
        result["chance"] = float(np.bincount(test.labels).max() / len(test.labels))
    return result


def feature_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Fréchet distance between diagonal Gaussians fitted to public image features of two sets.

    The features are colour averages and rectified oriented filters on an 8 x 8 grid, at half resolution: fixed and
    public, not a trained network, so the number is comparable between runs but not with a published FID.

    Args:
        left, right: uint8[n, H, W, C].
    """

    def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for start in range(0, len(images), 200):
            pixels = tf.constant(to_float(images[start : start + 200]))
            half = tf.nn.avg_pool2d(pixels, 2, 2, "VALID")
            grey = tf.reduce_mean(half, axis=-1, keepdims=True)
            edges = tf.nn.relu(tf.nn.conv2d(grey, oriented_bank(), 1, "SAME"))
            stack = tf.concat([half, edges], axis=-1)
            window = max(int(stack.shape[1]) // 8, 1)
            pooled = tf.nn.avg_pool2d(stack, window, window, "VALID")
            found.append(pooled.numpy().reshape(len(pixels), -1).astype(np.float64))
        values = np.concatenate(found)
        return values.mean(axis=0), values.std(axis=0)

    (mean_left, spread_left), (mean_right, spread_right) = moments(left), moments(right)
    return float(((mean_left - mean_right) ** 2).sum() + ((spread_left - spread_right) ** 2).sum())
