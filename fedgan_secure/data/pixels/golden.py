"""What preprocessing makes of fixed pictures, as a digest that goes into the policy.

Every hospital computes it and refuses to join where it differs: then its images would be prepared otherwise than the
others', by another version of this software or of Pillow. The comparison is of every bit. The pictures are made by
arithmetic on whole numbers, and preprocessing is in whole numbers too (Pillow resizes in 8-bit fixed point), so the
same versions agree on every machine, and there is no tolerance to choose. Not covered: the decoders of compressed
files, whose output may differ by a level between versions of a JPEG library.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import PIL
from numpy.typing import NDArray

from fedgan_secure.data.pixels.preprocess import (
    BY_MODALITY,
    CT_ABDOMEN,
    CT_WINDOW,
    FUNDUS,
    PLAIN,
    preprocess,
    to_levels,
)
from fedgan_secure.errors import InputError

SHAPES = ((97, 131, 3), (256, 256, 3), (64, 40, 1), (300, 211, 1), (20, 20, 3))
"""Height, width and channels of the pictures: larger and smaller than what is trained, square and not."""


def pictures() -> tuple[NDArray[np.uint8], ...]:
    """A disc with a texture on black for every entry of SHAPES: uint8[h,w] or uint8[h,w,3], the same everywhere."""
    made = []
    for number, (height, width, channels) in enumerate(SHAPES):
        rows, columns, colours = np.ogrid[:height, :width, :channels]
        texture = (rows * rows * 7 + columns * (31 + 5 * number) + rows * columns * 3 + colours * 57) % 197 + 40
        inside = (2 * rows - height) ** 2 + (2 * columns - width) ** 2 < (min(height, width) * 9 // 10) ** 2
        picture = np.where(inside, texture, (rows + columns) % 3).astype(np.uint8)
        made.append(picture[:, :, 0] if channels == 1 else picture)
    return tuple(made)


@lru_cache(maxsize=16)
def golden_digest(name: str, size: int, channels: int) -> str:
    """SHA-256, hexadecimal, over what preprocessing `name` makes of all pictures, for images of this size."""
    digest = hashlib.sha256(f"{name} {size} {channels}".encode())
    for kind in (PLAIN, FUNDUS, CT_ABDOMEN) if name == BY_MODALITY else (name,):
        for picture in pictures():
            pixels = picture
            if kind == CT_ABDOMEN:
                centre, width = CT_WINDOW
                values = picture.astype(np.float64) * 4.0 - 600.0
                pixels = to_levels(values, centre - width / 2, centre + width / 2)
            digest.update(preprocess(pixels, kind, size, channels).tobytes())
    return digest.hexdigest()


def refuse_other_preprocessing(agreed: str, name: str, size: int, channels: int) -> None:
    """Raise InputError where this machine prepares images otherwise than the policy's `agreed` digest says.

    A policy without a digest (made before there was one) is taken.
    """
    if not agreed or agreed == (found := golden_digest(name, size, channels)):
        return
    raise InputError(
        f"this machine's preprocessing {name} is not the one that the federation agreed on: the digest of its output "
        f"on fixed pictures is {found[:16]}..., expected {agreed[:16]}...",
        hint=f"use the versions that the other hospitals use (here: Pillow {PIL.__version__}, numpy {np.__version__})",
    )
