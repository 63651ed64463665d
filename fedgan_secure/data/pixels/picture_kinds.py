"""Make uint8 grey or RGB of an open picture, for the kinds whose range and colours its format itself says.

What is transparent is not part of the picture: it is composed on black, as libtiff's tiff2rgba does. Every other kind
is refused with its name, so that no library's habit decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BITS, _PHOTOMETRIC, _FORMAT, _EXTRA, _COLOURS = 258, 262, 339, 338, 320
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_PHOTOMETRICS = {4: "mask", 5: "CMYK", 8: "LAB", 9: "LAB", 10: "LAB", 32803: "mosaic", 32844: "LogL", 32845: "LogLuv"}
_TIFF_KINDS: dict[int, set[tuple[int, ...]]] = {
    _WHITE_IS_ZERO: {(1,), (2,), (4,), (8,), (16,)},
    _BLACK_IS_ZERO: {(1,), (2,), (4,), (8,), (16,), (8, 8), (16, 16)},
    _RGB: {(8,) * 3, (16,) * 3, (8,) * 4, (16,) * 4},
    _PALETTE: {(1,), (2,), (4,), (8,)},
    _YCBCR: {(8,) * 3},
}
_MOST_PAGES = 64
_REDUCED = 254
"""The tag NewSubfileType of TIFF; its lowest bit marks a smaller copy of another page (TIFF 6.0, section 8)."""
SEVERAL = "it holds several pictures (pages or an animation), and nothing says which one is meant"
CMYK = "CMYK colours have no fixed RGB"
FLOATING = "floating-point pixels have no known range"


class UnknownKind(Exception):  # noqa: N818 - the reason goes to the person as it is
    """A picture of a kind whose pixels cannot be told for sure; the message is the reason."""


def check_kind(image: Image.Image) -> None:
    """Raise :class:`UnknownKind` for an opened picture, not yet decoded, of a kind that is not read."""
    _check_pages(image)
    if image.mode == "F":
        raise UnknownKind(FLOATING)
    if image.mode == "CMYK":
        raise UnknownKind(CMYK)
    if image.format == "TIFF":
        _check_tiff(image)
    if image.format == "BMP":
        _check_bmp(image)


def _check_pages(image: Any) -> None:
    """Refuse an animation or several pages; smaller copies of the first page (TIFF, MPO) are no pages of their own."""
    count = int(getattr(image, "n_frames", 1))
    if count == 1 or image.format == "MPO":
        return
    if image.format == "TIFF" and count <= _MOST_PAGES:
        reduced = 0
        for number in range(1, count):
            image.seek(number)
            reduced += int(image.tag_v2.get(_REDUCED, 0)) & 1
        image.seek(0)
        if reduced == count - 1:
            return
    raise UnknownKind(SEVERAL)


def _check_tiff(image: Any) -> None:
    tags = image.tag_v2
    photometric = int(tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO))
    bits = tuple(int(value) for value in _several(tags.get(_BITS, 1)))
    formats = {int(value) for value in _several(tags.get(_FORMAT, 1))}
    extra = tuple(int(value) for value in _several(tags.get(_EXTRA, ())))
    if 3 in formats:
        raise UnknownKind(FLOATING)
    if formats != {1}:
        raise UnknownKind("a TIFF whose samples are signed or of an unknown type has no known range")
    if photometric not in _TIFF_KINDS:
        raise UnknownKind(f"a TIFF with {_PHOTOMETRICS.get(photometric, 'unknown')} colours is not read")
    if bits not in _TIFF_KINDS[photometric]:
        raise UnknownKind(f"a TIFF with {' + '.join(map(str, bits))} bits of this kind is not read")
    plain = 3 if photometric in (_RGB, _YCBCR) else 1
    if len(bits) > plain and extra not in (((1,), (2,)) if plain == 3 else ((1,),)):
        raise UnknownKind("a TIFF with an extra channel of which it is unsure what it hides")
    colours = tags.get(_COLOURS)
    if photometric == _PALETTE and colours is not None and 0 < max(_several(colours)) < 256:
        raise UnknownKind("its palette has 8 bits where 16 are due: its range is unknown")


def _check_bmp(image: Any) -> None:
    """A fourth byte is "reserved" in the format and alpha for some programs: it must hide nothing either way."""
    for _, _, offset, arguments in image.tile:
        mode = str(arguments[0] if isinstance(arguments, tuple) else arguments)
        if mode in ("BGRX", "BGRA"):
            place = image.fp.tell()
            image.fp.seek(offset)
            fourth = image.fp.read(image.width * image.height * 4)[3::4]
            image.fp.seek(place)
            if set(fourth) not in ({0}, {255}) or (mode == "BGRA" and set(fourth) != {255}):
                raise UnknownKind("a BMP whose fourth channel may be transparency")


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def transparent_value(image: Image.Image) -> tuple[int, ...] | None:
    """Return what an opened PNG declares transparent (tRNS), in the scale that Pillow decodes samples to.

    None without one, and for palettes, whose transparency Pillow keeps. Raises :class:`UnknownKind` for 16-bit colours,
    of which Pillow keeps half the bits.
    """
    value: Any = image.info.get("transparency")
    if value is None or image.mode in ("P", "PA"):
        return None
    if isinstance(value, bytes):
        raise UnknownKind("what it declares transparent is of an unknown kind")
    if image.format == "GIF" and image.mode == "L":
        return (int(value),)
    depth = _png_depth(image)
    if depth == 1:
        return (255 if value else 0,)
    if image.mode == "RGB":
        if depth == 16:
            raise UnknownKind("a colour of 16 bits that is declared transparent is not read")
        return tuple(int(one) for one in value)
    return (int(value) * (255 // (2**depth - 1)) if depth < 8 else int(value),)


def _png_depth(image: Any) -> int:
    if image.format != "PNG" or image.fp is None:
        raise UnknownKind("what it declares transparent is of an unknown kind")
    place = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(26)
    image.fp.seek(place)
    return int(head[24])


def check_transparency(image: Image.Image, deep: bool) -> None:
    """Raise :class:`UnknownKind` where a decoded picture of 16 bits is transparent in part: Pillow keeps 8 of them."""
    if deep and image.mode in ("LA", "RGBA"):
        alpha = np.asarray(image)[:, :, -1]
        if not np.isin(alpha, (0, 255)).all():
            raise UnknownKind("colours of 16 bits that are transparent in part are not read")


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture is a PNG of 16 bits a sample."""
    return image.format == "PNG" and _png_depth(image) == 16


def pixels_of(image: Image.Image, transparent: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """Return uint8[h,w] or uint8[h,w,3] of a decoded picture that :func:`check_kind` took.

    16 bits are scaled by the bounds of their type. `transparent`: see :func:`transparent_value`.
    """
    if image.mode.startswith("I"):
        grey = _sixteen_bits(image)
    elif image.mode in ("1", "L"):
        grey = np.asarray(image.convert("L"), dtype=np.uint8)
    elif image.mode in ("LA", "La"):
        return _composed(np.asarray(image), image.mode == "La")[:, :, 0]
    elif image.mode in ("RGBA", "PA") or (image.mode == "P" and "transparency" in image.info):
        return _composed(np.asarray(image if image.mode == "RGBA" else image.convert("RGBA")), False)
    elif image.mode in ("P", "RGB", "YCbCr"):
        colours = np.asarray(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)
        if transparent is None:
            return colours
        return np.where((colours == np.array(transparent)).all(axis=2)[:, :, None], np.uint8(0), colours)
    else:
        raise UnknownKind(f"pixels of the kind {image.mode} are not read")
    if transparent is None:
        return grey
    stored = np.asarray(image).astype(np.int64) if image.mode.startswith("I") else grey
    return np.where(stored == transparent[0], np.uint8(0), grey)


def _sixteen_bits(image: Any) -> NDArray[np.uint8]:
    if image.mode == "I" and image.format != "PPM":
        raise UnknownKind("32-bit pixels are not read")
    values = np.asarray(image).astype(np.int64)
    levels = np.clip((values * 255 + 32767) // 65535, 0, 255).astype(np.uint8)
    white = image.format == "TIFF" and int(image.tag_v2.get(_PHOTOMETRIC, _WHITE_IS_ZERO)) == _WHITE_IS_ZERO
    return np.asarray(255 - levels if white else levels, dtype=np.uint8)


def _composed(samples: NDArray[np.uint8], multiplied: bool) -> NDArray[np.uint8]:
    """The colours of uint8[h,w,2 or 4] on black; `multiplied`: they have been multiplied by alpha already."""
    colours, alpha = samples[:, :, :-1], samples[:, :, -1:]
    if multiplied:
        return np.ascontiguousarray(np.minimum(colours, alpha))
    return ((colours.astype(np.uint32) * alpha + 127) // 255).astype(np.uint8)
