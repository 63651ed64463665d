"""Which decoder takes which compressed DICOM transfer syntax, and what is checked before it sees a byte.

One decoder per syntax, so that every hospital gets the same pixels from the same file: Pillow for JPEG baseline, GDCM
for the rest of JPEG (extended to 12 bits, lossless), JPEG-LS and JPEG 2000; run lengths are decoded by pydicom itself.
A codestream that announces more pixels than the header of its file is refused before it is decoded, and GDCM runs in a
process of its own (:mod:`gdcm_process`). Registered with pydicom's own interface for plugins, under the name
:data:`PLUGIN`.
"""

from __future__ import annotations

from typing import Any

from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders import gdcm as pydicom_gdcm
from pydicom.pixels.decoders import pillow as pydicom_pillow

from fedgan_secure.data.pixels.gdcm_process import Decoder

PLUGIN = "fedgan-secure"
WRONG_SIZE = "the codestream announces another size than the header"
WRONG_PRECISION = "the codestream's samples do not fit the header's bits and sign"
BY_PILLOW = (uid.JPEGBaseline8Bit,)
BY_GDCM = (
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
)
DECODER_DEPENDENCIES = dict.fromkeys((*BY_PILLOW, *BY_GDCM), ("pillow>=10.0", "gdcm>=3.0.10"))
_GDCM = Decoder()
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


def is_available(syntax: str) -> bool:
    """Whether the decoder of a transfer syntax is installed (pydicom asks this of every plugin)."""
    if syntax in BY_PILLOW:
        return bool(pydicom_pillow.is_available(syntax))
    return syntax in BY_GDCM and bool(pydicom_gdcm.is_available(syntax))


def plugin_for(syntax: str) -> str:
    """The name to give pydicom as decoding plugin: ours, or "" where pydicom's own decoder is meant."""
    return PLUGIN if syntax in DECODER_DEPENDENCIES else ""


def decode_frame(source: bytes, runner: Any) -> bytes:
    """One frame of a compressed picture as raw bytes. Raises ValueError or whatever the decoder raises."""
    size = announced_size(source, jpeg_2000=runner.transfer_syntax in _JPEG_2000)
    if size is not None and size != (runner.rows, runner.columns):
        raise ValueError(WRONG_SIZE)
    _check_precision(source, runner)
    if runner.transfer_syntax in BY_PILLOW:
        return bytes(pydicom_pillow._decode_frame(source, runner))
    return _by_gdcm(source, runner)


def announced_size(source: bytes, *, jpeg_2000: bool) -> tuple[int, int] | None:
    """(rows, columns) by the codestream's own header (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2, 15444-1 A.5.1).

    None where no such header is found: then the decoder says what is wrong.
    """
    if jpeg_2000:
        start = source.find(b"\xff\x4f\xff\x51", 0, 65536)
        if start < 0 or len(source) < start + 24:
            return None
        x, y, x0, y0 = (int.from_bytes(source[start + at : start + at + 4], "big") for at in (8, 12, 16, 20))
        return y - y0, x - x0
    place = _frame_header(source)
    if place is None:
        return None
    return int.from_bytes(source[place + 5 : place + 7], "big"), int.from_bytes(source[place + 7 : place + 9], "big")


def _frame_header(source: bytes) -> int | None:
    """Where the frame header's marker of a JPEG or JPEG-LS codestream begins."""
    place = 2
    while place + 9 <= len(source):
        if source[place] != 0xFF:
            return None
        marker = source[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in _FRAME_HEADERS:
            return place
        else:
            place += 2 + int.from_bytes(source[place + 2 : place + 4], "big")
    return None


def announced_precision(source: bytes, *, jpeg_2000: bool) -> tuple[int, bool] | None:
    """(bits a sample, whether the codestream itself has a sign) by the codestream's own header, or None without one."""
    if jpeg_2000:
        start = source.find(b"\xff\x4f\xff\x51", 0, 65536)
        if start < 0 or len(source) < start + 43:
            return None
        return (source[start + 42] & 0x7F) + 1, source[start + 42] >= 0x80
    place = _frame_header(source)
    return None if place is None else (source[place + 4], False)


def _check_precision(source: bytes, runner: Any) -> None:
    """Refuse samples of which the header and the codestream leave open where they lie or what their sign is.

    A codestream at least as wide as the header's bits is cut to them later; a narrower one has the values that it says,
    unless one of the two has a sign and the other cannot say so.
    """
    said = announced_precision(source, jpeg_2000=runner.transfer_syntax in _JPEG_2000)
    if said is None:
        return
    precision, signed = said
    narrower = precision < runner.bits_stored and signed != bool(runner.pixel_representation)
    if narrower or precision > max(8, runner.bits_allocated):
        raise ValueError(WRONG_PRECISION)


def _by_gdcm(source: bytes, runner: Any) -> bytes:
    """Ask GDCM's own process, and tell pydicom in which form the pixels come back.

    JPEG-LS comes back by pixel; the precision of a JPEG-LS or JPEG 2000 codestream decides how wide a sample is; the
    reversible and irreversible colour transforms of JPEG 2000 come back undone.
    """
    syntax, stored = runner.transfer_syntax, runner.bits_stored
    if syntax in _JPEG_LS:
        runner.set_option("planar_configuration", 0)
        stored = runner.get_option("jls_precision", stored)
        if stored in (6, 7) or (syntax == uid.JPEGLSNearLossless and runner.pixel_representation == 1 and stored < 8):
            raise ValueError(f"GDCM does not decode JPEG-LS with {stored} bits")
    elif syntax in _JPEG_2000:
        stored = runner.get_option("j2k_precision", stored)
    if syntax in _JPEG_LS or syntax in _JPEG_2000:
        runner.set_option("bits_allocated", 8 if stored <= 8 else 16 if stored <= 16 else 32)
    photometric = str(runner.photometric_interpretation)
    decoded = _GDCM.decode(
        source,
        {
            "rows": runner.rows,
            "columns": runner.columns,
            "samples": runner.samples_per_pixel,
            "planar": runner.planar_configuration if runner.samples_per_pixel > 1 else 0,
            "allocated": runner.bits_allocated,
            "stored": stored,
            "representation": runner.pixel_representation,
            "photometric": photometric,
            "syntax": str.__str__(syntax),
        },
    )
    if syntax in _JPEG_2000 and photometric in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")
    return decoded


def _register() -> None:
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))


_register()
