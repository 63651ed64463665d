"""One vector a patient: class moments of public features and a cell of the colour histogram; and their clipped sum.

An image with features f (float32[d]), label k and colour cell j gives to class k the block

    [a,  b f,  c (f^2 - 1)]     a = count_weight, b = first_weight / sqrt(d), c = second_weight / sqrt(d)

and to the histogram h = colour_weight in cell j, zeros elsewhere. A patient's vector is the mean over their images; an
image without a label gives to the histogram alone. Without classes there is one block, which every image gives to.

Formal guarantees:
    Sensitivity. Let v be a patient's vector, rounded to float32, and C the clip norm. The contribution is the integer
    vector w = trunc(v s / g), on a grid g = 2^-GRID_BITS of the power of two at or above C, with s = 1 where the norm
    N of v is at most C' and s = C'/N otherwise, C' = C (1 - MARGIN). N and v s are computed in float64: N is off by a
    factor of at most 1 + (D + 2) 2^-53 for D coordinates, and each coordinate of v s / g by two roundings more. For
    D <= MOST_COORDINATES = 2^20 that is less than a factor 1 + 2^-32, and MARGIN = 2^-30. Truncation makes no
    coordinate larger. So |g w| <= C in exact arithmetic. A vector with NaN or infinity gives w = 0.
    The sum is a sum of integers below 2^53 (`MOST_PATIENTS`), exact in any order. A patient's w depends on their own
    images and on nothing else. So adding or removing one patient, however many images they have and whatever their
    labels, changes the sum, as the float64 vector that is returned, by exactly g w: by at most C in Euclidean norm.
    What this does not cover: features and colours that differ with the batch an image was in. `colours` has no such
    dependence; a feature network in float32 can differ in its last digits with an image's place in the batch.

| patient                        | contributes                                      |
|--------------------------------|--------------------------------------------------|
| no image                       | 0                                                |
| many images                    | the mean over them, clipped as one               |
| images with different labels   | to each class its share of the images            |
| an image without a label (-1)  | a cell of the histogram; it counts in the mean   |
| NaN or infinity, an overflow   | 0                                                |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.statistics.layout import MOST_COORDINATES, ReleaseLayout

MARGIN = 2.0**-30
"""Share of the clip norm kept free for rounding in float64."""
GRID_BITS = 30
"""Contributions are whole multiples of 2^-GRID_BITS of the power of two at or above the clip norm."""
MOST_PATIENTS = 1 << 22
CHUNK_VALUES, CHUNK_PATIENTS = 1 << 20, 1 << 10
"""Values of patients' vectors that are held at a time (8 MB, unless one vector is longer), and patients at most."""


def patients_at_a_time(layout: ReleaseLayout) -> int:
    """Return how many patients' vectors are held at a time, at least one."""
    return max(1, min(CHUNK_PATIENTS, CHUNK_VALUES // layout.dimension))


def patient_vectors(
    layout: ReleaseLayout,
    features: np.ndarray,
    codes: np.ndarray,
    labels: np.ndarray,
    patient: np.ndarray,
    patients: int,
    chunk: int | None = None,
) -> Iterator[np.ndarray]:
    """Return the vectors of all patients, unclipped, a chunk of patients at a time.

    Args:
        layout: of the vectors.
        features: float32[n, d], of every image.
        codes: float32[n, axes], colour codes of every image.
        labels: int[n], -1 for none; without classes they are not looked at.
        patient: int[n], 0 to patients - 1.
        patients: how many; one without images has a vector of zeros.
        chunk: how many patients at a time, None for `patients_at_a_time`; the vectors do not depend on it.

    Returns:
        An iterator of float32[at most chunk, dimension], patients in order; without patients of one empty chunk.

    Raises:
        InputError: arrays that do not fit each other or the layout. Raised before the first chunk is asked for.
    """
    check_images(layout, features, codes, labels, patient, patients)
    order = np.argsort(patient, kind="stable")
    starts = np.searchsorted(patient[order], np.arange(patients + 1))
    cells = layout.colour_bins.index(codes)
    sound = np.isfinite(codes).all(axis=1)

    step = chunk or patients_at_a_time(layout)

    def chunks() -> Iterator[np.ndarray]:
        for first in range(0, max(patients, 1), step):
            until = min(first + step, patients)
            images = order[starts[first] : starts[until]]
            owner = patient[images] - first
            shares = 1.0 / np.maximum(np.bincount(owner, minlength=until - first), 1)
            weights = shares[owner]
            colour = np.where(sound[images], layout.colour_weight * weights, np.nan)
            rows = np.zeros((until - first, layout.dimension))
            _add_moments(layout, rows, features[images], labels[images], owner, weights)
            np.add.at(rows, (owner, layout.blocks * layout.width + cells[images]), colour)
            with np.errstate(over="ignore", invalid="ignore"):
                yield rows.astype(np.float32)

    return chunks()


def _add_moments(
    layout: ReleaseLayout,
    rows: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    owner: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Add to float64[patients, dimension] what images give to the blocks of their classes."""
    count, first, second, _ = layout.scales
    block = labels if layout.classes else np.zeros(len(labels), np.int64)
    for place in np.flatnonzero(block >= 0):
        start = int(block[place]) * layout.width
        row, weight = rows[owner[place]], weights[place]
        exact = features[place].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            row[start] += count * weight
            row[start + 1 : start + 1 + layout.features] += first * weight * exact
            row[start + 1 + layout.features : start + layout.width] += second * weight * (exact * exact - 1.0)


class Sized(Protocol):
    """What images are checked against: how many features and classes a layout has."""

    @property
    def features(self) -> int: ...

    @property
    def classes(self) -> int: ...


def check_images(
    layout: Sized,
    features: np.ndarray,
    codes: np.ndarray,
    labels: np.ndarray,
    patient: np.ndarray,
    patients: int,
) -> None:
    """Refuse arrays, as `patient_vectors` takes them, that do not fit each other or the layout.

    Raises:
        InputError: what was found and expected.
    """
    count = len(features)
    if features.dtype != np.float32 or features.shape != (count, layout.features):
        raise InputError(
            f"features are {features.dtype}{list(features.shape)}, expected float32[n, {layout.features}]",
            hint="use the public start that the run's policy names",
        )
    if not len(codes) == len(labels) == len(patient) == count or labels.ndim != 1 or patient.ndim != 1:
        raise InputError(
            f"features of {count} images, but {len(codes)} colours, {len(labels)} labels and {len(patient)} patients"
        )
    if labels.dtype.kind not in "iu" or patient.dtype.kind not in "iu":
        raise InputError(f"labels are {labels.dtype} and patients {patient.dtype}, expected whole numbers")
    if not 0 <= patients <= MOST_PATIENTS:
        raise InputError(f"a release takes up to {MOST_PATIENTS} patients of a hospital, and it has more")
    if count and (patient.min() < 0 or patient.max() >= patients):
        raise InputError("an image's patient has no number from 0 to the number of patients")
    if layout.classes and count and (labels.min() < -1 or labels.max() >= layout.classes):
        raise InputError(f"an image's label is not one of the {layout.classes} classes of the release")


@dataclass(frozen=True, repr=False)
class ImageStatistics:
    """What a release takes from every image of one hospital; confidential.

    Attributes:
        features: float32[n, d].
        codes: float32[n, axes], colour codes.
        labels: int[n], -1 for none.
        patient: int[n], 0 to patients - 1.
        patients: how many.
    """

    features: np.ndarray
    codes: np.ndarray
    labels: np.ndarray
    patient: np.ndarray
    patients: int

    def clipped_sum(self, layout: ReleaseLayout, clip_norm: float) -> ReleasedSum:
        """Return the sum of the patients' clipped vectors. Raises InputError as `patient_vectors` and `clipped_sum`."""
        vectors = patient_vectors(layout, self.features, self.codes, self.labels, self.patient, self.patients)
        return clipped_sum(vectors, clip_norm)


@dataclass(frozen=True)
class ReleasedSum:
    """The clipped sum of one hospital, and what is confidential about it.

    Attributes:
        total: float64[dimension], multiples of the grid; confidential until it has noise.
        patients: how many were summed.
        clipped: how many of them had a norm above the clip norm.
        not_finite: how many contributed nothing because of NaN or infinity.
        largest_norm: of a contribution, at most the clip norm.
    """

    total: np.ndarray
    patients: int
    clipped: int
    not_finite: int
    largest_norm: float


def contributions(vectors: np.ndarray, clip_norm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what patients contribute to the sum, in whole steps of `grid_of`.

    Args:
        vectors: float32[n, D], unclipped.
        clip_norm: C.

    Returns:
        (float64[n, D], whole numbers, norm times the grid at most C; float64[n], norms before clipping, NaN or infinity
        for a patient who contributes nothing).
    """
    exact = vectors.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        # one patient at a time: a norm does not depend on who else is in the chunk
        norms = np.sqrt(np.array([float(np.square(row).sum()) for row in exact], np.float64))
    finite = np.isfinite(norms)
    bound = clip_norm * (1.0 - MARGIN)
    scales = np.where(finite, np.minimum(1.0, bound / np.maximum(np.where(finite, norms, 1.0), 1e-300)), 0.0)
    exact[~finite] = 0.0
    return np.trunc(exact * scales[:, None] / grid_of(clip_norm)), norms


def grid_of(clip_norm: float) -> float:
    """Return the grid that contributions are truncated to, a power of two.

    Raises:
        InputError: a clip norm out of range.
    """
    if not (math.isfinite(clip_norm) and 1e-6 <= clip_norm <= 1e6):
        raise InputError(f"the clip norm of a release is {clip_norm}, expected 1e-6 to 1e6")
    return 2.0 ** (math.ceil(math.log2(clip_norm)) - GRID_BITS)


def clipped_sum(vectors: np.ndarray | Iterable[np.ndarray], clip_norm: float) -> ReleasedSum:
    """Return the sum of all patients' vectors, each clipped to the same norm.

    Args:
        vectors: float32[n, D], or an iterable of at least one such chunk.
        clip_norm: C; the sum changes by at most so much, exactly, when one patient is added or removed.

    Returns:
        The sum, float64[D], the same to the bit for every order and every division into chunks.

    Raises:
        InputError: no chunk, chunks of different or too many coordinates, or too many patients.
    """
    grid = grid_of(clip_norm)
    total: np.ndarray | None = None
    patients = clipped = lost = 0
    largest = 0.0
    for chunk in [vectors] if isinstance(vectors, np.ndarray) else vectors:
        if chunk.dtype != np.float32 or chunk.ndim != 2 or chunk.shape[1] > MOST_COORDINATES:
            raise InputError(f"patients' vectors are {chunk.dtype}{list(chunk.shape)}, expected float32[n, D]")
        whole, norms = contributions(chunk, clip_norm)
        if total is None:
            total = np.zeros(chunk.shape[1])
        elif total.shape != chunk.shape[1:]:
            raise InputError(f"patients' vectors have {chunk.shape[1]} coordinates, expected {len(total)} as before")
        total += whole.sum(axis=0)
        patients += len(chunk)
        if patients > MOST_PATIENTS:
            raise InputError(f"a release takes up to {MOST_PATIENTS} patients of a hospital, and it has more")
        finite = np.isfinite(norms)
        lost += int((~finite).sum())
        clipped += int((norms[finite] > clip_norm).sum())
        largest = max(largest, grid * float(np.sqrt((whole**2).sum(axis=1)).max(initial=0.0)))
    if total is None:
        raise InputError("a sum of no vectors: their number of coordinates is not known", hint="give an empty chunk")
    return ReleasedSum(total * grid, patients, clipped, lost, largest)


@dataclass(frozen=True)
class Noise:
    """The noise of one coordinate of a released sum.

    Attributes:
        each: variance of what one hospital adds (or of its share).
    """

    each: float

    def deviation(self, survivors: int) -> float:
        """Return the standard deviation in a sum over so many hospitals."""
        return float(np.sqrt(self.each * survivors))
