"""The plan of how to read a folder: its files by kind, what a table calls them, and the labels a table gives.

Nothing is decoded here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from fedgan_secure.data.dicom import looks_like_dicom
from fedgan_secure.data.listing import Entry, Listing
from fedgan_secure.data.pictures import SUFFIXES
from fedgan_secure.data.preprocess import PLAIN
from fedgan_secure.data.tables import Table
from fedgan_secure.errors import InputError


@dataclass(frozen=True)
class Item:
    """One file to read. `patient` None: the file's own header names it. `label` -1: none."""

    path: str
    kind: Literal["dicom", "picture"]
    patient: str | None
    label: int = -1


@dataclass
class Plan:
    """What a layout found: the files to read, and what is wrong with the rest (paths relative to the folder)."""

    layout: str
    root: Path
    names_patient: bool
    items: list[Item] = field(default_factory=list)
    label_names: tuple[str, ...] = ()
    preprocessing: str = PLAIN
    patient_labels: dict[str, int] = field(default_factory=dict)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    labels_without_image: list[str] = field(default_factory=list)
    unusable_labels: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LayoutOptions:
    """What a person may say about a layout: a pattern for the patient in file names, columns, the label vocabulary."""

    patient_pattern: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    patient_column: str | None = None
    label_names: tuple[str, ...] | None = None
    classes: int | None = None


class Kinds:
    """The files of a listing by kind: DICOM (by mark or suffix), pictures (by suffix), tables, and the rest."""

    def __init__(self, listing: Listing) -> None:
        self.dicom: list[Entry] = []
        self.pictures: list[Entry] = []
        self.tables: list[Entry] = []
        self.arrays: list[Entry] = []
        self.other: list[Entry] = []
        for entry in listing.entries:
            name = PurePosixPath(entry.path)
            suffix = name.suffix.lower()
            if suffix in (".dcm", ".dicom"):
                self.dicom.append(entry)
            elif suffix in SUFFIXES:
                self.pictures.append(entry)
            elif suffix in (".csv", ".tsv"):
                self.tables.append(entry)
            elif suffix == ".npz":
                self.arrays.append(entry)
            elif name.name != "DICOMDIR" and entry.size > 132 and looks_like_dicom(listing.root / entry.path):
                self.dicom.append(entry)
            else:
                self.other.append(entry)


class NameIndex:
    """Find a file by what a table calls it: a relative path, a file name, or a name without its suffix."""

    def __init__(self, entries: list[Entry]) -> None:
        self._names: dict[str, list[str]] = {}
        for entry in entries:
            name = PurePosixPath(entry.path)
            for key in {entry.path, name.name, name.stem}:
                self._names.setdefault(key, []).append(entry.path)

    def find(self, name: str) -> str | None:
        """The path, or None when there is none or more than one."""
        paths = self._names.get(name.replace("\\", "/").removeprefix("./"), [])
        return paths[0] if len(paths) == 1 else None

    def twins(self, name: str) -> list[str]:
        paths = self._names.get(name, [])
        return paths if len(paths) > 1 else []


def labels_of(
    plan: Plan, table: Table, key: str, column: str, options: LayoutOptions, fixed: tuple[str, ...] | None
) -> dict[str, int]:
    """key -> class index. Empty, unknown and contradicting labels are listed as unusable, never taken as 0.

    The vocabulary is the declared one, else the layout's own, else what the table holds (numbers 0..max, or the sorted
    distinct words).
    """
    texts: dict[str, str] = {}
    contradicting: set[str] = set()
    for row in table.rows:
        name, text = row[key], row[column]
        if name in texts and texts[name] != text:
            contradicting.add(name)
        texts[name] = text
    numeric = {name: int(float(text)) for name, text in texts.items() if _is_whole(text)}
    declared = options.label_names or (tuple(map(str, range(options.classes))) if options.classes else None) or fixed
    if declared is not None:
        plan.label_names = declared
    elif len(numeric) == sum(1 for text in texts.values() if text):
        plan.label_names = tuple(str(value) for value in range(max(numeric.values(), default=-1) + 1))
        plan.notes.append("the classes are those of the labels found here")
    else:
        numeric = {}
        plan.label_names = tuple(sorted({text for text in texts.values() if text}))
        plan.notes.append("the classes are those of the labels found here")
    words = {word: index for index, word in enumerate(plan.label_names)}
    result: dict[str, int] = {}
    for name, text in texts.items():
        value = words.get(text, numeric.get(name, -1))
        if name in contradicting:
            plan.unusable_labels.append((name, "its rows contradict each other"))
        elif not text:
            plan.unusable_labels.append((name, "the label is empty"))
        elif not 0 <= value < len(plan.label_names):
            plan.unusable_labels.append((name, f"the label is not one of the {len(plan.label_names)} classes"))
        else:
            result[name] = value
            continue
        result[name] = -1
    return result


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"\d{1,6}(\.0+)?", text) is not None


def column_of(table: Table, asked: str | None, usual: tuple[str, ...], *, optional: bool = False) -> str | None:
    if asked is not None:
        if asked.strip().lower() in table.columns:
            return asked.strip().lower()
        raise InputError(
            f"{table.name} has no column {asked!r}; it has {', '.join(table.columns)}", hint="name one of these"
        )
    for name in usual:
        if name in table.columns:
            return name
    if optional:
        return None
    raise InputError(
        f"{table.name} has the columns {', '.join(table.columns)}; expected one of {', '.join(usual)}",
        hint="name the column in the federation file",
    )


def require(table: Table, column: str) -> str:
    if column not in table.columns:
        raise InputError(f"{table.name} has no column {column}", hint=f"it has {', '.join(table.columns)}")
    return column
