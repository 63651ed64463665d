"""The batches of one hospital: whom the coins chose, padded for the compiled step. They never leave it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedgan_secure.data import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.models import ModelSpec
from fedgan_secure.policy import TrainingSettings
from fedgan_secure.privacy import Entropy, PatientImages, poisson_sample

PAD = 16
"""Batches are padded with empty patients to a multiple of this many images: few different shapes occur, and matrix
kernels work through whole blocks, so that fewer of them round a patient by the size of the batch (docs/privacy.md,
"Floating point in the clip"). The padding has weight zero; no patient is ever left out."""


@dataclass(frozen=True)
class Batch:
    """One step's patients; m images of each in a row.

    Attributes:
        pixels: uint8[padded * m, H, W, C].
        labels: int32[padded * m, 1].
        weights: float32[padded, m], as `PatientImages.choose` gives them; 0 for the padding.
        size: how many patients were drawn (confidential).
        images: int64[size, m], which images of the data set they are (confidential).
    """

    pixels: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    size: int
    images: np.ndarray


class PatientBatches:
    """Draws batches from one hospital's patients."""

    def __init__(self, spec: ModelSpec, settings: TrainingSettings, dataset: PatientDataset, entropy: Entropy) -> None:
        """Check that data and model fit together.

        Raises:
            InputError: the images do not have the model's size, channels or classes.
        """
        if (dataset.image_size, dataset.channels) != (spec.image_size, spec.channels):
            raise InputError(
                f"images are {dataset.image_size} pixels with {dataset.channels} channels, "
                f"the model expects {spec.image_size} and {spec.channels}"
            )
        labels = np.asarray(dataset.labels)
        if spec.conditional and len(labels) and not (labels.min() >= 0 and labels.max() < spec.classes):
            raise InputError(
                f"labels must be 0 to {spec.classes - 1} for a model of {spec.classes} classes",
                hint="leave out images without a label, or train with --unconditional",
            )
        self.spec, self.settings, self._dataset, self._entropy = spec, settings, dataset, entropy
        self._labels = np.maximum(labels, 0).astype(np.int32)
        if settings.unit == "image":
            self._images = PatientImages(np.arange(len(dataset)), len(dataset))
        else:
            self._images = PatientImages(np.asarray(dataset.patient), dataset.patients)

    def _batch(self) -> Batch:
        """Toss a coin for every patient and lay out the images of those drawn."""
        m = self.settings.images_per_patient
        chosen = poisson_sample(self._images.patients, self.settings.sampling_probability, self._entropy)
        indices, weights = self._images.choose(chosen, m, self._entropy)
        multiple = PAD // math.gcd(PAD, m)
        padded = max(multiple, -(-len(chosen) // multiple) * multiple)
        pixels = np.zeros((padded * m, self.spec.image_size, self.spec.image_size, self.spec.channels), np.uint8)
        labels = np.zeros((padded * m, 1), np.int32)
        rows = np.zeros((padded, m), np.float32)
        if len(chosen):
            flat = indices.reshape(-1)
            pixels[: len(flat)] = self._dataset.pixels(flat)
            labels[: len(flat), 0] = self._labels[flat]
            rows[: len(chosen)] = weights
        return Batch(pixels, labels, rows, len(chosen), indices)
