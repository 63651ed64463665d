"""Seeded faults of the heads' mechanism, each caught before anything is handed on; and a sound one that passes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from fedgan_audits.accounting.integer_noise import share_variance
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.facts.self_tests import NAMES
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_secure.dpsgd import clipping
from fedgan_secure.dpsgd.clipping import Part, PerPatientGradients
from fedgan_secure.dpsgd.noise_probe import feature_row, noise_scale, picture, probe
from fedgan_secure.head_training import head_data, head_networks, head_sums
from fedgan_secure.head_training.head_data import FeatureBatches
from fedgan_secure.head_training.head_sums import HeadSumTrainer
from fedgan_secure.head_training.head_training import HeadTrainer
from fedgan_secure.heads.head_settings import HeadSettings
from fedgan_secure.privacy.errors import MechanismContradicted
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.noise import GaussianStream
from fedgan_secure.privacy.sampling import PatientImages
from fedgan_secure.privacy.self_test import MechanismWatch, Recorded
from tests.fedgan_secure.adaptation.test_heads import SPEC
from tests.fedgan_secure.adaptation.test_heads_sums import RECORD
from tests.fedgan_secure.adaptation.test_heads_training import BASE, CENTRE, START, fakes, features
from tests.fedgan_secure.adaptation.test_heads_training import eagerly as eagerly
from tests.fedgan_secure.privacy.test_self_tests import OddPasses, Shuffled, fixed_size, half_rate, same_batch
from tests.fedgan_secure.privacy.test_training import Stream

PATIENTS = 20
CODEC = FixedPoint(8.0, 64, 24)
SHARED = RECORD.model_copy(update={"shares": RECORD.shares.model_copy(update={"grid_step": CODEC.resolution})})
Summed = Callable[[Any, Any], Any]


def recorded(settings: HeadSettings = BASE, declared: int = PATIENTS) -> Recorded:
    told = MechanismRecord(
        sampling_probability=settings.sampling_probability,
        noise_multiplier=settings.noise_multiplier,
        steps=1,
        l2_clip_norm=settings.l2_clip_norm,
        unit="patient",
        images_per_patient=settings.images_per_patient,
    )
    return Recorded(told, declared, settings.expected_batch_size)


def run(steps: int = 3, patients: int = PATIENTS, settings: HeadSettings = BASE) -> MechanismWatch:
    """Train under a watch that was told the truth of the settings; returns it."""
    data = features(patients)
    watch = MechanismWatch(recorded(settings), data.patient, patients)
    HeadTrainer(SPEC, settings, data, Stream(1), watch).train(START, fakes(), CENTRE, steps)
    return watch


def caught(steps: int = 3, patients: int = PATIENTS, settings: HeadSettings = BASE) -> tuple[str, ...]:
    with pytest.raises(MechanismContradicted) as error:
        run(steps, patients, settings)
    return error.value.tests


def caught_in_a_step(monkeypatch: pytest.MonkeyPatch, settings: HeadSettings = BASE) -> tuple[str, ...]:
    """The same without the probes: what the real steps alone show, with twice the declared patients."""
    monkeypatch.setattr(HeadTrainer, "_probe", lambda self, compiled, watch, centre: None)
    return caught(3, 2 * PATIENTS, settings)


def test_a_sound_mechanism_passes_every_test_once_all_have_power() -> None:
    data = features(PATIENTS)
    watch = MechanismWatch(recorded(), data.patient, PATIENTS)
    trainer = HeadTrainer(SPEC, BASE, data, Stream(1), watch)
    trainer.train(START, fakes(), CENTRE, 5)
    first = watch.outcomes()
    unsure = {"sampling_rate", "batch_sizes", "patient_counts"}
    assert {first[name] for name in unsure} == {"NOT ASSESSED"}
    assert {first[name] for name in NAMES if name not in unsure} <= {"PASS", "NOT ASSESSED"}
    assert {first[name] for name in ("clip_probe", "divisor_probe", "noise_probe", "rows", "sum_bound")} == {"PASS"}
    for _ in range(2):
        trainer.train(START, fakes(), CENTRE, 80)
    assert set(watch.outcomes().values()) == {"PASS"}, watch.figures()


def test_the_probes_send_the_example_that_they_are_given() -> None:
    seen: list[np.ndarray] = []

    def contribution(inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray, noise: Any) -> np.ndarray:
        seen.append(inputs)
        return np.zeros(3) if noise is None else np.asarray(noise)

    row = feature_row(271)
    assert row.dtype == np.float32 and row.min() == -1 and row.max() == 1 and len(np.unique(row)) == 11
    probe(contribution, row, 2, 1.0)
    assert all(inputs.shape == (8, 271) and (inputs == row).all() for inputs in seen)
    assert noise_scale(contribution, row, 2, 3, 1.0).outcomes == {"noise_probe": True}
    probe(contribution, (4, 5, 3), 2, 1.0)
    assert seen[-1].dtype == np.uint8 and np.array_equal(seen[-1][0], picture((4, 5, 3)))


# the noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0.0, 0.5])
def test_noise_that_is_off_or_halved_at_its_source_is_caught(left: float, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = GaussianStream.normal
    monkeypatch.setattr(GaussianStream, "normal", lambda self, size: honest(self, size) * np.float32(left))
    assert caught(3) == ("noise_variance",)


@pytest.mark.parametrize("left", [0.0, 0.5])
@pytest.mark.usefixtures("eagerly")
def test_noise_that_is_off_or_halved_on_its_way_is_caught(left: float, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = head_networks.discriminator_gradient

    def weaker(engine: Any, real: Any, fake: Any, noise: Any, **options: Any) -> Any:
        return honest(engine, real, fake, left * noise, **options)

    monkeypatch.setattr(head_networks, "discriminator_gradient", weaker)
    assert caught(1) == ("noise_probe",)
    assert "noise_variance" in caught_in_a_step(monkeypatch)


def test_noise_that_is_not_centred_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = GaussianStream.normal
    monkeypatch.setattr(GaussianStream, "normal", lambda self, size: honest(self, size) + np.float32(0.7))
    assert "noise_mean" in caught(3)


# the clip ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("eagerly")
def test_a_clip_that_is_off_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = clipping._clip

    def off(bound: Any, patients: Any, applied: Any) -> Any:
        norms, scales, usable = honest(bound, patients, applied)
        return norms, tf.ones_like(scales), usable

    monkeypatch.setattr(clipping, "_clip", off)
    assert "clip_probe" in caught(1)
    assert "sum_bound" in caught_in_a_step(monkeypatch, dataclasses.replace(BASE, l2_clip_norm=1e-3))


def rewired(monkeypatch: pytest.MonkeyPatch, change: Callable[[Part], Part]) -> None:
    """Change the real term's part of every step."""
    honest = PerPatientGradients.summed
    monkeypatch.setattr(PerPatientGradients, "summed", lambda self, parts: honest(self, [change(parts[0]), *parts[1:]]))


def per_image(part: Part) -> Part:
    return dataclasses.replace(part, weights=tf.reshape(part.weights, [-1, 1]))


def loose(part: Part) -> Part:
    return dataclasses.replace(part, bound=1e9)


@pytest.mark.usefixtures("eagerly")
def test_a_clip_per_image_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rewired(monkeypatch, per_image)
    assert "clip_probe" in caught(1)


def test_rows_per_image_instead_of_per_patient_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = FeatureBatches.__init__

    def by_image(self: Any, spec: Any, settings: Any, data: Any, entropy: Any) -> None:
        honest(self, spec, settings, data, entropy)
        self._images = PatientImages(np.arange(len(data)), len(data))

    monkeypatch.setattr(FeatureBatches, "__init__", by_image)
    assert "rows" in caught(10)


def test_a_patient_who_is_drawn_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = head_data.poisson_sample

    def twice(patients: int, probability: float, entropy: Any) -> np.ndarray:
        chosen = honest(patients, probability, entropy)
        return np.sort(np.concatenate([chosen, chosen[:1]]))

    monkeypatch.setattr(head_data, "poisson_sample", twice)
    assert "rows" in caught(2)


def test_weights_that_add_up_to_more_than_one_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PatientImages.choose

    def heavy(self: Any, chosen: Any, images: int, entropy: Any) -> tuple[np.ndarray, np.ndarray]:
        indices, weights = honest(self, chosen, images, entropy)
        return indices, weights * np.float32(2)

    monkeypatch.setattr(PatientImages, "choose", heavy)
    assert "rows" in caught(2)


# sampling ----------------------------------------------------------------------------------------------------------


def drawn(steps: int, patients: int = 100) -> MechanismWatch:
    """Batches as training draws them, under a watch; no network."""
    data = features(patients)
    watch = MechanismWatch(recorded(declared=patients), data.patient, patients)
    made = FeatureBatches(SPEC, BASE, data, Stream(2))
    for _ in range(steps):
        batch = made._batch()
        watch.batch(batch.images, batch.weights[: batch.size])
    watch.end_round()
    return watch


@pytest.mark.parametrize(
    ("sampler", "found"),
    [
        (Shuffled(), {"batch_sizes", "patient_counts"}),
        (OddPasses(), {"patient_counts"}),
        (fixed_size, {"batch_sizes"}),
        (same_batch, {"batch_sizes", "patient_counts"}),
        (half_rate, {"sampling_rate"}),
    ],
)
def test_other_sampling_is_caught_in_a_run_that_is_long_enough(
    sampler: Callable[..., np.ndarray], found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_data, "poisson_sample", sampler)
    watch = drawn(200)
    assert found <= set(watch.failed), watch.figures()


def test_independent_coins_pass() -> None:
    outcomes = drawn(200).outcomes()
    assert {outcomes[name] for name in ("sampling_rate", "batch_sizes", "patient_counts", "rows")} == {"PASS"}


def test_a_fixed_batch_size_ends_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_data, "poisson_sample", fixed_size)
    assert caught(120) == ("batch_sizes",)


# the divisor -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("eagerly")
def test_division_of_all_by_the_realised_batch_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = head_networks.discriminator_gradient

    def realised(engine: Any, real: Any, fake: Any, noise: Any, **options: Any) -> Any:
        count = tf.reduce_sum(tf.cast(tf.reduce_sum(real[2], axis=1) > 0, tf.float32))
        return honest(engine, real, fake, noise, **(options | {"expected_batch_size": tf.maximum(count, 1.0)}))

    monkeypatch.setattr(head_networks, "discriminator_gradient", realised)
    assert {"divisor_probe", "noise_probe"} <= set(caught(1))
    assert "noise_variance" in caught_in_a_step(monkeypatch)


@pytest.mark.usefixtures("eagerly")
def test_division_of_the_sum_alone_by_the_realised_batch_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def realised(part: Part) -> Part:
        count = tf.reduce_sum(tf.cast(tf.reduce_sum(part.weights, axis=1) > 0, tf.float32))
        return dataclasses.replace(part, factor=1.0 / tf.maximum(count, 1.0))

    rewired(monkeypatch, realised)
    assert "divisor_probe" in caught(1)


# shared noise ------------------------------------------------------------------------------------------------------


def take(steps: int) -> MechanismWatch:
    data = features(PATIENTS)
    watch = MechanismWatch(Recorded(SHARED, PATIENTS, BASE.expected_batch_size), data.patient, PATIENTS)
    trainer = HeadSumTrainer(SPEC, BASE, data, SHARED, CODEC, Stream(1), watch)
    trainer.begin(START, CENTRE)
    for _ in range(steps):
        trainer.step(None)
    trainer.end_round()
    return watch


def test_a_sound_share_passes() -> None:
    outcomes = take(5).outcomes()
    assert "noise_probe" not in outcomes  # the noise never enters the compiled sum
    for name in ("clip_probe", "divisor_probe", "rows", "sum_bound", "noise_variance"):
        assert outcomes[name] == "PASS", name


@pytest.mark.parametrize("left", [0, 2])
def test_a_share_without_or_with_half_its_noise_is_caught(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = DiscreteGaussian.draw
    monkeypatch.setattr(
        DiscreteGaussian, "draw", lambda self, size: honest(self, size) // left if left else honest(self, size) * 0
    )
    with pytest.raises(MechanismContradicted, match="noise_variance"):
        take(3)


def test_a_share_divided_among_more_hospitals_than_are_accounted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        head_sums, "DiscreteGaussian", lambda variance, entropy: DiscreteGaussian(variance / 4, entropy)
    )
    with pytest.raises(MechanismContradicted, match="noise_variance"):
        take(3)
    assert share_variance(SHARED) > Fraction(4)


@pytest.mark.parametrize("fault", [loose, per_image])
@pytest.mark.usefixtures("eagerly")
def test_a_share_without_a_clip_or_with_one_per_image_is_caught(
    fault: Callable[[Part], Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    rewired(monkeypatch, fault)
    with pytest.raises(MechanismContradicted, match="clip_probe"):
        take(1)


def test_a_share_of_a_patient_who_is_drawn_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_data, "poisson_sample", lambda patients, probability, entropy: np.array([3, 3, 7]))
    with pytest.raises(MechanismContradicted, match="rows"):
        take(1)


# randomness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(Path(head_data.__file__).parent.glob("head*.py")), ids=lambda path: path.name)
def test_the_heads_draw_from_the_entropy_source_alone(path: Path) -> None:
    """No statistical generator anywhere, not even for what is public."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(np|numpy|tf|tensorflow|keras)\.random|import random\b|default_rng", text)
