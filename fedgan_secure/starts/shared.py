"""Find a hospital's images among the public pictures of a start: they would be trained on without any noise."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedgan_secure.errors import InputError
from fedgan_secure.starts.start import DIGEST_BYTES, PublicStart

if TYPE_CHECKING:
    from fedgan_secure.data import PatientDataset


BATCH = 500
_KEY = np.dtype((np.void, DIGEST_BYTES))


def digests_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8[n, 16]: the first 128 bits of the SHA-256 of every prepared picture uint8[n, H, W, C]."""
    digests = np.zeros((len(pixels), DIGEST_BYTES), np.uint8)
    for index in range(len(pixels)):
        one = hashlib.sha256(pixels[index].tobytes()).digest()
        digests[index] = np.frombuffer(one[:DIGEST_BYTES], np.uint8)
    return digests


def shared_pictures(start: PublicStart, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the indices of the pictures that the start was trained on, in ascending order.

    Args:
        start: a public start; one from phantoms shares nothing.
        pixels: uint8[n, H, W, C], prepared as for the run.

    Pictures are compared bit by bit after preparation. One that was compressed again, cropped or prepared otherwise is
    not found: this finds a mistake, it does not prove that two sets are disjoint.
    """
    if not len(start.picture_digests) or not len(pixels):
        return np.zeros(0, np.int64)
    mine, public = (
        np.ascontiguousarray(rows).view(_KEY).ravel() for rows in (digests_of(pixels), start.picture_digests)
    )
    return np.flatnonzero(np.isin(mine, public))


def refuse_shared_pictures(start: PublicStart, pixels: NDArray[np.uint8]) -> None:
    """Refuse a start that was trained on one of these pictures; for a hospital, on its own machine.

    Raises:
        InputError: saying how many; the number is the hospital's own and belongs in no public report.
    """
    shared = shared_pictures(start, pixels)
    if len(shared):
        raise InputError(
            f"{len(shared)} of these images are among the public pictures that the start {start.name} was trained on: "
            "no noise would protect their patients",
            hint="leave these images out of one of the two, or use another public start",
        )


def refuse_shared_images(start: PublicStart, datasets: Mapping[str, PatientDataset]) -> None:
    """Refuse a run whose hospitals hold one of the start's pictures, before any of them has spent anything.

    Args:
        start: the public start that the run adapts.
        datasets: hospital -> its images, prepared as for the run.

    Raises:
        InputError: as `refuse_shared_pictures`, naming the hospital.
    """
    if not len(start.picture_digests):
        return
    for name, dataset in datasets.items():
        for first in range(0, len(dataset), BATCH):
            pixels = dataset.pixels(np.arange(first, min(first + BATCH, len(dataset))))
            try:
                refuse_shared_pictures(start, pixels)
            except InputError as error:
                raise InputError(f"hospital {name}: {error}", hint=error.hint) from error
