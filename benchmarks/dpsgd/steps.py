"""The steps that are timed: this project's private and plain discriminator steps, their halves, and Keras' own.

The discriminator is the product's (`fedgan_secure.networks.dcgan`): convolutions of 3 x 3 and stride 2, group
normalisation behind every one but the first, a dense layer and a realness logit. The plain step is the same network
through Keras' layers and TensorFlow's own gradient, with the same optimiser.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.dpsgd.clipping import Part, PerPatientGradients
from fedgan_secure.dpsgd.norms import variable
from fedgan_secure.dpsgd.step import discriminator_gradient, private_gradient
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.dcgan import build_discriminator, discriminator_graph
from fedgan_secure.networks.losses import fake_loss, real_loss
from fedgan_secure.networks.optimiser import FlatAdam
from fedgan_secure.networks.vectors import named_weights
from fedgan_secure.privacy.noise import GaussianStream

WIDTHS = (64, 128, 256, 512)
GENERATOR_WIDTHS = {28: (64, 32), 64: (96, 64, 32, 16), 128: (96, 64, 32, 16, 12)}
CLIP_NORM, NOISE, RATE = 1.0, 1.0, 1e-4
BETA1, BETA2 = 0.5, 0.9

Timed = Callable[[], Any]


class Steps:
    """One discriminator and the steps that train it; a step is a call that returns when it is done."""

    def __init__(self, image_size: int, batch: int, widths: tuple[int, ...] = WIDTHS) -> None:
        """Args: image_size: pixels; batch: real images, one for each patient, and as many generated ones."""
        self.spec = ModelSpec(
            image_size,
            3,
            0,
            generator_widths=GENERATOR_WIDTHS[image_size],
            discriminator_widths=widths,
            features="none",
            normalization="group",
        )
        self.batch = batch
        rng = np.random.default_rng(0)
        shape = (batch, image_size, image_size, 3)
        self._real, self._fake = (tf.constant(rng.uniform(-1, 1, shape).astype(np.float32)) for _ in range(2))
        self._model = build_discriminator(self.spec, 1)
        weights = [weight for _, weight in named_weights(self._model)]
        layers = {layer.name: layer for layer in self._model.layers}
        self._engine = PerPatientGradients(
            lambda call, images, labels: discriminator_graph(self.spec, call, images, labels), layers, weights
        )
        self._weights = [variable(weight) for weight in weights]
        self._adam = FlatAdam(self._weights, BETA1, BETA2)
        self.parameters = self._adam.size
        self._stream = GaussianStream()
        self._ones = tf.ones([batch, 1])

    def noise(self) -> np.ndarray:
        """Fresh noise for one step."""
        return self._stream.normal(self.parameters)

    def private(self, bound_fakes: bool = False) -> Timed:
        """A whole private step: noise drawn, gradient, optimiser. With a bound on every generated image or without."""

        @tf.function
        def step(real: Any, fake: Any, noise: Any) -> Any:
            gradient, clipped, mean = discriminator_gradient(
                self._engine,
                (real, None, self._ones),
                (fake, None),
                noise,
                clip_norm=CLIP_NORM,
                noise_multiplier=NOISE,
                expected_batch_size=float(self.batch),
                real_loss=_real,
                fake_loss=fake_loss,
                bound_fakes=bound_fakes,
            )
            self._adam.apply(gradient, RATE)
            return mean, clipped.norms

        return lambda: step(self._real, self._fake, self.noise())[0].numpy()

    def plain(self) -> Timed:
        """The same step without privacy."""

        @tf.function
        def step(real: Any, fake: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self._weights)
                outputs = self._model(tf.concat([real, fake], axis=0), training=True)
                mean = tf.reduce_mean(_real(outputs[: self.batch], None)) + tf.reduce_mean(
                    fake_loss(outputs[self.batch :])
                )
            self._adam.apply(_flat(tape.gradient(mean, self._weights)), RATE)
            return mean

        return lambda: step(self._real, self._fake).numpy()

    def keras(self) -> Timed:
        """Keras' own ``train_on_batch`` on the same batch."""
        model = build_discriminator(self.spec, 1)

        def loss(truth: Any, outputs: Any) -> Any:
            return 2.0 * tf.reduce_mean(tf.nn.softplus(tf.where(truth > 0.5, -outputs, outputs)))

        model.compile(optimizer=keras.optimizers.Adam(RATE, beta_1=BETA1, beta_2=BETA2), loss=loss)
        images = np.concatenate([self._real.numpy(), self._fake.numpy()])
        truth = np.repeat(np.float32([[1], [0]]), self.batch, axis=0)
        return lambda: model.train_on_batch(images, truth)

    def private_real_half(self) -> Timed:
        """The private gradient of the real term alone, noise included."""

        @tf.function
        def step(real: Any, noise: Any) -> Any:
            return private_gradient(
                self._engine,
                (real, None, self._ones),
                noise,
                clip_norm=CLIP_NORM,
                noise_multiplier=NOISE,
                expected_batch_size=float(self.batch),
                loss=_real,
            )[0]

        return lambda: step(self._real, self.noise())[:1].numpy()

    def plain_real_half(self) -> Timed:
        """The plain gradient of the real term alone."""

        @tf.function
        def step(real: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self._weights)
                mean = tf.reduce_mean(_real(self._model(real, training=True), None))
            return _flat(tape.gradient(mean, self._weights))

        return lambda: step(self._real)[:1].numpy()

    def stages(self) -> dict[str, Timed]:
        """Private steps cut short: each does what the one before does, and one thing more."""

        def parts(real: Any, fake: Any) -> list[Part]:
            share = 1.0 / self.batch
            return [
                Part(real, None, self._ones, _real, CLIP_NORM, share),
                Part(fake, None, self._ones, lambda outputs, labels: fake_loss(outputs), None, share),
            ]

        @tf.function
        def passes(real: Any, fake: Any) -> Any:
            return self._engine.output_gradients([dataclasses.replace(part, bound=None) for part in parts(real, fake)])

        @tf.function
        def norms(real: Any, fake: Any) -> Any:
            return self._engine.summed(parts(real, fake))[0].norms

        @tf.function
        def sums(real: Any, fake: Any) -> Any:
            return self._engine.summed(parts(real, fake))[0].gradient

        def settled(values: Any) -> None:
            for value in tf.nest.flatten(values):
                value[:1].numpy()

        whole = self.private()
        return {
            "forward_backward": lambda: settled(passes(self._real, self._fake)),
            "norms": lambda: settled(norms(self._real, self._fake)),
            "sum": lambda: settled(sums(self._real, self._fake)),
            "noise": self.noise,
            "whole": whole,
        }


def _real(outputs: Any, labels: Any) -> Any:
    return real_loss(outputs, labels, 0.0)


def _flat(gradients: list[Any]) -> Any:
    return tf.concat([tf.reshape(tf.convert_to_tensor(value), [-1]) for value in gradients], axis=0)
