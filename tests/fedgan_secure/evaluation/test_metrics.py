"""The instruments measure what they say: good and bad images, right and shuffled labels, no patient on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.classifier import GroupNorm, build_classifier, fit
from fedgan_secure.evaluation.distance import feature_distance
from fedgan_secure.evaluation.images import LabelledImages, split_patients
from fedgan_secure.evaluation.realism import realism
from fedgan_secure.evaluation.run_score import EvaluationRequest, drawing, evaluate_run, measure
from fedgan_secure.evaluation.tstr import accuracy, tstr
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.dcgan import build_generator
from fedgan_secure.networks.vectors import VectorLayout, save_models

SPEC = ModelSpec(28, 1, 2, 4, (8, 6), (6, 8), 8)


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Class 0: a horizontal bar; class 1: a vertical one; somewhere, on noise."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.int32)
    images = rng.integers(0, 60, (count, 28, 28, 1)).astype(np.uint8)
    for row, label in enumerate(labels):
        at = int(rng.integers(4, 20))
        part = images[row, at : at + 4] if label == 0 else images[row, :, at : at + 4]
        part += np.uint8(150)
    return images, labels


def dataset(count: int = 120) -> PatientDataset:
    images, labels = bars(count, 1)
    return PatientDataset(images, labels, np.arange(count, dtype=np.int32) // 2, 2)


def test_tstr_knows_useful_from_useless_labels() -> None:
    train, test = (LabelledImages(*bars(200, seed)) for seed in (2, 3))
    images, labels = bars(200, 4)
    useful = tstr(LabelledImages(images, labels), train, test, 2, seeds=(1,), steps=60)
    swapped = accuracy(LabelledImages(images, 1 - labels), test, 2, (1,), 60)
    assert useful.trtr > 0.9
    assert useful.tstr > 0.9
    assert useful.ratio == pytest.approx(useful.tstr / useful.trtr)
    assert useful.tstr_interval[0] <= useful.tstr <= useful.tstr_interval[1]
    assert swapped.mean() < 0.1
    assert useful.chance == 0.5


def test_realism_tells_real_from_noise_and_not_real_from_real() -> None:
    rng = np.random.default_rng(5)
    noise = [rng.integers(0, 255, (150, 28, 28, 1)).astype(np.uint8) for _ in range(2)]
    more, again, once = (bars(150, seed)[0] for seed in (6, 7, 8))
    real = (bars(150, 9)[0], once)
    bad = realism(real, (noise[0], noise[0][::-1]), (noise[1], noise[1][::-1]), steps=60)
    assert bad.real.mean > 0.9
    assert bad.generated.mean < 0.1
    good = realism(real, (more, again), (noise[1], noise[1][::-1]), steps=60)
    assert good.ratio > 0.7
    assert good.untrained.mean < 0.1
    assert good.generated.interval[0] <= good.generated.mean <= good.generated.interval[1]


def test_no_patient_is_on_both_sides() -> None:
    images, labels = bars(60, 1)
    marked = images.copy()
    marked[:, 0, 0, 0] = np.arange(60) // 3  # the patient, readable from the pixels
    labels[::7] = -1
    left, right = split_patients(PatientDataset(marked, labels, np.arange(60) // 3, 2), seed=1)
    assert not set(left.images[:, 0, 0, 0]) & set(right.images[:, 0, 0, 0])
    assert (left.images[:, 0, 0, 0] == left.patient).all()
    assert len(left) + len(right) == 60
    assert (left.labelled().labels >= 0).all()
    assert len(left.labelled()) + len(right.labelled()) == (labels >= 0).sum()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_either_side_has_a_patient(share: float) -> None:
    images, labels = bars(4, 1)
    left, right = split_patients(PatientDataset(images, labels, np.arange(4) // 2, 2), 1, share)
    assert (len(left), len(right)) == (2, 2)
    with pytest.raises(InputError, match="fewer than two patients"):
        split_patients(PatientDataset(images, labels, np.zeros(4, np.int32), 2), 1, share)


def test_training_depends_on_its_seed_alone_and_not_on_what_was_trained_before() -> None:
    images, labels = bars(80, 2)

    def weights(seed: int) -> list[np.ndarray]:
        return fit(build_classifier(28, 1, 2, seed), images, labels, steps=8, seed=seed).get_weights()

    first, other, again = weights(1), weights(2), weights(1)
    assert all(np.array_equal(left, right) for left, right in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_the_fast_normalisation_is_the_usual_one() -> None:
    pixels = np.random.default_rng(0).normal(3, 5, (4, 6, 6, 16)).astype(np.float32)
    ours, theirs = GroupNorm(groups=8), keras.layers.GroupNormalization(groups=8)
    for layer in (ours, theirs):
        layer.build(pixels.shape)
        layer.set_weights([np.linspace(1, 2, 16, dtype=np.float32), np.linspace(-1, 1, 16, dtype=np.float32)])
    np.testing.assert_allclose(ours(pixels), theirs(pixels), atol=2e-5)


def test_the_feature_distance_is_zero_for_equal_sets_and_grows() -> None:
    first, second = bars(100, 1)[0], bars(100, 2)[0]
    noise = np.random.default_rng(0).integers(0, 255, first.shape).astype(np.uint8)
    assert feature_distance(first, first) == 0.0
    assert feature_distance(first, second) < 0.2 * feature_distance(first, noise)


REQUEST = EvaluationRequest(Path(), Path(), count=60, seeds=1, steps=60)


def test_a_measurement_of_untrained_images_is_near_the_floor() -> None:
    draw = drawing(build_generator(SPEC, 3), SPEC)
    result = measure(draw, dataset(), REQUEST, 2, draw)
    assert result["realism"]["generated"]["mean"] < 0.3 < result["realism"]["real"]["mean"]
    assert result["tstr"]["trtr"] > result["tstr"]["tstr"]
    assert result["diversity"]["coverage"] < 0.3 < result["diversity"]["coverage_real"]
    json.dumps(result, allow_nan=False)


def test_an_unconditional_generator_is_measured_without_tstr() -> None:
    spec = ModelSpec(28, 1, 0, 4, (8, 6), (6, 8), 8)
    told: list[tuple[str, int, int]] = []
    result = measure(
        drawing(build_generator(spec, 3), spec), dataset(), REQUEST, 0, progress=lambda *step: told.append(step)
    )
    assert result["tstr"] is None and result["realism"] is None
    assert "unconditional" in result["tstr_missing_because"]
    assert result["embedding"].startswith("a classifier")
    assert len(result["diversity"]["spread_by_class"]) == 1
    assert told[-1][1] == told[-1][2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    public = tmp_path / "run" / "public"
    public.mkdir(parents=True)
    save_models(VectorLayout.of(SPEC).initial_vector(1), SPEC, public / "model")
    policy = {"model": SPEC.to_json(), "data": {"preprocessing": "plain/1", "label_names": ["across", "down"]}}
    (public / "policy.json").write_text(json.dumps(policy))
    images, labels = bars(80, 1)
    np.savez(tmp_path / "real.npz", images=images, labels=labels)
    return tmp_path


def test_a_run_folder_is_evaluated(run: Path) -> None:
    request = EvaluationRequest(run / "run", run / "real.npz", unit="image", count=50, seeds=1, steps=20)
    result = evaluate_run(request)
    assert result["real_images"] == 80
    assert set(result["realism"]) == {"real", "generated", "untrained", "ratio"}
    assert result["sentence"].startswith("A classifier trained on the generated pictures")
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("damage", ["no folder", "no policy", "broken policy", "no model"])
def test_a_folder_that_is_no_finished_run_is_an_input_error(run: Path, damage: str) -> None:
    public = run / "run" / "public"
    if damage == "no policy":
        (public / "policy.json").unlink()
    elif damage == "broken policy":
        (public / "policy.json").write_text("[]")
    elif damage == "no model":
        (public / "model" / "generator.keras").unlink()
    folder = run / "elsewhere" if damage == "no folder" else run / "run"
    with pytest.raises(InputError) as caught:
        evaluate_run(EvaluationRequest(folder, run / "real.npz", unit="image"))
    assert caught.value.exit_code == 2
