"""Heads of a hospital that adds the noise itself: the mechanism, its bound to the digit, resuming, and learning."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.dpsgd.clipping import MARGIN
from fedgan_secure.errors import InputError
from fedgan_secure.head_training import head_data, head_networks
from fedgan_secure.head_training.head_data import FakeFeatures, FeatureSet
from fedgan_secure.head_training.head_networks import CompiledHeads, compiled_heads
from fedgan_secure.head_training.head_training import HeadTrainer
from fedgan_secure.heads.head_settings import HeadSettings
from fedgan_secure.heads.heads import SLOPE, HeadsLayout, HeadsSpec, random_heads, standardised
from fedgan_secure.models.errors import ModelError
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.privacy.noise import GaussianStream
from fedgan_secure.training.training import TrainingStateError
from tests.fedgan_secure.adaptation.test_heads import BARE, SPEC, outputs
from tests.fedgan_secure.privacy.test_training import Stream

D, CLASSES = SPEC.features, SPEC.classes
BASE = HeadSettings(
    sampling_probability=0.4, expected_batch_size=8.0, noise_multiplier=1.0, images_per_patient=2, fake_batch_size=6
)
CENTRE = np.linspace(-0.5, 0.5, D).astype(np.float32)
LAYOUT = HeadsLayout.of(SPEC)
START = random_heads(SPEC, 1)


def features(patients: int = 20, classes: int = CLASSES, seed: int = 0) -> FeatureSet:
    """Two images per patient of one class each; classes lie apart in three features."""
    draw = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients, dtype=np.int32), 2)
    labels = patient % max(classes, 1)
    rows = draw.normal(size=(len(patient), D))
    rows[np.arange(len(patient)), labels] += 4.0
    return FeatureSet(rows.astype(np.float32), labels.astype(np.int32), patient, patients)


def fakes(classes: int = CLASSES, seed: int = 1) -> FakeFeatures:
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(max(classes, 1)), 5)
    return FakeFeatures(draw.normal(size=(len(labels), D)).astype(np.float32), labels)


def trainer(given: HeadSettings = BASE, seed: int = 1, data: FeatureSet | None = None) -> HeadTrainer:
    return HeadTrainer(SPEC, given, data or features(), Stream(seed))


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run compiled steps op by op: nothing is traced for settings or faults that one test alone has."""
    monkeypatch.setattr(head_networks, "standardised", lambda *given: tf.constant(standardised(*given)))
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_data, "poisson_sample", lambda patients, probability, entropy: np.arange(patients))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GaussianStream, "normal", lambda self, size: np.zeros(size, np.float32))


def captured(monkeypatch: pytest.MonkeyPatch, steps: int, one: HeadTrainer) -> list[tuple[Any, ...]]:
    """What every step hands to the compiled gradient (features, labels, weights, noise, fakes, labels, centre)."""
    seen: list[tuple[Any, ...]] = []
    made = compiled_heads(SPEC, one.settings)
    original = made.gradient

    def spy(*arguments: Any) -> Any:
        seen.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(made, "gradient", spy)
    one.train(START, fakes(), CENTRE, steps)
    return seen


# the bound on a patient --------------------------------------------------------------------------------------------


def gradient_of(spec: HeadsSpec, vector: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64[k]: the gradient of the mean real loss over one patient's standardised rows, by hand."""
    layout = HeadsLayout.of(spec)
    total = np.zeros(layout.size)
    made = layout.parts(total)
    parts = {name: value.astype(np.float64) for name, value in layout.parts(vector).items()}
    for row, label in zip(rows.astype(np.float64), labels, strict=True):
        realness, logits = outputs(spec, vector, row[None], np.array([label]))
        raw = row @ parts["h_hidden/kernel"] + parts["h_hidden/bias"]
        hidden = np.where(raw > 0, raw, SLOPE * raw)
        back = -1.0 / (1.0 + np.exp(np.clip(realness[0], -700, 700))) / len(rows)
        down = back * parts["h_realness/kernel"][:, 0]
        made["h_realness/kernel"][:, 0] += back * hidden
        made["h_realness/bias"] += back
        if spec.conditional:
            down = down + back * parts["h_label/embeddings"][label]
            made["h_label/embeddings"][label] += back * hidden
            chances = np.exp(logits[0] - logits[0].max())
            chances /= chances.sum()
            off = BASE.class_weight * (chances - np.eye(spec.classes)[label]) / len(rows)
            made["h_classes/kernel"] += hidden[:, None] * off
            made["h_classes/bias"] += off
            down = down + parts["h_classes/kernel"] @ off
        down = down * np.where(raw > 0, 1.0, SLOPE)
        made["h_hidden/kernel"] += row[:, None] * down
        made["h_hidden/bias"] += down
    return total


def sum_of(compiled: CompiledHeads, data: FeatureSet, patients: np.ndarray) -> np.ndarray:
    """The clipped sum of some patients with two images each, padded to one batch of 16."""
    rows = np.concatenate([np.flatnonzero(data.patient == patient) for patient in patients] or [np.zeros(0, int)])
    given = np.zeros((32, D), np.float32)
    labels, weights = np.zeros((32, 1), np.int32), np.zeros((16, 2), np.float32)
    given[: len(rows)], labels[: len(rows), 0] = data.features[rows], data.labels[rows]
    weights[: len(patients)] = 0.5
    return np.asarray(compiled.real_sum(given, labels, weights, CENTRE)[0])


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.01, 1.0, 100.0]), sharp=st.sampled_from([0.3, 1, 30]))
@settings(max_examples=25)
def test_one_patient_changes_the_sum_by_at_most_the_clip_norm(seed: int, scale: float, sharp: float) -> None:
    """Also with weights and features that somebody chose; and the sum is what clipping by hand gives."""
    draw = np.random.default_rng(seed)
    data = features(6, seed=seed)
    data = dataclasses.replace(data, features=(data.features * scale).astype(np.float32))
    vector = (draw.normal(size=LAYOUT.size) * sharp).astype(np.float32)
    compiled = compiled_heads(SPEC, BASE)
    compiled.place(vector)
    full = sum_of(compiled, data, np.arange(6))
    wanted = np.zeros(LAYOUT.size)
    for patient in range(6):
        mine = data.patient == patient
        own = gradient_of(SPEC, vector, standardised(data.features[mine], CENTRE, D), data.labels[mine])
        wanted += own * min(1.0, (1.0 - MARGIN) / max(float(np.linalg.norm(own)), 1e-30))
        without = sum_of(compiled, data, np.delete(np.arange(6), patient))
        assert np.linalg.norm(full.astype(np.float64) - without) <= BASE.l2_clip_norm
    assert np.allclose(full, wanted, atol=2e-3 * (1 - MARGIN))
    assert not sum_of(compiled, data, np.zeros(0, int)).any()


def test_a_patient_whose_features_are_not_finite_contributes_nothing() -> None:
    data = features(6)
    spoilt = data.features.copy()
    spoilt[4:6] = [[np.nan], [np.inf]]
    compiled = compiled_heads(SPEC, BASE)
    compiled.place(START)
    without = sum_of(compiled, data, np.array([0, 1, 3, 4, 5]))
    found = sum_of(compiled, dataclasses.replace(data, features=spoilt), np.arange(6))
    assert np.isfinite(found).all() and np.allclose(found, without, atol=1e-6)


@pytest.mark.usefixtures("eagerly", "everybody", "silent")
def test_unconditional_heads_are_bounded_and_ignore_labels() -> None:
    vector = random_heads(BARE, 2)
    update = []
    for labels in (np.zeros(16, np.int32), np.full(16, -1, np.int32)):
        data = dataclasses.replace(features(8), labels=labels)
        result = HeadTrainer(BARE, BASE, data, Stream(1)).train(vector, fakes(0), CENTRE, 2)
        update.append(result.update)
    assert update[0].shape == (HeadsLayout.of(BARE).size,) and np.array_equal(*update)
    compiled = compiled_heads(BARE, BASE)
    compiled.place(vector * np.float32(20))
    data = features(2)
    one = sum_of(compiled, data, np.arange(1))
    own = gradient_of(BARE, vector * np.float32(20), standardised(data.features[:2], CENTRE, D), data.labels[:2])
    assert np.allclose(one, own * min(1.0, (1.0 - MARGIN) / np.linalg.norm(own)), atol=1e-4)


# the step ----------------------------------------------------------------------------------------------------------


def test_noise_covers_every_weight_and_is_fresh_also_when_nobody_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_data, "poisson_sample", lambda patients, probability, entropy: np.zeros(0, np.int64))
    steps = captured(monkeypatch, 15, trainer())
    noises = np.stack([arguments[3] for arguments in steps])
    assert noises.shape == (15, LAYOUT.size) and all(not arguments[2].any() for arguments in steps)
    assert abs(noises.var() - 1) < 0.1 and (noises.std(axis=0) > 0.2).all()
    made = compiled_heads(SPEC, BASE)
    zero, empty = np.zeros(LAYOUT.size, np.float32), (*steps[0][:3],)
    quiet, loud = (np.asarray(made.gradient(*empty, noise, *steps[0][4:])[0]) for noise in (zero, zero + 1))
    assert loud - quiet == pytest.approx(np.full(LAYOUT.size, 1.0 / 8.0), rel=1e-4)


def test_a_patient_gives_at_most_the_declared_images_and_padding_weighs_nothing(
    monkeypatch: pytest.MonkeyPatch, everybody: None
) -> None:
    base = features(5)
    patient = np.array([0, 0, 0, 0, 1, 2, 2, 2, 3, 4], np.int32)
    data = FeatureSet(base.features, base.labels, patient, 5)
    chosen = []
    for rows, labels, weights, *_ in captured(monkeypatch, 6, trainer(data=data)):
        assert len(rows) == len(labels) == weights.size and weights.size % head_data.PAD == 0
        assert weights[:5].sum(axis=1) == pytest.approx(np.ones(5)) and not weights[5:].any()
        assert weights[1].tolist() == weights[3].tolist() == [1.0, 0.0]
        chosen.append(rows[:2])
        assert all(any(np.array_equal(row, mine) for mine in data.features[:4]) for row in rows[:2])
    assert len({one.tobytes() for one in chosen}) > 1  # a fresh choice of images in every step


@pytest.mark.usefixtures("eagerly", "everybody")
def test_with_images_as_unit_every_image_has_a_coin_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    by_image = dataclasses.replace(BASE, unit="image", images_per_patient=1)
    data = dataclasses.replace(features(), unit="image")
    assert captured(monkeypatch, 1, trainer(by_image, data=data))[0][2].sum() == 40
    with pytest.raises(InputError, match="grouped by patient"):
        trainer(by_image)


def test_generated_pictures_come_in_turn_with_the_classes_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = fakes().batches(6)
    drawn = [batches.of(step) for step in range(5)]
    assert all(sorted(labels[:, 0]) == [0, 0, 1, 1, 2, 2] for _, labels in drawn)
    seen = np.concatenate([rows for rows, _ in drawn])
    assert len(np.unique(seen, axis=0)) == 15  # every one of them, twice
    assert len(fakes().batches(100).of(3)[0]) == 15
    one = trainer()
    one.train(START, fakes(), CENTRE, 2)
    later = captured(monkeypatch, 2, one)  # a later round goes on where the last one stopped
    assert all(np.array_equal(step[4], batches.of(2 + index)[0]) for index, step in enumerate(later))


def test_an_update_is_finite_and_hospitals_share_one_compiled_step() -> None:
    calls: list[tuple[int, int]] = []
    result = trainer().train(START, fakes(), CENTRE, 3, lambda done, total: calls.append((done, total)))
    assert result.update.dtype == np.float32 and result.update.shape == START.shape and result.steps == 3
    assert np.isfinite(result.update).all() and np.abs(result.update).max() > 0
    assert calls == [(1, 3), (2, 3), (3, 3)]
    made = compiled_heads(SPEC, BASE)
    trainer(seed=2, data=features(60)).train(START, fakes(seed=3), CENTRE + 1, 2)
    assert compiled_heads(SPEC, dataclasses.replace(BASE)) is made
    assert made.gradient.experimental_get_tracing_count() == made.descend.experimental_get_tracing_count() == 1
    statistics = result.statistics
    assert len(statistics["batch_sizes"]) == 3 and 0 <= statistics["clip_fraction"] <= 1
    assert statistics["noise_values"] == 3 * LAYOUT.size
    assert statistics["noise_variance"] == pytest.approx(1, abs=0.25)


@pytest.mark.usefixtures("eagerly")
def test_without_privacy_no_noise_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(dataclasses.replace(BASE, noise_multiplier=0.0))
    assert not any(arguments[3].any() for arguments in captured(monkeypatch, 2, one))
    assert one.train(START, fakes(), CENTRE, 1).statistics["noise_values"] == 0


def accuracy(vector: np.ndarray, data: FeatureSet) -> float:
    logits = outputs(SPEC, vector, standardised(data.features, CENTRE, D), data.labels)[1]
    return float((logits.argmax(axis=1) == data.labels).mean())


@pytest.mark.usefixtures("silent")
def test_the_class_head_and_the_realness_head_learn() -> None:
    fresh = features(60, seed=9)
    before = accuracy(START, fresh)
    after = START + trainer(data=features(60)).train(START, fakes(), CENTRE, 80).update
    assert before < 0.6 and accuracy(after, fresh) > 0.9
    real, _ = outputs(SPEC, after, standardised(fresh.features, CENTRE, D), fresh.labels)
    made, _ = outputs(SPEC, after, standardised(fakes(seed=8).features, CENTRE, D), fakes().labels)
    assert real.mean() > made.mean() + 0.5


# from round to round -----------------------------------------------------------------------------------------------


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    one = trainer()
    middle = START + one.train(START, fakes(), CENTRE, 2).update
    one.save(tmp_path / "state.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    later, forgetful = trainer(), trainer()
    later.restore(tmp_path / "state.npz")
    forgetful._state = dataclasses.replace(forgetful._state, steps_done=2)  # but no moments
    ends = []
    for each in (one, later, forgetful):
        each._entropy, each._noise = Stream(9), GaussianStream(Stream(8))
        ends.append(each.train(middle, fakes(), CENTRE, 3).update)
    assert np.allclose(ends[0], ends[1], atol=1e-6) and not np.allclose(ends[0], ends[2], atol=1e-4)
    assert one._state.steps_done == later._state.steps_done == 5


@pytest.mark.parametrize("damage", ["missing", "cut", "other heads", "other size", "not finite"])
def test_a_damaged_state_is_an_input_error(tmp_path: Path, damage: str) -> None:
    path, target = tmp_path / "state.npz", trainer()
    if damage != "missing":
        trainer().save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    if damage == "other heads":
        wider = dataclasses.replace(SPEC, hidden=33)
        target = HeadTrainer(wider, BASE, features(), Stream())
    if damage in ("other size", "not finite"):
        kept = dict(np.load(path))
        kept["first"] = kept["first"][:-1] if damage == "other size" else kept["first"] + np.float32(np.nan)
        np.savez(path, **kept)
    with pytest.raises(TrainingStateError) as caught:
        target.restore(path)
    assert caught.value.exit_code == 2


# what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"sampling_probability": 0.0}, {"noise_multiplier": -1.0}, {"l2_clip_norm": 0.0}, {"expected_batch_size": 0.0}],
    ids=str,
)
def test_a_mechanism_the_accountant_does_not_know_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PrivacyRefused):
        trainer(dataclasses.replace(BASE, **change))


def test_features_and_pictures_that_do_not_fit_are_refused() -> None:
    data = features()
    with pytest.raises(InputError, match="the heads expect 49"):
        HeadTrainer(dataclasses.replace(SPEC, features=49), BASE, data, Stream())
    with pytest.raises(InputError, match="labels") as caught:
        trainer(data=dataclasses.replace(data, labels=np.full(40, -1, np.int32)))
    assert caught.value.hint
    for change in (
        {"features": data.features.astype(np.float64)},
        {"features": data.features[:-1]},
        {"labels": data.labels.astype(np.float32)},
        {"patients": 21},
        {"patient": data.patient - 1},
        {"unit": "study"},
    ):
        with pytest.raises(InputError):
            dataclasses.replace(data, **change)
    good = fakes()
    for change in (
        {"features": good.features[:0], "labels": good.labels[:0]},
        {"features": good.features * np.float32(np.nan)},
        {"labels": good.labels[:-1]},
    ):
        with pytest.raises(InputError):
            dataclasses.replace(good, **change)
    for wrong in (dataclasses.replace(good, labels=good.labels + 1), FakeFeatures(good.features[:, 1:], good.labels)):
        with pytest.raises(InputError, match="generated pictures"):
            trainer().train(START, wrong, CENTRE, 1)
    for vector, centre in ((START[1:], CENTRE), (np.full_like(START, np.inf), CENTRE), (START, CENTRE[1:])):
        with pytest.raises(ModelError):
            trainer().train(vector, good, centre, 1)


def test_a_feature_set_says_nothing_of_its_patients_and_cannot_be_sent() -> None:
    assert repr(features(20)) == repr(features(30)) == "FeatureSet(vectors of 48)"
    with pytest.raises(TypeError, match="never leaves"):
        pickle.dumps(features())
