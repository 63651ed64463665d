"""Read a table of labels: comma, semicolon, tab or bar, in UTF-8 or in UTF-16 with a mark, bounded in size."""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import dataclass
from pathlib import Path

from fedgan_secure.errors import InputError

_START_BYTES = 65536
MAXIMUM_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Table:
    """Rows of a text table; `columns` are stripped and lower-case, and so are the keys of every row.

    `crooked`: lines with more or fewer cells than the header has columns, by their number in the file (from 1), and how
    many they have. In such a line nobody knows which cell belongs to which column, so it is no row.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    crooked: tuple[tuple[int, int], ...] = ()

    def set_aside(self) -> list[tuple[str, str]]:
        """Return (line of this table, why it is no row), for people."""
        return [
            (
                f"{self.name}, line {number}",
                f"it has {cells} cells and the header {len(self.columns)} columns: a comma inside a value, or a cell "
                "that is missing",
            )
            for number, cells in self.crooked
        ]


def read_columns(path: Path) -> tuple[str, ...]:
    """The column names only (stripped, lower-case); empty when the file is not a readable table."""
    try:
        with path.open("rb") as file:
            first = _one_kind_of_line(_decoded(file.read(_START_BYTES), whole=False)).partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return ()
    return _names(next(csv.reader([first], delimiter=_delimiter(first)), []))


def read_table(path: Path) -> Table:
    """The whole table.

    Raises:
        InputError: it cannot be read as text in UTF-8, has no row, names a column twice, or no line fits its header.
    """
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise InputError(f"{path.name} is larger than {MAXIMUM_BYTES // 2**20} MiB", hint="is it a label table?")
        text = _one_kind_of_line(_decoded(path.read_bytes()))
    except UnicodeDecodeError:
        raise InputError(
            f"the label table {path.name} is not UTF-8 text",
            hint="save it as CSV in UTF-8 (or UTF-16 with a mark) and try again",
        ) from None
    except OSError as error:
        raise InputError(
            f"the label table {path.name} cannot be read ({error.strerror})", hint="check its permissions"
        ) from None
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(first))
    try:
        lines = [(reader.line_num, line) for line in reader if any(line)]
    except csv.Error as error:
        raise InputError(f"the label table {path.name} is not a CSV ({error})", hint="save it again as CSV") from None
    if len(lines) < 2:
        raise InputError(
            f"the label table {path.name} has no rows", hint="it needs a header line and one row per image"
        )
    columns = _trimmed(_names(lines[0][1]))
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise InputError(
            f"the label table {path.name} has two columns named {twice[0]!r}", hint="rename one of them, or take it out"
        )
    even = [(number, [cell.strip() for cell in line]) for number, line in lines[1:]]
    fitting = [line for _, line in even if _fits(line, columns)]
    crooked = tuple((number, len(_trimmed(tuple(line)))) for number, line in even if not _fits(line, columns))
    if not fitting:
        raise InputError(
            f"every line of the label table {path.name} has another number of cells than its header, which has "
            f"{len(columns)} columns; line {crooked[0][0]} has {crooked[0][1]}",
            hint="name every column in the header; put values that hold a comma in quotation marks",
        )
    rows = tuple(dict(zip(columns, [*line, *[""] * len(columns)], strict=False)) for line in fitting)
    return Table(path.name, columns, rows, crooked)


def _decoded(data: bytes, *, whole: bool = True) -> str:
    """The text by the mark at its start: UTF-16 in either order, else UTF-8. Without a mark nobody knows UTF-16, whose
    NULs would pass for UTF-8. Where `data` is not `whole`, a sign that is cut off at its end is left out.

    Raises UnicodeDecodeError.
    """
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = codecs.getincrementaldecoder("utf-16" if marked else "utf-8-sig")().decode(data, final=whole)
    if "\0" in text:
        raise UnicodeDecodeError("utf-8", data[:1], 0, 1, "a NUL in a text")
    return text


def _one_kind_of_line(text: str) -> str:
    """The text with line feeds alone at the ends of lines: some spreadsheets write carriage returns."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _names(cells: list[str]) -> tuple[str, ...]:
    return tuple(cell.strip().lower() for cell in cells)


def _trimmed(cells: tuple[str, ...]) -> tuple[str, ...]:
    """The cells without empty ones at the end: spreadsheets write those."""
    count = len(cells)
    while count and not cells[count - 1]:
        count -= 1
    return cells[:count]


def _fits(line: list[str], columns: tuple[str, ...]) -> bool:
    """Whether a line has a cell for every column, and nothing beyond the last."""
    return len(line) >= len(columns) and not any(line[len(columns) :])


def _delimiter(line: str) -> str:
    return max(",;\t|", key=line.count)
