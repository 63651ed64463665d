"""Eight seeded faults of the mechanism, each caught before anything is handed on; and a sound one that passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests.fedgan_secure.federation.test_policy import fields
from tests.fedgan_secure.privacy.test_training import BASE, SPEC, Stream, dataset

from fedgan_audits.accounting.integer_noise import share_variance
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord, NoiseShares
from fedgan_audits.facts.self_tests import NAMES
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.dpsgd import clipping
from fedgan_secure.dpsgd.clipping import Part, PerPatientGradients
from fedgan_secure.errors import InputError
from fedgan_secure.networks.vectors import VectorLayout
from fedgan_secure.policy.policy import FederationPolicy
from fedgan_secure.policy.training import TrainingSettings
from fedgan_secure.privacy.errors import MechanismContradicted, PrivacyRefused
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.noise import GaussianStream
from fedgan_secure.privacy.sampling import PatientImages
from fedgan_secure.privacy.self_test import MechanismWatch, Recorded
from fedgan_secure.training import batches, distributed_training, training
from fedgan_secure.training.distributed_training import SumTrainer
from fedgan_secure.training.training import LocalTrainer, PublicSteps

PATIENTS = 20
CACHES = (training.compiled_networks, distributed_training._real_term)


def recorded(settings: TrainingSettings = BASE) -> Recorded:
    return Recorded(
        MechanismRecord(
            sampling_probability=settings.sampling_probability,
            noise_multiplier=settings.noise_multiplier,
            steps=1,
            l2_clip_norm=settings.l2_clip_norm,
            unit="patient",
            images_per_patient=settings.images_per_patient,
        ),
        PATIENTS,
        settings.expected_batch_size,
    )


def watched(data: PatientDataset | None = None, told: Recorded | None = None) -> MechanismWatch:
    data = data or dataset(PATIENTS)
    return MechanismWatch(told or recorded(), np.asarray(data.patient), data.patients)


def run(steps: int = 3, patients: int = PATIENTS) -> MechanismWatch:
    """Train `steps` steps under a watch that was told the truth of BASE; returns it."""
    data = dataset(patients)
    watch = watched(data)
    LocalTrainer(SPEC, BASE, data, Stream(1), watch).train(VectorLayout.of(SPEC).initial_vector(1), steps)
    return watch


def caught(steps: int = 3, patients: int = PATIENTS) -> tuple[str, ...]:
    with pytest.raises(MechanismContradicted) as error:
        run(steps, patients)
    assert error.value.exit_code == 4 and error.value.hint
    return error.value.tests


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    """Faults inside compiled functions need functions of their own, and must not stay behind."""
    for cache in CACHES:
        cache.cache_clear()
    yield
    for cache in CACHES:
        cache.cache_clear()


def test_a_sound_mechanism_passes_every_test_once_all_have_power() -> None:
    watch = watched()
    trainer = LocalTrainer(SPEC, BASE, dataset(PATIENTS), Stream(1), watch)
    vector = VectorLayout.of(SPEC).initial_vector(1)
    trainer.train(vector, 5)
    first = watch.outcomes()
    assert {first[name] for name in ("sampling_rate", "batch_sizes", "patient_counts")} == {"NOT ASSESSED"}
    assert {first[name] for name in NAMES if name not in ("sampling_rate", "batch_sizes", "patient_counts")} == {"PASS"}
    for _ in range(2):
        trainer.train(vector, 80)
    assert set(watch.outcomes().values()) == {"PASS"}, watch.figures()


def test_without_noise_no_test_of_noise_is_claimed() -> None:
    told = recorded(dataclasses.replace(BASE, noise_multiplier=0.0))
    outcomes = watched(told=told).outcomes()
    assert not {"noise_probe", "noise_mean", "noise_variance"} & set(outcomes) and "clip_probe" in outcomes


def test_no_figure_of_the_tests_is_in_the_error() -> None:
    error = MechanismContradicted(("noise_variance",))
    assert not any(character.isdigit() for character in str(error))


# 1, 2: the noise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0.0, 0.5])
def test_noise_that_is_off_or_halved_at_its_source_is_caught(left: float, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = GaussianStream.normal
    monkeypatch.setattr(GaussianStream, "normal", lambda self, size: honest(self, size) * np.float32(left))
    assert caught(1) == ("noise_variance",)


@pytest.mark.parametrize("left", [0.0, 0.5])
@pytest.mark.usefixtures("compiled_anew")
def test_noise_that_is_off_or_halved_on_its_way_is_caught(left: float, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = training.discriminator_gradient

    def weaker(engine: Any, real: Any, fake: Any, noise: Any, **options: Any) -> Any:
        return honest(engine, real, fake, left * noise, **options)

    monkeypatch.setattr(training, "discriminator_gradient", weaker)
    assert caught(1) == ("noise_probe",)
    told = caught_in_a_step(monkeypatch)
    assert "noise_variance" in told


def caught_in_a_step(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The same without the probes: what the real steps alone show."""
    monkeypatch.setattr(LocalTrainer, "_probe", lambda self, compiled, watch: None)
    return caught(3, 2 * PATIENTS)  # more patients than were declared: batches of about twice the public divisor


def test_noise_that_is_not_centred_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = GaussianStream.normal
    monkeypatch.setattr(GaussianStream, "normal", lambda self, size: honest(self, size) + np.float32(0.5))
    assert "noise_mean" in caught(1)


# 3, 4: the clip ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("compiled_anew")
def test_a_clip_that_is_off_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = clipping._clip

    def off(bound: Any, patients: Any, applied: Any) -> Any:
        norms, scales, usable = honest(bound, patients, applied)
        return norms, tf.ones_like(scales), usable

    monkeypatch.setattr(clipping, "_clip", off)
    assert "clip_probe" in caught(1)
    tight = dataclasses.replace(BASE, l2_clip_norm=1e-4)
    watch = watched(told=recorded(tight))
    monkeypatch.setattr(LocalTrainer, "_probe", lambda self, compiled, watch: None)
    with pytest.raises(MechanismContradicted) as error:
        LocalTrainer(SPEC, tight, dataset(PATIENTS), Stream(1), watch).train(VectorLayout.of(SPEC).initial_vector(1), 3)
    assert "sum_bound" in error.value.tests


@pytest.mark.usefixtures("compiled_anew")
def test_a_clip_per_image_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PerPatientGradients.summed

    def per_image(self: Any, parts: Any) -> Any:
        return honest(self, [dataclasses.replace(part, weights=tf.reshape(part.weights, [-1, 1])) for part in parts])

    monkeypatch.setattr(PerPatientGradients, "summed", per_image)
    assert "clip_probe" in caught(1)


def test_rows_per_image_instead_of_per_patient_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = batches.PatientBatches.__init__

    def by_image(self: Any, spec: Any, settings: Any, data: Any, entropy: Any) -> None:
        honest(self, spec, settings, data, entropy)
        self._images = PatientImages(np.arange(len(data)), len(data))

    monkeypatch.setattr(batches.PatientBatches, "__init__", by_image)
    assert "rows" in caught(10)


# 5: sampling -------------------------------------------------------------------------------------------------------

MANY = 100
"""Patients of the tests that draw batches and train on none."""


class Shuffled:
    """Whole passes over shuffled patients in batches of q N; what is left of a pass is a short batch, or left out."""

    def __init__(self, share: float = 1.0, keep_short: bool = True) -> None:
        self.share, self.keep_short = share, keep_short
        self.left: list[int] = []
        self.draw = np.random.default_rng(3)

    def __call__(self, patients: int, probability: float, entropy: Any) -> np.ndarray:
        size = round(patients * probability * self.share)
        if not self.left or (len(self.left) < size and not self.keep_short):
            self.left = list(self.draw.permutation(patients))
        batch, self.left = self.left[:size], self.left[size:]
        return np.sort(np.array(batch, np.int64))


class OddPasses(Shuffled):
    """From a shuffled order, in batches whose sizes scatter as coins' would: the sizes alone look right."""

    def __call__(self, patients: int, probability: float, entropy: Any) -> np.ndarray:
        size = int(self.draw.binomial(patients, probability))
        if not self.left:
            self.left = list(self.draw.permutation(patients))
        batch, self.left = self.left[:size], self.left[size:]
        return np.sort(np.array(batch, np.int64))


def fixed_size(patients: int, probability: float, entropy: Any) -> np.ndarray:
    """A uniform subset of q N patients, anew in every step."""
    return np.sort(np.random.default_rng().choice(patients, round(patients * probability), replace=False))


def half_rate(patients: int, probability: float, entropy: Any) -> np.ndarray:
    return np.flatnonzero(np.random.default_rng().random(patients) < probability / 2)


def same_batch(patients: int, probability: float, entropy: Any) -> np.ndarray:
    return np.arange(round(patients * probability))


def drawn(steps: int) -> MechanismWatch:
    """Batches as training draws them, under a watch; no network."""
    data = dataset(MANY)
    watch = MechanismWatch(dataclasses.replace(recorded(), declared_patients=MANY), np.asarray(data.patient), MANY)
    made = batches.PatientBatches(SPEC, BASE, data, Stream(2))
    for _ in range(steps):
        batch = made._batch()
        watch.batch(batch.images, batch.weights[: batch.size])
    watch.end_round()
    return watch


@pytest.mark.parametrize(
    ("sampler", "found"),
    [
        (Shuffled(), {"batch_sizes", "patient_counts"}),
        (Shuffled(share=1.3, keep_short=False), {"batch_sizes"}),
        (OddPasses(), {"patient_counts"}),
        (fixed_size, {"batch_sizes"}),
        (same_batch, {"batch_sizes", "patient_counts"}),
        (half_rate, {"sampling_rate"}),
    ],
)
def test_other_sampling_is_caught_in_a_run_that_is_long_enough(
    sampler: Callable[..., np.ndarray], found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "poisson_sample", sampler)
    watch = drawn(200)
    assert found <= set(watch.failed), watch.figures()
    with pytest.raises(MechanismContradicted):
        watch.check()


def test_independent_coins_pass_once_every_test_of_sampling_has_power() -> None:
    watch = drawn(200)
    outcomes = watch.outcomes()
    assert {outcomes[name] for name in ("sampling_rate", "batch_sizes", "patient_counts", "rows")} == {"PASS"}


def test_a_step_that_draws_nobody_is_a_step_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "poisson_sample", lambda patients, probability, entropy: np.zeros(0, np.int64))
    watch = run(2)
    assert watch.failed == () and watch.outcomes()["rows"] == "PASS"
    assert "sampling_rate" in drawn(200).failed  # nobody, ever, at a rate of two in five


def test_a_fixed_batch_size_ends_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "poisson_sample", fixed_size)
    assert caught(120) == ("batch_sizes",)


# 6: the divisor ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("compiled_anew")
def test_division_of_all_by_the_realised_batch_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = training.discriminator_gradient

    def realised(engine: Any, real: Any, fake: Any, noise: Any, **options: Any) -> Any:
        drawn = tf.reduce_sum(tf.cast(tf.reduce_sum(real[2], axis=1) > 0, tf.float32))
        return honest(engine, real, fake, noise, **(options | {"expected_batch_size": tf.maximum(drawn, 1.0)}))

    monkeypatch.setattr(training, "discriminator_gradient", realised)
    assert {"divisor_probe", "noise_probe"} <= set(caught(1))
    assert "noise_variance" in caught_in_a_step(monkeypatch)


@pytest.mark.usefixtures("compiled_anew")
def test_division_of_the_sum_alone_by_the_realised_batch_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PerPatientGradients.summed

    def realised(self: Any, parts: Any) -> Any:
        real: Part = parts[0]
        drawn = tf.reduce_sum(tf.cast(tf.reduce_sum(real.weights, axis=1) > 0, tf.float32))
        return honest(self, [dataclasses.replace(real, factor=1.0 / tf.maximum(drawn, 1.0)), *parts[1:]])

    monkeypatch.setattr(PerPatientGradients, "summed", realised)
    assert "divisor_probe" in caught(1)


# 7, 8: refused by structure ----------------------------------------------------------------------------------------


def test_batch_normalisation_is_refused_before_training() -> None:
    layers = {"norm": keras.layers.BatchNormalization(), "out": keras.layers.Dense(1)}
    for name, width in (("norm", 3), ("out", 3)):
        layers[name].build((None, width))
    with pytest.raises(PrivacyRefused, match="mixes"):
        PerPatientGradients(lambda call, images, labels: call("out", call("norm", images)), layers, [])


def test_a_private_label_prior_has_no_place_in_the_policy() -> None:
    policy = FederationPolicy.build(**fields())
    with pytest.raises(InputError):
        TrainingSettings.from_json({**BASE.to_json(), "label_prior": [0.9, 0.1]})
    with pytest.raises(InputError, match="label_prior"):
        FederationPolicy._validated({**policy.model_dump(mode="json"), "label_prior": [0.9, 0.1]})


def test_generated_labels_do_not_depend_on_the_patients_labels() -> None:
    """The same entropy, other patients: the same generated labels; and what draws them holds no data set."""
    data = dataset(PATIENTS)
    other = PatientDataset(data.images, np.zeros_like(data.labels), data.patient, 2)
    drawn = []
    for one in (data, other):
        trainer = LocalTrainer(SPEC, BASE, one, Stream(5))
        drawn.append(np.concatenate([trainer._fake_inputs(8)[1] for _ in range(20)]))
    assert np.array_equal(*drawn) and 0.3 < drawn[0].mean() < 0.7
    alone = PublicSteps(SPEC, BASE, Stream(5))
    assert not any(isinstance(value, PatientDataset) for value in vars(alone).values())


# shared noise ------------------------------------------------------------------------------------------------------

CODEC = FixedPoint(8.0, 64, 24)


def shared(watch_data: PatientDataset | None = None) -> tuple[SumTrainer, MechanismWatch]:
    layout = VectorLayout.of(SPEC)
    size = layout.size - layout.generator_size
    record = DistributedMechanism(
        **recorded().mechanism.model_dump(exclude={"noise_placement"}),
        shares=NoiseShares(threshold=4, colluders=2, grid_step=CODEC.resolution, dimension=size),
    )
    data = dataset(PATIENTS)
    told = Recorded(record, PATIENTS, BASE.expected_batch_size)
    watch = watched(watch_data or data, told)
    return SumTrainer(SPEC, BASE, data, record, CODEC, Stream(1), watch), watch


def take(steps: int) -> MechanismWatch:
    trainer, watch = shared()
    trainer.begin(VectorLayout.of(SPEC).initial_vector(1))
    for _ in range(steps):
        trainer.step(None)
    trainer.end_round()
    return watch


def test_a_sound_share_passes() -> None:
    outcomes = take(3).outcomes()
    assert "noise_probe" not in outcomes  # the noise never enters the compiled sum
    assert {outcomes[name] for name in ("clip_probe", "divisor_probe", "rows", "sum_bound", "noise_variance")} == {
        "PASS"
    }


@pytest.mark.parametrize("left", [0, 2])
def test_a_share_without_or_with_half_its_noise_is_caught(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = DiscreteGaussian.draw
    monkeypatch.setattr(
        DiscreteGaussian, "draw", lambda self, size: honest(self, size) // left if left else honest(self, size) * 0
    )
    with pytest.raises(MechanismContradicted, match="noise_variance"):
        take(1)


def test_a_share_divided_among_more_hospitals_than_are_accounted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divided by eight hospitals that are expected instead of the two honest shares that are counted."""
    monkeypatch.setattr(
        distributed_training, "DiscreteGaussian", lambda variance, entropy: DiscreteGaussian(variance / 4, entropy)
    )
    with pytest.raises(MechanismContradicted, match="noise_variance"):
        take(1)
    assert share_variance(shared()[1].recorded.mechanism) > Fraction(4)  # type: ignore[arg-type]


@pytest.mark.usefixtures("compiled_anew")
def test_a_share_without_a_clip_or_with_one_per_image_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PerPatientGradients.summed
    with monkeypatch.context() as patch:
        patch.setattr(
            PerPatientGradients,
            "summed",
            lambda self, parts: honest(self, [dataclasses.replace(part, bound=1e9) for part in parts]),
        )
        with pytest.raises(MechanismContradicted, match="clip_probe"):
            take(1)
    distributed_training._real_term.cache_clear()
    monkeypatch.setattr(
        PerPatientGradients,
        "summed",
        lambda self, parts: honest(
            self, [dataclasses.replace(part, weights=tf.reshape(part.weights, [-1, 1])) for part in parts]
        ),
    )
    with pytest.raises(MechanismContradicted, match="clip_probe"):
        take(1)


# what is kept, and what is said ------------------------------------------------------------------------------------


def test_a_resumed_watch_goes_on_where_it_stood() -> None:
    watch = run(20)
    later = watched()
    later.restore(watch.state())
    assert later.state() == watch.state() and later.figures()["drawn"] == watch.figures()["drawn"] > 0
    with pytest.raises((KeyError, TypeError, ValueError)):
        later.restore({"failed": {}})


def test_the_outcome_without_a_failure_does_not_depend_on_how_many_patients_there_are() -> None:
    few, many = dataset(6), dataset(60)
    said = []
    for data in (few, many):
        watch = MechanismWatch(recorded(), np.asarray(data.patient), data.patients)
        LocalTrainer(SPEC, BASE, data, Stream(1), watch).train(VectorLayout.of(SPEC).initial_vector(1), 5)
        said.append(watch.outcomes())
    assert said[0] == said[1]
