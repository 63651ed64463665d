"""Federated averaging of the same GAN with nothing else: what a run would be without privacy, secrecy and records.

The same networks, losses, optimisers, rates, batch sizes, steps, hospitals and averaging as a run of `fedgan-secure`.
Real images are shuffled and taken in batches of a fixed size; one compiled function makes a discriminator step (through
Keras' layers and TensorFlow's own gradient) and the generator's step behind it, on the same batch of generated images.
At the end of a round it keeps what anybody would keep: both networks as Keras files and a sheet of samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.dpsgd.norms import variable
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.dcgan import build_discriminator, build_generator, discriminator_graph, generator_inputs
from fedgan_secure.networks.losses import fake_loss, generator_loss, lack_of_diversity, real_loss
from fedgan_secure.networks.optimiser import AdamState, FlatAdam
from fedgan_secure.networks.vectors import VectorLayout, named_weights
from fedgan_secure.policy.training import TrainingSettings
from fedgan_secure.synthesis.generate import contact_sheet_png

from .causes import BUILDING, Causes, charge_after_first

STEPS, BATCHES, WEIGHTS = "training steps", "drawing batches", "weights in and out"
AVERAGING, KEEPING = "averaging", "samples and models"
COLUMNS = 8
CENTRE_KEEP, CENTRE_DRAWS = 0.9, 60


class PlainNetworks:
    """Both networks and their compiled step, shared by all hospitals."""

    def __init__(self, spec: ModelSpec, settings: TrainingSettings) -> None:
        self.spec, self.settings = spec, settings
        self.generator, self.discriminator = build_generator(spec, 0), build_discriminator(spec, 1)
        self._layers = {layer.name: layer for layer in self.discriminator.layers}
        self._centre = variable(self._layers["f_centre"].centre) if "f_centre" in self._layers else None
        betas = settings.adam_beta1, settings.adam_beta2
        weights = [[variable(w) for _, w in named_weights(net)] for net in (self.discriminator, self.generator)]
        self.discriminator_adam, self.generator_adam = (FlatAdam(own, *betas) for own in weights)
        self.step: Any = tf.function(self._step)
        self.draw: Any = tf.function(self._draw)
        self.recentre: Any = tf.function(self._recentre)

    def _labels(self, labels: Any) -> Any:
        return labels if self.spec.conditional else None

    def _draw(self, z: Any, labels: Any) -> Any:
        return self.generator(generator_inputs(self.spec, z, labels), training=True)

    def _step(
        self, pixels: Any, labels: Any, fakes: Any, fake_labels: Any, z: Any, asked: Any, rates: tuple[Any, Any]
    ) -> Any:
        """A step of the discriminator on real and generated images, then one of the generator, whose images return."""
        settings = self.settings
        count = pixels.shape[0]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.discriminator_adam.variables)
            images = tf.concat([tf.cast(pixels, tf.float32) / 127.5 - 1.0, fakes], axis=0)
            both = tf.concat([labels, fake_labels], axis=0)
            outputs = self.discriminator([images, both] if self.spec.conditional else images, training=True)
            real, made = (tf.nest.map_structure(lambda x, own=own: x[own], outputs) for own in _halves(count))
            mean = tf.reduce_mean(real_loss(real, labels, settings.class_weight_discriminator))
            mean += tf.reduce_mean(fake_loss(made))
        _descend(self.discriminator_adam, tape, mean, rates[0], settings.discriminator_weight_decay)
        return self._generator_step(z, asked, rates[1])

    def _generator_step(self, z: Any, asked: Any, rate: Any) -> Any:
        settings = self.settings
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.generator_adam.variables)
            images = self._draw(z, asked)
            outputs, features = self._judged(images, asked)
            mean = tf.reduce_mean(generator_loss(outputs, asked, settings.class_weight_generator))
            if settings.diversity_weight:
                mean += settings.diversity_weight * lack_of_diversity(images, settings.diversity_target)
        _descend(self.generator_adam, tape, mean, rate, 0.0)
        if self._centre is not None:
            kept, new = CENTRE_KEEP * self._centre, (1.0 - CENTRE_KEEP) * tf.reduce_mean(features, axis=0)
            self._centre.assign(kept + new)
        return images

    def _judged(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """The discriminator's outputs and the features before they are centred."""
        features = None

        def call(name: str, *inputs: Any) -> Any:
            nonlocal features
            if name == "f_centre":
                features = inputs[0]
            return self._layers[name](*inputs)

        return discriminator_graph(self.spec, call, images, self._labels(labels)), features

    def _recentre(self, z: Any, labels: Any) -> None:
        if self._centre is not None:
            self._centre.assign(tf.reduce_mean(self._judged(self._draw(z, labels), labels)[1], axis=0))


def _halves(count: int) -> tuple[slice, slice]:
    return slice(0, count), slice(count, None)


def _descend(adam: FlatAdam, tape: Any, mean: Any, rate: Any, decay: float) -> None:
    gradients = tape.gradient(mean, adam.variables)
    if decay:
        for value in adam.variables:
            value.assign(value * (1.0 - rate * decay))
    adam.apply(tf.concat([tf.reshape(tf.convert_to_tensor(value), [-1]) for value in gradients], axis=0), rate)


class PlainHospital:
    """One hospital's images, shuffled anew in every epoch, and its optimisers' state."""

    def __init__(self, dataset: PatientDataset, batch: int, sizes: tuple[int, int], seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.states = [AdamState.fresh(size) for size in sizes]
        self.steps = 0
        self._dataset, self._batch = dataset, min(batch, len(dataset))
        self._labels = np.maximum(dataset.labels, 0)[:, None].astype(np.int32)
        self._order, self._at = np.arange(0), 0

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8[b, H, W, C] and int32[b, 1]."""
        if self._at + self._batch > len(self._order):
            self._order, self._at = self.random.permutation(len(self._dataset)), 0
        chosen = self._order[self._at : self._at + self._batch]
        self._at += self._batch
        return self._dataset.pixels(chosen), self._labels[chosen]


class PlainFederation:
    """FedAvg over the hospitals' images (McMahan et al. 2017, algorithm 1), with equal weights."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: TrainingSettings,
        datasets: Mapping[str, PatientDataset],
        causes: Causes,
        folder: Path,
        *,
        steps_per_round: int,
        batch: int,
        average_decay: float,
        label_names: tuple[str, ...],
        start: np.ndarray,
    ) -> None:
        """Args: batch: real images in a step; start: float32[d], the first global model; folder: for what is kept."""
        self.spec, self.settings, self._causes, self._folder = spec, settings, causes, folder
        self._steps, self._decay, self._names = steps_per_round, average_decay, label_names
        self.vector, self.average = start, start.copy()
        self.rounds = self.steps = 0
        with causes.of(BUILDING):
            self._layout = VectorLayout.of(spec)
            self._networks = PlainNetworks(spec, settings)
            sizes = self._networks.discriminator_adam.size, self._networks.generator_adam.size
            self._hospitals = [PlainHospital(data, batch, sizes, n) for n, data in enumerate(datasets.values())]
            rows = spec.classes or 5
            random = np.random.default_rng(0)
            self._sheet_z = random.standard_normal((rows * COLUMNS, spec.latent_dim), dtype=np.float32)
            self._sheet_labels = np.repeat(np.arange(rows, dtype=np.int32), COLUMNS)
            self._centre_z = random.standard_normal((CENTRE_DRAWS, spec.latent_dim), dtype=np.float32)
            self._centre_labels = (np.arange(CENTRE_DRAWS, dtype=np.int32) % max(spec.classes, 1))[:, None]
        networks = self._networks
        networks.step = charge_after_first(causes, networks.step, STEPS)
        networks.draw = charge_after_first(causes, networks.draw, STEPS)
        networks.recentre = charge_after_first(causes, networks.recentre, WEIGHTS)

    def round(self) -> None:
        """Every hospital trains from the global model; the mean of their models is the next one."""
        local = [self._train(hospital) for hospital in self._hospitals]
        with self._causes.of(AVERAGING):
            self.vector = np.mean(local, axis=0, dtype=np.float64).astype(np.float32)
            decay = self._decay if self.rounds else 0.0
            self.average = (decay * self.average + (1.0 - decay) * self.vector).astype(np.float32)
        self.rounds += 1
        with self._causes.of(KEEPING):
            self._keep()

    def _train(self, hospital: PlainHospital) -> np.ndarray:
        networks, settings = self._networks, self.settings
        with self._causes.of(WEIGHTS):
            self._layout.assign(self.vector, networks.generator, networks.discriminator)
            networks.discriminator_adam.load(hospital.states[0])
            networks.generator_adam.load(hospital.states[1])
            networks.recentre(self._centre_z, self._centre_labels)
        drawn, asked = None, None
        for _ in range(self._steps):
            with self._causes.of(BATCHES):
                pixels, labels = hospital.batch()
                if drawn is None:
                    z, asked = self._inputs(hospital, settings.fake_batch_size)
                    drawn = networks.draw(z, asked)
                z, following = self._inputs(hospital, settings.generator_batch_size)
                half = len(following) // 2
                following[len(following) - half :] = following[:half]
                rates = self._rates(hospital)
            drawn = networks.step(pixels, labels, drawn, asked, z, following, rates)
            asked = following
            hospital.steps += 1
            self.steps += 1
        with self._causes.of(WEIGHTS):
            hospital.states = [networks.discriminator_adam.state(), networks.generator_adam.state()]
            return self._layout.flatten(networks.generator, networks.discriminator)

    def _inputs(self, hospital: PlainHospital, count: int) -> tuple[np.ndarray, np.ndarray]:
        z = hospital.random.standard_normal((count, self.spec.latent_dim), dtype=np.float32)
        return z, hospital.random.integers(0, max(self.spec.classes, 1), (count, 1), dtype=np.int32)

    def _rates(self, hospital: PlainHospital) -> tuple[Any, Any]:
        decay = self.settings.decay_steps
        share = 1.0 if decay == 0 else max(0.1, 1.0 - 0.9 * hospital.steps / decay)
        chosen = self.settings.discriminator_learning_rate, self.settings.generator_learning_rate
        return tf.constant(chosen[0] * share), tf.constant(chosen[1] * share)

    def _keep(self) -> None:
        """Both networks, and samples of the averaged generator: five or all classes, eight of each."""
        networks = self._networks
        self._layout.assign(self.average, networks.generator, networks.discriminator)
        for network in (networks.generator, networks.discriminator):
            network.save(self._folder / f"{network.name}.keras")
        drawn = np.asarray(networks.draw(self._sheet_z, self._sheet_labels[:, None]))
        images = np.clip(np.rint((drawn + 1.0) * 127.5), 0, 255).astype(np.uint8)
        names = [self._names[label] for label in self._sheet_labels] if self.spec.conditional else None
        sheet = contact_sheet_png(images, COLUMNS, names)
        (self._folder / f"round-{self.rounds:04d}.png").write_bytes(sheet)
