"""The instruments measure what they say: good and bad images, right and shuffled labels, no patient on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.classifier import bootstrap_interval
from fedgan_secure.evaluation.phantom_score import feature_distance, generator_score
from fedgan_secure.evaluation.realism import realism
from fedgan_secure.evaluation.run_score import EvaluationRequest, evaluate_run, measure
from fedgan_secure.evaluation.tstr import LabelledImages, split_patients, tstr
from fedgan_secure.models.dcgan import build_generator
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.models.vectors import VectorLayout, save_models

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
    swapped = tstr(LabelledImages(images, 1 - labels), train, test, 2, seeds=(1,), steps=60)
    assert useful.trtr > 0.9
    assert useful.tstr > 0.9
    assert useful.ratio == pytest.approx(useful.tstr / useful.trtr)
    assert useful.tstr_interval[0] <= useful.tstr <= useful.tstr_interval[1]
    assert swapped.tstr < 0.1
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


def test_no_patient_is_on_both_sides_and_unlabelled_images_are_left_out() -> None:
    images, labels = bars(60, 1)
    marked = images.copy()
    marked[:, 0, 0, 0] = np.arange(60) // 3  # the patient, readable from the pixels
    labels[::7] = -1
    left, right = split_patients(PatientDataset(marked, labels, np.arange(60) // 3, 2), seed=1)
    assert not set(left.images[:, 0, 0, 0]) & set(right.images[:, 0, 0, 0])
    assert len(left.labels) + len(right.labels) == (labels >= 0).sum()
    assert (left.labels >= 0).all()


def test_the_feature_distance_is_zero_for_equal_sets_and_grows() -> None:
    first, second = bars(100, 1)[0], bars(100, 2)[0]
    noise = np.random.default_rng(0).integers(0, 255, first.shape).astype(np.uint8)
    assert feature_distance(first, first) == 0.0
    assert feature_distance(first, second) < 0.2 * feature_distance(first, noise)


def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        low, high = bootstrap_interval(rng.normal(size=60), seed=trial, draws=300)
        covered += low <= 0 <= high
    assert 85 <= covered <= 100


def test_a_generator_is_scored_in_one_call() -> None:
    score = generator_score(build_generator(SPEC, 1), SPEC, dataset(), seed=1)
    assert 0 <= score["tstr_accuracy"] <= 1
    assert score["feature_distance"] > 0
    json.dumps(score)
    with pytest.raises(InputError):
        generator_score(build_generator(SPEC, 1), ModelSpec.default(64, 1, 2), dataset(), seed=1)


def test_a_measurement_of_untrained_images_is_near_the_floor() -> None:
    request = EvaluationRequest(Path(), Path(), count=60, seeds=1, steps=60)
    result = measure(build_generator(SPEC, 3), SPEC, dataset(), request)
    assert result["realism"]["generated"]["mean"] < 0.3 < result["realism"]["real"]["mean"]
    assert result["tstr"]["trtr"] > result["tstr"]["tstr"]
    unconditional = ModelSpec(28, 1, 0, 4, (8, 6), (6, 8), 8)
    blind = measure(build_generator(unconditional, 3), unconditional, dataset(), request)
    assert blind["tstr"] is None
    assert "unconditional" in blind["tstr_missing_because"]


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
