"""Training of the heads at one hospital that adds the noise itself: DP-SGD on features that were computed once.

The same mechanism as for a whole discriminator (`privacy.dpsgd`): Poisson sampling by patient, one bound on a
patient's gradient over all weights of the heads, Gaussian noise from a cryptographic stream, a public divisor. The
features are a fixed public function of an image, so what is protected is the patient, as before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_secure.dpsgd import check_mechanism, feature_row, noise_scale, probe
from fedgan_secure.head_training.head_data import FakeBatches, FakeFeatures, FeatureBatch, FeatureBatches, FeatureSet
from fedgan_secure.head_training.head_networks import CompiledHeads, HeadState, compiled_heads
from fedgan_secure.head_training.head_records import StepRecord, gradient_figures, noise_figures
from fedgan_secure.heads import HeadSettings, HeadsLayout, HeadsSpec, check_centre
from fedgan_secure.privacy import Entropy, GaussianStream, MechanismWatch, Moments
from fedgan_secure.training import LocalResult

Progress = Callable[[int, int], None]


class HeadTrainer(FeatureBatches):
    """One hospital's training. Its features never leave it; its optimiser state stays with it between rounds."""

    def __init__(
        self,
        spec: HeadsSpec,
        settings: HeadSettings,
        data: FeatureSet,
        entropy: Entropy = os.urandom,
        watch: MechanismWatch | None = None,
    ) -> None:
        """Check that data, heads and mechanism fit together.

        Args:
            spec: architecture.
            settings: public constants.
            data: this hospital's features.
            entropy: source of random bytes for coins and noise.
            watch: holds what is done against what the accountant was told; a hospital always has one.

        Raises:
            InputError: the features do not fit the heads.
            PrivacyRefused: the mechanism is one no guarantee holds for.
        """
        check_mechanism(
            sampling_probability=settings.sampling_probability,
            noise_multiplier=settings.noise_multiplier,
            clip_norm=settings.l2_clip_norm,
            expected_batch_size=settings.expected_batch_size,
        )
        super().__init__(spec, settings, data, entropy)
        self._noise = GaussianStream(entropy)
        self._watch = watch
        self._layout = HeadsLayout.of(spec)
        self._state = HeadState.fresh(self._layout)

    def train(
        self,
        global_heads: np.ndarray,
        fakes: FakeFeatures,
        centre: np.ndarray,
        steps: int,
        progress: Progress | None = None,
    ) -> LocalResult:
        """Make the round's local steps.

        Args:
            global_heads: float32[k], the coordinator's heads.
            fakes: features of generated pictures, public.
            centre: float32[d] that all features are centred by, public.
            steps: how many, each one invocation of the accounted mechanism.
            progress: called with (done, total).

        Returns:
            The update, local minus global heads, and the confidential statistics.

        Raises:
            ModelError: the heads or the centre do not fit the layout.
            InputError: the generated pictures do not fit the heads.
            MechanismContradicted: what was done is not what the accountant was told; there is no update then.
        """
        started = time.monotonic()
        fakes.check(self.spec)
        check_centre(self.spec, centre)
        compiled = compiled_heads(self.spec, self.settings)
        compiled.place(global_heads)
        compiled.adam.load(self._state.adam)
        if self._watch is not None:
            self._watch.begin_round()
            self._probe(compiled, self._watch, centre)
        batches, rows = fakes.batches(self.settings.fake_batch_size), []
        for done in range(steps):
            rows.append(self._step(compiled, batches, centre, self._state.steps_done + done))
            if progress is not None:
                progress(done + 1, steps)
        if self._watch is not None:
            self._watch.end_round()
            self._watch.check()
        local = compiled.read()
        self._state = HeadState(compiled.adam.state(), self._state.steps_done + steps)
        return LocalResult(local - global_heads, _statistics(rows), steps, time.monotonic() - started)

    def _step(self, compiled: CompiledHeads, fakes: FakeBatches, centre: np.ndarray, steps_done: int) -> StepRecord:
        settings = self.settings
        batch = self._batch()
        noisy = settings.noise_multiplier > 0
        noise = self._noise.normal(self._layout.size) if noisy else np.zeros(self._layout.size, np.float32)
        gradient, norms, scales, losses, mean_fake, watched = compiled.gradient(
            batch.features, batch.labels, batch.weights, noise, *fakes.of(steps_done), centre
        )
        if self._watch is not None:
            self._observe(self._watch, batch, watched.numpy())
        compiled.descend(gradient, np.float32(settings.rate(steps_done)))
        moments = (float(noise.size), float(noise.sum(dtype=np.float64)), float(np.vdot(noise, noise)))
        return StepRecord.of(
            batch.size,
            (norms, scales, losses),
            moments if noisy else (0.0, 0.0, 0.0),
            fake_loss=float(mean_fake),
        )

    def _observe(self, watch: MechanismWatch, batch: FeatureBatch, watched: np.ndarray) -> None:
        """Hold one step against the recorded mechanism, and stop before its gradient is used where it differs."""
        told, divisor = watch.recorded.mechanism, watch.recorded.expected_batch_size
        total, squares, norm = (float(value) for value in watched)
        watch.batch(batch.images, batch.weights[: batch.size])
        if told.noise_multiplier > 0:
            deviation = told.noise_multiplier * told.l2_clip_norm / divisor
            watch.noise(Moments(self._layout.size, total / deviation, squares / deviation**2))
        watch.summed(norm, told.l2_clip_norm * (batch.size / divisor + 1.0))  # the fakes' mean is bounded, too
        watch.check()

    def _probe(self, compiled: CompiledHeads, watch: MechanismWatch, centre: np.ndarray) -> None:
        """Send made-up patients and known noise through the step, beside two generated pictures of zeros."""
        told, size = watch.recorded.mechanism, self._layout.size
        quiet = np.zeros(size, np.float32)
        grey = (np.zeros((2, self.spec.features), np.float32), np.zeros((2, 1), np.int32))

        def contribution(rows: Any, labels: Any, weights: Any, noise: np.ndarray | None) -> np.ndarray:
            made = compiled.gradient(rows, labels, weights, quiet if noise is None else noise, *grey, centre)
            return np.asarray(made[0].numpy() * np.float32(watch.recorded.expected_batch_size))

        example = feature_row(self.spec.features)
        found = [probe(contribution, example, told.images_per_patient, told.l2_clip_norm)]
        if told.noise_multiplier > 0:
            deviation = told.noise_multiplier * told.l2_clip_norm
            found.append(noise_scale(contribution, example, told.images_per_patient, size, deviation))
        for one in found:
            watch.probed(one.outcomes, one.figures)
        watch.check()

    def save(self, path: Path) -> None:
        """Keep the optimiser state (confidential, stays in the hospital's folder); whole or absent."""
        self._state.save(path, self._layout)

    def restore(self, path: Path) -> None:
        """Continue from what `save` kept; raises TrainingStateError where it cannot be read or does not fit."""
        self._state = HeadState.read(path, self._layout)


def _statistics(rows: list[StepRecord]) -> dict[str, Any]:
    fake = float(np.mean([row.fake_loss for row in rows])) if rows else 0.0
    return {**gradient_figures(rows), "fake_loss": fake, **noise_figures(rows)}
