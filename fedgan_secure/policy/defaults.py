"""The public constants that a run uses where nobody says otherwise.

They were found on phantoms alone: no patient's image was looked at to choose them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

EPSILON = 8.0
LEAST_COHORT = 1000
"""Declared patients of a hospital from which on rounds of the heads follow the release."""
RELEASE_FACTOR = 4.2
"""Noise of the release over the noise at which it alone would cost the target, where rounds of the heads follow."""


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
        release_factor: noise of a release over that of a release alone at the target (runs with a public start).
    """

    sampling_probability: float
    rounds: int
    steps_per_round: int
    images_per_patient: int
    l2_clip_norm: float = 4.0
    epsilon: float = EPSILON
    average_decay: float = 0.5
    constants: dict[str, Any] = field(default_factory=dict)
    release_factor: float = 1.0


def adapted_recipe(*, declared_patients: int, phantoms: bool, unit: str) -> Recipe:
    """Return the defaults of a run that adapts a public start, from the declared cohort and the unit alone.

    The first round is the release. Its noise is `release_factor` times the noise at which it alone would cost the
    target; what is left of the budget goes to rounds of the heads. A cohort below `LEAST_COHORT` has the release alone:
    there the noise of steps spoils the heads (docs/quality.md).
    """
    batch = min(0.25 if declared_patients >= 16 else 0.5, 192.0 / declared_patients)
    alone = declared_patients < LEAST_COHORT
    return Recipe(
        sampling_probability=max(math.floor(batch * 1e4) / 1e4, 1e-4),
        rounds=1 if alone else 6,
        steps_per_round=60,
        images_per_patient=1 if phantoms or unit == "image" else 2,
        l2_clip_norm=1.0,
        average_decay=0.0,
        constants={"learning_rate": 0.01},
        release_factor=1.0 if alone else RELEASE_FACTOR,
    )


def moments_recipe() -> Recipe:
    """Return the defaults of a run that starts from moments: one round, the release, with all of the budget."""
    return Recipe(
        sampling_probability=1.0, rounds=1, steps_per_round=1, images_per_patient=1, l2_clip_norm=1.0, average_decay=0.0
    )


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
