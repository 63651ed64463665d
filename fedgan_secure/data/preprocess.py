"""From a decoded picture to the square uint8 image that trains: one implementation for every hospital.

The names below go into a federation's policy, so that every hospital prepares its images identically; a change of the
output changes the number after the slash. Nothing here is taken from more than one image: no mean, contrast or size of
a whole data set (it would be a private statistic).

- ``fundus-crop/1``: crop to the square around the disc of the eye, then as plain.
- ``ct-abdomen-window/1``: Hounsfield units through the abdominal window, centre 40, width 400, then as plain.
- ``plain/1``: pad to a square with black, resize with antialiasing, adapt grey or colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FUNDUS = "fundus-crop/1"
CT_ABDOMEN = "ct-abdomen-window/1"
PLAIN = "plain/1"
PREPROCESSING = (FUNDUS, CT_ABDOMEN, PLAIN)
IMAGE_SIZES = (28, 64, 128)
CT_WINDOW = (40.0, 400.0)

Pixels = NDArray[np.uint8]


def preprocess(picture: Pixels, name: str, size: int, channels: int) -> Pixels:
    """uint8[size,size,channels] from a decoded uint8[h,w] or uint8[h,w,3] (already windowed, for CT).

    Deterministic, and a function of this one picture only. Resizing is Pillow's bicubic with antialiasing, in 8-bit
    fixed point. Raises ValueError for an unknown name or shape.
    """
    if name not in PREPROCESSING:
        raise ValueError(f"the preprocessing is {name!r}; known: {', '.join(PREPROCESSING)}")
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise ValueError("a picture must be uint8[h,w] or uint8[h,w,3]")
    image = Image.fromarray(picture)
    if channels == 1:
        image = image.convert("L")
    box = disc_of_the_eye(picture) if name == FUNDUS else None
    left, top, right, bottom = box if box is not None else (0, 0, image.width, image.height)
    side = max(right - left, bottom - top)
    x = left - (side - (right - left)) // 2
    y = top - (side - (bottom - top)) // 2
    if (x, y, side, side) != (0, 0, image.width, image.height):
        image = image.crop((x, y, x + side, y + side))  # black where the square leaves the picture
    if side != size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    result = np.asarray(image, dtype=np.uint8)
    if result.ndim == 2:
        result = np.repeat(result[:, :, None], channels, axis=2)
    return np.ascontiguousarray(result)


def disc_of_the_eye(picture: Pixels) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the bright disc on its black surround; None when there is no such disc.

    A row or column belongs to the disc when over 6 % of it is brighter than 12 % of the picture's own 99th percentile.
    """
    bright = picture if picture.ndim == 2 else picture.max(axis=2)
    factor = max(1, min(bright.shape) // 192)
    small = np.asarray(Image.fromarray(bright).reduce(factor)) if factor > 1 else bright
    counts = np.bincount(small.ravel(), minlength=256)
    peak = int(np.searchsorted(np.cumsum(counts), small.size * 99 // 100))
    mask = small > max(8, peak * 12 // 100)
    rows = np.flatnonzero(mask.sum(axis=1) * 100 > mask.shape[1] * 6)
    columns = np.flatnonzero(mask.sum(axis=0) * 100 > mask.shape[0] * 6)
    if not len(rows) or not len(columns):
        return None
    top, bottom = int(rows[0]) * factor, min(bright.shape[0], (int(rows[-1]) + 1) * factor)
    left, right = int(columns[0]) * factor, min(bright.shape[1], (int(columns[-1]) + 1) * factor)
    if (bottom - top) * 4 < bright.shape[0] or (right - left) * 4 < bright.shape[1]:
        return None
    return left, top, right, bottom


def to_levels(values: NDArray[np.float64], low: float, high: float) -> Pixels:
    """Map low..high to 0..255 linearly, rounding to nearest, clipping outside. uint8 of the same shape."""
    scaled = (values - low) * 255.0 / max(high - low, 1e-9)
    return np.clip(np.rint(scaled), 0.0, 255.0).astype(np.uint8)
