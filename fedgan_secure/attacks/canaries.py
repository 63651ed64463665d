"""Canaries in the very training that patients go through, and an adversary who sees every noisy gradient.

Canaries are made-up patients of random black and white blocks: most of their gradients are above the clip norm, and
each has a direction of its own (with 256 of them at 28 pixels and first weights, about two thirds of a clip norm are
left when all others are taken off). A fair coin puts each of them in or leaves it out. The adversary sees the
gradient that every step gives to the optimiser, and knows all weights, all generated images, every other patient and
when those were drawn, but neither the coins of the canaries, nor when they were drawn, nor the noise. Every step
gives, for every canary, the log-likelihood ratio of "in" against "out" under independent noise of the recorded size
(the others' contributions taken off by least squares); they are added up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from fedgan_secure.data import PatientDataset
from fedgan_secure.dpsgd import variable
from fedgan_secure.models import ModelSpec
from fedgan_secure.networks import named_weights, real_loss
from fedgan_secure.policy import TrainingSettings
from fedgan_secure.privacy import Entropy
from fedgan_secure.training import Batch, CompiledNetworks, LocalTrainer

TOGETHER = 128
"""So many canaries go through the network at a time: their features are the most that a step has in memory."""
BLOCKS = 7
"""A canary is this many blocks high and wide, at 28 pixels of four pixels each."""


@dataclass(frozen=True)
class Canaries:
    """Made-up patients of one image each.

    Attributes:
        pixels: uint8[n, H, W, C].
        labels: int32[n].
        present: bool[n], the coins: whom the training sees.
    """

    pixels: np.ndarray
    labels: np.ndarray
    present: np.ndarray

    @classmethod
    def drawn(cls, spec: ModelSpec, count: int, entropy: Entropy = os.urandom) -> Canaries:
        """`count` canaries and their coins, all from `entropy`."""
        side = -(-spec.image_size // BLOCKS)
        raw = np.frombuffer(entropy(count * BLOCKS * BLOCKS * spec.channels), np.uint8)
        blocks = (raw & 1).reshape(count, BLOCKS, BLOCKS, spec.channels) * np.uint8(255)
        pixels = blocks.repeat(side, axis=1).repeat(side, axis=2)[:, : spec.image_size, : spec.image_size]
        labels = np.arange(count, dtype=np.int32) % max(spec.classes, 1)
        present = (np.frombuffer(entropy(count), np.uint8) & 1).astype(bool)
        return cls(np.ascontiguousarray(pixels), labels, present)


def with_canaries(others: PatientDataset, canaries: Canaries) -> PatientDataset:
    """The others, then the canaries whose coin says so, each a patient of their own."""
    pixels, labels = canaries.pixels[canaries.present], canaries.labels[canaries.present]
    behind = others.patients + np.arange(len(pixels))
    return PatientDataset(
        images=np.concatenate([others.pixels(np.arange(len(others))), pixels]),
        labels=np.concatenate([others.labels, labels]),
        patient=np.concatenate([others.patient, behind]).astype(np.int32),
        classes=others.classes,
    )


class Adversary:
    """Adds up, step by step, what a noisy gradient says of every canary."""

    def __init__(
        self, spec: ModelSpec, settings: TrainingSettings, compiled: CompiledNetworks, canaries: Canaries
    ) -> None:
        """Args: settings: as recorded, and as the adversary believes them to be."""
        self.scores = np.zeros(len(canaries.pixels))
        self.settings = settings
        weights = [variable(weight) for _, weight in named_weights(compiled.discriminator)]
        images = tf.constant(canaries.pixels.astype(np.float32) / 127.5 - 1.0)
        labels = tf.constant(canaries.labels[:, None])
        conditional = spec.conditional

        def one(pair: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                label = pair[1][None] if conditional else None
                loss = tf.reduce_sum(
                    real_loss(compiled.engine.apply(pair[0][None], label), label, settings.class_weight_discriminator)
                )
            return tf.concat([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in tape.gradient(loss, weights)], axis=0)

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32)])
        def look(released: Any) -> tuple[Any, Any]:
            parts = [slice(start, start + TOGETHER) for start in range(0, len(canaries.pixels), TOGETHER)]
            gradients = tf.concat([tf.vectorized_map(one, (images[part], labels[part])) for part in parts], axis=0)
            norms = tf.norm(gradients, axis=1, keepdims=True)
            clipped = gradients * tf.minimum(1.0, settings.l2_clip_norm / tf.maximum(norms, 1e-12))
            return tf.linalg.matvec(clipped, released), tf.matmul(clipped, clipped, transpose_b=True)

        self._look = look

    def see(self, released: np.ndarray) -> None:
        """One step. Args: released: float32[d], the noisy sum less what everybody but the canaries contributed."""
        seen, gram = (np.asarray(value, np.float64) for value in self._look(released))
        q, deviation = self.settings.sampling_probability, self.settings.noise_multiplier * self.settings.l2_clip_norm
        inverse = np.linalg.inv(gram + 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram)))
        estimate, variance = inverse @ seen, deviation**2 * np.diag(inverse)
        self.scores += np.logaddexp(np.log1p(-q) if q < 1 else -np.inf, np.log(q) + (estimate - 0.5) / variance)


class WatchedTrainer(LocalTrainer):
    """The hospital's own trainer, with an adversary who is shown what every step releases."""

    def __init__(
        self, spec: ModelSpec, settings: TrainingSettings, others: PatientDataset, canaries: Canaries,
        adversary: Callable[[CompiledNetworks], Adversary], entropy: Entropy = os.urandom,
    ) -> None:  # fmt: skip
        super().__init__(spec, settings, with_canaries(others, canaries), entropy)
        self._first_canary = len(others)
        self._adversary = adversary
        self._made: Adversary | None = None
        self._weights = np.zeros((0, 0), np.float32)

    @property
    def scores(self) -> np.ndarray:
        """float64[n]: the larger, the more the adversary believes that the canary is in."""
        if self._made is None:
            raise RuntimeError("no step was watched")
        return self._made.scores

    def _batch(self) -> Batch:
        batch = super()._batch()
        self._weights = batch.weights.copy()  # without the canaries: what the adversary knows
        self._weights[: batch.size][(batch.images >= self._first_canary).any(axis=1)] = 0.0
        return batch

    def _step(self, compiled: CompiledNetworks, record: Any) -> None:
        if self._made is None:
            self._made = self._adversary(compiled)
        super()._step(_Tap(compiled, self._release), record)  # type: ignore[arg-type]

    def _release(self, compiled: CompiledNetworks, given: tuple[Any, ...], gradient: Any) -> None:
        pixels, labels, _, noise, fakes, fake_labels = given
        known = compiled.discriminator_gradient(
            pixels, labels, self._weights, np.zeros_like(noise), fakes, fake_labels
        )[0]
        assert self._made is not None  # noqa: S101
        self._made.see((gradient.numpy() - known.numpy()) * np.float32(self.settings.expected_batch_size))


class _Tap:
    """The compiled networks, with an ear on the gradient that a step releases."""

    def __init__(
        self, compiled: CompiledNetworks, heard: Callable[[CompiledNetworks, tuple[Any, ...], Any], None]
    ) -> None:
        self._compiled, self._heard = compiled, heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)

    def discriminator_gradient(self, *given: Any) -> Any:
        made = self._compiled.discriminator_gradient(*given)
        self._heard(self._compiled, given, made[0])
        return made
