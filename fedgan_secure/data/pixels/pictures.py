"""Read an ordinary picture file (JPEG, PNG, TIFF, BMP) into uint8 pixels, and nothing but the pixels.

EXIF and every other header stay in the file: only its orientation is applied. A picture whose header announces more
pixels than `MAXIMUM_PIXELS` is refused before it is decoded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from fedgan_secure.data.identifiers.identifiers import HeaderFacts, picture_facts

MAXIMUM_PIXELS = 64 * 1024 * 1024
MAXIMUM_FILE_BYTES = 512 * 1024 * 1024
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".bmp", ".ppm", ".pgm"})


class Unreadable(Exception):  # noqa: N818 - the reason goes to the person as it is
    """This one file cannot be used; the message is the reason, without any content of the file."""


@contextmanager
def _whole_files() -> Iterator[None]:
    """A truncated picture is broken, also where another library told Pillow to fill in what is missing."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_picture(path: Path) -> tuple[NDArray[np.uint8], HeaderFacts]:
    """uint8[h,w] or uint8[h,w,3] of the first frame, and which headers the file has.

    16-bit grey is scaled by the bounds of its type, never by its own content. Raises
    :class:`Unreadable` with the reason.
    """
    try:
        if path.stat().st_size > MAXIMUM_FILE_BYTES:
            raise Unreadable(f"the file is larger than {MAXIMUM_FILE_BYTES // 2**20} MiB")
        with warnings.catch_warnings(), _whole_files():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAXIMUM_PIXELS:
                    raise Unreadable(f"{image.width} x {image.height} pixels are more than the limit allows")
                image.load()  # a PNG may name its text and EXIF behind the pixels
                facts = picture_facts(image)
                ImageOps.exif_transpose(image, in_place=True)
                return _pixels(image), facts
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not a picture in a known format (JPEG, PNG, TIFF, BMP)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unreadable("its header announces more pixels than the limit allows") from None
    except PermissionError:
        raise Unreadable("no permission to read it") from None
    except MemoryError:
        raise Unreadable("decoding it needs more memory than there is") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on a hostile file; the run must go on
        raise Unreadable(f"broken or truncated ({type(error).__name__})") from None


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        return np.clip((values * 255 + 32767) // 65535, 0, 255).astype(np.uint8)
    if image.mode == "F":
        raise Unreadable("floating-point pixels have no known range")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"), dtype=np.uint8)
    if image.mode == "LA":
        return np.asarray(image.convert("RGBA").convert("RGB").convert("L"), dtype=np.uint8)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)
