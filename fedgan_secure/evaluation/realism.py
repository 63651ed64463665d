"""Realism: how often does a discriminator trained apart take generated images for real?

The judge is trained centrally on real images against images of the generator under test and of an untrained one;
scores are taken on real images of other patients and on images drawn anew. The mean probability "real" of generated
images, over that of real ones, is the ratio; an untrained generator gives the floor. A score on real data is not
covered by the run's epsilon.

A judge of this kind tells nearly every generated image from a real one, good or bad, so that the ratio separates little
between generators: it is a secondary figure beside TSTR, coverage and recall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.classifier import build_classifier, fit, logits
from fedgan_secure.evaluation.intervals import bootstrap_interval


@dataclass(frozen=True)
class Score:
    """Mean probability "real" over images, 0..1, with a 95 % bootstrap interval."""

    mean: float
    interval: tuple[float, float]
    images: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"mean": self.mean, "interval_95": list(self.interval), "images": self.images}


@dataclass(frozen=True)
class RealismResult:
    """Scores of real, generated and untrained-generator images, all held out from the judge's training."""

    real: Score
    generated: Score
    untrained: Score

    @property
    def ratio(self) -> float:
        """Generated over real."""
        return self.generated.mean / self.real.mean if self.real.mean > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "real": self.real.to_json(),
            "generated": self.generated.to_json(),
            "untrained": self.untrained.to_json(),
            "ratio": self.ratio,
        }


def realism(
    real: tuple[np.ndarray, np.ndarray],
    generated: tuple[np.ndarray, np.ndarray],
    untrained: tuple[np.ndarray, np.ndarray],
    *,
    seed: int = 1,
    steps: int = 300,
) -> RealismResult:
    """Train a judge on the first array of each pair, score the second.

    Args:
        real: uint8[n, H, W, C] of some patients, and of others.
        generated: drawn from the generator, and drawn anew.
        untrained: likewise from a generator with its initial weights.
        seed: of the judge.
        steps: of the judge's training; half of a batch is real on average, a quarter generated.

    Raises:
        InputError: an array is empty.
    """
    for name, (train, test) in (("real", real), ("generated", generated), ("untrained", untrained)):
        if not len(train) or not len(test):
            raise InputError(f"there are too few {name} images to train and test a judge")
    rng = np.random.default_rng(seed)
    count = max(len(real[0]), len(generated[0]))
    parts = [
        (real[0][rng.integers(0, len(real[0]), 2 * count)], 1),
        (generated[0][rng.integers(0, len(generated[0]), count)], 0),
        (untrained[0][rng.integers(0, len(untrained[0]), count)], 0),
    ]
    images = np.concatenate([part for part, _ in parts])
    labels = np.concatenate([np.full(len(part), label, np.int32) for part, label in parts])
    judge = fit(build_classifier(images.shape[1], images.shape[3], 1, seed), images, labels, steps=steps, seed=seed)

    def score(held_out: np.ndarray) -> Score:
        outputs = np.clip(logits(judge, held_out)[:, 0].astype(np.float64), -60.0, 60.0)
        probability = 1.0 / (1.0 + np.exp(-outputs))
        return Score(float(probability.mean()), bootstrap_interval(probability, seed), len(held_out))

    return RealismResult(score(real[1]), score(generated[1]), score(untrained[1]))
