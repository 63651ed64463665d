"""Losses are separable, point the right way, and diversity looks at pairs of generated images."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fedgan_secure.networks.losses import fake_loss, generator_loss, lack_of_diversity, real_loss
from fedgan_secure.networks.optimiser import AdamState, FlatAdam

RNG = np.random.default_rng(0)
OUTPUTS = [tf.constant(RNG.normal(size=(4, 1)), tf.float32), tf.constant(RNG.normal(size=(4, 3)), tf.float32)]
LABELS = tf.constant([[0], [1], [2], [0]])


def test_one_value_per_image_that_depends_on_that_image_alone() -> None:
    for loss in (
        lambda outputs, labels: real_loss(outputs, labels, 0.5),
        lambda outputs, labels: fake_loss(outputs),
        lambda outputs, labels: generator_loss(outputs, labels, 0.5),
    ):
        whole = loss(OUTPUTS, LABELS)
        assert tuple(whole.shape) == (4,)
        for row in range(4):
            at = slice(row, row + 1)
            alone = loss([part[at] for part in OUTPUTS], LABELS[at])
            assert np.allclose(alone, whole[at], atol=1e-6)


def test_the_losses_are_the_logistic_ones() -> None:
    realness = tf.constant([[2.0], [-1.0]])
    expected = -np.log(1 / (1 + np.exp(-np.array([2.0, -1.0]))))
    assert np.allclose(real_loss(realness, None, 0.5), expected, atol=1e-6)
    assert np.allclose(generator_loss(realness, None, 0.5), expected, atol=1e-6)
    assert np.allclose(fake_loss(realness), expected + np.array([2.0, -1.0]), atol=1e-6)


def test_lack_of_diversity() -> None:
    one = RNG.uniform(-1, 1, (1, 16, 16, 1)).astype(np.float32)
    same = tf.constant(np.repeat(one, 4, axis=0))
    assert float(lack_of_diversity(same, 0.2)) == 1.0
    tinted = tf.constant(np.concatenate([one, one, one + 0.5, one - 0.5]).astype(np.float32))
    assert abs(float(lack_of_diversity(tinted, 0.2)) - 0.5) < 1e-5  # the tint differs, the structure does not
    mirrored = np.zeros((4, 16, 16, 1), np.float32)
    mirrored[:2, :, :8] = 1.0
    mirrored[2:, :, 8:] = 1.0
    assert float(lack_of_diversity(tf.constant(mirrored), 0.2)) == 0.0


def test_flat_adam_follows_the_published_algorithm_and_resumes() -> None:
    start = RNG.normal(size=7).astype(np.float32)
    gradients = RNG.normal(size=(6, 7)).astype(np.float32)
    expected, first, second = start.astype(np.float64), np.zeros(7), np.zeros(7)
    for count, gradient in enumerate(gradients.astype(np.float64), 1):
        first = 0.5 * first + 0.5 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        expected -= 0.01 * (first / (1 - 0.5**count)) / (np.sqrt(second / (1 - 0.9**count)) + 1e-8)
    variables = [tf.Variable(start[:4].reshape(2, 2)), tf.Variable(start[4:])]
    adam = FlatAdam(variables, 0.5, 0.9)
    for gradient in gradients[:3]:
        adam.apply(tf.constant(gradient), 0.01)
    kept = adam.state()
    again = FlatAdam(variables, 0.5, 0.9)
    again.load(AdamState(kept.first.copy(), kept.second.copy(), kept.count))
    for gradient in gradients[3:]:
        again.apply(tf.constant(gradient), 0.01)
    found = np.concatenate([variables[0].numpy().ravel(), variables[1].numpy()])
    assert np.allclose(found, expected, atol=1e-4)
