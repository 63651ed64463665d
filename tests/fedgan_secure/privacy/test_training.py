"""The whole local step: mechanism, post-processing, resume, and that it learns something."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.vectors import VectorLayout
from fedgan_secure.policy.training import TrainingSettings
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.training import training
from fedgan_secure.training.training import LocalTrainer, TrainingStateError

SPEC = ModelSpec(28, 1, 2, 4, (8, 6), (6, 8), 8)
BASE = TrainingSettings(
    sampling_probability=0.4,
    expected_batch_size=8.0,
    noise_multiplier=1.0,
    l2_clip_norm=1.0,
    fake_batch_size=8,
    generator_batch_size=8,
)


class Stream:
    """Reproducible bytes: SHAKE-256 of a seed, read on and on."""

    def __init__(self, seed: int = 1) -> None:
        self.seed, self.calls = seed, 0

    def __call__(self, count: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(f"{self.seed}/{self.calls}".encode()).digest(count)


def dataset(patients: int = 20) -> PatientDataset:
    """Two images per patient: a bright square left (class 0) or right (class 1) on black."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(patients, dtype=np.int32), 2)
    labels = (patient % 2).astype(np.int32)
    images = rng.integers(0, 30, (2 * patients, 28, 28, 1)).astype(np.uint8)
    for row, label in enumerate(labels):
        images[row, 8:20, 3 + 12 * label : 13 + 12 * label] += 200
    return PatientDataset(images, labels, patient, 2)


def trainer(settings: TrainingSettings = BASE, seed: int = 1, data: PatientDataset | None = None) -> LocalTrainer:
    return LocalTrainer(SPEC, settings, data or dataset(), Stream(seed))


@pytest.fixture(scope="module")
def start() -> np.ndarray:
    return VectorLayout.of(SPEC).initial_vector(1)


def captured(monkeypatch: pytest.MonkeyPatch, settings: TrainingSettings, start: np.ndarray, steps: int) -> list[Any]:
    """What every step hands to the compiled discriminator step (pixels, labels, weights, noise, ...)."""
    seen: list[Any] = []
    made = training._compiled(SPEC, settings)
    original = made.discriminator_gradient

    def spy(*arguments: Any) -> Any:
        seen.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(made, "discriminator_gradient", spy)
    trainer(settings).train(start, steps)
    return seen


def test_an_update_has_the_layout_and_is_finite(start: np.ndarray) -> None:
    calls: list[tuple[int, int]] = []
    result = trainer().train(start, 3, lambda done, total: calls.append((done, total)))
    assert result.update.dtype == np.float32
    assert result.update.shape == start.shape
    assert np.isfinite(result.update).all()
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert result.steps == 3
    layout = VectorLayout.of(SPEC)
    assert np.abs(result.update[layout.generator_slice]).max() > 0
    assert np.abs(result.update[layout.discriminator_slice]).max() > 0


def test_the_same_entropy_gives_the_same_update_and_other_entropy_another(start: np.ndarray) -> None:
    first, again, other = (trainer(seed=seed).train(start, 2).update for seed in (1, 1, 2))
    assert np.allclose(first, again, atol=1e-5)
    assert not np.allclose(first, other, atol=1e-5)


def noisy_gradient(settings: TrainingSettings, noise: np.ndarray) -> np.ndarray:
    """The private gradient of two fixed patients under the given noise, undone from nothing: read off the engine."""
    import tensorflow as tf

    from fedgan_secure.dpsgd.step import private_gradient
    from fedgan_secure.networks.losses import real_loss

    made = training._compiled(SPEC, settings)
    data = dataset(2)
    real = (
        tf.constant(data.to_float(np.arange(4))),
        tf.constant(np.asarray(data.labels)[:, None]),
        tf.constant(np.full((2, 2), 0.5, np.float32)),
    )
    found, _ = private_gradient(
        made.engine,
        real,
        tf.constant(noise),
        clip_norm=settings.l2_clip_norm,
        noise_multiplier=settings.noise_multiplier,
        expected_batch_size=settings.expected_batch_size,
        loss=lambda outputs, labels: real_loss(outputs, labels, 0.2),
    )
    return np.asarray(found)


def test_noise_enters_every_weight_with_standard_deviation_sigma_times_clip_over_the_public_divisor() -> None:
    size = training._compiled(SPEC, BASE).discriminator_adam.size
    settings = dataclasses.replace(BASE, noise_multiplier=2.0, l2_clip_norm=3.0, expected_batch_size=5.0)
    quiet = noisy_gradient(settings, np.zeros(size, np.float32))
    loud = noisy_gradient(settings, np.ones(size, np.float32))
    assert loud - quiet == pytest.approx(np.full(size, 2.0 * 3.0 / 5.0), rel=1e-4)


def test_the_divisor_is_the_public_one_and_the_clip_bounds_each_patient() -> None:
    size = training._compiled(SPEC, BASE).discriminator_adam.size
    zero = np.zeros(size, np.float32)
    tight = dataclasses.replace(BASE, l2_clip_norm=0.01)
    eight = noisy_gradient(tight, zero)
    assert np.linalg.norm(eight) * 8.0 <= 2 * 0.01 * (1 + 1e-4)  # two patients, each at most C: not their number
    sixteen = noisy_gradient(dataclasses.replace(tight, expected_batch_size=16.0), zero)
    assert eight == pytest.approx(2.0 * sixteen, rel=1e-4, abs=1e-9)


def test_every_step_gets_fresh_noise_also_when_nobody_is_sampled(
    monkeypatch: pytest.MonkeyPatch, start: np.ndarray
) -> None:
    rare = dataclasses.replace(BASE, sampling_probability=1e-9)
    steps = captured(monkeypatch, rare, start, 4)
    noises = np.stack([arguments[3] for arguments in steps])
    assert all(not arguments[2].any() for arguments in steps)  # empty batches
    assert abs(noises.var() - 1) < 0.05
    assert abs(np.corrcoef(noises)[np.triu_indices(4, 1)]).max() < 0.1


def test_without_privacy_no_noise_is_drawn(monkeypatch: pytest.MonkeyPatch, start: np.ndarray) -> None:
    steps = captured(monkeypatch, dataclasses.replace(BASE, noise_multiplier=0.0), start, 2)
    assert not any(arguments[3].any() for arguments in steps)


def test_no_sampled_patient_is_left_out_and_padding_weighs_nothing(
    monkeypatch: pytest.MonkeyPatch, start: np.ndarray
) -> None:
    everybody = dataclasses.replace(BASE, sampling_probability=1.0)
    for arguments in captured(monkeypatch, everybody, start, 2):
        weights = arguments[2]
        assert weights.size % training.PAD == 0
        assert len(weights) >= 20
        assert (weights.sum(axis=1) > 0).sum() == 20
        assert set(np.unique(weights)) == {0.0, 0.5}


def test_with_images_as_unit_every_image_has_a_coin_of_its_own(
    monkeypatch: pytest.MonkeyPatch, start: np.ndarray
) -> None:
    settings = dataclasses.replace(BASE, unit="image", images_per_patient=1, sampling_probability=1.0)
    weights = captured(monkeypatch, settings, start, 1)[0][2]
    assert weights.sum() == 40


def test_fake_labels_come_from_the_public_uniform_prior_whatever_the_data(
    monkeypatch: pytest.MonkeyPatch, start: np.ndarray
) -> None:
    base = dataset()
    lopsided = PatientDataset(base.images, np.zeros(40, np.int32), base.patient, 2)
    one, other = (trainer(data=data) for data in (base, lopsided))
    for left, right in zip(one._fake_inputs(500), other._fake_inputs(500), strict=True):
        assert np.array_equal(left, right)
    labels = one._fake_inputs(2000)[1]
    assert abs(labels.mean() - 0.5) < 0.06


def test_statistics_hold_what_the_annex_needs(start: np.ndarray) -> None:
    statistics = trainer().train(start, 3).statistics
    assert len(statistics["batch_sizes"]) == 3
    assert 0 <= statistics["clip_fraction"] <= 1
    assert statistics["noise_variance"] == pytest.approx(1, abs=0.1)
    assert statistics["noise_values"] == 3 * training._compiled(SPEC, BASE).discriminator_adam.size


def test_saved_state_resumes_exactly(tmp_path: Path, start: np.ndarray) -> None:
    one = trainer()
    middle = start + one.train(start, 2).update
    one.save(tmp_path / "state.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    other = trainer(seed=1)
    other.restore(tmp_path / "state.npz")
    assert other._steps_done == 2
    for name in ("_generator_state", "_discriminator_state"):
        left, right = getattr(one, name), getattr(other, name)
        assert np.array_equal(left.first, right.first)
        assert np.array_equal(left.second, right.second)
        assert left.count == right.count > 0
    # with equal randomness from here on the two go the same way; without the state they would not
    one._entropy = other._entropy = Stream(9)
    one._noise, other._noise = (training.GaussianStream(Stream(8)) for _ in range(2))
    one._public, other._public = (np.random.default_rng(7) for _ in range(2))
    one._entropy = Stream(9)
    first = one.train(middle, 2).update
    other._entropy = Stream(9)
    assert np.allclose(first, other.train(middle, 2).update, atol=1e-5)


@pytest.mark.parametrize("damage", ["missing", "cut", "other model"])
def test_a_damaged_state_is_an_input_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.npz"
    if damage != "missing":
        trainer().save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    target = trainer()
    if damage == "other model":
        other = dataclasses.replace(SPEC, discriminator_dense=9)
        target = LocalTrainer(other, BASE, dataset(), Stream())
    with pytest.raises(TrainingStateError) as caught:
        target.restore(path)
    assert caught.value.exit_code == 2


def test_hospitals_with_equal_settings_share_one_compiled_step(start: np.ndarray) -> None:
    made = training._compiled(SPEC, BASE)
    trainer(seed=1).train(start, 1)
    traces = made.discriminator_gradient.experimental_get_tracing_count()
    trainer(seed=2, data=dataset(60)).train(start, 2)
    assert training._compiled(SPEC, dataclasses.replace(BASE)) is made
    assert made.discriminator_gradient.experimental_get_tracing_count() == traces == 1


@pytest.mark.parametrize(
    "change",
    [{"sampling_probability": 0.0}, {"noise_multiplier": -1.0}, {"l2_clip_norm": 0.0}, {"expected_batch_size": 0.0}],
    ids=str,
)
def test_a_mechanism_the_accountant_does_not_know_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PrivacyRefused):
        trainer(dataclasses.replace(BASE, **change))


def test_images_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(InputError, match="the model expects"):
        LocalTrainer(ModelSpec.default(64, 1, 2), BASE, dataset(), Stream())
    base = dataset()
    unlabelled = PatientDataset(base.images, np.full(40, -1, np.int32), base.patient, 2)
    with pytest.raises(InputError, match="labels"):
        trainer(data=unlabelled)


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "hospital"},
        {"images_per_patient": 0},
        {"unit": "image"},
        {"generator_learning_rate": 0.0},
        {"adam_beta1": 1.0},
        {"diversity_target": 0.0},
        {"class_weight_generator": -1.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(BASE, **change)


def test_settings_survive_json() -> None:
    assert TrainingSettings.from_json(BASE.to_json()) == BASE
    with pytest.raises(InputError, match="unknown"):
        TrainingSettings.from_json({**BASE.to_json(), "more": 1})


def test_it_learns_the_two_classes(start: np.ndarray) -> None:
    """Bright left or bright right: after a short private training the asked class decides the side."""
    from fedgan_secure.networks.dcgan import build_discriminator, build_generator, draw_images

    settings = dataclasses.replace(
        BASE,
        sampling_probability=0.25,
        expected_batch_size=50.0,
        noise_multiplier=0.6,
        l2_clip_norm=4.0,
        images_per_patient=1,
        fake_batch_size=32,
        generator_batch_size=32,
        discriminator_learning_rate=2e-3,
        generator_learning_rate=4e-3,
    )
    vector = start + trainer(settings, data=dataset(200)).train(start, 150).update
    generator, discriminator = build_generator(SPEC, 0), build_discriminator(SPEC, 0)

    def sides(weights: np.ndarray) -> float:
        VectorLayout.of(SPEC).assign(weights, generator, discriminator)
        labels = np.arange(40, dtype=np.int32) % 2
        drawn = draw_images(generator, SPEC, labels, 40, seed=1).astype(float)[:, 8:20]
        lean = drawn[:, :, 15:25].mean(axis=(1, 2, 3)) - drawn[:, :, 3:13].mean(axis=(1, 2, 3))
        return float(lean[labels == 1].mean() - lean[labels == 0].mean())

    assert sides(vector) > max(60.0, 3 * abs(sides(start)))
