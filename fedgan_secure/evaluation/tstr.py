"""Train on synthetic, test on real: are generated images of a class useful as images of that class?

A fixed classifier is trained on synthetic labelled images and tested on real ones; beside it the same classifier
trained on real images of other patients (TRTR), and the ratio. Nothing is selected on the test images.
A score on real data is not covered by the run's epsilon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.classifier import bootstrap_interval, build_classifier, fit, logits


@dataclass(frozen=True)
class LabelledImages:
    """uint8[n, H, W, C] images with int32[n] labels."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class TstrResult:
    """Accuracies in 0..1: the mean over seeds, every seed, and an interval over test images for the mean."""

    tstr: float
    trtr: float
    chance: float
    tstr_by_seed: tuple[float, ...]
    trtr_by_seed: tuple[float, ...]
    tstr_interval: tuple[float, float]
    trtr_interval: tuple[float, float]
    test_images: int

    @property
    def ratio(self) -> float:
        """TSTR over TRTR; 0 when TRTR is 0."""
        return self.tstr / self.trtr if self.trtr > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "tstr": self.tstr,
            "trtr": self.trtr,
            "ratio": self.ratio,
            "chance": self.chance,
            "tstr_by_seed": list(self.tstr_by_seed),
            "trtr_by_seed": list(self.trtr_by_seed),
            "tstr_interval_95": list(self.tstr_interval),
            "trtr_interval_95": list(self.trtr_interval),
            "test_images": self.test_images,
        }


def split_patients(dataset: PatientDataset, seed: int, share: float = 0.5) -> tuple[LabelledImages, LabelledImages]:
    """Labelled images of a random share of the patients, and of all the others: no patient is on both sides.

    Raises:
        InputError: fewer than two patients have labelled images.
    """
    labels, patient = np.asarray(dataset.labels), np.asarray(dataset.patient)
    known = labels >= 0
    owners = np.unique(patient[known])
    if len(owners) < 2:
        raise InputError("fewer than two patients have labelled images", hint="TSTR needs labels")
    order = np.random.default_rng(seed).permutation(owners)
    first = np.isin(patient, order[: max(1, round(share * len(order)))])
    sides = (np.flatnonzero(known & first), np.flatnonzero(known & ~first))
    left, right = (LabelledImages(dataset.pixels(side), labels[side]) for side in sides)
    return left, right


def accuracy(train: LabelledImages, test: LabelledImages, classes: int, seeds: Sequence[int], steps: int) -> np.ndarray:
    """bool[len(seeds), test images]: which test images a classifier trained on ``train`` gets right."""
    size, channels = test.images.shape[1], test.images.shape[3]
    rows = []
    for seed in seeds:
        model = fit(build_classifier(size, channels, classes, seed), train.images, train.labels, steps=steps, seed=seed)
        rows.append(logits(model, test.images).argmax(axis=1) == test.labels)
    return np.stack(rows)


def tstr(
    synthetic: LabelledImages,
    real_train: LabelledImages,
    real_test: LabelledImages,
    classes: int,
    *,
    seeds: Sequence[int] = (1, 2, 3),
    steps: int = 600,
) -> TstrResult:
    """Train on synthetic and on real images, test both on the same real images.

    Args:
        synthetic: generated images with the labels they were asked for.
        real_train, real_test: real images of different patients.
        classes: number of classes.
        seeds: of the classifiers.
        steps: of each classifier's training.

    Raises:
        InputError: a part is empty.
    """
    for name, part in (("synthetic", synthetic), ("real training", real_train), ("real test", real_test)):
        if not len(part.images):
            raise InputError(f"there are no {name} images to measure with")
    from_synthetic = accuracy(synthetic, real_test, classes, seeds, steps)
    from_real = accuracy(real_train, real_test, classes, seeds, steps)
    return TstrResult(
        tstr=float(from_synthetic.mean()),
        trtr=float(from_real.mean()),
        chance=float(np.bincount(real_test.labels, minlength=classes).max() / len(real_test.labels)),
        tstr_by_seed=tuple(float(row.mean()) for row in from_synthetic),
        trtr_by_seed=tuple(float(row.mean()) for row in from_real),
        tstr_interval=bootstrap_interval(from_synthetic.mean(axis=0), seed=0),
        trtr_interval=bootstrap_interval(from_real.mean(axis=0), seed=0),
        test_images=len(real_test.labels),
    )
