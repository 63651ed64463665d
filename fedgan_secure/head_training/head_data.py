"""What the heads train on: a hospital's cached features and their batches, and the features of generated pictures.

A `FeatureSet` and a `FeatureBatch` never leave their hospital; `FakeFeatures` are public.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.heads import HeadSettings, HeadsSpec
from fedgan_secure.policy import UNITS
from fedgan_secure.privacy import Entropy, PatientImages, poisson_sample
from fedgan_secure.training import PAD


@dataclass(frozen=True, eq=False, repr=False)
class FeatureSet:
    """The features of one hospital's images, computed once, with the patient each belongs to.

    Attributes:
        features: float32[n, d], public features of private images, in the order of the data set. A row that is not
            finite is kept: its patient contributes nothing to a step in which it is drawn.
        labels: int32[n], the class of every image, -1 for none.
        patient: int32[n], the patient of every image, 0..patients-1 with every index used.
        patients: how many patients there are (confidential).
        unit: "patient", or "image": every image counts as a patient of its own.
    """

    features: np.ndarray
    labels: np.ndarray
    patient: np.ndarray
    patients: int
    unit: str = "patient"

    def __post_init__(self) -> None:
        count = len(self.features)
        if self.features.dtype != np.float32 or self.features.ndim != 2:
            raise InputError(f"features are {self.features.dtype}{list(self.features.shape)}, expected float32[n, d]")
        for name in ("labels", "patient"):
            values = getattr(self, name)
            if values.shape != (count,) or values.dtype.kind != "i":
                raise InputError(f"{name} must be whole numbers, one for every row of features")
        if count and (self.patient.min() < 0 or self.patient.max() >= self.patients):
            raise InputError("patient must lie between 0 and the number of patients")
        if len(np.unique(self.patient)) != self.patients:
            raise InputError("every patient must have at least one image")
        if self.unit not in UNITS:
            raise InputError(f"unit is {self.unit!r}, expected patient or image")

    def __len__(self) -> int:
        """Return the number of images n."""
        return len(self.features)

    def __repr__(self) -> str:
        return f"FeatureSet(vectors of {self.features.shape[1]})"

    def __reduce__(self) -> str:
        raise TypeError("a FeatureSet never leaves its hospital: it cannot be pickled")


@dataclass(frozen=True, eq=False)
class FakeFeatures:
    """Features of generated pictures and the labels they were drawn with: public.

    Attributes:
        features: float32[m, d], m at least 1, finite.
        labels: int32[m]; zeros when unconditional.
    """

    features: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.features.dtype != np.float32 or self.features.ndim != 2 or not len(self.features):
            raise InputError(
                f"features of generated pictures are {self.features.dtype}{list(self.features.shape)}, expected "
                "float32[m, d] with at least one row"
            )
        if not np.isfinite(self.features).all():
            raise InputError("features of generated pictures hold NaN or infinity")
        if self.labels.shape != (len(self.features),) or self.labels.dtype.kind != "i":
            raise InputError("every generated picture needs one label, a whole number")

    def check(self, spec: HeadsSpec) -> None:
        """Refuse pictures of other features or classes than the heads'.

        Raises:
            InputError: naming what was found and expected.
        """
        if self.features.shape[1] != spec.features:
            raise InputError(
                f"generated pictures have {self.features.shape[1]} features, the heads expect {spec.features}"
            )
        if self.labels.min() < 0 or self.labels.max() >= max(spec.classes, 1):
            raise InputError(f"labels of generated pictures must be 0 to {max(spec.classes, 1) - 1}")

    def batches(self, size: int) -> FakeBatches:
        """Return the batches of a round, each of at most `size` pictures."""
        return FakeBatches(self, size)


class FakeBatches:
    """Generated pictures in turn, the classes mixed: no random choice, so that a resumed run sees the same ones."""

    def __init__(self, fakes: FakeFeatures, size: int) -> None:
        """Args: size: pictures in a batch, at most."""
        labels = fakes.labels
        turn = np.zeros(len(labels), np.int64)
        for label in np.unique(labels):
            mine = labels == label
            turn[mine] = np.arange(int(mine.sum()))
        order = np.lexsort((labels, turn))
        self._features = fakes.features[order]
        self._labels = labels[order].astype(np.int32)[:, None]
        self._size = min(size, len(labels))

    def of(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return float32[b, d] and int32[b, 1] of a step, counted from the start of the run."""
        rows = (step * self._size + np.arange(self._size)) % len(self._labels)
        return self._features[rows], self._labels[rows]


@dataclass(frozen=True, eq=False, repr=False)
class FeatureBatch:
    """One step's patients; m images of each in a row.

    Attributes:
        features: float32[padded * m, d].
        labels: int32[padded * m, 1].
        weights: float32[padded, m], as `PatientImages.choose` gives them; 0 for the padding.
        size: how many patients were drawn (confidential).
        images: int64[size, m], which rows of the feature set they are (confidential).
    """

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    size: int
    images: np.ndarray


class FeatureBatches:
    """Draws batches from one hospital's patients, each of them by an independent coin."""

    def __init__(self, spec: HeadsSpec, settings: HeadSettings, data: FeatureSet, entropy: Entropy) -> None:
        """Check that data, heads and settings fit together.

        Raises:
            InputError: other features, labels out of range, or another unit.
        """
        if data.features.shape[1] != spec.features:
            raise InputError(f"images have {data.features.shape[1]} features, the heads expect {spec.features}")
        if data.unit != settings.unit:
            raise InputError(f"the features are grouped by {data.unit}, the settings protect one {settings.unit}")
        labels = data.labels
        if spec.conditional and len(data) and not (labels.min() >= 0 and labels.max() < spec.classes):
            raise InputError(
                f"labels must be 0 to {spec.classes - 1} for heads of {spec.classes} classes",
                hint="leave out images without a label, or train with --unconditional",
            )
        self.spec, self.settings, self._data, self._entropy = spec, settings, data, entropy
        self._labels = np.maximum(labels, 0).astype(np.int32)
        if settings.unit == "image":
            self._images = PatientImages(np.arange(len(data)), len(data))
        else:
            self._images = PatientImages(np.asarray(data.patient), data.patients)

    def _batch(self) -> FeatureBatch:
        """Toss a coin for every patient and lay out the images of those drawn, padded as pictures are (`PAD`)."""
        m = self.settings.images_per_patient
        chosen = poisson_sample(self._images.patients, self.settings.sampling_probability, self._entropy)
        indices, weights = self._images.choose(chosen, m, self._entropy)
        multiple = PAD // math.gcd(PAD, m)
        padded = max(multiple, -(-len(chosen) // multiple) * multiple)
        features = np.zeros((padded * m, self.spec.features), np.float32)
        labels = np.zeros((padded * m, 1), np.int32)
        rows = np.zeros((padded, m), np.float32)
        if len(chosen):
            flat = indices.reshape(-1)
            features[: len(flat)] = self._data.features[flat]
            labels[: len(flat), 0] = self._labels[flat]
            rows[: len(chosen)] = weights
        return FeatureBatch(features, labels, rows, len(chosen), indices)
