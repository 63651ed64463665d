"""From a decoder's raw samples to the values that a DICOM file means: which bits count, and which one is the sign.

Bits outside BitsStored may hold anything (an overlay, garbage; PS3.5, 8.1.1). They are cut off and the sign is carried
on here, for native and compressed pixels alike, so that no decoder's habit decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgan_secure.data.pixels.pictures import Unreadable


@dataclass(frozen=True)
class Layout:
    """Where a sample lies in its cell (PS3.3 C.7.6.3.1): all in bits, `high` counted from 0 at the lowest."""

    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the least and the greatest value that a sample can have."""
        if self.signed:
            return -float(2 ** (self.stored - 1)), float(2 ** (self.stored - 1) - 1)
        return 0.0, float(2**self.stored - 1)


def layout_of(dataset: Any) -> Layout:
    """Read how a file's samples are laid out. Raises :class:`Unreadable` where the header contradicts itself."""
    allocated = int(dataset.get("BitsAllocated", None) or 0)
    stored = int(dataset.get("BitsStored", None) or allocated)
    high = dataset.get("HighBit", None)
    high = stored - 1 if high is None else int(high)
    representation = int(dataset.get("PixelRepresentation", None) or 0)
    if allocated not in (1, 8, 16, 32):
        raise Unreadable(f"{allocated} bits allocated, expected 1, 8, 16 or 32")
    if not stored - 1 <= high < allocated or representation not in (0, 1):
        raise Unreadable(f"bits allocated {allocated}, stored {stored}, high bit {high}: they contradict each other")
    return Layout(allocated, stored, high, representation == 1)


def values_of(raw: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Return the values of raw samples (any integer type, any shape) in the type that the header allocates.

    Only the bits from `high` down to `high` - `stored` + 1 count; a signed value is extended from its own sign bit.
    """
    width = max(8, layout.allocated)
    wanted = np.dtype(f"{'i' if layout.signed else 'u'}{width // 8}")
    if layout.stored == layout.allocated or width == 8 * layout.stored:
        return raw.astype(wanted, copy=False)
    bits = raw.astype(wanted).view(f"u{width // 8}")
    left = width - 1 - layout.high
    shifted = np.left_shift(bits, left).view(wanted)
    return np.right_shift(shifted, width - layout.stored)


def holds_unused_bits(raw: NDArray[Any], layout: Layout) -> bool:
    """Return whether bits that do not count hold anything: not 0 everywhere, and not the sign carried on."""
    width = max(8, layout.allocated)
    if width == layout.stored or layout.allocated == 1:
        return False
    cells = raw.astype(f"u{width // 8}").astype(np.int64)
    lowest = layout.high + 1 - layout.stored
    counting = ((1 << layout.stored) - 1) << lowest
    above = (1 << width) - (1 << (layout.high + 1))
    unused = cells & ~counting
    sign = (cells >> layout.high) & 1 if layout.signed else np.zeros_like(cells)
    return bool(((unused != 0) & (unused != sign * above)).any())
