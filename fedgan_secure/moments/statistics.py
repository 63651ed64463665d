"""The sum over a hospital's patients of their clipped moments.

Formal guarantees: as `adaptation.statistics`, whose `contributions` clips here as well. A patient's vector is the mean
over their images; nearly all of its coordinates are zero where all images of a patient are of one class, and then only
that class's block is made. Which of the two ways a patient's vector takes depends on their own labels alone, and both
give whole multiples of one grid, whose sum is exact in any order: the sum changes by at most the clip norm when one
patient is added or removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from fedgan_secure.moments.layout import MomentsLayout
from fedgan_secure.statistics import CHUNK_VALUES, ImageStatistics, ReleasedSum, check_images, contributions, grid_of

_MIXED = -1


def moments_sum(layout: MomentsLayout, images: ImageStatistics, clip_norm: float) -> ReleasedSum:
    """Return the clipped sum of one hospital.

    Args:
        layout: of the released vectors.
        images: `features` are the coefficients of `basis`; `codes` are not looked at.
        clip_norm: C.

    Raises:
        InputError: arrays that do not fit each other or the layout.
    """
    check_images(layout, images.features, images.codes, images.labels, images.patient, images.patients)
    grid = grid_of(clip_norm)
    total = np.zeros((layout.blocks, layout.width))
    patients = clipped = lost = 0
    largest = 0.0
    for block, rows in _blocks(layout, images):
        whole, norms = contributions(rows, clip_norm)
        given = whole.sum(axis=0)
        if block == _MIXED:
            total += given.reshape(total.shape)
        else:
            total[block] += given
        finite = np.isfinite(norms)
        patients += len(rows)
        lost += int((~finite).sum())
        clipped += int((norms[finite] > clip_norm).sum())
        largest = max(largest, grid * float(np.sqrt((whole**2).sum(axis=1)).max(initial=0.0)))
    return ReleasedSum(total.reshape(-1) * grid, patients, clipped, lost, largest)


def _blocks(layout: MomentsLayout, images: ImageStatistics) -> Iterator[tuple[int, np.ndarray]]:
    """(class, float32[p, width]) of patients of one class, and (_MIXED, float32[p, D]) of all others, in chunks."""
    order = np.argsort(images.patient, kind="stable")
    starts = np.searchsorted(images.patient[order], np.arange(images.patients + 1))
    labels = images.labels[order] if layout.classes else np.zeros(len(order), np.int64)
    kinds = np.full(images.patients, _MIXED)
    filled = np.flatnonzero(starts[1:] > starts[:-1])
    if len(filled):
        least = np.minimum.reduceat(labels, starts[filled])
        most = np.maximum.reduceat(labels, starts[filled])
        kinds[filled] = np.where(least == most, least, _MIXED)  # -1 for all: no label at all
    for kind in range(_MIXED, layout.blocks):
        mine = np.flatnonzero(kinds == kind)
        step = max(1, CHUNK_VALUES // (layout.dimension if kind == _MIXED else layout.width))
        for first in range(0, len(mine), step):
            chosen = mine[first : first + step]
            yield kind, _vectors(layout, images, [order[starts[one] : starts[one + 1]] for one in chosen], kind)


def _vectors(layout: MomentsLayout, images: ImageStatistics, owned: list[np.ndarray], kind: int) -> np.ndarray:
    """The vectors of patients who own these images: one block's, or all blocks' where `kind` is `_MIXED`."""
    places = layout.blocks if kind == _MIXED else 1
    rows = np.zeros((len(owned), places, layout.width))
    for row, own in zip(rows, owned, strict=True):
        for image in own:
            label = int(images.labels[image]) if layout.classes else 0
            if label >= 0:
                row[label if kind == _MIXED else 0] += _block(layout, images.features[image]) / len(own)
    with np.errstate(over="ignore", invalid="ignore"):
        return rows.reshape(len(owned), -1).astype(np.float32)


def _block(layout: MomentsLayout, coefficients: np.ndarray) -> np.ndarray:
    """float64[width], what one image gives to the block of its class."""
    exact = coefficients.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        row, column, weights = _pairs(layout.features)
        joint = (layout.second_weight * weights) * exact[row] * exact[column]
    return np.concatenate([[layout.count_weight], layout.first_weight * exact, joint])


@lru_cache(maxsize=2)
def _pairs(features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64[p] and int64[p], the first at most the second; float64[p], 1 where they are equal, sqrt(2) elsewhere."""
    row, column = np.triu_indices(features)
    return row, column, np.where(row == column, 1.0, np.sqrt(2.0))
