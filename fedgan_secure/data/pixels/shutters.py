"""Apply a file's display shutter (PS3.3 C.7.6.11, C.7.6.15): what it hides is not part of the picture.

Every shape is applied, and what any of them hides is hidden. A shutter that cannot be applied exactly sets its file
aside: what it hides may name the patient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgan_secure.data.pixels.pictures import Unreadable

MAXIMUM_CORNERS = 1024
UNKNOWN = "its display shutter is incomplete or of an unknown shape"
Mask = NDArray[np.bool_]


def apply_shutter(source: Any, dataset: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8 `pixels` [h,w] or [h,w,3] with all that the shutter in `source` hides set to its value, or black.

    `source` is the data set or the functional group that holds the shutter. Raises :class:`Unreadable` for a shutter
    that is incomplete, of an unknown shape, or round on pixels that are not square.
    """
    shapes = source.get("ShutterShape", None)
    if shapes is None or shapes == "":
        if any(name in source for name in ("ShutterLeftVerticalEdge", "CenterOfCircularShutter",
                                           "VerticesOfThePolygonalShutter", "ShutterOverlayGroup")):  # fmt: skip
            raise Unreadable(UNKNOWN)
        return pixels
    visible = np.ones(pixels.shape[:2], np.bool_)
    for shape in [shapes] if isinstance(shapes, str) else shapes:
        draw = _SHAPES.get(str(shape).strip().upper())
        if draw is None:
            raise Unreadable(UNKNOWN)
        try:
            visible &= draw(source, dataset, visible.shape)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            raise Unreadable(UNKNOWN) from None
    value = int(source.get("ShutterPresentationValue", None) or 0) >> 8 if pixels.ndim == 2 else 0
    return np.where(visible if pixels.ndim == 2 else visible[:, :, None], pixels, np.uint8(value))


def _rectangle(source: Any, _dataset: Any, shape: tuple[int, ...]) -> Mask:
    """Visible from edge to edge, rows and columns counted from 1 (0 and one beyond are edges outside)."""
    rows, columns = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    left, right = int(source.ShutterLeftVerticalEdge), int(source.ShutterRightVerticalEdge)
    upper, lower = int(source.ShutterUpperHorizontalEdge), int(source.ShutterLowerHorizontalEdge)
    return np.asarray((rows >= upper) & (rows <= lower) & (columns >= left) & (columns <= right))


def _circle(source: Any, dataset: Any, shape: tuple[int, ...]) -> Mask:
    for name in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        pair = dataset.get(name, None)
        if pair and float(pair[0]) != float(pair[1]):
            raise Unreadable("a round shutter on pixels that are not square")
    rows, columns = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    row, column = (int(value) for value in source.CenterOfCircularShutter)
    radius = int(source.RadiusOfCircularShutter)
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


def _polygon(source: Any, _dataset: Any, shape: tuple[int, ...]) -> Mask:
    """Visible inside, by the parity of crossings to the right; a pixel counts by its centre."""
    numbers = [int(value) for value in source.VerticesOfThePolygonalShutter]
    if len(numbers) < 6 or len(numbers) % 2 or len(numbers) > 2 * MAXIMUM_CORNERS:
        raise Unreadable(UNKNOWN)
    corners = list(zip(numbers[::2], numbers[1::2], strict=True))
    inside = np.zeros(shape, np.bool_)
    columns = np.arange(1, shape[1] + 1)
    for (row1, column1), (row2, column2) in zip(corners, corners[1:] + corners[:1], strict=True):
        low, high = sorted((row1, row2))
        for row in range(max(1, low), min(shape[0] + 1, high)):
            inside[row - 1] ^= columns < column1 + (row - row1) * (column2 - column1) / (row2 - row1)
    return inside


def _bitmap(source: Any, dataset: Any, shape: tuple[int, ...]) -> Mask:
    """Hidden where the overlay named by the shutter has a 1."""
    group = int(source.ShutterOverlayGroup)
    if not 0x6000 <= group <= 0x60FE or group % 2:
        raise Unreadable(UNKNOWN)
    rows, columns = int(dataset[group, 0x0010].value), int(dataset[group, 0x0011].value)
    top, left = (int(value) - 1 for value in dataset[group, 0x0050].value)
    frames = dataset.get((group, 0x0015), None)
    if (frames is not None and int(frames.value or 1) != 1) or int(dataset[group, 0x0102].value) != 0:
        raise Unreadable("its display shutter is an overlay of several frames, or in the unused bits of its pixels")
    packed = np.frombuffer(dataset[group, 0x3000].value, np.uint8)
    if dataset[group, 0x3000].VR == "OW" and not dataset.file_meta.TransferSyntaxUID.is_little_endian:
        packed = packed.view(np.uint16).byteswap().view(np.uint8)
    bits = np.unpackbits(packed, bitorder="little")
    plane = bits[: rows * columns].reshape(rows, columns).astype(np.bool_)
    visible = np.ones(shape, np.bool_)
    whole = np.zeros((shape[0] + 2 * rows, shape[1] + 2 * columns), np.bool_)
    y, x = top + rows, left + columns
    if 0 <= y <= shape[0] + rows and 0 <= x <= shape[1] + columns:
        whole[y : y + rows, x : x + columns] = plane
        visible &= ~whole[rows : rows + shape[0], columns : columns + shape[1]]
    return visible


_SHAPES: dict[str, Callable[[Any, Any, tuple[int, ...]], Mask]] = {
    "RECTANGULAR": _rectangle,
    "CIRCULAR": _circle,
    "POLYGONAL": _polygon,
    "BITMAP": _bitmap,
}
