"""Train the public feature network: the grade, and lesion counts where there are some, under random colours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.networks import FlatAdam, feature_model, to_unit
from fedgan_secure.pretraining.judges import recolour
from fedgan_secure.pretraining.phases import Floats, assign, flat, load_optimiser, optimiser_state
from fedgan_secure.pretraining.public_set import PublicSet

RATE = 2e-3
RISE = 100
BETAS = (0.9, 0.999)
STRENGTH = 1.5
GRAIN = 0.06
SMOOTHING = 0.05
COUNTS_WEIGHT = 0.5
_STREAM = 1


class FeaturePhase:
    """Train the feature network; a `phases.Phase`."""

    name = "features"
    task = "training the public feature network"

    def __init__(self, public: PublicSet, *, steps: int, batch: int, seed: int) -> None:
        """Build the network untrained; equal seeds give equal weights."""
        self.steps, self._batch, self._seed = steps, batch, seed
        self._public, self._architecture = public, public.architecture
        self.network: keras.Model = feature_model(self._architecture, seed)
        self._variables = self.network.trainable_variables
        self._optimiser = FlatAdam(self._variables, *BETAS)
        counts = np.log1p(public.lesions)
        mean, std = counts[public.training].mean(axis=0), counts[public.training].std(axis=0, ddof=1)
        self._targets = (counts - mean) / np.maximum(std, 1e-3)
        self._compiled = tf.function(self._step)

    def step(self, index: int) -> None:
        """Make one step of Adam; the rate rises over the first 100 steps, then falls to zero along a cosine."""
        rows = np.random.default_rng([self._seed, _STREAM, index]).choice(self._public.training, self._batch)
        # from the first step at full rate, every hidden unit was dead after a few steps
        rise = min(1.0, (index + 1) / RISE)
        rate = RATE * rise * 0.5 * (1.0 + math.cos(math.pi * index / self.steps))
        self._compiled(
            tf.constant(self._public.images[rows]),
            tf.constant(self._public.labels[rows]),
            tf.constant(self._targets[rows], tf.float32),
            tf.constant(rate, tf.float32),
            tf.constant([self._seed, 8 * index], tf.int32),
        )

    def _step(self, levels: Any, labels: Any, targets: Any, rate: Any, seed: Any) -> None:
        x = recolour(to_unit(levels), seed, STRENGTH)
        amount = GRAIN * tf.random.stateless_uniform((tf.shape(x)[0], 1, 1, 1), seed + tf.constant([0, 2]))
        x += amount * tf.random.stateless_normal(tf.shape(x), seed + tf.constant([0, 3]))
        with tf.GradientTape() as tape:
            loss = self._loss(self.network(x, training=True), labels, targets)
        self._optimiser.apply(flat(tape.gradient(loss, self._variables)), rate)

    def _loss(self, raw: Any, labels: Any, targets: Any) -> tf.Tensor:
        classes, counts = self._architecture.classes, self._architecture.counts
        outputs = raw[:, -self._architecture.outputs :]
        loss = grade_loss(outputs[:, :classes], labels)
        if counts:
            loss += COUNTS_WEIGHT * tf.reduce_mean(tf.square(outputs[:, classes:] - targets))
        return loss

    def state(self) -> dict[str, Floats]:
        """Return weights and optimiser."""
        return {"weights": flat(self._variables).numpy(), **optimiser_state("adam", self._optimiser)}

    def load(self, state: Mapping[str, Floats]) -> None:
        """Go on from a state."""
        assign(self._variables, state["weights"])
        load_optimiser("adam", self._optimiser, state)


def grade_loss(logits: Any, labels: Any) -> tf.Tensor:
    """Return the mean cross-entropy of logits float32[n, classes] with labels int32[n], smoothed by .05."""
    classes = int(logits.shape[1])
    wanted = tf.one_hot(labels, classes) * (1.0 - SMOOTHING) + SMOOTHING / classes
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(wanted, logits))
