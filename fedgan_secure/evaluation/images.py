"""Labelled images in memory, and their division between patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedgan_secure.data import PatientDataset
from fedgan_secure.errors import InputError


@dataclass(frozen=True)
class LabelledImages:
    """Images, the class of each, and whose each is.

    Attributes:
        images: uint8[n, H, W, C].
        labels: int[n]; -1 for none.
        patient: int[n], equal for images of one patient; None where every image is a patient of its own.
    """

    images: np.ndarray
    labels: np.ndarray
    patient: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise InputError(f"images are {self.images.dtype}{list(self.images.shape)}, expected uint8[n, H, W, C]")
        if len(self.labels) != len(self.images):
            raise InputError(f"there are {len(self.images)} images and {len(self.labels)} labels, expected as many")

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> LabelledImages:
        """Return the first `count` images, or all where there are fewer."""
        patient = None if self.patient is None else self.patient[:count]
        return LabelledImages(self.images[:count], self.labels[:count], patient)

    def labelled(self) -> LabelledImages:
        """Return the images that have a label."""
        known = self.labels >= 0
        patient = None if self.patient is None else self.patient[known]
        return LabelledImages(self.images[known], self.labels[known], patient)


def split_patients(dataset: PatientDataset, seed: int, share: float = 0.5) -> tuple[LabelledImages, LabelledImages]:
    """Return the images of a random share of the patients, and of all the others: no patient is on both sides.

    Args:
        dataset: images of at least two patients, with or without labels.
        seed: of the division.
        share: of the patients on the first side, 0..1; at least one patient is on either.

    Raises:
        InputError: there are fewer than two patients.
    """
    if dataset.patients < 2:
        raise InputError("the real images are of fewer than two patients", hint="name a larger set")
    labels, patient = np.asarray(dataset.labels), np.asarray(dataset.patient)
    order = np.random.default_rng(seed).permutation(dataset.patients)
    chosen = min(max(1, round(share * len(order))), len(order) - 1)
    first = np.isin(patient, order[:chosen])
    sides = (np.flatnonzero(first), np.flatnonzero(~first))
    left, right = (LabelledImages(dataset.pixels(side), labels[side], patient[side]) for side in sides)
    return left, right
