"""Both sides of a step of the heads with shared noise: the hospitals' clipped sums, and what follows from their sum.

A hospital computes the clipped gradients of the real term and nothing else. The coordinator sees noisy sums alone; the
fake term and Adam are post-processing there. Both have the interface of `federation.distributed_training`, but that
the heads' public inputs (the centre of the features, the generated pictures) are given when a round begins.
"""

from __future__ import annotations

import math
import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_audits.accounting import DistributedMechanism, share_variance
from fedgan_protocols.primitives import FixedPoint
from fedgan_secure.dpsgd import check_mechanism, feature_row, probe
from fedgan_secure.errors import InputError
from fedgan_secure.head_training.head_data import FakeBatches, FakeFeatures, FeatureBatch, FeatureBatches, FeatureSet
from fedgan_secure.head_training.head_networks import CompiledHeads, HeadState, compiled_heads
from fedgan_secure.head_training.head_records import StepRecord, gradient_figures, noise_figures
from fedgan_secure.heads import HeadSettings, HeadsLayout, HeadsSpec, check_centre
from fedgan_secure.models import ModelError
from fedgan_secure.privacy import TOLERANCE, DiscreteGaussian, Entropy, MechanismWatch, Moments, ShareEncoder


class HeadSumTrainer(FeatureBatches):
    """One hospital's side: in every step one clamped, rounded and noised sum. Its features never leave it."""

    def __init__(
        self,
        spec: HeadsSpec,
        settings: HeadSettings,
        data: FeatureSet,
        record: DistributedMechanism,
        codec: FixedPoint,
        entropy: Entropy = os.urandom,
        watch: MechanismWatch | None = None,
    ) -> None:
        """Check that data, heads and mechanism fit together.

        Args:
            spec: architecture.
            settings: public constants.
            data: this hospital's features.
            record: the mechanism of a round, with the shares of its noise.
            codec: the public grid and ring.
            entropy: source of random bytes for coins and noise.
            watch: holds what is done against what the accountant was told; a hospital always has one.

        Raises:
            InputError: the features do not fit the heads, or the shares the grid or the heads.
            PrivacyRefused: the mechanism is one no guarantee holds for.
        """
        check_mechanism(
            sampling_probability=settings.sampling_probability,
            noise_multiplier=settings.noise_multiplier,
            clip_norm=settings.l2_clip_norm,
            expected_batch_size=settings.expected_batch_size,
        )
        super().__init__(spec, settings, data, entropy)
        self._layout = HeadsLayout.of(spec)
        if record.shares.dimension != self._layout.size:
            raise InputError(
                f"the noise is for sums of {record.shares.dimension} coordinates, the heads have {self._layout.size}"
            )
        noise = DiscreteGaussian(Fraction(share_variance(record)), entropy)
        self._encoder = ShareEncoder(record, codec, noise.draw)
        self._deviation = math.sqrt(share_variance(record))
        self._watch = watch
        self._compiled = compiled_heads(spec, settings)
        self._start: np.ndarray | None = None
        self._centre = np.zeros(spec.features, np.float32)
        self._rows: list[StepRecord] = []
        self._seconds = 0.0

    def begin(self, global_heads: np.ndarray, centre: np.ndarray) -> None:
        """Start a round.

        Args:
            global_heads: float32[k], the coordinator's heads.
            centre: float32[d] that all features are centred by, public.

        Raises:
            ModelError: one of the two does not fit the layout.
            MechanismContradicted: a probe failed.
        """
        self._layout.check(global_heads)
        check_centre(self.spec, centre)
        self._start, self._centre = global_heads.copy(), centre.copy()
        self._rows, self._seconds = [], 0.0
        if self._watch is not None:
            self._compiled.place(global_heads)
            self._watch.begin_round()
            self._probe(self._watch)

    def step(self, weights: np.ndarray | None) -> np.ndarray:
        """Make one sum for secure aggregation: fresh coins, fresh noise.

        Args:
            weights: float32[k], as `HeadOptimiser.step` gives them; None for the round's first step, from the global
                heads.

        Returns:
            uint32[k] or uint64[k], modulo 2^bits; it goes to the client session alone.

        Raises:
            ModelError: no round has begun, or the weights do not fit the layout.
            MechanismContradicted: what was done is not what the accountant was told; there is no sum then.
        """
        started = time.monotonic()
        if self._start is None:
            raise ModelError("a step of the heads was asked for before a round has begun")
        self._compiled.place(self._start if weights is None else weights)
        batch = self._batch()
        gradient, *figures = self._compiled.real_sum(batch.features, batch.labels, batch.weights, self._centre)
        total = gradient.numpy()
        encoded, noise = self._encoder.encode(total)
        if self._watch is not None:
            self._observe(self._watch, batch, total, noise)
        moments = (noise["count"], noise["sum"], noise["squares"])
        norms, scales, losses = figures
        self._rows.append(StepRecord.of(batch.size, (norms, scales, losses), moments, clamped=int(noise["clamped"])))
        self._seconds += time.monotonic() - started
        return encoded

    def _observe(self, watch: MechanismWatch, batch: FeatureBatch, total: np.ndarray, noise: dict[str, float]) -> None:
        """Hold one step against the recorded mechanism, and stop before its sum is handed on where it differs."""
        deviation, told = self._deviation, watch.recorded.mechanism
        watch.batch(batch.images, batch.weights[: batch.size])
        watch.noise(Moments(noise["count"], noise["sum"] / deviation, noise["squares"] / deviation**2))
        watch.summed(float(np.linalg.norm(total)), told.l2_clip_norm * max(batch.size, TOLERANCE))
        watch.check()

    def _probe(self, watch: MechanismWatch) -> None:
        """Send made-up patients through the very sum that real ones enter."""
        told = watch.recorded.mechanism

        def contribution(rows: Any, labels: Any, weights: Any, noise: np.ndarray | None) -> np.ndarray:
            return np.asarray(self._compiled.real_sum(rows, labels, weights, self._centre)[0].numpy())

        found = probe(contribution, feature_row(self.spec.features), told.images_per_patient, told.l2_clip_norm)
        watch.probed(found.outcomes, found.figures)
        watch.check()

    def end_round(self) -> None:
        """Close the round after its last sum. Raises MechanismContradicted."""
        if self._watch is not None:
            self._watch.end_round()
            self._watch.check()

    def statistics(self) -> dict[str, Any]:
        """Return what the round was here (confidential): batch sizes, clip fraction, losses, moments of the noise."""
        return {
            "steps": len(self._rows),
            **gradient_figures(self._rows),
            "clamped_coordinates": sum(row.clamped for row in self._rows),
            **noise_figures(self._rows, "_grid_steps"),
            "seconds": round(self._seconds, 3),
        }


class HeadOptimiser:
    """The coordinator's side: Adam on the noisy mean gradient of the real term plus the fake term.

    What it did in a round counts once the round is whole (`finish`): a round that is begun again starts from the
    optimiser's state of the last whole one. It is an `Optimiser` of `federation.distributed_round`.
    """

    def __init__(self, spec: HeadsSpec, settings: HeadSettings) -> None:
        """Build heads of its own: their weights stay from step to step."""
        self.spec, self.settings = spec, settings
        self._layout = HeadsLayout.of(spec)
        self._compiled = CompiledHeads(spec, settings)
        self._state = HeadState.fresh(self._layout)
        self._steps_made = 0
        self._centre: np.ndarray | None = None
        self._fakes: FakeBatches | None = None

    def give(self, fakes: FakeFeatures, centre: np.ndarray) -> None:
        """Set the public inputs of the next round, before it begins.

        Args:
            fakes: features of generated pictures.
            centre: float32[d] that all features are centred by; the hospitals must be given the same.

        Raises:
            InputError: the generated pictures do not fit the heads.
            ModelError: the centre does not.
        """
        fakes.check(self.spec)
        check_centre(self.spec, centre)
        self._centre, self._fakes = centre.copy(), fakes.batches(self.settings.fake_batch_size)

    def begin(self, global_vector: np.ndarray) -> None:
        """Start a round from the global heads, float32[k].

        Raises:
            ModelError: the vector does not fit, or `give` has not been called.
        """
        if self._fakes is None:
            raise ModelError(
                "a round of the heads begins without generated pictures", hint="call give() before begin()"
            )
        self._compiled.place(global_vector)
        self._compiled.adam.load(self._state.adam)
        self._steps_made = 0

    def step(self, mean: np.ndarray) -> np.ndarray:
        """Make one step.

        Args:
            mean: float32[k], the noisy mean gradient of the real term.

        Returns:
            float32[k], the weights that the next step starts from.

        Raises:
            ModelError: no round has begun, or the step made a weight that is not finite.
        """
        if self._fakes is None:
            raise ModelError("a step of the heads was asked for before a round has begun")
        done = self._state.steps_done + self._steps_made
        rate = np.float32(self.settings.rate(done))
        weights = np.array(self._compiled.shared_step(mean, *self._fakes.of(done), self._centre, rate))
        self._layout.check(weights)
        self._steps_made += 1
        return weights

    def finish(self) -> np.ndarray:
        """End a whole round: keep the optimiser's state and return the global heads, float32[k]."""
        vector = self._compiled.read()
        self._state = HeadState(self._compiled.adam.state(), self._state.steps_done + self._steps_made)
        self._steps_made = 0
        return vector

    def save(self, path: Path) -> None:
        """Keep the state of the last whole round; whole or absent."""
        self._state.save(path, self._layout)

    def restore(self, path: Path) -> None:
        """Continue from what `save` kept; raises TrainingStateError where it cannot be read or does not fit."""
        self._state = HeadState.read(path, self._layout)
