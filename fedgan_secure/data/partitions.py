"""Split one data set over hospitals, patient by patient: iid, by label, or by a Dirichlet draw.

A patient is never split. The split depends on a public seed only (a NumPy generator: it needs no secrecy), so that
every party of an experiment can repeat it.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError

KINDS = "iid, by-label or dirichlet:ALPHA (for instance dirichlet:0.5)"
DIRICHLET_ATTEMPTS = 200


@dataclass(frozen=True)
class Partition:
    """How patients go to hospitals; `alpha` is the Dirichlet concentration (small: very different hospitals)."""

    kind: Literal["iid", "by-label", "dirichlet"]
    alpha: float | None = None

    def __str__(self) -> str:
        return self.kind if self.alpha is None else f"{self.kind}:{self.alpha:g}"


def parse_partition(text: str) -> Partition:
    """Read `iid`, `by-label` or `dirichlet:ALPHA`. Raises InputError for anything else."""
    if text == "iid":
        return Partition("iid")
    if text == "by-label":
        return Partition("by-label")
    name, _, number = text.partition(":")
    if name == "dirichlet" and number:
        try:
            alpha = float(number)
        except ValueError:
            alpha = math.nan
        if math.isfinite(alpha) and 1e-3 <= alpha <= 1e6:
            return Partition("dirichlet", alpha)
        raise InputError(
            f"the partition is {text!r}; ALPHA must be a number between 0.001 and 1000000",
            hint="0.1 makes hospitals very different, 1 somewhat, 100 nearly alike",
        )
    raise InputError(f"the partition is {text!r}; expected {KINDS}", hint="for instance --partition by-label")


def hospital_names(count: int) -> tuple[str, ...]:
    """The names of `count` hospitals: a, b, ..., z, aa, ab, ..."""
    names = []
    for index in range(count):
        name, number = "", index
        while True:
            name = string.ascii_lowercase[number % 26] + name
            number = number // 26 - 1
            if number < 0:
                break
        names.append(name)
    return tuple(names)


def split(dataset: PatientDataset, hospitals: int, partition: Partition | str, seed: int) -> dict[str, PatientDataset]:
    """Divide `dataset` over `hospitals` (named a, b, c, ...), never splitting a patient.

    - ``iid``: patients in random order, dealt out evenly.
    - ``by-label``: patients in the order of their label (the worst of their images), dealt out in equal runs, so that
      hospitals share as few labels as their equal sizes allow.
    - ``dirichlet:ALPHA``: for every label, the hospitals' shares are drawn from a symmetric Dirichlet distribution
      (Hsu, Qi and Brown 2019, section 3), drawn again while a hospital would be empty.

    Every patient goes to exactly one hospital and every hospital has at least one, else InputError.
    """
    chosen = parse_partition(partition) if isinstance(partition, str) else partition
    if hospitals < 1:
        raise InputError(f"{hospitals} hospitals were asked for; at least 1 is needed", hint="set --hospitals")
    if dataset.patients < hospitals:
        raise InputError(
            f"{hospitals} hospitals were asked for, and the data set has too few patients to give each one",
            hint="ask for fewer hospitals, or bring more patients",
        )
    labels = dataset.patient_labels()
    if chosen.kind != "iid" and not np.any(labels >= 0):
        raise InputError(
            f"the partition {chosen} needs labels, and the data set has none",
            hint="use --partition iid, or add labels",
        )
    generator = np.random.default_rng([0x70617274, seed])
    if chosen.kind == "dirichlet":
        shares = _dirichlet(labels, hospitals, float(chosen.alpha or 1.0), generator)
    else:
        order = generator.permutation(dataset.patients)
        if chosen.kind == "by-label":
            order = order[np.argsort(labels[order], kind="stable")]
        shares = np.array_split(order, hospitals)
    names = hospital_names(hospitals)
    return {name: dataset.subset(np.sort(share)) for name, share in zip(names, shares, strict=True)}


def _dirichlet(
    labels: NDArray[np.int32], hospitals: int, alpha: float, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    for _ in range(DIRICHLET_ATTEMPTS):
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(hospitals)]
        for label in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == label))
            shares = generator.dirichlet(np.full(hospitals, alpha))
            cuts = np.floor(np.cumsum(shares)[:-1] * len(members) + 0.5).astype(np.int64)
            for part, piece in zip(parts, np.split(members, np.clip(cuts, 0, len(members))), strict=True):
                part.append(piece)
        joined = [np.concatenate(part) for part in parts]
        if all(len(part) for part in joined):
            return joined
    raise InputError(
        f"dirichlet:{alpha:g} leaves a hospital without a patient in {DIRICHLET_ATTEMPTS} draws",
        hint="use a larger ALPHA, fewer hospitals or another --seed",
    )
