"""Canaries in the hospital's own training: what the adversary is shown is exact, and what it shows is right."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fedgan_audits.accounting import accountant, one_run
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.errors import VerificationFailed
from fedgan_secure.attacks import canaries as canary_module
from fedgan_secure.attacks import rehearsal
from fedgan_secure.attacks.canaries import Adversary, Canaries, WatchedTrainer, with_canaries
from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.vectors import VectorLayout
from fedgan_secure.policy.training import TrainingSettings

SPEC = ModelSpec.default(28, 1, 3)
STEPS, PROBABILITY, EPSILON, DELTA = 16, 0.3, 0.5, 1e-4
NOISE = accountant.calibrate_noise_multiplier(
    sampling_probability=PROBABILITY, steps=STEPS, epsilon=EPSILON, delta=DELTA
)
RECORDED = MechanismRecord(
    sampling_probability=PROBABILITY, noise_multiplier=NOISE, steps=1, l2_clip_norm=0.5, unit="patient",
    images_per_patient=2,
)  # fmt: skip
TRAINING = TrainingSettings(
    sampling_probability=PROBABILITY, expected_batch_size=10, noise_multiplier=NOISE, l2_clip_norm=0.5,
    images_per_patient=2, fake_batch_size=4, generator_batch_size=4,
)  # fmt: skip


def others(count: int = 12) -> PatientDataset:
    rng = np.random.default_rng(3)
    shape = (count, SPEC.image_size, SPEC.image_size, SPEC.channels)
    labels, patients = np.arange(count) % 3, np.arange(count, dtype=np.int32) // 2
    return PatientDataset(rng.integers(0, 256, shape).astype(np.uint8), labels, patients, 3)


def attacked(training: TrainingSettings = TRAINING, canaries: int = 96, **changes: Any) -> rehearsal.Verdict:
    return rehearsal.attack(
        SPEC, training, RECORDED, others(), canaries=canaries, steps=STEPS, steps_per_round=STEPS // 2, delta=DELTA,
        start=VectorLayout.of(SPEC).initial_vector(1), **changes,
    )  # fmt: skip


def test_coins_are_fair_and_canaries_are_all_different() -> None:
    found = Canaries.drawn(SPEC, 400)
    assert found.pixels.shape == (400, 28, 28, 1) and found.pixels.dtype == np.uint8
    assert len(np.unique(found.pixels.reshape(400, -1), axis=0)) == 400
    assert set(np.unique(found.pixels)) == {0, 255}
    assert 130 < found.present.sum() < 270  # seven deviations
    assert np.bincount(found.labels).tolist() == [134, 133, 133]
    assert not np.array_equal(found.present, Canaries.drawn(SPEC, 400).present)


def test_only_the_canaries_whose_coin_says_so_are_in() -> None:
    canaries = Canaries.drawn(SPEC, 20)
    found = with_canaries(others(), canaries)
    assert found.patients == 6 + canaries.present.sum()
    assert np.array_equal(found.pixels(np.arange(12, len(found))), canaries.pixels[canaries.present])
    assert np.bincount(found.patient)[6:].tolist() == [1] * int(canaries.present.sum())


def test_what_a_step_releases_is_the_canaries_and_the_noise_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise, and with everybody drawn, least squares gives 1 for who is in and 0 for who is out."""
    monkeypatch.setattr(canary_module, "TOGETHER", 10)  # in three parts, the last one shorter
    loud = dataclasses.replace(TRAINING, sampling_probability=1.0, noise_multiplier=0.0)
    canaries = Canaries.drawn(SPEC, 24)
    estimates: list[np.ndarray] = []

    class Listening(Adversary):
        def see(self, released: np.ndarray) -> None:
            seen, gram = (np.asarray(value, np.float64) for value in self._look(released))
            estimates.append(np.linalg.solve(gram, seen))
            super().see(released)

    trainer = WatchedTrainer(
        SPEC, loud, others(), canaries, lambda compiled: Listening(SPEC, TRAINING, compiled, canaries)
    )
    trainer.train(VectorLayout.of(SPEC).initial_vector(1), 3)
    assert len(estimates) == 3
    for found in estimates:
        assert np.abs(found - canaries.present).max() < 0.02  # the clip leaves half a percent free
    assert ((trainer.scores > np.median(trainer.scores)) == canaries.present).mean() > 0.7


def test_the_true_mechanism_is_not_refuted() -> None:
    heard: list[tuple[str, int, int]] = []
    found = attacked(progress=lambda *told: heard.append(told))
    assert found.outcome == "not refuted" and not found.contradicted
    assert found.least_epsilon <= found.epsilon < found.ceiling
    level = {"canaries": 96, "guesses": 96, "delta": found.delta}
    assert found.ceiling == one_run.ceiling(confidence=1 - 0.05 / 4, **level)  # type: ignore[arg-type]
    assert found.control  # the same attack on the same training, without noise
    assert found.claimed == (pytest.approx(EPSILON, rel=1e-3), DELTA)
    assert found.delta == pytest.approx(1e-4 / 96) and found.epsilon > EPSILON
    assert [row.guesses for row in found.rows] == [96, 24, 12, 24]
    assert heard == [(name, step, STEPS) for name in ("attack", "control") for step in range(1, STEPS + 1)]
    assert found.roc[0] == (0, 0) and found.roc[-1] == (1, 1)


@pytest.mark.parametrize(
    "fault",
    [{"noise_multiplier": 0.0}, {"l2_clip_norm": 50.0, "noise_multiplier": NOISE / 100}],
    ids=["no noise", "no clip"],
)
def test_a_mechanism_that_does_not_do_what_the_accountant_is_told_is_refuted(fault: dict[str, float]) -> None:
    found = attacked(dataclasses.replace(TRAINING, **fault))
    assert found.outcome == "refuted" and found.contradicted and found.least_epsilon > found.epsilon
    assert found.area > 0.9


@pytest.mark.parametrize("count", [15, 2001])
def test_too_few_and_too_many_canaries_are_refused(count: int) -> None:
    with pytest.raises(InputError, match="16 to 2000"):
        attacked(canaries=count)


def test_a_training_that_is_told_another_mechanism_than_the_ledger_fails() -> None:
    rehearsal.check_same(TRAINING, RECORDED)
    for name, other in (("noise_multiplier", NOISE / 20), ("sampling_probability", 0.4), ("images_per_patient", 3)):
        with pytest.raises(VerificationFailed, match=f"training is told {name} = "):
            rehearsal.check_same(dataclasses.replace(TRAINING, **{name: other}), RECORDED)  # type: ignore[arg-type]


def test_so_many_steps_are_attacked_that_missing_noise_would_show() -> None:
    def shown(mechanism: MechanismRecord, steps: int, canaries: int) -> float:
        record = mechanism.model_copy(update={"steps": steps})
        small = rehearsal._delta(DELTA, canaries)
        return rehearsal._without_noise(record, accountant.epsilon([record], small), small, canaries)

    steps = rehearsal._most_telling(RECORDED, DELTA, 256, 1000)
    assert 1 < steps < 100 and shown(RECORDED, steps, 256) < 1e-3
    assert shown(RECORDED, steps, 256) <= min(shown(RECORDED, 1, 256), shown(RECORDED, 1000, 256))
    assert rehearsal._most_telling(RECORDED, DELTA, 256, 1) == 1
    rare = RECORDED.model_copy(update={"sampling_probability": 0.064, "noise_multiplier": 0.936})  # a large cohort
    assert shown(rare, rehearsal._most_telling(rare, DELTA, 256, 300), 256) > 1e-3  # nothing would be tested
    assert shown(rare, rehearsal._most_telling(rare, DELTA, 2000, 300), 2000) < 1e-3


def test_guesses_are_the_surest_on_either_side() -> None:
    scores, present = np.arange(16.0), np.arange(16) >= 8
    found = rehearsal._guesses(scores, present, (4, 2), 1.0, 1e-6)
    assert (found.ins, found.outs, found.guesses, found.right) == (4, 2, 6, 6)
    assert rehearsal._guesses(-scores, present, (4, 0), 1.0, 1e-6).right == 0
    assert rehearsal._guesses(scores, ~present, (4, 2), 1.0, 1e-6).right == 0


def test_one_step_is_judged_by_the_likelihood_ratio() -> None:
    """Two canaries with known gradients: log(1 - q + q exp((a - 1/2) / v)), a and v by least squares."""
    judge = Adversary.__new__(Adversary)
    judge.scores, judge.settings = np.zeros(2), TRAINING
    gram, seen = np.array([[0.25, 0.05], [0.05, 0.25]]), np.array([0.3, -0.1])
    judge._look = lambda _: (seen, gram)
    judge.see(np.zeros(3, np.float32))
    inverse = np.linalg.inv(gram)
    variance = (NOISE * 0.5) ** 2 * np.diag(inverse)
    expected = np.log(1 - PROBABILITY + PROBABILITY * np.exp((inverse @ seen - 0.5) / variance))
    assert judge.scores == pytest.approx(expected, rel=1e-6)


def test_gradients_that_are_no_numbers_are_no_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adversary, "see", lambda self, _: self.scores.fill(np.nan))
    with pytest.raises(InputError, match="no numbers"):
        attacked(canaries=16)


def test_a_curve_needs_both_sides() -> None:
    assert rehearsal._roc(np.arange(4.0), np.ones(4, bool)) == (((0.0, 0.0), (1.0, 1.0)), 0.5)
    _, area = rehearsal._roc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, True, False]))
    assert area == 1.0
