"""The public pictures that a start is trained on: phantoms of the public simulator, or a user's own public folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgan_secure.data import PatientDataset
from fedgan_secure.data.phantoms import LESIONS, VERSION, draw_public
from fedgan_secure.data.pixels import FUNDUS
from fedgan_secure.data.reading import DR_GRADES, LoadSettings, load, resolve
from fedgan_secure.errors import InputError
from fedgan_secure.starts import DIGEST_BYTES, IMAGE_SIZE, MOST_CLASSES, MOST_PICTURES, Architecture, digests_of

HELD_OUT = 1000
"""Most public pictures that are kept out of the training, to measure the feature network on."""
HELD_OUT_SHARE = 0.1
FEWEST = 20

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class PublicSet:
    """Hold public pictures.

    `images` uint8[n, 64, 64, channels], perhaps a memory map; `labels` int32[n]; `lesions` float32[n, k] (k = 0 without
    counts); `training` and `held_out`, disjoint int64 rows; `flips`, whether a mirror image is a picture too; `origin`,
    what a report says they are; `made`, facts for the start file; `digests` uint8[m, 16] of a user's own pictures.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    lesions: NDArray[np.float32]
    label_names: tuple[str, ...]
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    flips: bool
    origin: str
    made: Mapping[str, Any]
    digests: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, DIGEST_BYTES), np.uint8))

    @property
    def architecture(self) -> Architecture:
        """The networks for these pictures."""
        return Architecture(len(self.label_names), self.lesions.shape[1], self.images.shape[3])

    def fingerprint(self) -> str:
        """Return a SHA-256 (hex) of everything that the training sees."""
        digest = hashlib.sha256(repr((self.images.shape, self.label_names, self.flips)).encode())
        for first in range(0, len(self.images), 1000):
            digest.update(self.images[first : first + 1000].tobytes())
        for array in (self.labels, self.lesions, self.training):
            digest.update(array.tobytes())
        return digest.hexdigest()


def phantom_set(count: int = 24_000, seed: int = 1, progress: Progress | None = None) -> PublicSet:
    """Draw `count` public phantoms to train on, and up to 1,000 more to measure on.

    Raises:
        InputError: for fewer than 20 or more than 2,000,000, or a negative seed.
    """
    if not FEWEST <= count <= MOST_PICTURES:
        raise InputError(f"{count} public phantoms were asked for, expected {FEWEST} to {MOST_PICTURES}")
    drawn = draw_public(count + min(HELD_OUT, count), seed=seed, size=IMAGE_SIZE, progress=progress)
    rows = np.arange(len(drawn.labels))
    _refuse_missing_labels(drawn.labels[:count], DR_GRADES)
    return PublicSet(
        images=drawn.images,
        labels=drawn.labels,
        lesions=drawn.lesions,
        label_names=DR_GRADES,
        training=rows[:count],
        held_out=rows[count:],
        flips=True,
        origin=f"{count:,} phantoms of the public simulator {VERSION} and on no patient's image",
        made={"simulator": VERSION, "picture_seed": seed, "counts": list(LESIONS), "preprocessing": FUNDUS},
    )


def folder_set(
    path: Path,
    source: str,
    *,
    layout: str = "auto",
    channels: int = 3,
    seed: int = 1,
    progress: Progress | None = None,
) -> PublicSet:
    """Read a user's own public pictures, with labels, as any data set is read.

    A tenth of them, by patient where patients are named, is kept to measure on.

    Args:
        path: folder or .npz.
        source: what the user declares them to be, for the statement, e.g. ``RSNA 2023, public``.
        layout: as `fedgan-secure data check` knows them.
        channels: 1 or 3.
        seed: of the choice of the pictures that are kept.
        progress: called with (task, done, total).

    Raises:
        InputError: no declaration, no labels, a class without a picture, too few pictures, or what `load` refuses.
    """
    if not 0 < len(source.strip()) <= 200 or not source.isprintable():
        raise InputError(
            "the pictures were not declared public",
            hint='say what they are and why nobody has to be protected: --public-source "RSNA 2023, public"',
        )
    settings = LoadSettings(layout=layout, image_size=IMAGE_SIZE, channels=channels, unit="image")
    if resolve(path, settings).names_patient:
        settings = LoadSettings(layout=layout, image_size=IMAGE_SIZE, channels=channels)
    result = load(path, settings, progress)
    digests = digests_of(result.dataset.images)
    dataset = result.dataset.labelled()
    if not 2 <= dataset.classes <= MOST_CLASSES or not FEWEST <= len(dataset) <= MOST_PICTURES:
        raise InputError(
            f"{path} has {len(dataset)} labelled pictures of {dataset.classes} classes, "
            f"expected {FEWEST} to {MOST_PICTURES} of 2 to {MOST_CLASSES}",
            hint="give a folder with labels that `fedgan-secure data check` shows",
        )
    training, held_out = _split(dataset, seed)
    _refuse_missing_labels(dataset.labels[training], result.label_names)
    return PublicSet(
        images=dataset.images,
        labels=np.asarray(dataset.labels),
        lesions=np.zeros((len(dataset), 0), np.float32),
        label_names=result.label_names,
        training=training,
        held_out=held_out,
        flips=result.preprocessing == FUNDUS,
        origin=f"{len(training):,} pictures that its maker declared public ({source.strip()}), under no epsilon",
        made={"declared": source.strip(), "layout": result.layout, "preprocessing": result.preprocessing},
        digests=digests,
    )


def _split(dataset: PatientDataset, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows to train on and rows to measure on; no patient is in both."""
    order = np.random.default_rng(seed).permutation(dataset.patients)
    sizes = np.bincount(dataset.patient)[order]
    wanted = min(HELD_OUT, max(1, round(HELD_OUT_SHARE * len(dataset))))
    kept = order[: int(np.searchsorted(np.cumsum(sizes), wanted)) + 1]
    aside = np.isin(dataset.patient, kept)
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def _refuse_missing_labels(labels: NDArray[np.int32], names: tuple[str, ...]) -> None:
    missing = [name for index, name in enumerate(names) if not (labels == index).any()]
    if missing:
        raise InputError(
            f"no picture to train on has the label {missing[0]!r}",
            hint="add pictures of every class, or leave the class out of the labels",
        )
