"""Read a table of labels: comma, semicolon, tab or bar, UTF-8 with or without a mark, bounded in size."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from fedgan_secure.errors import InputError

MAXIMUM_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Table:
    """Rows of a text table; `columns` are stripped and lower-case, and so are the keys of every row."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]


def read_columns(path: Path) -> tuple[str, ...]:
    """The column names only (stripped, lower-case); empty when the file is not a readable table."""
    try:
        with path.open("rb") as file:
            first = file.readline(65536).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ()
    return _names(next(csv.reader([first], delimiter=_delimiter(first)), []))


def read_table(path: Path) -> Table:
    """The whole table. Raises InputError when it cannot be read as text in UTF-8 or has no row."""
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise InputError(f"{path.name} is larger than {MAXIMUM_BYTES // 2**20} MiB", hint="is it a label table?")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            f"the label table {path.name} is not UTF-8 text", hint="save it as CSV in UTF-8 and try again"
        ) from None
    except OSError as error:
        raise InputError(
            f"the label table {path.name} cannot be read ({error.strerror})", hint="check its permissions"
        ) from None
    first = text.partition("\n")[0]
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=_delimiter(first)) if any(line)]
    except csv.Error as error:
        raise InputError(f"the label table {path.name} is not a CSV ({error})", hint="save it again as CSV") from None
    if len(lines) < 2:
        raise InputError(
            f"the label table {path.name} has no rows", hint="it needs a header line and one row per image"
        )
    columns = _names(lines[0])
    rows = tuple(
        {column: (line[index].strip() if index < len(line) else "") for index, column in enumerate(columns)}
        for line in lines[1:]
    )
    return Table(path.name, columns, rows)


def _names(cells: list[str]) -> tuple[str, ...]:
    return tuple(cell.strip().lower() for cell in cells)


def _delimiter(line: str) -> str:
    return max(",;\t|", key=line.count)
