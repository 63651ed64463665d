"""Read and apply the look-up tables of a DICOM file (PS3.3 C.11.1, C.11.2, C.7.6.3.1.5, C.7.6.3.1.6).

A table is read from its bytes, by the byte order of its file and the width that its own descriptor gives; what does not
fit its descriptor is no table, and its file is set aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.tag import Tag

from fedgan_secure.data.pixels.pictures import Unreadable

_DESCRIPTOR, _DATA = 0x00283002, 0x00283006
_COLOURS = ("red", "green", "blue")
_PALETTE_DESCRIPTORS, _PALETTE_DATA = 0x00281101, 0x00281201
_SEGMENTED = range(0x00281221, 0x00281225)
_ALPHA = (0x00281104, 0x00281204)


@dataclass(frozen=True)
class Table:
    """`entries` int64[n] of `bits` bits each; `first` is the input value that the first entry belongs to."""

    first: int
    bits: int
    entries: NDArray[np.int64]

    @property
    def highest(self) -> float:
        """Return the greatest entry that the number of bits allows."""
        return float(2**self.bits - 1)

    def look_up(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the entries of integer `values`; below the table counts its first entry, above it its last."""
        places = np.clip(values.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries.take(places)


def table_of(item: Any, kind: str, low: float, high: float) -> Table:
    """Read the table of a modality or VOI LUT item whose inputs lie between `low` and `high`.

    `kind` names the table in the reason. Raises :class:`Unreadable` where data and descriptor do not fit.
    """
    return _table(item, (_DESCRIPTOR, _DATA), kind, low, high)


def palette_of(dataset: Any, low: float, high: float) -> tuple[Table, Table, Table]:
    """Read a file's red, green and blue palettes, for stored values between `low` and `high`.

    Raises :class:`Unreadable` for palettes that are missing, segmented, transparent, or do not fit their descriptor.
    """
    if any(tag in dataset for tag in _SEGMENTED):
        raise Unreadable("its palette is segmented")
    if any(tag in dataset for tag in _ALPHA):
        raise Unreadable("its palette has transparency")
    red, green, blue = (
        _table(dataset, (_PALETTE_DESCRIPTORS + at, _PALETTE_DATA + at), f"{colour} palette", low, high)
        for at, colour in enumerate(_COLOURS)
    )
    tables = (red, green, blue)
    if any(table.bits > 8 for table in tables) and 0 < max(int(table.entries.max()) for table in tables) < 256:
        raise Unreadable("its palette claims more than 8 bits an entry and uses 8: its range is unknown")
    return tables


def _table(source: Any, tags: tuple[int, int], kind: str, low: float, high: float) -> Table:
    descriptor = _words(source, tags[0], kind)
    if len(descriptor) != 3:
        raise Unreadable(f"the descriptor of its {kind} holds {len(descriptor)} numbers, expected 3")
    count, first, bits = (int(value) for value in descriptor)
    count = count or 65536
    if not 8 <= bits <= 16:
        raise Unreadable(f"its {kind} has {bits} bits an entry, expected 8 to 16")
    return Table(_first(first, count, kind, low, high), bits, _entries(source, tags[1], kind, count, bits))


def _first(raw: int, count: int, kind: str, low: float, high: float) -> int:
    """The first input, whose 16 bits may be signed or not: the reading that meets the inputs that can occur."""
    if raw < 0x8000:
        return raw
    meets = [value for value in (raw, raw - 0x10000) if value <= high and value + count > low]
    if len(meets) != 1:
        raise Unreadable(f"whether the first input of its {kind} is signed cannot be told")
    return meets[0]


def _entries(source: Any, tag: int, kind: str, count: int, bits: int) -> NDArray[np.int64]:
    words = _words(source, tag, kind)
    if len(words) == count:
        entries = words.astype(np.int64)
    elif bits == 8 and len(words) == (count + 1) // 2:
        entries = words.astype("<u2").view(np.uint8)[:count].astype(np.int64)
    else:
        raise Unreadable(f"its {kind} holds {len(words)} words, expected {count} entries of {bits} bits")
    if int(entries.max()) >= 2**bits:
        raise Unreadable(f"its {kind} holds entries of more than the {bits} bits that it claims")
    return entries


def _words(source: Any, tag: int, kind: str) -> NDArray[np.uint16]:
    """The 16-bit words of an element as they lie in its file, whatever its VR: uint16[n]."""
    element = source.get_item(Tag(tag)) if tag in source else None
    if element is None or element.value is None:
        raise Unreadable(f"its {kind} is incomplete")
    value, is_bytes = element.value, isinstance(element.value, bytes | bytearray)
    if not is_bytes:
        return np.atleast_1d(np.asarray(value, dtype=np.int64)).astype(np.uint16)
    little = getattr(element, "is_little_endian", True)
    if len(value) % 2 or not value:
        raise Unreadable(f"its {kind} is incomplete")
    if element.VR == "OB":
        little = True
    return np.frombuffer(value, "<u2" if little else ">u2").astype(np.uint16)
