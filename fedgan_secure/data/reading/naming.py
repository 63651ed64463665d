"""Which files the rows of a table name.

Neighbouring data sets differ by one patient, so a row of one patient must not take another patient's image away: a full
relative path is settled first, then a row whose patient names a folder of the path, and a bare name last. A bare name
stands for every file of that name that no other row has settled; a file of the same name never makes a row useless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from fedgan_secure.data.reading.listing import Entry

RowKey = tuple[str, str]
CONFLICT = "another row names the same file"
SEVERAL = "a name in the table fits several files and was taken for each of them: give paths relative to the folder"


class NameIndex:
    """Files by what a table calls them: a relative path, a file name, either of them without its suffix."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._exact: dict[str, list[str]] = {}
        self._bare: dict[str, list[str]] = {}
        for entry in entries:
            name = PurePosixPath(entry.path)
            for key in {entry.path, str(name.with_suffix(""))}:
                self._exact.setdefault(key, []).append(entry.path)
            for key in {name.name, name.stem}:
                self._bare.setdefault(key, []).append(entry.path)

    def exact(self, name: str) -> list[str]:
        """The files whose path relative to the folder is `name`, with or without its suffix; the whole name first."""
        wanted = _plain(name)
        paths = self._exact.get(wanted, [])
        return [wanted] if wanted in paths else paths

    def bare(self, name: str) -> list[str]:
        """The files in any folder whose file name is `name`, with or without its suffix, in the order of the paths."""
        return self._bare.get(_plain(name), [])


@dataclass
class Claims:
    """`files`: the row that names each file (its name in the table, its patient or ""); `conflicting`: rows whose files
    all belong to other rows; `missing`: rows that name no file; `several`: whether a bare name fitted several files."""

    files: dict[str, RowKey] = field(default_factory=dict)
    conflicting: list[RowKey] = field(default_factory=list)
    missing: list[RowKey] = field(default_factory=list)
    several: bool = False


def claim(rows: Iterable[RowKey], index: NameIndex, *, needs_patient: bool = False) -> Claims:
    """Give every file to at most one row, (name in the table, patient or "").

    Certain names go before uncertain ones (see the module), and of two equally certain rows the first keeps the file.
    With `needs_patient`, rows without a patient come after all others.
    """
    ways: tuple[Callable[[RowKey], list[str]], ...] = (
        lambda row: index.exact(row[0]),
        lambda row: [path for path in index.bare(row[0]) if row[1] and _in_folder_of(row[1], path)],
        lambda row: index.bare(row[0]),
    )
    claims = Claims()
    distinct = list(dict.fromkeys(rows))
    groups = [distinct]
    if needs_patient:
        groups = [[row for row in distinct if row[1]], [row for row in distinct if not row[1]]]
    for group in groups:
        pending = group
        for number, way in enumerate(ways):
            left: list[RowKey] = []
            for row in pending:
                paths = way(row)
                free = [path for path in paths if path not in claims.files]
                if not paths:
                    left.append(row)
                elif not free:
                    claims.conflicting.append(row)
                else:
                    claims.several |= number == len(ways) - 1 and len(free) > 1
                    claims.files.update(dict.fromkeys(free, row))
            pending = left
        claims.missing += pending
    return claims


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _in_folder_of(patient: str, path: str) -> bool:
    return patient.casefold() in (part.casefold() for part in PurePosixPath(path).parts[:-1])
