"""A hospital's images, grouped by patient: pixels, labels and a keyed pseudonym, and nothing else.

A :class:`PatientDataset` never leaves its hospital. How many patients it has, and with which labels, is private: its
``repr`` shows shapes of one image only.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgan_secure.errors import InputError

PSEUDONYM_HEX_DIGITS = 32
MINIMUM_SECRET_BYTES = 16


def pseudonym(secret: bytes, patient_id: str) -> str:
    """A keyed pseudonym of a patient identifier: the first 128 bits of HMAC-SHA256 under the hospital's own secret.

    The same identifier gives different pseudonyms at two hospitals, and without the secret (at least 16 bytes) an
    identifier can be neither recovered nor confirmed by trial (RFC 2104). Returns 32 hexadecimal digits.
    """
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"the secret has {len(secret)} bytes; at least {MINIMUM_SECRET_BYTES} are needed")
    digest = hmac.new(
        secret, b"fedgan-secure/patient/1\0" + patient_id.encode("utf-8", "surrogateescape"), hashlib.sha256
    )
    return digest.hexdigest()[:PSEUDONYM_HEX_DIGITS]


def normal_identifier(name: str) -> str:
    """Return the form in which identifiers of patients are compared.

    Blanks and NULs at the ends, the number of blanks inside, signs without a width, case, and the ways Unicode writes
    one letter count for nothing. In this form identifiers are compared throughout: `p1` and `P1` are one patient.
    """
    text = unicodedata.normalize("NFKC", name.replace("\0", " ")).casefold()
    seen = "".join(sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")
    return " ".join(seen.split())


def person_pseudonym(secret: bytes, name: str) -> str:
    """Return the pseudonym by which a person is left out: of the identifier's :func:`normal_identifier`."""
    return pseudonym(secret, normal_identifier(name))


def _sizes(labels: NDArray[np.int32], patient: NDArray[np.int32], count: int, classes: int) -> NDArray[np.int64]:
    """Images of every patient, int64[P]; raises ValueError where labels or patients are out of their range."""
    if labels.shape != (count,) or patient.shape != (count,):
        raise ValueError("images, labels and patient must have the same length")
    if count and (labels.min() < -1 or labels.max() >= max(classes, 0)):
        raise ValueError(f"labels must lie in -1..{classes - 1}")
    if count and patient.min() < 0:
        raise ValueError("patient must be 0 or more")
    sizes = np.bincount(patient) if count else np.zeros(0, dtype=np.int64)
    if np.any(sizes == 0):
        raise ValueError("patient must use every index from 0 to its largest")
    return sizes


class PatientDataset:
    """Images of one hospital with the patient each belongs to. Immutable.

    Arguments:
        images: uint8[M,H,W,C], an array or a read-only memory map; never copied.
        labels: int32[N], the class of every image, -1 for none.
        patient: int32[N], the patient of every image, 0..P-1 with every index used.
        classes: number of classes the labels may take (0: no labels).
        pseudonyms: P keyed pseudonyms (see :func:`pseudonym`); ``p0``, ``p1``, ... when empty.
        rows: int64[N], which rows of `images` these are; all of them when None (then M = N).
        people: P pseudonyms of the persons behind the patients (see :func:`person_pseudonym`), by which somebody is
            left out; `pseudonyms` when empty. Where every image is a patient of its own, several have one person.

    Raises ValueError when the arrays disagree with each other.
    """

    __slots__ = ("_labels", "_order", "_patient", "_rows", "_starts", "_store", "classes", "people", "pseudonyms")

    classes: int
    pseudonyms: tuple[str, ...]
    people: tuple[str, ...]
    _store: NDArray[np.uint8]
    _labels: NDArray[np.int32]
    _patient: NDArray[np.int32]
    _rows: NDArray[np.int64] | None
    _order: NDArray[np.int64]
    _starts: NDArray[np.int64]

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: Any,
        patient: Any,
        classes: int,
        pseudonyms: Sequence[str] = (),
        rows: NDArray[np.int64] | None = None,
        people: Sequence[str] = (),
    ) -> None:
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8[N,H,W,C], not {images.dtype}{list(images.shape)}")
        count = len(images) if rows is None else len(rows)
        label_array = np.array(labels, dtype=np.int32)
        patient_array = np.array(patient, dtype=np.int32)
        sizes = _sizes(label_array, patient_array, count, classes)
        names = tuple(pseudonyms) or tuple(f"p{index}" for index in range(len(sizes)))
        if len(names) != len(sizes) or len(set(names)) != len(names):
            raise ValueError("there must be one distinct pseudonym for every patient")
        persons = tuple(people) or names
        if len(persons) != len(names):
            raise ValueError("there must be one person for every patient")
        row_array = None if rows is None else np.array(rows, dtype=np.int64)
        if row_array is not None and count and (row_array.min() < 0 or row_array.max() >= len(images)):
            raise ValueError("rows must lie inside images")
        order = np.argsort(patient_array, kind="stable").astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        for array in (label_array, patient_array, row_array, order, starts):
            if array is not None:
                array.flags.writeable = False
        for name, value in (
            ("_store", images),
            ("_labels", label_array),
            ("_patient", patient_array),
            ("_rows", row_array),
            ("_order", order),
            ("_starts", starts),
            ("classes", int(classes)),
            ("pseudonyms", names),
            ("people", persons),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a PatientDataset is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a PatientDataset is immutable: {name} cannot be removed")

    def __repr__(self) -> str:
        height, width, channels = self._store.shape[1:]
        return f"PatientDataset(images of {height}x{width}x{channels})"

    def __reduce__(self) -> Any:
        raise TypeError("a PatientDataset never leaves its hospital: it cannot be pickled")

    def __len__(self) -> int:
        """Number of images N."""
        return len(self._labels)

    @property
    def patients(self) -> int:
        """Number of patients P."""
        return len(self._starts) - 1

    @property
    def image_size(self) -> int:
        """Height H of every image, in pixels."""
        return int(self._store.shape[1])

    @property
    def channels(self) -> int:
        """Channels C of every image."""
        return int(self._store.shape[3])

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32[N], -1 for none; read-only."""
        return self._labels

    @property
    def patient(self) -> NDArray[np.int32]:
        """int32[N] in 0..P-1; read-only."""
        return self._patient

    @property
    def images(self) -> NDArray[np.uint8]:
        """uint8[N,H,W,C]. For a subset this gathers a copy: prefer :meth:`pixels` there."""
        return self._store if self._rows is None else self._store[self._rows]

    def images_of(self, patient: int) -> NDArray[np.int64]:
        """int64[k]: the indices of one patient's images, in ascending order."""
        if not 0 <= patient < self.patients:
            raise IndexError(f"patient {patient} is outside 0..{self.patients - 1}")
        found: NDArray[np.int64] = self._order[self._starts[patient] : self._starts[patient + 1]]
        return found

    def pixels(self, indices: Any) -> NDArray[np.uint8]:
        """uint8[n,H,W,C] of the images at `indices` (int[n]), read from the store and copied."""
        wanted = np.asarray(indices, dtype=np.int64)
        rows = wanted if self._rows is None else self._rows[wanted]
        return np.asarray(self._store[rows])

    def to_float(self, indices: Any) -> NDArray[np.float32]:
        """float32[n,H,W,C] in [-1,1] of the images at `indices`: x / 127.5 - 1."""
        return self.pixels(indices).astype(np.float32) / np.float32(127.5) - np.float32(1.0)

    def patient_labels(self) -> NDArray[np.int32]:
        """int32[P]: the worst (largest) label among each patient's images, -1 when none is labelled."""
        worst = np.full(self.patients, -1, dtype=np.int32)
        np.maximum.at(worst, self._patient, self._labels)
        return worst

    def subset(self, patients: Any) -> PatientDataset:
        """The data set of the given patients only (int[k] without repeats, or bool[P]), renumbered in that order.

        The pixels are shared, not copied. Raises ValueError when a patient is named twice or does not exist.
        """
        chosen = np.asarray(patients)
        if chosen.dtype == np.bool_:
            if chosen.shape != (self.patients,):
                raise ValueError("a mask of patients must have one entry for every patient")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64)
        if len(np.unique(chosen)) != len(chosen):
            raise ValueError("a patient is named twice")
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= self.patients):
            raise ValueError(f"patients must lie in 0..{self.patients - 1}")
        renumbered = np.full(self.patients, -1, dtype=np.int64)
        renumbered[chosen] = np.arange(len(chosen))
        kept = np.flatnonzero(renumbered[self._patient] >= 0)
        return self._keep(kept, renumbered[self._patient[kept]], chosen)

    def labelled(self) -> PatientDataset:
        """Only the images that have a label; patients left without an image are dropped.

        Raises InputError when no image has one.
        """
        kept = np.flatnonzero(self._labels >= 0)
        if not len(kept):
            raise InputError(
                "none of the images has a label, and a conditional model needs labels",
                hint="add labels, or train without them: --unconditional",
            )
        if len(kept) == len(self):
            return self
        remaining, patient = np.unique(self._patient[kept], return_inverse=True)
        return self._keep(kept, patient, remaining)

    def _keep(self, kept: NDArray[np.int64], patient: Any, who: NDArray[Any]) -> PatientDataset:
        rows = kept if self._rows is None else self._rows[kept]
        names, people = [self.pseudonyms[index] for index in who], [self.people[index] for index in who]
        return PatientDataset(self._store, self._labels[kept], patient, self.classes, names, rows, people)
