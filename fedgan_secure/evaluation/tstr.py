"""Train on synthetic, test on real: are generated images of a class useful as images of that class?

A fixed classifier is trained on synthetic labelled images and tested on real ones; beside it the same classifier
trained on real images of other patients (TRTR), and the ratio. Nothing is selected on the test images.
A score on real data is not covered by the run's epsilon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.classifier import build_classifier, fit, logits, side_by_side
from fedgan_secure.evaluation.images import LabelledImages
from fedgan_secure.evaluation.intervals import Interval, bootstrap_interval, joint_interval, seed_interval

BATCH = 64


@dataclass(frozen=True)
class TstrResult:
    """Accuracies in 0..1, means over the seeds of the classifier.

    Attributes:
        tstr, trtr: trained on synthetic images, and on real ones.
        chance: share of the largest class among the test images: always naming it is right that often.
        tstr_by_seed, trtr_by_seed: for every classifier.
        tstr_interval, trtr_interval: 95 %, over test images (whole patients, where they are known), for the seeds used.
        tstr_seed_interval, trtr_seed_interval: 95 %, over seeds, for the test images used; None below three seeds.
        tstr_joint_interval, trtr_joint_interval: 95 %, over both.
        test_images: real images tested on.
    """

    tstr: float
    trtr: float
    chance: float
    tstr_by_seed: tuple[float, ...]
    trtr_by_seed: tuple[float, ...]
    tstr_interval: Interval
    trtr_interval: Interval
    tstr_seed_interval: Interval | None
    trtr_seed_interval: Interval | None
    tstr_joint_interval: Interval
    trtr_joint_interval: Interval
    test_images: int

    @classmethod
    def of(cls, from_synthetic: np.ndarray, from_real: np.ndarray, test: LabelledImages, classes: int) -> TstrResult:
        """Sum up which test images were right.

        Args:
            from_synthetic, from_real: bool[seeds, n] of `accuracy`, for classifiers trained on either.
            test: the n test images.
            classes: number of classes.
        """
        synthetic, real = (_summary(hits, test.patient) for hits in (from_synthetic, from_real))
        return cls(
            tstr=synthetic[0], tstr_by_seed=synthetic[1], tstr_interval=synthetic[2],
            tstr_seed_interval=synthetic[3], tstr_joint_interval=synthetic[4],
            trtr=real[0], trtr_by_seed=real[1], trtr_interval=real[2],
            trtr_seed_interval=real[3], trtr_joint_interval=real[4],
            chance=float(np.bincount(test.labels, minlength=classes).max() / len(test)),
            test_images=len(test),
        )  # fmt: skip

    @property
    def ratio(self) -> float:
        """TSTR over TRTR; 0 when TRTR is 0."""
        return self.tstr / self.trtr if self.trtr > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        values: dict[str, Any] = {"ratio": self.ratio, "chance": self.chance, "test_images": self.test_images}
        for name in ("tstr", "trtr"):
            over_seeds = getattr(self, f"{name}_seed_interval")
            values |= {
                name: getattr(self, name),
                f"{name}_by_seed": list(getattr(self, f"{name}_by_seed")),
                f"{name}_interval_95": list(getattr(self, f"{name}_interval")),
                f"{name}_seed_interval_95": None if over_seeds is None else list(over_seeds),
                f"{name}_joint_interval_95": list(getattr(self, f"{name}_joint_interval")),
            }
        return values


def accuracy(
    train: LabelledImages,
    test: LabelledImages,
    classes: int,
    seeds: Sequence[int],
    steps: int,
    *,
    batch: int = BATCH,
    trained: Callable[[keras.Model], None] | None = None,
) -> np.ndarray:
    """Return bool[len(seeds), test images]: which test images a classifier trained on `train` gets right.

    Args:
        train, test: images with labels 0 to `classes` - 1.
        classes: number of classes.
        seeds: one classifier for each.
        steps, batch: of its training.
        trained: is given every classifier once it is trained.

    Raises:
        InputError: a side is empty.
    """
    if not len(train) or not len(test):
        raise InputError(f"a classifier has {len(train)} images to learn from and {len(test)} to be tested on")
    size, channels = test.images.shape[1], test.images.shape[3]

    def train_one(seed: int) -> tuple[keras.Model, np.ndarray]:
        model = build_classifier(size, channels, classes, seed)
        fit(model, train.images, train.labels, steps=steps, seed=seed, batch=batch)
        return model, logits(model, test.images).argmax(axis=1) == test.labels

    found = side_by_side(train_one, seeds)
    if trained is not None:
        for model, _ in found:
            trained(model)
    return np.stack([hits for _, hits in found])


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
        if not len(part):
            raise InputError(f"there are no {name} images to measure with")
    from_synthetic = accuracy(synthetic, real_test, classes, seeds, steps)
    return TstrResult.of(from_synthetic, accuracy(real_train, real_test, classes, seeds, steps), real_test, classes)


def _summary(
    hits: np.ndarray, patient: np.ndarray | None
) -> tuple[float, tuple[float, ...], Interval, Interval | None, Interval]:
    by_seed = tuple(float(row.mean()) for row in hits)
    return (
        float(hits.mean()), by_seed, bootstrap_interval(hits.mean(axis=0), 0, groups=patient), seed_interval(by_seed),
        joint_interval(hits, 0, patient),
    )  # fmt: skip
