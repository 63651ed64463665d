"""Shared noise on real networks: five hospitals beside one float run on their pooled patients."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgan_audits.accounting.mechanism import DistributedMechanism, NoiseShares
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.models.errors import ModelError
from fedgan_secure.networks.vectors import VectorLayout
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.privacy.shared_noise import box_of, mean_gradient
from fedgan_secure.training.batches import Batch
from fedgan_secure.training.distributed_training import SharedOptimiser, SumTrainer
from fedgan_secure.training.training import TrainingStateError
from tests.fedgan_secure.privacy.test_training import BASE, SPEC, Stream, dataset

HOSPITALS, STEPS = 5, 20
LAYOUT = VectorLayout.of(SPEC)
DIMENSION = LAYOUT.size - LAYOUT.generator_size
CODEC = FixedPoint(box_of(BASE.l2_clip_norm, BASE.expected_batch_size), 32, 13)
RECORD = DistributedMechanism(
    sampling_probability=BASE.sampling_probability,
    noise_multiplier=BASE.noise_multiplier,
    steps=STEPS,
    l2_clip_norm=BASE.l2_clip_norm,
    unit="patient",
    images_per_patient=BASE.images_per_patient,
    shares=NoiseShares(threshold=4, colluders=2, grid_step=CODEC.resolution, dimension=DIMENSION),
)


class Kept(SumTrainer):
    """A hospital whose batches, noise and rounded sums can be looked at afterwards."""

    def __init__(self, seed: int) -> None:
        super().__init__(SPEC, BASE, dataset(20), RECORD, CODEC, Stream(seed))
        self.batches: list[Batch] = []
        self.noises: list[np.ndarray] = []
        draw = self._encoder._draw

        def kept(size: int) -> np.ndarray:
            self.noises.append(draw(size))
            return self.noises[-1]

        self._encoder._draw = kept

    def _batch(self) -> Batch:
        self.batches.append(super()._batch())
        return self.batches[-1]


def pooled(batches: list[Batch]) -> Batch:
    return Batch(
        np.concatenate([batch.pixels for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
        np.concatenate([batch.weights for batch in batches]),
        sum(batch.size for batch in batches),
        np.concatenate([batch.images for batch in batches]),
    )


def total_of(values: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(DIMENSION, np.uint32)
    for value in values:
        total += value
    return total


@pytest.fixture(scope="module")
def start() -> np.ndarray:
    return LAYOUT.initial_vector(1)


def test_a_central_float_run_on_the_pooled_patients_stays_within_the_grid(start: np.ndarray) -> None:
    """20 steps, the samples and the noise the same: sums over a grid and over floats, each run on its own weights.

    In every step the central run's real-term gradient, at the weights of the shared run, is within n g / 2 of the
    unmasked sum in every coordinate, plus what float32 sums of gradients in another order may differ by. Both runs go
    on from their own weights; after 20 steps of Adam they are still apart by no more than the grid moved them.
    """
    hospitals = [Kept(seed) for seed in range(HOSPITALS)]
    for hospital in hospitals:
        hospital.begin(start)
    shared, central = (SharedOptimiser(SPEC, BASE, Stream(77)) for _ in range(2))
    shared.begin(start)
    central.begin(start)
    g, divisor = CODEC.resolution, HOSPITALS * BASE.expected_batch_size
    weights: np.ndarray | None = None
    central_weights: np.ndarray | None = None
    lens = Kept(99)
    lens.begin(start)
    bound = HOSPITALS * g / 2 + 2e-6 * BASE.l2_clip_norm * BASE.expected_batch_size
    for step in range(STEPS):
        total = total_of([hospital.step(weights) for hospital in hospitals])
        batch = pooled([hospital.batches[-1] for hospital in hospitals])
        noise = g * np.sum([hospital.noises[-1] for hospital in hospitals], axis=0, dtype=np.float64)

        def real_term(at: np.ndarray | None, batch: Batch = batch) -> np.ndarray:
            lens._weights.write(lens._start if at is None else at)  # type: ignore[arg-type]
            return np.asarray(lens._real.sum(batch.pixels, batch.labels, batch.weights)[0], np.float64)

        unmasked = CODEC.decode_sum(total, 1)
        assert np.abs(unmasked - (real_term(weights) + noise)).max() <= bound, step
        weights = shared.step(mean_gradient(total, HOSPITALS, CODEC, BASE.expected_batch_size))
        mean = ((real_term(central_weights) + noise) / divisor).astype(np.float32)
        central_weights = central.step(mean)
    one, two = shared.finish(), central.finish()
    moved = np.abs(one - start).max()
    assert moved > 5e-3  # twenty steps of Adam at 5e-4
    assert np.abs(one - two).max() < 1e-3 * moved


def test_a_drop_out_changes_the_sum_by_that_hospital_alone(start: np.ndarray) -> None:
    hospitals = [Kept(seed) for seed in range(HOSPITALS)]
    for hospital in hospitals:
        hospital.begin(start)
    values = [hospital.step(None) for hospital in hospitals]
    without = total_of(values[:2] + values[3:])
    assert np.array_equal(total_of(values) - values[2], without)
    batch = pooled([hospital.batches[-1] for index, hospital in enumerate(hospitals) if index != 2])
    lens = Kept(99)
    lens.begin(start)
    noise = np.sum([h.noises[-1] for index, h in enumerate(hospitals) if index != 2], axis=0, dtype=np.float64)
    exact = np.asarray(lens._real.sum(batch.pixels, batch.labels, batch.weights)[0], np.float64)
    apart = np.abs(CODEC.decode_sum(without, 1) - exact - CODEC.resolution * noise).max()
    assert apart <= 4 * CODEC.resolution / 2 + 2e-6 * BASE.expected_batch_size


def test_an_empty_batch_gives_noise_alone(start: np.ndarray) -> None:
    """Nobody is drawn: the sum is the noise and nothing says so."""
    none = replace(BASE, sampling_probability=1e-9)
    record = RECORD.model_copy(update={"sampling_probability": 1e-9})
    hospital = SumTrainer(SPEC, none, dataset(4), record, CODEC, Stream(3))
    hospital.begin(start)
    noise: list[np.ndarray] = []
    draw = hospital._encoder._draw
    hospital._encoder._draw = lambda size: noise.append(draw(size)) or noise[-1]  # type: ignore[func-returns-value]
    value = hospital.step(None)
    assert hospital.statistics()["batch_sizes"] == [0]
    assert np.array_equal(value.view(np.int32), noise[0])
    assert np.abs(value.view(np.int32)).max() > 0


def test_one_patients_contribution_is_bounded_by_the_clip(start: np.ndarray) -> None:
    """All 20 patients in every step, noise off: taking one out moves the rounded sum by at most C + g sqrt(d)."""
    everyone = replace(BASE, sampling_probability=1.0)
    record = RECORD.model_copy(update={"sampling_probability": 1.0})
    data = dataset(8)

    def rounded(rows: np.ndarray) -> np.ndarray:
        order = np.unique(data.patient[rows], return_inverse=True)[1].astype(np.int32)
        part = PatientDataset(data.images[rows], data.labels[rows], order, 2)
        hospital = SumTrainer(SPEC, everyone, part, record, CODEC, Stream(4))
        hospital._encoder._draw = lambda size: np.zeros(size, np.int64)
        hospital.begin(start)
        return hospital.step(None).view(np.int32).astype(np.int64)

    full = rounded(np.arange(len(data)))
    g = CODEC.resolution
    moves = [np.linalg.norm((full - rounded(np.flatnonzero(data.patient != patient))) * g) for patient in range(8)]
    assert max(moves) <= BASE.l2_clip_norm + g * math.sqrt(DIMENSION)
    assert max(moves) > 0.5 * BASE.l2_clip_norm  # the patients do matter


def test_weights_that_do_not_fit_are_refused(start: np.ndarray) -> None:
    hospital = Kept(1)
    with pytest.raises(ModelError, match="no round has begun"):
        hospital.step(None)
    hospital.begin(start)
    good = hospital._weights.read()
    for bad in (good[:-1], good.astype(np.float64), np.full_like(good, np.nan)):
        with pytest.raises(ModelError):
            hospital.step(bad)
    hospital._weights.write(good + np.float32(0.5))
    assert np.array_equal(hospital._weights.read(), good + np.float32(0.5))
    with pytest.raises(PrivacyRefused):
        SumTrainer(SPEC, replace(BASE, noise_multiplier=-1.0), dataset(), RECORD, CODEC, Stream())


def mean_of(seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=DIMENSION) * 0.1, np.float32)


def test_an_aborted_round_leaves_no_trace_and_a_whole_one_survives_a_restart(start: np.ndarray, tmp_path: Path) -> None:
    one, other = SharedOptimiser(SPEC, BASE, Stream(5)), SharedOptimiser(SPEC, BASE, Stream(5))

    def same_draws() -> None:
        for optimiser in (one, other):
            optimiser._public = np.random.default_rng(7)

    same_draws()
    one.begin(start)
    one.step(mean_of(1))
    one.step(mean_of(2))  # the round is aborted here
    one.save(tmp_path / "aborted.npz")
    assert int(np.load(tmp_path / "aborted.npz")["steps_done"]) == 0
    same_draws()
    results: list[Any] = []
    for optimiser in (one, other):
        optimiser.begin(start)
        optimiser.step(mean_of(3))
        results.append(optimiser.finish())
    assert np.array_equal(*results) and not np.array_equal(results[0], start)

    one.save(tmp_path / "optimiser.npz")
    later = SharedOptimiser(SPEC, BASE, Stream(6))
    later.restore(tmp_path / "optimiser.npz")
    one._public = later._public = np.random.default_rng(8)
    ends: list[Any] = []
    for optimiser in (one, later):
        optimiser._public = np.random.default_rng(8)
        optimiser.begin(results[0])
        optimiser.step(mean_of(4))
        ends.append(optimiser.finish())
    assert np.array_equal(*ends)
    (tmp_path / "optimiser.npz").write_bytes(b"no archive")
    with pytest.raises(TrainingStateError):
        later.restore(tmp_path / "optimiser.npz")
