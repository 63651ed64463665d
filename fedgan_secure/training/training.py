"""Local training of one hospital in one round: the private discriminator steps and the generator behind them.

Real images reach the generator through the DP-trained discriminator alone, and fake labels come from a public
uniform prior, so the generator is post-processing. What `LocalResult.statistics` holds is confidential.
"""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fedgan_secure.data import PatientDataset
from fedgan_secure.dpsgd import (
    PerPatientGradients,
    check_mechanism,
    discriminator_gradient,
    noise_scale,
    probe,
    refuse_mixing,
    variable,
)
from fedgan_secure.errors import InputError
from fedgan_secure.models import ModelSpec
from fedgan_secure.networks import (
    AdamState,
    FlatAdam,
    VectorLayout,
    build_discriminator,
    build_generator,
    discriminator_graph,
    fake_loss,
    generator_inputs,
    generator_loss,
    lack_of_diversity,
    named_weights,
    real_loss,
)
from fedgan_secure.policy import TrainingSettings
from fedgan_secure.privacy import Entropy, GaussianStream, MechanismWatch, Moments
from fedgan_secure.training.batches import PAD as PAD
from fedgan_secure.training.batches import Batch, PatientBatches

Progress = Callable[[int, int], None]
CENTRE_KEEP, CENTRE_DRAWS, CENTRE_SEED = 0.9, 60, 20
"""Running average of the centre over generator steps; generated images that set it when a round starts, their seed."""


class TrainingStateError(InputError):
    """A saved optimiser state that does not fit this hospital's training (exit code 2)."""


@dataclass(frozen=True)
class LocalResult:
    """What a hospital has after its local steps.

    Attributes:
        update: float32[d], local minus global weights.
        statistics: confidential: realised batch sizes, clip fraction, losses, noise moments.
        steps: discriminator steps made, all of them accounted.
        seconds: wall time.
    """

    update: np.ndarray
    statistics: dict[str, Any]
    steps: int
    seconds: float


class CompiledNetworks:
    """Models, optimisers and compiled steps of one (specification, settings): shared by all hospitals of a process."""

    def __init__(self, spec: ModelSpec, settings: TrainingSettings) -> None:
        self.spec, self.settings = spec, settings
        self.generator = build_generator(spec, 0)
        self.discriminator = build_discriminator(spec, 1)
        weights = [weight for _, weight in named_weights(self.discriminator)]
        layers = {layer.name: layer for layer in self.discriminator.layers}
        self.layers = layers
        self.centre = variable(layers["f_centre"].centre) if "f_centre" in layers else None

        def graph(call: Callable[..., Any], images: Any, labels: Any) -> Any:
            return discriminator_graph(spec, call, images, labels)

        self.engine = PerPatientGradients(graph, layers, weights)
        shape = (spec.image_size, spec.image_size, spec.channels)
        refuse_mixing(
            lambda images, labels: self.engine.apply(images, None if labels is None else labels[:, None]),
            shape,
            spec.conditional,
        )
        beta1, beta2 = settings.adam_beta1, settings.adam_beta2
        self.discriminator_adam = FlatAdam([variable(weight) for weight in weights], beta1, beta2)
        self.generator_weights = [variable(weight) for _, weight in named_weights(self.generator)]
        self.generator_adam = FlatAdam(self.generator_weights, beta1, beta2)
        images = tf.TensorSpec((None, *shape), tf.uint8)
        column = tf.TensorSpec((None, 1), tf.int32)
        rows = tf.TensorSpec((None, settings.images_per_patient), tf.float32)
        flat = tf.TensorSpec((self.discriminator_adam.size,), tf.float32)
        z = tf.TensorSpec((None, spec.latent_dim), tf.float32)
        drawn = tf.TensorSpec((None, *shape), tf.float32)
        scalar = tf.TensorSpec((), tf.float32)
        self.discriminator_gradient = tf.function(
            self._discriminator_gradient, input_signature=[images, column, rows, flat, drawn, column]
        )
        self.descend = tf.function(self._descend, input_signature=[flat, scalar])
        self.generator_step = tf.function(self._generator_step, input_signature=[z, column, scalar])
        self.draw = tf.function(self._fakes, input_signature=[z, column])
        self._centre_of = tf.function(self._mean_features, input_signature=[z, column])

    def _labels(self, labels: Any) -> Any:
        return labels if self.spec.conditional else None

    def _fakes(self, z: Any, labels: Any) -> Any:
        return self.generator(generator_inputs(self.spec, z, labels), training=True)

    def _discriminator_gradient(
        self, pixels: Any, labels: Any, weights: Any, noise: Any, fakes: Any, fake_labels: Any
    ) -> tuple[Any, ...]:
        """(gradient float32[d_D]; norms, scales, losses per patient; mean fake loss; what the watch looks at).

        The last is float32[3]: sum and sum of squares of the gradient less the clipped sum, and the norm of the latter.
        """
        settings = self.settings
        images = tf.cast(pixels, tf.float32) / 127.5 - 1.0
        gradient, clipped, mean_fake = discriminator_gradient(
            self.engine,
            (images, self._labels(labels), weights),
            (fakes, self._labels(fake_labels)),
            noise,
            clip_norm=settings.l2_clip_norm,
            noise_multiplier=settings.noise_multiplier,
            expected_batch_size=settings.expected_batch_size,
            real_loss=lambda outputs, classes: real_loss(outputs, classes, settings.class_weight_discriminator),
            fake_loss=fake_loss,
        )
        added = gradient - clipped.gradient
        watched = tf.stack([tf.reduce_sum(added), tf.reduce_sum(tf.square(added)), tf.norm(clipped.gradient)])
        return gradient, clipped.norms, clipped.scales, clipped.loss, mean_fake, watched

    def _descend(self, gradient: Any, rate: Any) -> None:
        """One update of the discriminator. Args: gradient: float32[d_D]; rate: float32 scalar."""
        decay = self.settings.discriminator_weight_decay
        if decay:
            for value in self.discriminator_adam.variables:
                value.assign(value * (1.0 - rate * decay))
        self.discriminator_adam.apply(gradient, rate)

    def _generator_step(self, z: Any, labels: Any, rate: Any) -> tuple[Any, Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.generator_weights)
            images = self._fakes(z, labels)
            outputs, features = self._watched(images, labels)
            mean = tf.reduce_mean(generator_loss(outputs, labels, self.settings.class_weight_generator))
            if self.settings.diversity_weight:
                mean += self.settings.diversity_weight * lack_of_diversity(images, self.settings.diversity_target)
        gradients = tape.gradient(mean, self.generator_weights)
        flat = tf.concat([tf.reshape(tf.convert_to_tensor(value), [-1]) for value in gradients], axis=0)
        self.generator_adam.apply(flat, rate)
        if features is not None and self.centre is not None:
            self.centre.assign(CENTRE_KEEP * self.centre + (1.0 - CENTRE_KEEP) * tf.reduce_mean(features, axis=0))
        return mean, images

    def _watched(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """The discriminator's outputs, and the features that enter its centring layer (None without one)."""
        features = None

        def call(name: str, *inputs: Any) -> Any:
            nonlocal features
            if name == "f_centre":
                features = inputs[0]
            return self.layers[name](*inputs)

        outputs = discriminator_graph(self.spec, call, images, self._labels(labels))
        return outputs, features

    def place(self, layout: VectorLayout, vector: np.ndarray) -> None:
        """Start from a model, float32[d]: weights and centre. Raises ModelError where it does not fit the layout."""
        layout.assign(vector, self.generator, self.discriminator)
        self.recentre()

    def recentre(self) -> None:
        """Set the centre from a fixed public draw of the current generator: the same at every hospital."""
        if self.centre is None:
            return
        draw = np.random.Generator(np.random.Philox(CENTRE_SEED))
        z = draw.standard_normal((CENTRE_DRAWS, self.spec.latent_dim), dtype=np.float32)
        labels = (np.arange(CENTRE_DRAWS, dtype=np.int32) % max(self.spec.classes, 1))[:, None]
        self.centre.assign(self._centre_of(z, labels))

    def _mean_features(self, z: Any, labels: Any) -> Any:
        return tf.reduce_mean(self._watched(self._fakes(z, labels), labels)[1], axis=0)


@lru_cache(maxsize=4)
def compiled_networks(spec: ModelSpec, settings: TrainingSettings) -> CompiledNetworks:
    """The networks that all hospitals of this process share; whoever uses them sets weights and optimisers first."""
    return CompiledNetworks(spec, settings)


_compiled = compiled_networks


class PublicSteps:
    """What sees no patient: generated images, the generator's own steps, both optimisers, from round to round.

    All of it is post-processing of noisy gradients and of public values. With `per_hospital` noise every hospital does
    it; with `distributed` noise the coordinator alone.
    """

    def __init__(self, spec: ModelSpec, settings: TrainingSettings, entropy: Entropy) -> None:
        """Start with fresh optimisers; `entropy` seeds the latent vectors and fake labels."""
        self.spec, self.settings = spec, settings
        self._public = np.random.Generator(np.random.Philox(int.from_bytes(entropy(16), "little")))
        layout = VectorLayout.of(spec)
        self._layout = layout
        generator, discriminator = layout.generator_slice, layout.discriminator_slice
        self._generator_state = AdamState.fresh(generator.stop - generator.start)
        self._discriminator_state = AdamState.fresh(discriminator.stop - discriminator.start)
        self._steps_done = 0
        self._drawn: tuple[Any, np.ndarray] | None = None

    def _load(self, compiled: CompiledNetworks, global_vector: np.ndarray) -> None:
        """Put a model, float32[d], and this party's optimisers into the networks; raises ModelError if it fits not."""
        compiled.place(self._layout, global_vector)
        compiled.discriminator_adam.load(self._discriminator_state)
        compiled.generator_adam.load(self._generator_state)
        self._drawn = None

    def _unload(self, compiled: CompiledNetworks) -> np.ndarray:
        """Take the optimisers' state and the model, float32[d], out of the networks."""
        self._discriminator_state = compiled.discriminator_adam.state()
        self._generator_state = compiled.generator_adam.state()
        vector = self._layout.flatten(compiled.generator, compiled.discriminator)
        self._layout.check(vector)
        return vector

    def _generator_turn(self, compiled: CompiledNetworks, share: float) -> Any:
        """After a discriminator step: the generator's, where one is due. Returns its mean loss or None."""
        self._steps_done += 1
        if self._steps_done % self.settings.steps_per_generator_step:
            return None
        z, asked = self._pairs(self.settings.generator_batch_size)
        mean, drawn = compiled.generator_step(z, asked, np.float32(self.settings.generator_learning_rate * share))
        self._drawn = (drawn, asked)
        return mean

    def _fakes(self, compiled: CompiledNetworks) -> tuple[Any, Any]:
        """Generated images for a discriminator step and their labels: those of the last generator step, once, where
        there are enough of them; fresh ones otherwise."""
        count = self.settings.fake_batch_size
        kept, self._drawn = self._drawn, None
        if kept is not None and len(kept[1]) >= count:
            return kept[0][:count], kept[1][:count]
        z, labels = self._fake_inputs(count)
        return compiled.draw(z, labels), labels

    def _rate_share(self) -> float:
        decay = self.settings.decay_steps
        return 1.0 if decay == 0 else max(0.1, 1.0 - 0.9 * self._steps_done / decay)

    def _fake_inputs(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Latent vectors and labels from the public uniform prior (not private, not cryptographic)."""
        z = self._public.standard_normal((count, self.spec.latent_dim), dtype=np.float32)
        labels = self._public.integers(0, max(self.spec.classes, 1), (count, 1), dtype=np.int32)
        return z, labels

    def _pairs(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `_fake_inputs`, the second half with the labels of the first: pairs of one class for diversity."""
        z, labels = self._fake_inputs(count)
        half = count // 2
        labels[count - half :] = labels[:half]
        return z, labels

    def save(self, path: Path) -> None:
        """Keep the optimiser state (confidential, stays in the hospital's folder); whole or absent."""
        aside = path.with_name(f".{path.name}.partial")
        with aside.open("wb") as file:
            np.savez(
                file,
                layout_hash=np.array(self._layout.layout_hash),
                steps_done=np.array(self._steps_done),
                **{
                    f"{name}_{field}": getattr(state, field)
                    for name, state in (
                        ("generator", self._generator_state),
                        ("discriminator", self._discriminator_state),
                    )
                    for field in ("first", "second", "count")
                },
            )
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)

    def restore(self, path: Path) -> None:
        """Continue from what `save` kept.

        Raises:
            TrainingStateError: the file is missing, damaged, or of another model.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                values = {name: kept[name] for name in kept.files}
            if str(values["layout_hash"]) != self._layout.layout_hash:
                raise TrainingStateError(f"the optimiser state in {path} belongs to another model")
            states = [
                AdamState(values[f"{name}_first"], values[f"{name}_second"], int(values[f"{name}_count"]))
                for name in ("generator", "discriminator")
            ]
            steps_done = int(values["steps_done"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TrainingStateError(f"the optimiser state in {path} cannot be read") from error
        for state, fresh in zip(states, (self._generator_state, self._discriminator_state), strict=True):
            if state.first.shape != fresh.first.shape or state.second.shape != fresh.second.shape:
                raise TrainingStateError(f"the optimiser state in {path} has the wrong size")
        self._generator_state, self._discriminator_state = states
        self._steps_done = steps_done


class LocalTrainer(PatientBatches, PublicSteps):
    """One hospital's training. Its data set never leaves it; its optimiser state stays with it between rounds."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: TrainingSettings,
        dataset: PatientDataset,
        entropy: Entropy = os.urandom,
        watch: MechanismWatch | None = None,
    ) -> None:
        """Check that data, model and mechanism fit together.

        Args:
            spec: architecture.
            settings: public constants.
            dataset: this hospital's patients.
            entropy: source of random bytes for coins and noise.
            watch: holds what is done against what the accountant was told; a hospital always has one.

        Raises:
            InputError: the images do not have the model's size, channels or classes.
            PrivacyRefused: the mechanism or the discriminator is one no guarantee holds for.
        """
        check_mechanism(
            sampling_probability=settings.sampling_probability,
            noise_multiplier=settings.noise_multiplier,
            clip_norm=settings.l2_clip_norm,
            expected_batch_size=settings.expected_batch_size,
        )
        PatientBatches.__init__(self, spec, settings, dataset, entropy)
        self._noise = GaussianStream(entropy)
        self._watch = watch
        PublicSteps.__init__(self, spec, settings, entropy)

    def train(self, global_vector: np.ndarray, steps: int, progress: Progress | None = None) -> LocalResult:
        """Make the round's local steps.

        Args:
            global_vector: float32[d], the coordinator's model.
            steps: discriminator steps, each one invocation of the accounted mechanism.
            progress: called with (done, total).

        Returns:
            The update and the confidential statistics.

        Raises:
            ModelError: the vector does not fit the layout.
            MechanismContradicted: what was done is not what the accountant was told; there is no update then.
        """
        started = time.monotonic()
        compiled = compiled_networks(self.spec, self.settings)
        self._load(compiled, global_vector)
        if self._watch is not None:
            self._watch.begin_round()
            self._probe(compiled, self._watch)
        record = _Record()
        for done in range(1, steps + 1):
            self._step(compiled, record)
            if progress is not None:
                progress(done, steps)
        if self._watch is not None:
            self._watch.end_round()
            self._watch.check()
        local = self._unload(compiled)
        return LocalResult(local - global_vector, record.summary(self.settings), steps, time.monotonic() - started)

    def _step(self, compiled: CompiledNetworks, record: _Record) -> None:
        settings = self.settings
        batch = self._batch()
        noise = (
            self._noise.normal(compiled.discriminator_adam.size)
            if settings.noise_multiplier > 0
            else np.zeros(compiled.discriminator_adam.size, np.float32)
        )
        share = self._rate_share()
        gradient, norms, scales, losses, mean_fake, watched = compiled.discriminator_gradient(
            batch.pixels, batch.labels, batch.weights, noise, *self._fakes(compiled)
        )
        if self._watch is not None:
            self._observe(self._watch, batch, watched.numpy())
        compiled.descend(gradient, np.float32(settings.discriminator_learning_rate * share))
        mean_generator = self._generator_turn(compiled, share)
        record.add(batch.size, norms, scales, losses, mean_fake, mean_generator, noise)

    def _observe(self, watch: MechanismWatch, batch: Batch, watched: np.ndarray) -> None:
        """Hold one step against the recorded mechanism, and stop before its gradient is used where it differs."""
        told, divisor = watch.recorded.mechanism, watch.recorded.expected_batch_size
        total, squares, norm = (float(value) for value in watched)
        watch.batch(batch.images, batch.weights[: batch.size])
        if told.noise_multiplier > 0:
            deviation = told.noise_multiplier * told.l2_clip_norm / divisor
            size = self._layout.size - self._layout.generator_size
            watch.noise(Moments(size, total / deviation, squares / deviation**2))
        watch.summed(norm, told.l2_clip_norm * (batch.size / divisor + 1.0))  # the fakes' mean is bounded, too
        watch.check()

    def _probe(self, compiled: CompiledNetworks, watch: MechanismWatch) -> None:
        """Send made-up patients and known noise through the step, beside two grey generated images."""
        told, spec = watch.recorded.mechanism, self.spec
        shape = (spec.image_size, spec.image_size, spec.channels)
        size = compiled.discriminator_adam.size
        quiet, grey = np.zeros(size, np.float32), (np.zeros((2, *shape), np.float32), np.zeros((2, 1), np.int32))

        def contribution(pixels: Any, labels: Any, weights: Any, noise: np.ndarray | None) -> np.ndarray:
            made = compiled.discriminator_gradient(pixels, labels, weights, quiet if noise is None else noise, *grey)
            return np.asarray(made[0].numpy() * np.float32(watch.recorded.expected_batch_size))

        found = [probe(contribution, shape, told.images_per_patient, told.l2_clip_norm)]
        if told.noise_multiplier > 0:
            deviation = told.noise_multiplier * told.l2_clip_norm
            found.append(noise_scale(contribution, shape, told.images_per_patient, size, deviation))
        for one in found:
            watch.probed(one.outcomes, one.figures)
        watch.check()


class _Record:
    """Confidential statistics of a round, gathered without a copy of the data."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._moments = np.zeros(3)

    def add(self, size: int, norms: Any, scales: Any, losses: Any, fake: Any, generator: Any, noise: Any) -> None:
        self._rows.append((size, norms, scales, losses, fake, generator))
        self._moments += (noise.size, float(noise.sum(dtype=np.float64)), float(np.vdot(noise, noise)))

    def summary(self, settings: TrainingSettings) -> dict[str, Any]:
        sizes = [row[0] for row in self._rows]
        norms = np.concatenate([row[1].numpy()[: row[0]] for row in self._rows] or [np.zeros(0)])
        scales = np.concatenate([row[2].numpy()[: row[0]] for row in self._rows] or [np.zeros(0)])
        losses = np.concatenate([row[3].numpy()[: row[0]] for row in self._rows] or [np.zeros(0)])
        finite = norms[np.isfinite(norms)]
        count, total, squares = self._moments
        generator = [float(row[5]) for row in self._rows if row[5] is not None]
        return {
            "batch_sizes": sizes,
            "clip_fraction": float((scales < 1.0).mean()) if len(scales) else 0.0,
            "patients_not_finite": len(norms) - len(finite),
            "gradient_norm_median": float(np.median(finite)) if len(finite) else 0.0,
            "gradient_norm_90": float(np.quantile(finite, 0.9)) if len(finite) else 0.0,
            "real_loss": float(losses.mean()) if len(losses) else 0.0,
            "fake_loss": float(np.mean([float(row[4]) for row in self._rows])) if self._rows else 0.0,
            "generator_loss": float(np.mean(generator)) if generator else 0.0,
            "noise_values": int(count) if settings.noise_multiplier > 0 else 0,
            "noise_mean": total / count if count else 0.0,
            "noise_variance": squares / count if count else 0.0,
        }
