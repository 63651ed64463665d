"""What a loader found in a hospital's folder. Confidential: for the hospital's own annex and for `data check` only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fedgan_secure.data.identifiers.identifiers import IdentifierCounts, counts_from_dict
from fedgan_secure.data.identifiers.safe_harbor import SafeHarborRow, rows
from fedgan_secure.data.reading.left_out import LeftOut

_GROUPS = ("duplicates", "duplicates_within_patient", "duplicate_patients")


@dataclass(frozen=True)
class DataFindings:
    """Counts, and lists of paths relative to the folder. Never part of a federation's reports.

    `labels` maps a class name (and ``none``) to its number of images; `duplicates` are groups of files with identical
    pixels that belong to different patients, `duplicates_within_patient` to one, `duplicate_patients` the groups of
    patients concerned; nothing is removed because of them
    (removing depends on other patients and would break the guarantee of differential privacy). `identifiers`: what the
    headers of the files that were read hold besides the pixels, by name and number of files. `several_people`:
    identifiers whose files are of several people by their headers, and what differs. `left_out`: files that no layout
    reads, by kind.
    """

    layout: str
    preprocessing: str
    unit: str
    patients: int
    images: int
    files: int
    classes: int
    labels: dict[str, int]
    quarantined: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    duplicates_within_patient: tuple[tuple[str, ...], ...]
    duplicate_patients: tuple[tuple[str, ...], ...]
    unlabelled: tuple[str, ...]
    labels_without_image: tuple[str, ...]
    unusable_labels: tuple[tuple[str, str], ...]
    excluded_found: tuple[str, ...]
    excluded_images: int
    notes: tuple[str, ...]
    identifiers: IdentifierCounts = field(default_factory=IdentifierCounts)
    several_people: tuple[tuple[str, str], ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def safe_harbor(self) -> tuple[SafeHarborRow, ...]:
        """The 18 identifiers of 45 CFR 164.514(b)(2)(i), and what can be said of each here."""
        return rows(self.identifiers)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON types."""
        result = asdict(self)
        result["quarantined"] = [{"path": path, "reason": reason} for path, reason in self.quarantined]
        result["several_people"] = [{"patient": patient, "differs": what} for patient, what in self.several_people]
        result["unusable_labels"] = [{"name": name, "reason": reason} for name, reason in self.unusable_labels]
        for name in _GROUPS:
            result[name] = [list(group) for group in getattr(self, name)]
        for name in ("unlabelled", "labels_without_image", "excluded_found", "notes"):
            result[name] = list(getattr(self, name))
        result["left_out"] = [row._asdict() for row in self.left_out]
        result["identifiers"] = self.identifiers.to_dict()
        result["safe_harbor"] = [
            {**asdict(row), "attributes": [{"name": name, "files": count} for name, count in row.attributes]}
            for row in self.safe_harbor
        ]
        return result


def findings_from_dict(stored: dict[str, Any]) -> DataFindings:
    """The inverse of :meth:`DataFindings.to_dict`. Raises KeyError or TypeError for anything else."""
    values = dict(stored)
    values["quarantined"] = tuple((row["path"], row["reason"]) for row in stored["quarantined"])
    values["unusable_labels"] = tuple((row["name"], row["reason"]) for row in stored["unusable_labels"])
    values["several_people"] = tuple((row["patient"], row["differs"]) for row in stored["several_people"])
    for name in _GROUPS:
        values[name] = tuple(tuple(group) for group in stored[name])
    for name in ("unlabelled", "labels_without_image", "excluded_found", "notes"):
        values[name] = tuple(stored[name])
    values["left_out"] = tuple(LeftOut(**row) for row in stored.get("left_out", ()))
    values["identifiers"] = counts_from_dict(stored["identifiers"])
    del values["safe_harbor"]
    return DataFindings(**values)


def reasons(quarantined: Sequence[tuple[str, str]], most: int = 3) -> str:
    """The commonest reasons with their counts, for a message."""
    counted = Counter(reason for _, reason in quarantined).most_common(most)
    return "; ".join(f"{count} x {reason}" for reason, count in counted)
