"""Read an ordinary picture file (JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000) into uint8 pixels alone.

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
from fedgan_secure.data.pixels.picture_kinds import (
    UnknownKind,
    check_kind,
    check_transparency,
    is_deep,
    pixels_of,
    transparent_value,
)

MAXIMUM_PIXELS = 64 * 1024 * 1024
MAXIMUM_FILE_BYTES = 512 * 1024 * 1024
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "PPM", "WEBP", "GIF", "JPEG2000")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pnm", ".webp", ".gif",
     ".jp2", ".j2k", ".jpx", ".jpf"}
)  # fmt: skip


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
    """uint8[h,w] or uint8[h,w,3] of the one picture in a file, and which headers the file has.

    16-bit grey is scaled by the bounds of its type, never by its own content; what is transparent is black. Raises
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
                check_kind(image)
                transparent, deep = transparent_value(image), is_deep(image)
                image.load()  # a PNG may name its text and EXIF behind the pixels
                facts = picture_facts(image)
                check_transparency(image, deep)
                ImageOps.exif_transpose(image, in_place=True)
                return pixels_of(image, transparent), facts
    except Unreadable:
        raise
    except UnknownKind as kind:
        raise Unreadable(str(kind)) from None
    except UnidentifiedImageError:
        raise Unreadable(_unknown(path)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unreadable("its header announces more pixels than the limit allows") from None
    except PermissionError:
        raise Unreadable("no permission to read it") from None
    except MemoryError:
        raise Unreadable("decoding it needs more memory than there is") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on a hostile file; the run must go on
        raise Unreadable(f"broken or truncated ({type(error).__name__})") from None


def _unknown(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(4) in (b"II*\0", b"MM\0*"):
            return "a TIFF that is broken, or of a kind that is not read"
    return "not a picture in a known format (JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000)"
