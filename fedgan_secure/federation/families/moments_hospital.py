"""A hospital's side of a run that starts from moments: one release, and nothing after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fedgan_secure.data import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.federation.families.adapted_hospital import evenly
from fedgan_secure.federation.released.limits import MOST_IMAGES
from fedgan_secure.federation.released.release_round import ReleaseTrainer
from fedgan_secure.models import ModelError
from fedgan_secure.moments import MomentsLayout, coefficients
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.privacy import Entropy, MechanismWatch
from fedgan_secure.statistics import ImageStatistics

Progress = Callable[[int, int], None]
BATCH = 500


def moments_of(layout: MomentsLayout, dataset: PatientDataset, unit: str, progress: Progress | None) -> ImageStatistics:
    """Return what the release takes from one hospital's images; confidential.

    Args:
        layout: of the released vectors.
        dataset: the hospital's.
        unit: "patient" or "image".
        progress: called with (images read, images).

    Raises:
        InputError: images of another size, other channels, or labels that are no class of the release.
    """
    if (dataset.image_size, dataset.channels) != (layout.image_size, layout.channels):
        raise InputError(
            f"images are {dataset.image_size} pixels with {dataset.channels} channels, the release is of "
            f"{layout.image_size} and {layout.channels}",
            hint="restore the data that the run was started with",
        )
    labels = np.asarray(dataset.labels, np.int32)
    if layout.classes and len(labels) and not (labels.min() >= 0 and labels.max() < layout.classes):
        raise InputError(
            f"labels must be 0 to {layout.classes - 1} for a model of {layout.classes} classes",
            hint="leave out images without a label, or train with --unconditional",
        )
    by_image = unit == "image"
    owners = len(dataset) if by_image else dataset.patients
    owner = np.arange(owners, dtype=np.int32) if by_image else np.asarray(dataset.patient, np.int32)
    kept = evenly(owner, MOST_IMAGES)
    features = np.empty((len(kept), layout.features), np.float32)
    for first in range(0, len(kept), BATCH):
        rows = kept[first : first + BATCH]
        features[first : first + len(rows)] = coefficients(layout, dataset.pixels(rows))
        if progress is not None:
            progress(first + len(rows), len(kept))
    return ImageStatistics(features, np.zeros((len(kept), 0), np.float32), labels[kept], owner[kept], owners)


class MomentsTrainer:
    """One hospital's side of the only round."""

    def __init__(
        self, policy: FederationPolicy, layout: MomentsLayout, dataset: PatientDataset, entropy: Entropy
    ) -> None:
        """Args: layout: of the policy's release; dataset: this hospital's (confidential)."""
        self._policy, self._layout, self._dataset, self._entropy = policy, layout, dataset, entropy

    def release(self, watch: MechanismWatch, progress: Progress | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return this hospital's encoded release, uint[D], and confidential statistics.

        Raises:
            MechanismContradicted: what was done is not what the accountant was told; there is no vector then.
        """
        release = self._policy.release
        if release is None:
            raise ModelError("a release was asked for, and the policy has none")
        images = moments_of(self._layout, self._dataset, self._policy.mechanism.unit, progress)
        trainer = ReleaseTrainer(
            images, release.release_layout(), release.record(), release.fixed_point(), self._entropy, watch
        )
        return trainer.release(), trainer.statistics()

    def train(self, global_vector: np.ndarray, steps: int, progress: Progress | None = None) -> NoReturn:
        """Refuse: there are no steps."""
        raise ModelError(NO_STEPS)

    def begin(self, global_vector: np.ndarray) -> NoReturn:
        """Refuse: there are no steps."""
        raise ModelError(NO_STEPS)

    def save(self, path: Path) -> None:
        """There is no optimiser, so nothing is kept."""

    def restore(self, path: Path) -> None:
        """There is no optimiser, so nothing is read."""


NO_STEPS = "a step was asked for, and a run that starts from moments has none: its only round is the release"
