"""Heads with shared noise: sums of hospitals against one central sum, the coordinator's steps, and learning."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from fedgan_audits.accounting.mechanism import DistributedMechanism, NoiseShares
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_secure.errors import InputError
from fedgan_secure.head_training import head_data
from fedgan_secure.head_training.head_data import FeatureBatch
from fedgan_secure.head_training.head_sums import HeadOptimiser, HeadSumTrainer
from fedgan_secure.head_training.head_training import HeadTrainer
from fedgan_secure.models.errors import ModelError
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.shared_noise import box_of, mean_gradient
from fedgan_secure.training.training import TrainingStateError
from tests.fedgan_secure.adaptation.test_heads import SPEC
from tests.fedgan_secure.adaptation.test_heads_training import BASE, CENTRE, LAYOUT, START, accuracy, fakes, features
from tests.fedgan_secure.adaptation.test_heads_training import eagerly as eagerly
from tests.fedgan_secure.adaptation.test_heads_training import everybody as everybody
from tests.fedgan_secure.adaptation.test_heads_training import silent as silent
from tests.fedgan_secure.privacy.test_training import Stream

HOSPITALS = 4
CODEC = FixedPoint(box_of(BASE.l2_clip_norm, BASE.expected_batch_size), 32, 13)
RECORD = DistributedMechanism(
    sampling_probability=BASE.sampling_probability,
    noise_multiplier=BASE.noise_multiplier,
    steps=10,
    l2_clip_norm=BASE.l2_clip_norm,
    unit="patient",
    images_per_patient=BASE.images_per_patient,
    shares=NoiseShares(threshold=4, colluders=2, grid_step=CODEC.resolution, dimension=LAYOUT.size),
)


class Kept(HeadSumTrainer):
    """A hospital whose batches, sums and noise can be looked at afterwards."""

    def __init__(self, seed: int, patients: int = 20) -> None:
        super().__init__(SPEC, BASE, features(patients, seed=seed), RECORD, CODEC, Stream(seed))
        self.batches: list[FeatureBatch] = []
        self.totals: list[np.ndarray] = []
        self.noises: list[np.ndarray] = []
        draw, encode = self._encoder._draw, self._encoder.encode

        def kept(size: int) -> np.ndarray:
            self.noises.append(draw(size))
            return self.noises[-1]

        def seen(total: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
            self.totals.append(total.copy())
            return encode(total)

        self._encoder._draw, self._encoder.encode = kept, seen  # type: ignore[method-assign]

    def _batch(self) -> FeatureBatch:
        self.batches.append(super()._batch())
        return self.batches[-1]


def total_of(values: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(LAYOUT.size, np.uint32)
    for value in values:
        total += value
    return total


def begun(hospitals: int = HOSPITALS, patients: int = 20) -> list[Kept]:
    made = [Kept(seed, patients) for seed in range(hospitals)]
    for hospital in made:
        hospital.begin(START, CENTRE)
    return made


def optimiser() -> HeadOptimiser:
    made = HeadOptimiser(SPEC, BASE)
    made.give(fakes(), CENTRE)
    return made


def test_the_sum_is_to_the_bit_the_sum_of_the_quantised_parts_and_within_the_grid_of_a_central_one() -> None:
    hospitals, coordinator = begun(), optimiser()
    coordinator.begin(START)
    weights: np.ndarray | None = None
    lens = Kept(99)
    g = CODEC.resolution
    for _ in range(4):
        total = total_of([hospital.step(weights) for hospital in hospitals])
        parts = np.sum([np.rint(hospital.totals[-1].astype(np.float64) / g) for hospital in hospitals], axis=0)
        noise = np.sum([hospital.noises[-1] for hospital in hospitals], axis=0)
        assert np.array_equal(total.view(np.int32).astype(np.int64), parts.astype(np.int64) + noise)
        batches = [hospital.batches[-1] for hospital in hospitals]
        lens._compiled.place(START if weights is None else weights)
        pooled = [np.concatenate([getattr(one, name) for one in batches]) for name in ("features", "labels", "weights")]
        central = np.asarray(lens._compiled.real_sum(*pooled, CENTRE)[0], np.float64)
        assert np.abs(CODEC.decode_sum(total, 1) - central - g * noise).max() <= HOSPITALS * g / 2 + 2e-5
        weights = coordinator.step(mean_gradient(total, HOSPITALS, CODEC, BASE.expected_batch_size))
    assert np.array_equal(coordinator.finish(), weights) and np.abs(weights - START).max() > 5e-3


@pytest.mark.usefixtures("silent", "everybody")
def test_without_noise_both_placements_make_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hospital on a fine grid: the fake term, the divisor, the rate and Adam are the same on either side."""
    monkeypatch.setattr(DiscreteGaussian, "draw", lambda self, size: np.zeros(size, np.int64))
    codec = FixedPoint(64.0, 64, 24)
    shares = RECORD.shares.model_copy(update={"grid_step": codec.resolution})
    hospital = HeadSumTrainer(SPEC, BASE, features(), RECORD.model_copy(update={"shares": shares}), codec, Stream(1))
    alone, coordinator = HeadTrainer(SPEC, BASE, features(), Stream(1)), optimiser()
    vector = START
    for _ in range(2):
        update = alone.train(vector, fakes(), CENTRE, 4).update
        coordinator.begin(vector)
        hospital.begin(vector, CENTRE)
        weights: np.ndarray | None = None
        for _ in range(4):
            weights = coordinator.step(mean_gradient(hospital.step(weights), 1, codec, BASE.expected_batch_size))
        vector, before = coordinator.finish(), vector
        off = np.abs(vector - before - update)
        assert np.abs(update).max() > 5e-3 and np.quantile(off, 0.98) < 1e-4


def test_a_drop_out_changes_the_sum_by_that_hospital_alone() -> None:
    values = [hospital.step(None) for hospital in begun()]
    assert np.array_equal(total_of(values) - values[2], total_of(values[:2] + values[3:]))


def test_one_patient_moves_the_rounded_sum_by_at_most_the_recorded_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_data, "poisson_sample", lambda patients, probability, entropy: np.arange(patients))
    monkeypatch.setattr(DiscreteGaussian, "draw", lambda self, size: np.zeros(size, np.int64))
    data, vector = features(8), START * np.float32(8)

    def rounded(rows: np.ndarray) -> np.ndarray:
        order = np.unique(data.patient[rows], return_inverse=True)[1].astype(np.int32)
        part = dataclasses.replace(
            data, features=data.features[rows], labels=data.labels[rows], patient=order, patients=int(order.max()) + 1
        )
        hospital = HeadSumTrainer(SPEC, BASE, part, RECORD, CODEC, Stream(4))
        hospital.begin(vector, CENTRE)
        return hospital.step(None).view(np.int32).astype(np.int64)

    full, g = rounded(np.arange(16)), CODEC.resolution
    moves = [np.linalg.norm((full - rounded(np.flatnonzero(data.patient != one))) * g) for one in range(8)]
    assert 0.5 * BASE.l2_clip_norm < max(moves) <= BASE.l2_clip_norm + g * math.sqrt(LAYOUT.size)


def test_an_empty_batch_gives_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_data, "poisson_sample", lambda patients, probability, entropy: np.zeros(0, np.int64))
    hospital = begun(1)[0]
    value = hospital.step(None)
    assert hospital.statistics()["batch_sizes"] == [0]
    assert np.array_equal(value.view(np.int32), hospital.noises[-1]) and value.any()


def test_the_statistics_of_a_round_begin_anew() -> None:
    hospital = begun(1)[0]
    for _ in range(3):
        hospital.step(None)
    statistics = hospital.statistics()
    assert statistics["steps"] == 3 and statistics["noise_values"] == 3 * LAYOUT.size
    assert statistics["noise_variance_grid_steps"] == pytest.approx(hospital._deviation**2, rel=0.3)
    hospital.begin(START, CENTRE)
    assert hospital.statistics()["steps"] == 0


def test_what_does_not_fit_is_refused() -> None:
    hospital = Kept(1)
    with pytest.raises(ModelError, match="before a round has begun"):
        hospital.step(None)
    with pytest.raises(ModelError):
        hospital.begin(START[1:], CENTRE)
    with pytest.raises(ModelError):
        hospital.begin(START, CENTRE[1:])
    hospital.begin(START, CENTRE)
    for bad in (START[:-1], START.astype(np.float64), np.full_like(START, np.nan)):
        with pytest.raises(ModelError):
            hospital.step(bad)
    other = RECORD.model_copy(update={"shares": RECORD.shares.model_copy(update={"dimension": 7})})
    with pytest.raises(InputError, match="7 coordinates"):
        HeadSumTrainer(SPEC, BASE, features(), other, CODEC, Stream())
    with pytest.raises(PrivacyRefused):
        HeadSumTrainer(SPEC, dataclasses.replace(BASE, noise_multiplier=-1.0), features(), RECORD, CODEC, Stream())
    coordinator = HeadOptimiser(SPEC, BASE)
    with pytest.raises(ModelError, match="generated pictures"):
        coordinator.begin(START)
    with pytest.raises(ModelError, match="before a round has begun"):
        coordinator.step(START)
    with pytest.raises(ModelError):
        coordinator.give(fakes(), CENTRE[1:])
    with pytest.raises(InputError):
        coordinator.give(dataclasses.replace(fakes(), labels=fakes().labels + 9), CENTRE)


def test_sums_without_noise_teach_the_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiscreteGaussian, "draw", lambda self, size: np.zeros(size, np.int64))
    hospitals, coordinator, fresh = begun(2), optimiser(), features(60, seed=9)
    vector = START
    for _ in range(3):
        coordinator.begin(vector)
        weights: np.ndarray | None = None
        for hospital in hospitals:
            hospital.begin(vector, CENTRE)
        for _ in range(25):
            total = total_of([hospital.step(weights) for hospital in hospitals])
            weights = coordinator.step(mean_gradient(total, 2, CODEC, BASE.expected_batch_size))
        vector = coordinator.finish()
    assert accuracy(START, fresh) < 0.6 and accuracy(vector, fresh) > 0.9


def mean_of(seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=LAYOUT.size) * 0.1, np.float32)


@pytest.mark.usefixtures("eagerly")
def test_an_aborted_round_leaves_no_trace_and_a_whole_one_survives_a_restart(tmp_path: Path) -> None:
    one, other = optimiser(), optimiser()
    one.begin(START)
    one.step(mean_of(1))
    one.step(mean_of(2))  # the round is aborted here
    one.save(tmp_path / "aborted.npz")
    assert int(np.load(tmp_path / "aborted.npz")["steps_done"]) == 0
    ends = []
    for each in (one, other):
        each.begin(START)
        each.step(mean_of(3))
        ends.append(each.finish())
    assert np.array_equal(*ends) and not np.array_equal(ends[0], START)
    one.save(tmp_path / "optimiser.npz")
    other = optimiser()
    other.restore(tmp_path / "optimiser.npz")
    later = []
    for each in (one, other):
        each.begin(ends[0])
        each.step(mean_of(4))
        later.append(each.finish())
    assert np.array_equal(*later) and one._state.steps_done == 2
    (tmp_path / "optimiser.npz").write_bytes(b"no archive")
    with pytest.raises(TrainingStateError):
        other.restore(tmp_path / "optimiser.npz")
