"""Decode a batch of files: the work that worker processes do. Only pixels and the patient's identifier come back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.poly1305 import Poly1305
from numpy.typing import NDArray

from fedgan_secure.data.identifiers.identifiers import HeaderFacts
from fedgan_secure.data.identifiers.persons import PLACEHOLDER, is_placeholder
from fedgan_secure.data.patients import normal_identifier
from fedgan_secure.data.pixels.dicom import read_dicom
from fedgan_secure.data.pixels.pictures import Unreadable, read_picture
from fedgan_secure.data.pixels.preprocess import CT_ABDOMEN, of_file, preprocess
from fedgan_secure.data.reading.plans import Item

TARGET = "fedgan_secure.data.reading.decode:decode_batch"


@dataclass(frozen=True)
class DecodeSettings:
    """The same for every file of a data set. `excluded`: normal forms of identifiers and of paths to leave out.

    `counted`: see `persons.is_placeholder`.
    """

    root: Path
    preprocessing: str
    size: int
    channels: int
    excluded: frozenset[str]
    needs_patient: bool
    counted: bool = False
    digest_key: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    """For the digests of pixels: drawn for each loading and then forgotten, so that no file can be made to collide."""


@dataclass(frozen=True)
class Decoded:
    """One file: its images uint8[k,size,size,channels] and their digests, or why there are none.

    A digest is Poly1305 (RFC 8439, section 2.5) over the shape and the decoded pixels, used as a universal hash: of
    pictures chosen without its key, two that differ agree with a chance below 2**-80. It takes a seventh of SHA-256's
    time.
    """

    patient: str | None
    images: NDArray[np.uint8] | None
    digests: tuple[bytes, ...] = ()
    reason: str = ""
    excluded: bool = False
    facts: HeaderFacts = field(default_factory=HeaderFacts)
    marks: dict[str, bytes] = field(default_factory=dict)
    words: frozenset[bytes] = frozenset()


def decode_batch(settings: DecodeSettings, items: list[Item]) -> list[Decoded]:
    """Decode every item; a file that cannot be used gives its reason instead of images."""
    return [_decode(settings, item) for item in items]


def is_excluded(excluded: frozenset[str], *names: str | None) -> bool:
    """Return whether the normal form of one of `names` is in `excluded`."""
    return bool(excluded) and any(name is not None and normal_identifier(name) in excluded for name in names)


def _decode(settings: DecodeSettings, item: Item) -> Decoded:
    patient = item.patient
    if is_excluded(settings.excluded, patient, item.path):
        return Decoded(patient, None, excluded=True)  # before anything of the file is read
    try:
        path = settings.root / item.path
        images: list[NDArray[np.uint8]] = []
        digests: list[bytes] = []
        frames: Iterable[tuple[NDArray[np.uint8], memoryview | bytes]]
        if item.kind == "picture":
            marks: dict[str, bytes] = {}
            words: frozenset[bytes] = frozenset()
            read, facts = read_picture(path)
            read = np.ascontiguousarray(read)
            name = of_file(settings.preprocessing, None)
            frames = [(read, read.data.cast("B"))]
        else:
            only_ct = settings.preprocessing == CT_ABDOMEN
            header, frames = read_dicom(path, hounsfield_window=only_ct, mark_key=settings.digest_key)
            name = of_file(settings.preprocessing, header.modality)
            facts, marks, words = header.facts, header.marks, header.words
            patient = patient or header.patient_id or None
        if settings.needs_patient and patient is None:
            return Decoded(None, None, reason="its PatientID is missing or empty")
        if is_excluded(settings.excluded, patient, item.path):
            return Decoded(patient, None, excluded=True)
        if settings.needs_patient and patient is not None and is_placeholder(patient, counted=settings.counted):
            return Decoded(None, None, reason=PLACEHOLDER.format(patient))
        for pixels, stored in frames:
            images.append(preprocess(pixels, name, settings.size, settings.channels))
            digest = Poly1305(settings.digest_key)
            digest.update(b"%d %d " % pixels.shape[:2])
            digest.update(stored)
            digests.append(digest.finalize())
        if not images:
            return Decoded(patient, None, reason="it holds no frame")
        return Decoded(patient, np.stack(images), tuple(digests), facts=facts, marks=marks, words=words)
    except Unreadable as reason:
        return Decoded(patient, None, reason=str(reason))
    except (MemoryError, OSError, ValueError) as error:
        return Decoded(patient, None, reason=f"broken or inconsistent ({type(error).__name__})")
