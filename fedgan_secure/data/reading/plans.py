"""The plan of how to read a folder: its files by kind, what a table calls them, and the labels a table gives.

Nothing is decoded here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from fedgan_secure.data.pixels.marks import looks_like_dicom
from fedgan_secure.data.pixels.pictures import SUFFIXES
from fedgan_secure.data.pixels.preprocess import PLAIN
from fedgan_secure.data.reading.label_words import says_nothing
from fedgan_secure.data.reading.left_out import LeftOut
from fedgan_secure.data.reading.listing import Entry, Listing
from fedgan_secure.data.reading.naming import RowKey
from fedgan_secure.data.reading.tables import Table, read_table
from fedgan_secure.errors import InputError

TABLE_SUFFIXES = (".csv", ".tsv")
MOST_CLASSES = 1000
"""Classes of a vocabulary that is collected from data: a label beyond makes no classes up to it."""


@dataclass(frozen=True)
class Item:
    """One file to read. `patient` None: the file's own header names it. `label` -1: none."""

    path: str
    kind: Literal["dicom", "picture"]
    patient: str | None
    label: int = -1


@dataclass
class Plan:
    """What a layout found: the files to read, and what is wrong with the rest (paths relative to the folder).

    `labels_fixed` False: the label vocabulary was collected from the data. `unit_remark`: what a report should say
    about who the unit is. `patient_labels`
    by the identifier in a file's header; `file_labels` by path and that identifier, and before the item's own label.
    """

    layout: str
    root: Path
    names_patient: bool
    items: list[Item] = field(default_factory=list)
    label_names: tuple[str, ...] = ()
    preprocessing: str = PLAIN
    labels_fixed: bool = True
    unit_remark: str = ""
    patient_labels: dict[str, int] = field(default_factory=dict)
    file_labels: dict[tuple[str, str], int] = field(default_factory=dict)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    labels_without_image: list[str] = field(default_factory=list)
    unusable_labels: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class LayoutOptions:
    """What a person may say about a layout: a pattern for the patient in file names, columns, the label vocabulary."""

    patient_pattern: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    patient_column: str | None = None
    label_names: tuple[str, ...] | None = None
    classes: int | None = None
    unit: Literal["patient", "image"] = "patient"


class Kinds:
    """The files of a listing by kind: DICOM (by mark or suffix), pictures (by suffix), tables, and the rest."""

    def __init__(self, listing: Listing) -> None:
        self.dicom: list[Entry] = []
        self.pictures: list[Entry] = []
        self.tables: list[Entry] = []
        self.arrays: list[Entry] = []
        self.other: list[Entry] = []
        self.used: set[str] = set()
        for entry in listing.entries:
            name = PurePosixPath(entry.path)
            suffix = name.suffix.lower()
            if suffix in (".dcm", ".dicom"):
                self.dicom.append(entry)
            elif suffix in SUFFIXES:
                self.pictures.append(entry)
            elif suffix in TABLE_SUFFIXES:
                self.tables.append(entry)
            elif suffix == ".npz":
                self.arrays.append(entry)
            elif name.name != "DICOMDIR" and entry.size > 132 and looks_like_dicom(listing.root / entry.path):
                self.dicom.append(entry)
            else:
                self.other.append(entry)

    def read(self, listing: Listing, path: str) -> Table:
        """Read one of the tables; raises InputError where it is none."""
        self.used.add(path)
        return read_table(listing.root / path)

    def unread(self) -> list[str]:
        """Return the paths of the files that are neither pictures nor tables that were read."""
        tables = [entry for entry in self.tables if entry.path not in self.used]
        return [entry.path for entry in (*self.other, *self.arrays, *tables)]


def labels_of(
    plan: Plan,
    table: Table,
    key: str,
    column: str,
    options: LayoutOptions,
    fixed: tuple[str, ...] | None,
    *,
    patient: str | None = None,
    shared: Callable[[str], bool] | None = None,
) -> dict[RowKey, int]:
    """(what the row names, its patient or "") -> class index, -1 where the label cannot be used.

    Empty, unknown and contradicting labels are listed as unusable, never taken as 0; what programs write for a missing
    value is empty, unless it was declared. Rows of one key contradict each
    other; where `shared` says that several files have the name, the rows may be of several patients, so the first row
    keeps its label and only the others are listed.

    The vocabulary is the declared one, else the layout's own. A label outside it is set aside. A whole number stands
    for itself where the vocabulary holds whole numbers, and for a class index where it holds none.

    Without either, the vocabulary is collected, and this is where one patient could recode another: so where more than
    half of the labels are whole numbers, each number keeps its value and whatever else is there is set aside; where
    not, the classes are the sorted distinct words, and the odd whole numbers are set aside. One row thus changes
    another's code only in two cases: it breaks a tie between numbers and words, or it brings a word that nobody else
    has, which takes its place in the order. Declaring the vocabulary rules out both (``Plan.labels_fixed``).
    """
    plan.unusable_labels += table.set_aside()
    rows = [((row[key], row[patient] if patient else ""), row[column]) for row in table.rows]
    texts, contradicting = _texts(plan, rows, shared)
    if options.label_names is None:
        texts = {name: "" if says_nothing(text) else text for name, text in texts.items()}
    declared = options.label_names or (tuple(map(str, range(options.classes))) if options.classes else None) or fixed
    plan.labels_fixed = declared is not None
    if declared is not None:
        plan.label_names = declared
        odd = f"the label is not one of the {len(declared)} classes"
        as_index = not any(_is_whole(name) for name in declared)
    else:
        plan.label_names, odd = _collected([text for text in texts.values() if text])
        as_index = False
        plan.notes.append("the classes are those of the labels found here")
    codes = {word: index for index, word in enumerate(plan.label_names)}
    result: dict[RowKey, int] = {}
    for name, text in texts.items():
        value = codes.get(text, -1)
        if value < 0 and _is_whole(text):
            number = int(float(text))
            value = number if as_index else codes.get(str(number), -1)
        if name in contradicting:
            plan.unusable_labels.append((name[0], "its rows contradict each other"))
        elif not text:
            plan.unusable_labels.append((name[0], "the label is empty"))
        elif not 0 <= value < len(plan.label_names):
            plan.unusable_labels.append((name[0], odd))
        else:
            result[name] = value
            continue
        result[name] = -1
    return result


def _texts(
    plan: Plan, rows: list[tuple[RowKey, str]], shared: Callable[[str], bool] | None
) -> tuple[dict[RowKey, str], set[RowKey]]:
    """The label of each key as its first row has it, and the keys whose rows contradict each other."""
    texts: dict[RowKey, str] = {}
    contradicting: set[RowKey] = set()
    for name, text in rows:
        if texts.setdefault(name, text) == text:
            continue
        if shared is not None and shared(name[0]):
            plan.unusable_labels.append((name[0], "an earlier row gives this name another label"))
        else:
            contradicting.add(name)
    return texts, contradicting


def _collected(texts: list[str]) -> tuple[tuple[str, ...], str]:
    """The vocabulary of a table that declares none, and why a label outside it is set aside."""
    numbers = [int(float(text)) for text in texts if _is_whole(text)]
    if 2 * len(numbers) > len(texts):
        names = tuple(str(value) for value in range(max((one for one in numbers if one < MOST_CLASSES), default=0) + 1))
        return names, f"the label is not a whole number below {MOST_CLASSES}, as most labels of the table are"
    words = tuple(sorted({text for text in texts if not _is_whole(text)}))
    return words, "the label is a whole number, and most labels of the table are words"


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
