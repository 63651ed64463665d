"""A generator's score: collapse and shuffled labels are seen, the public start is beside it, patients are others."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from fedgan_secure.data.phantoms.phantoms import PhantomSettings, draw_patient, hospital_camera
from fedgan_secure.data.pixels.preprocess import FUNDUS, preprocess
from fedgan_secure.errors import InputError
from fedgan_secure.evaluation import scoring
from fedgan_secure.evaluation.images import LabelledImages
from fedgan_secure.evaluation.score import UNTRAINED, Effort, score_pictures
from fedgan_secure.evaluation.verdict import sentence
from fedgan_secure.models.spec import ModelSpec

EFFORT = Effort(pictures=100, seeds=(1,), real_seeds=(1,), steps=70, batch=32)


def bars(labels: np.ndarray, seed: int) -> np.ndarray:
    """Class 0: a horizontal bar; class 1: a vertical one; somewhere, on noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (len(labels), 28, 28, 1)).astype(np.uint8)
    for row, label in enumerate(labels):
        at = int(rng.integers(4, 20))
        part = images[row, at : at + 4] if label == 0 else images[row, :, at : at + 4]
        part += np.uint8(150)
    return images


def real(count: int, seed: int) -> LabelledImages:
    labels = (np.arange(count) % 2).astype(np.int32)
    return LabelledImages(bars(labels, seed), labels, np.arange(count) // 2)


def collapsed(labels: np.ndarray, seed: int) -> np.ndarray:
    """One picture of each class, with a little noise."""
    pair = bars(np.arange(2), 1)[labels].astype(np.int32)
    noise = np.random.default_rng(seed).integers(-3, 4, pair.shape)
    return np.clip(pair + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sides() -> tuple[LabelledImages, LabelledImages]:
    return real(160, 11), real(120, 12)


def test_real_pictures_score_high_and_the_collapsed_start_beside_them_low(
    sides: tuple[LabelledImages, LabelledImages],
) -> None:
    told: list[tuple[str, int, int]] = []
    score = score_pictures(
        bars, *sides, 2, effort=EFFORT, seed=3, start_draw=collapsed, progress=lambda *step: told.append(step)
    ).to_json()
    json.dumps(score, allow_nan=False)
    assert score["tstr"] > 0.9 and score["trtr"] > 0.9
    assert score["coverage"] > 0.7 and score["recall"] > 0.7
    assert score["start_coverage"] < 0.3 and score["start_recall"] < 0.05
    assert score["start_spread"] < 0.1 < 0.9 < score["spread"]
    assert score["gain_over_start"] == pytest.approx(score["tstr"] - score["start_tstr"])
    assert "public start" in score["sentence"] and "collapsed" not in score["sentence"]
    alone = {**score, **{key.removeprefix("start_"): value for key, value in score.items() if key.startswith("start_")}}
    assert "the generator has collapsed" in sentence(alone)
    assert "start_trtr" not in score and "start_coverage_real" not in score
    assert [done for _, done, _ in told] == list(range(1, told[-1][2] + 1))


def test_shuffled_labels_keep_the_variety_and_lose_the_classes(sides: tuple[LabelledImages, LabelledImages]) -> None:
    score = score_pictures(lambda labels, seed: bars(1 - labels, seed), *sides, 2, effort=EFFORT, seed=3).to_json()
    assert score["tstr"] < 0.1
    assert "no better than guessing" in score["sentence"]
    assert not any(key.startswith(("start_", "gain_")) for key in score)
    assert score["coverage"] > 0.7


@pytest.mark.parametrize(
    ("labels", "classes", "reason"),
    [(-1, 2, "no labels"), (-1, 0, "unconditional"), (0, 1, "only one class"), (0, 2, "only one class")],
)
def test_what_cannot_be_measured_says_so(labels: int, classes: int, reason: str) -> None:
    train, test = (LabelledImages(one.images, np.full(len(one), labels)) for one in (real(40, 1), real(40, 2)))
    effort = Effort(pictures=40, seeds=(1,), real_seeds=(1,), steps=5)
    score = score_pictures(bars, train, test, classes, effort=effort, seed=1).to_json()
    assert score["tstr"] is None and reason in score["tstr_missing_because"]
    assert score["embedding"] == UNTRAINED
    assert 0 <= score["coverage"] <= 1
    json.dumps(score, allow_nan=False)


def test_the_embedding_never_sees_test_or_generated_pictures(
    sides: tuple[LabelledImages, LabelledImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedgan_secure.evaluation import tstr

    seen: list[bytes] = []
    fit = tstr.fit

    def noted(model: object, images: np.ndarray, *rest: object, **more: object) -> object:
        seen.append(hashlib.sha256(images.tobytes()).digest())
        return fit(model, images, *rest, **more)

    monkeypatch.setattr(tstr, "fit", noted)
    effort = Effort(pictures=40, seeds=(1,), real_seeds=(1,), steps=2)
    score_pictures(bars, *sides, 2, effort=effort, seed=3)
    assert seen[0] == hashlib.sha256(sides[0].images.tobytes()).digest()
    assert len(seen) == 2


def test_wrong_effort_or_empty_sets_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        Effort(real_seeds=(2, 1))
    assert "1 first" in caught.value.hint
    with pytest.raises(InputError, match="0 real images"):
        score_pictures(bars, real(4, 1).first(0), real(4, 2), 2, effort=EFFORT, seed=1)


def test_a_run_is_scored_on_other_patients_than_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "PATIENTS", 40)
    monkeypatch.setattr(scoring, "EFFORT", Effort(pictures=50, seeds=(1,), real_seeds=(1,), steps=2, batch=8))
    spec, seed = ModelSpec(28, 3, 5, 4, (8, 6), (6, 8), 8), 5
    drawn: list[tuple[list[int], int]] = []
    test: list[np.ndarray] = []
    measured = scoring.score_pictures

    def noted(draw: object, train: LabelledImages, held_out: LabelledImages, *rest: object, **more: object) -> object:
        test.extend((train.images, held_out.images))
        return measured(draw, train, held_out, *rest, **more)

    def draw(labels: np.ndarray, seed: int) -> np.ndarray:
        drawn.append((np.unique(labels).tolist(), seed))
        return np.random.default_rng(seed).integers(0, 255, (len(labels), 28, 28, 3)).astype(np.uint8)

    monkeypatch.setattr(scoring, "score_pictures", noted)
    score = scoring.phantom_score(draw, spec, ("north", "south"), FUNDUS, seed, start_draw=draw, run_patients=200)
    json.dumps(score, allow_nan=False)
    assert drawn == [([0, 1, 2, 3, 4], seed)] * 2
    assert score["gain_over_start"] == 0.0
    settings = PhantomSettings(patients=20, image_size=28, seed=seed)
    own = {
        preprocess(eye.pixels, FUNDUS, 28, 3).tobytes()
        for hospital in range(2)
        for index in range(20)
        for eye in draw_patient(hospital, index, hospital_camera(seed, hospital), settings)
    }
    scored = {image.tobytes() for part in test for image in part}
    assert own and scored and not own & scored


def test_a_tiny_run_is_scored_with_little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def noted(draw: object, train: LabelledImages, test: LabelledImages, *rest: object, **more: object) -> object:
        effort = more["effort"]
        assert isinstance(effort, Effort)
        asked.append((len(train) + len(test), effort.steps))
        raise InputError("enough")

    monkeypatch.setattr(scoring, "score_pictures", noted)
    monkeypatch.setattr(scoring, "PATIENTS", 300)
    spec = ModelSpec(28, 3, 5, 4, (8, 6), (6, 8), 8)
    for patients in (scoring.TINY - 1, scoring.TINY):
        with pytest.raises(InputError, match="enough"):
            scoring.phantom_score(bars, spec, ("north", "south"), FUNDUS, 5, run_patients=patients)
    (few, short), (many, long) = asked
    assert few < many and (short, long) == (scoring.TINY_EFFORT.steps, scoring.EFFORT.steps)
