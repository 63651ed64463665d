"""Both sides of a step with shared noise: the hospitals' clipped sums, and everything that follows from their sum.

A hospital computes the clipped gradients of the real term and nothing else: neither the fake term nor the optimiser
touches its machine. The coordinator sees noisy sums alone; the fake term, Adam and the generator's steps are
post-processing there.
"""

from __future__ import annotations

import math
import time
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fedgan_audits.accounting import DistributedMechanism, share_variance
from fedgan_protocols.primitives import FixedPoint
from fedgan_secure.data import PatientDataset
from fedgan_secure.dpsgd import check_mechanism, probe
from fedgan_secure.models import ModelError, ModelSpec
from fedgan_secure.networks import VectorLayout, fake_loss, real_loss
from fedgan_secure.policy import TrainingSettings
from fedgan_secure.privacy import TOLERANCE, DiscreteGaussian, Entropy, MechanismWatch, Moments, ShareEncoder
from fedgan_secure.training.batches import Batch, PatientBatches
from fedgan_secure.training.training import CompiledNetworks, PublicSteps, compiled_networks


class StepWeights:
    """What a step after the first starts from, as one vector: the discriminator's weights and its public centre."""

    def __init__(self, networks: CompiledNetworks, layout: VectorLayout) -> None:
        """Args: networks: whose weights are read and written; layout: of the whole model."""
        self._networks = networks
        self._layout = layout
        self._weights = networks.discriminator_adam.variables
        self._sizes = networks.discriminator_adam.sizes

    def read(self) -> np.ndarray:
        """float32[d + size of the centre]."""
        parts = [np.asarray(weight).reshape(-1) for weight in self._weights]
        if self._networks.centre is not None:
            parts.append(np.asarray(self._networks.centre).reshape(-1))
        return np.concatenate(parts).astype(np.float32, copy=False)

    def write(self, vector: np.ndarray) -> None:
        """Start from what :meth:`read` gave elsewhere.

        Raises:
            ModelError: another length or dtype, or a value that is not finite.
        """
        places = [*self._weights, *([] if self._networks.centre is None else [self._networks.centre])]
        sizes = [int(np.prod(place.shape)) for place in places]
        if vector.dtype != np.float32 or vector.shape != (sum(sizes),):
            raise ModelError(f"a step's weights are {vector.dtype}{list(vector.shape)}, expected float32[{sum(sizes)}]")
        if not np.isfinite(vector).all():
            raise ModelError("a step's weights hold NaN or infinity")
        for place, part in zip(places, np.split(vector, np.cumsum(sizes)[:-1]), strict=True):
            place.assign(part.reshape(place.shape))


class RealTerm:
    """The sum of clipped per-patient gradients of the real term, compiled once per process."""

    def __init__(self, networks: CompiledNetworks) -> None:
        self._networks = networks
        spec, settings = networks.spec, networks.settings
        side = spec.image_size
        self.sum = tf.function(
            self._sum,
            input_signature=[
                tf.TensorSpec((None, side, side, spec.channels), tf.uint8),
                tf.TensorSpec((None, 1), tf.int32),
                tf.TensorSpec((None, settings.images_per_patient), tf.float32),
            ],
        )

    def _sum(self, pixels: Any, labels: Any, weights: Any) -> tuple[Any, ...]:
        spec, settings = self._networks.spec, self._networks.settings
        clipped = self._networks.engine.clipped_sum(
            tf.cast(pixels, tf.float32) / 127.5 - 1.0,
            labels if spec.conditional else None,
            weights,
            settings.l2_clip_norm,
            lambda outputs, classes: real_loss(outputs, classes, settings.class_weight_discriminator),
        )
        return clipped.gradient, clipped.norms, clipped.scales, clipped.loss


@lru_cache(maxsize=4)
def _real_term(spec: ModelSpec, settings: TrainingSettings) -> RealTerm:
    return RealTerm(compiled_networks(spec, settings))


class SumTrainer(PatientBatches):
    """One hospital's side: in every step one clamped, rounded and noised sum. Its data set never leaves it."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: TrainingSettings,
        dataset: PatientDataset,
        record: DistributedMechanism,
        codec: FixedPoint,
        entropy: Entropy,
        watch: MechanismWatch | None = None,
    ) -> None:
        """Check that data, model and mechanism fit together.

        Args: watch: holds what is done against what the accountant was told; a hospital always has one.

        Raises:
            InputError: the images do not fit the model, or the shares the grid.
            PrivacyRefused: the mechanism is one no guarantee holds for.
        """
        check_mechanism(
            sampling_probability=settings.sampling_probability,
            noise_multiplier=settings.noise_multiplier,
            clip_norm=settings.l2_clip_norm,
            expected_batch_size=settings.expected_batch_size,
        )
        super().__init__(spec, settings, dataset, entropy)
        noise = DiscreteGaussian(Fraction(share_variance(record)), entropy)
        self._encoder = ShareEncoder(record, codec, noise.draw)
        self._deviation = math.sqrt(share_variance(record))
        self._watch = watch
        self._layout = VectorLayout.of(spec)
        self._networks = compiled_networks(spec, settings)
        self._real = _real_term(spec, settings)
        self._weights = StepWeights(self._networks, self._layout)
        self._start: np.ndarray | None = None
        self._rows: list[dict[str, Any]] = []
        self._seconds = 0.0

    def begin(self, global_vector: np.ndarray) -> None:
        """Start a round from the global model, float32[d]. Raises ModelError where it does not fit."""
        self._layout.check(global_vector)
        self._networks.place(self._layout, global_vector)
        self._start = self._weights.read()
        self._rows, self._seconds = [], 0.0
        if self._watch is not None:
            self._watch.begin_round()
            self._probe(self._watch)

    def step(self, weights: np.ndarray | None) -> np.ndarray:
        """One sum for secure aggregation: fresh coins, fresh noise.

        Args: weights: as `StepWeights.read` gives them; None for the round's first step, from the global model.

        Returns:
            uint32[d] or uint64[d], modulo 2^k; it goes to the client session alone.

        Raises:
            MechanismContradicted: what was done is not what the accountant was told; there is no sum then.
        """
        started = time.monotonic()
        if weights is None:
            if self._start is None:
                raise ModelError("a step without weights, and no round has begun")
            weights = self._start
        self._weights.write(weights)
        batch = self._batch()
        gradient, norms, scales, losses = self._real.sum(batch.pixels, batch.labels, batch.weights)
        total = gradient.numpy()
        encoded, noise = self._encoder.encode(total)
        if self._watch is not None:
            self._observe(self._watch, batch, total, noise)
        kept = slice(0, batch.size)
        self._rows.append(
            {
                "size": batch.size,
                "norms": norms.numpy()[kept],
                "scales": scales.numpy()[kept],
                "losses": losses.numpy()[kept],
                **noise,
            }
        )
        self._seconds += time.monotonic() - started
        return encoded

    def _observe(self, watch: MechanismWatch, batch: Batch, total: np.ndarray, noise: dict[str, float]) -> None:
        """Hold one step against the recorded mechanism, and stop before its sum is handed on where it differs."""
        deviation, told = self._deviation, watch.recorded.mechanism
        watch.batch(batch.images, batch.weights[: batch.size])
        watch.noise(Moments(noise["count"], noise["sum"] / deviation, noise["squares"] / deviation**2))
        watch.summed(float(np.linalg.norm(total)), told.l2_clip_norm * max(batch.size, TOLERANCE))
        watch.check()

    def _probe(self, watch: MechanismWatch) -> None:
        """Send made-up patients through the very sum that real ones enter."""
        told, spec = watch.recorded.mechanism, self.spec

        def contribution(pixels: Any, labels: Any, weights: Any, noise: np.ndarray | None) -> np.ndarray:
            return np.asarray(self._real.sum(pixels, labels, weights)[0].numpy())

        shape = (spec.image_size, spec.image_size, spec.channels)
        found = probe(contribution, shape, told.images_per_patient, told.l2_clip_norm)
        watch.probed(found.outcomes, found.figures)
        watch.check()

    def end_round(self) -> None:
        """After the round's last sum. Raises MechanismContradicted."""
        if self._watch is not None:
            self._watch.end_round()
            self._watch.check()

    def statistics(self) -> dict[str, Any]:
        """What the round was here (confidential): realised batch sizes, clip fraction, losses, moments of the noise."""
        rows = self._rows

        def joined(name: str) -> np.ndarray:
            return np.concatenate([row[name] for row in rows] or [np.zeros(0)])

        norms, scales, losses = joined("norms"), joined("scales"), joined("losses")
        finite = norms[np.isfinite(norms)]
        count = sum(row["count"] for row in rows)
        return {
            "steps": len(rows),
            "batch_sizes": [row["size"] for row in rows],
            "clip_fraction": float((scales < 1.0).mean()) if len(scales) else 0.0,
            "patients_not_finite": len(norms) - len(finite),
            "gradient_norm_median": float(np.median(finite)) if len(finite) else 0.0,
            "gradient_norm_90": float(np.quantile(finite, 0.9)) if len(finite) else 0.0,
            "real_loss": float(losses.mean()) if len(losses) else 0.0,
            "clamped_coordinates": int(sum(row["clamped"] for row in rows)),
            "noise_values": int(count),
            "noise_mean_grid_steps": sum(row["sum"] for row in rows) / count if count else 0.0,
            "noise_variance_grid_steps": sum(row["squares"] for row in rows) / count if count else 0.0,
            "seconds": round(self._seconds, 3),
        }


class SharedOptimiser(PublicSteps):
    """The coordinator's side: Adam on the noisy mean gradient plus the fake term, then the generator's step.

    What it did in a round counts once the round is whole (`finish`): a round that is begun again starts from the
    optimiser's state of the last whole one.
    """

    def __init__(self, spec: ModelSpec, settings: TrainingSettings, entropy: Entropy) -> None:
        """Args: entropy: seeds latent vectors and fake labels, which are public."""
        super().__init__(spec, settings, entropy)
        self._networks = CompiledNetworks(spec, settings)
        self._weights = StepWeights(self._networks, self._layout)
        networks = self._networks
        column, scalar = tf.TensorSpec((None, 1), tf.int32), tf.TensorSpec((), tf.float32)
        drawn = tf.TensorSpec((None, spec.image_size, spec.image_size, spec.channels), tf.float32)
        mean = tf.TensorSpec((networks.discriminator_adam.size,), tf.float32)
        self._discriminator_step = tf.function(self._step, input_signature=[mean, drawn, column, scalar])
        self._finished_steps = 0

    def _step(self, mean: Any, fakes: Any, fake_labels: Any, rate: Any) -> None:
        networks, settings = self._networks, self.settings
        count = tf.shape(fakes)[0]
        made = networks.engine.clipped_sum(
            tf.stop_gradient(fakes),
            fake_labels if self.spec.conditional else None,
            tf.ones([count, 1]),
            settings.l2_clip_norm,
            lambda outputs, labels: fake_loss(outputs),
            margin=0.0,
        )
        networks.descend(mean + made.gradient / tf.cast(count, tf.float32), rate)

    def begin(self, global_vector: np.ndarray) -> None:
        """Start a round from the global model, float32[d]."""
        self._steps_done = self._finished_steps
        self._load(self._networks, global_vector)

    def step(self, mean: np.ndarray) -> np.ndarray:
        """Make one step of discriminator and generator.

        Args: mean: float32[d_D], the noisy mean gradient of the real term.

        Returns:
            What the next step starts from, as `StepWeights.read` gives it.
        """
        share = self._rate_share()
        rate = np.float32(self.settings.discriminator_learning_rate * share)
        self._discriminator_step(mean, *self._fakes(self._networks), rate)
        self._generator_turn(self._networks, share)
        return self._weights.read()

    def finish(self) -> np.ndarray:
        """End a whole round: keep the optimiser's state and return the global model, float32[d]."""
        vector = self._unload(self._networks)
        self._finished_steps = self._steps_done
        return vector

    def save(self, path: Path) -> None:
        """Keep the state of the last whole round; whole or absent."""
        self._steps_done = self._finished_steps
        super().save(path)

    def restore(self, path: Path) -> None:
        """Continue from what `save` kept; raises TrainingStateError where it cannot be read or fits not."""
        super().restore(path)
        self._finished_steps = self._steps_done
