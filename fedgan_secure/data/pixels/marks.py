"""Whether a file is DICOM by its first bytes, with the mark of part 10 or without it.

A file without the mark is taken for DICOM only where nothing else could begin so: its first elements follow each other
in order with lengths that stay within the file, and one of them holds a UID of the standard's own classes or transfer
syntaxes.
"""

from __future__ import annotations

import struct
from pathlib import Path

MARK = b"DICM"
START_BYTES = 4096
_CLASSES = b"1.2.840.10008."
_SYNTAXES = b"1.2.840.10008.1.2"
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
     b"ST", b"TM", b"UI", b"UL", b"US"}
)  # fmt: skip
_FIRST_GROUPS = (0x0002, 0x0008)
_MOST_ELEMENTS = 64


def is_dicom(start: bytes) -> bool:
    """Return whether the first bytes of a file (:data:`START_BYTES` of it, or all) are those of DICOM."""
    return start[128:132] == MARK or is_without_mark(start)


def is_without_mark(start: bytes) -> bool:
    """Return whether a file without preamble and mark begins with elements and names a class of the standard."""
    return any(_names_a_class(start, order) for order in ("<", ">"))


def looks_like_dicom(path: Path) -> bool:
    """Return whether a file is DICOM by its first bytes; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(START_BYTES))
    except OSError:
        return False


def _names_a_class(start: bytes, order: str) -> bool:
    place, before = 0, (0, 0)
    for _ in range(_MOST_ELEMENTS):
        if place + 8 > len(start):
            return False
        group, number = struct.unpack_from(f"{order}HH", start, place)
        if (group, number) <= before or group not in _FIRST_GROUPS or (place == 0 and number > 0x0018):
            return False
        before = (group, number)
        header, length = _header(start, place, order)
        value = start[place + header : place + header + length]
        if (group, number) in ((0x0002, 0x0002), (0x0008, 0x0016)):
            return value.startswith(_CLASSES)
        if (group, number) == (0x0002, 0x0010) and value.startswith(_SYNTAXES):
            return True
        place += header + length
        if group == 0x0002 and start[place : place + 2] == b"\x08\x00":
            order = "<"
    return False


def _header(start: bytes, place: int, order: str) -> tuple[int, int]:
    """The lengths of an element's header and of its value, explicit or implicit."""
    kind = start[place + 4 : place + 6]
    if kind in _SHORT:
        return 8, int(struct.unpack_from(f"{order}H", start, place + 6)[0])
    if kind in _LONG and place + 12 <= len(start):
        return 12, int(struct.unpack_from(f"{order}I", start, place + 8)[0])
    return 8, int(struct.unpack_from(f"{order}I", start, place + 4)[0])
