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
        rounds, steps_per_round: the schedule, in discriminator steps of a hospital.
        images_per_patient: images of a patient used in one step.
        l2_clip_norm: bound on one patient's gradient.
        epsilon: target over all scheduled rounds.
        average_decay: per round, of the published generator's running average.
        constants: the optimiser's constants that differ from `TrainingSettings`' own.
    """

    sampling_probability: float
    rounds: int
    steps_per_round: int
    images_per_patient: int
    l2_clip_norm: float = 4.0
    epsilon: float = EPSILON
    average_decay: float = 0.5
    constants: dict[str, Any] = field(default_factory=dict)


def recipe_for(*, image_size: int, declared_patients: int, phantoms: bool, unit: str) -> Recipe:
    """Defaults from public facts alone: the image size, the declared cohort and the unit.

    Many short rounds beat few long ones: every hospital's noise is averaged out sooner. The expected batch is a
    quarter of a small cohort, and of a large one as many images as two cores take in about a fifth of a second.
    """
    batch = 256.0 if image_size == 28 else 192.0 if image_size == 64 else 96.0
    probability = min(0.25 if declared_patients >= 16 else 0.5, batch / declared_patients)
    return Recipe(
        sampling_probability=max(math.floor(probability * 1e4) / 1e4, 1e-4),
        rounds=12,
        steps_per_round=60 if image_size == 28 else 25,
        images_per_patient=1 if phantoms or unit == "image" else 2,
    )
