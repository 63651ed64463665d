"""Is a sample sheet what the published generator draws, and nothing else besides?"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from fedgan_secure.synthesis import contact_sheet, png_bytes

SLACK = 0.01
"""Grey levels that another machine draws from the same weights differ by less than this before they are rounded."""
LONGER = 65_536
"""A sheet's file may be so many bytes longer than the one this machine would write."""

Draw = Callable[[], np.ndarray]


def objections_to_sheet(png: bytes, draw: Draw, columns: int, names: Sequence[str] | None) -> list[str]:
    """Compare a sheet with what this party draws itself; an empty list where it may be published.

    Every pixel must be the own one, or the other rounding of a grey level that lies within `SLACK` of the middle
    between two; and the file must be, to the byte, the one that this software writes of those pixels.

    Args:
        png: the file, of a party that is not trusted.
        draw: gives the sheet's pictures, float32[n, H, W, C], grey levels from 0 to 255 before rounding.
        columns: of the sheet.
        names: of the pictures' labels, as the sheet shows them.
    """
    levels = draw()
    lowest, own, highest = (_sheet(levels + shift, columns, names) for shift in (-SLACK, 0.0, SLACK))
    expected = png_bytes(own)
    if png == expected:
        return []
    if len(png) > len(expected) + LONGER:
        return [f"the sample sheet has {len(png)} bytes, expected about {len(expected)}"]
    try:
        picture = Image.open(io.BytesIO(png), formats=["PNG"])
        if picture.size != own.size or picture.mode != own.mode:
            return [f"the sample sheet is {picture.size} {picture.mode}, expected {own.size} {own.mode}"]
        found = np.asarray(picture, np.int16)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return ["the sample sheet cannot be read as a PNG picture"]
    wrong = int(((found < np.asarray(lowest)) | (found > np.asarray(highest))).any(axis=-1).sum())
    if wrong:
        return [f"{wrong} pixels of the sample sheet are not what the published generator draws"]
    if png_bytes(Image.fromarray(found.astype(np.uint8))) != png:
        return ["the sample sheet's file holds more than its pixels, or another version of the software wrote it"]
    return []


def _sheet(levels: np.ndarray, columns: int, names: Sequence[str] | None) -> Image.Image:
    return contact_sheet(np.clip(np.rint(levels), 0, 255).astype(np.uint8), columns, names)
