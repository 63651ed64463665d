"""The public constants that a run uses where nobody says otherwise.

They were found on phantoms alone: no patient's image was looked at to choose them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

EPSILON = 8.0


@dataclass(frozen=True)
class Recipe:
    """Defaults for one kind of run.

    Attributes:
        sampling_probability: chance of a patient to be in a step.
        steps_per_round: discriminator steps of a hospital in a round.
        l2_clip_norm: bound on one patient's gradient.
        epsilon: target over all scheduled rounds.
        average_decay: per round, of the published generator's running average.
        constants: the optimiser's constants that differ from `TrainingSettings`' own.
    """

    sampling_probability: float
    steps_per_round: int
    l2_clip_norm: float
    epsilon: float = EPSILON
    average_decay: float = 0.0
    constants: dict[str, Any] = field(default_factory=dict)


def recipe_for(*, image_size: int, declared_patients: int, phantoms: bool) -> Recipe:
    """Defaults from public facts alone: the image size and the declared cohort."""
    batch = 96.0 if image_size <= 64 else 48.0
    probability = min(0.25 if declared_patients >= 16 else 0.5, batch / declared_patients)
    probability = math.floor(probability * 1e4) / 1e4 or 1e-4
    return Recipe(
        sampling_probability=probability,
        steps_per_round=40,
        l2_clip_norm=1.0,
        average_decay=0.5,
    )
