"""The confidential statistics of a round of head training, gathered without a copy of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What one step was at one hospital (confidential).

    Attributes:
        size: patients drawn.
        norms, scales, losses: float32[size], per patient.
        noise: how many values were drawn, their sum and their sum of squares.
        clamped: coordinates of the sum that lay outside the public box (shared noise alone).
        fake_loss: mean over the step's generated pictures (noise of the hospital's own alone).
    """

    size: int
    norms: np.ndarray
    scales: np.ndarray
    losses: np.ndarray
    noise: tuple[float, float, float]
    clamped: int = 0
    fake_loss: float = 0.0

    @classmethod
    def of(cls, size: int, figures: tuple[Any, Any, Any], noise: tuple[float, float, float], **rest: Any) -> StepRecord:
        """Keep the patients drawn and drop the padding. Args: figures: norms, scales and losses, float32[padded]."""
        norms, scales, losses = (np.asarray(values)[:size] for values in figures)
        return cls(size, norms, scales, losses, noise, **rest)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts or [np.zeros(0)])


def gradient_figures(steps: list[StepRecord]) -> dict[str, Any]:
    """Return batch sizes, clip fraction, gradient norms and losses of a round."""
    norms = _joined([step.norms for step in steps])
    scales = _joined([step.scales for step in steps])
    losses = _joined([step.losses for step in steps])
    finite = norms[np.isfinite(norms)]
    return {
        "batch_sizes": [step.size for step in steps],
        "clip_fraction": float((scales < 1.0).mean()) if len(scales) else 0.0,
        "patients_not_finite": len(norms) - len(finite),
        "gradient_norm_median": float(np.median(finite)) if len(finite) else 0.0,
        "gradient_norm_90": float(np.quantile(finite, 0.9)) if len(finite) else 0.0,
        "real_loss": float(losses.mean()) if len(losses) else 0.0,
    }


def noise_figures(steps: list[StepRecord], suffix: str = "") -> dict[str, Any]:
    """Return count, mean and mean square of the noise of a round. Args: suffix: of the names, such as a unit."""
    count, total, squares = (float(sum(step.noise[index] for step in steps)) for index in range(3))
    return {
        "noise_values": int(count),
        f"noise_mean{suffix}": total / count if count else 0.0,
        f"noise_variance{suffix}": squares / count if count else 0.0,
    }
