"""Take out of compressed frames what no decoder shows: what is left are the parts that the standards name.

Only parts that a decoder needs are copied, so that a part which nobody has thought of does not come along either: of
JPEG and JPEG-LS the frame, tables and scans up to the first end of image (ISO/IEC 10918-1 annex B, 14495-1 annex C); of
JPEG 2000 the headers and tile-parts up to the first end of codestream (ISO/IEC 15444-1 annex A); of run lengths the
segments, each as long as its pixels need (DICOM PS3.5 annex G). Pixels stay bit by bit.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import get_expected_length

BROKEN = "a frame has a broken header"
BOXES = "its JPEG 2000 frames are wrapped in a file format that may hold text"
UNKNOWN = "its pixels are compressed in a way whose hidden parts are not known here"
TRUNCATED = "the pixels are truncated"
TEXT = "text stands at the end of its compressed pixels, where no decoder shows it"
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SCAN_END_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_LETTERS = re.compile(rb"[\x20-\x7e]{10,}$")
_LOOKED_AT = 64
_BLANKS = bytes(range(0x21))
"""What may follow text at an end and shows nothing: control signs and blanks."""
_FEWEST_SIGNS = 6
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_MAIN_2000 = frozenset({0x50, 0x51, 0x52, 0x53, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61})
"""Marker segments of JPEG 2000 that decide how pixels are decoded; lengths (TLM, PLM, PLT), profiles (PRF, CPF), CRG
and COM do not."""
_MAXIMUM_SEGMENTS = 15
_MARKED = 129
"""Pixels that a mark behind a segment stands for: one more than any run."""
_JPEG_LS = frozenset({uid.JPEGLSLossless, uid.JPEGLSNearLossless})
_JPEG = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1}) | _JPEG_LS
_JPEG_2000 = frozenset({uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K})
_HIERARCHICAL = frozenset({0xDE, 0xDF})
_FLOATING = {"FloatPixelData": 4, "DoubleFloatPixelData": 8}


def strip(dataset: Any) -> int:
    """Take out of a data set's pixels what no decoder shows.

    Bytes behind native pixels; and of compressed ones everything but the bare frames: fragments and an offset table of
    their own are written, so that no slack between or behind the frames is left.

    Args:
        dataset: changed in place; its pixels stay as they are, bit by bit.

    Returns:
        The number of bytes taken out.

    Raises:
        ValueError: why the frames cannot be told from what else is there.
    """
    for keyword, width in _FLOATING.items():
        if keyword in dataset:
            count = dataset.Rows * dataset.Columns * max(1, int(dataset.get("NumberOfFrames", None) or 1))
            dataset[keyword].value = dataset[keyword].value[: count * width]
    if "PixelData" not in dataset:
        return 0
    syntax = dataset.file_meta.TransferSyntaxUID
    data = dataset.PixelData
    if not syntax.is_encapsulated:
        expected = get_expected_length(dataset)
        if len(data) < expected:
            raise ValueError(TRUNCATED)
        if len(data) == expected + expected % 2 and not any(data[expected:]):
            return 0
        dataset.PixelData = data[:expected] + bytes(expected % 2)
        return int(len(data) - expected)
    count = max(1, int(dataset.get("NumberOfFrames", None) or 1))
    frames = list(generate_frames(data, number_of_frames=count))
    if len(frames) < count:
        raise ValueError(TRUNCATED)
    bare = [_bare(dataset, syntax, frame) for frame in frames[:count]]
    dataset.PixelData = encapsulate(bare)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return max(0, len(data) - len(dataset.PixelData))


def _bare(dataset: Any, syntax: Any, frame: bytes) -> bytes:
    if syntax in _JPEG:
        return bare_jpeg(frame, lossless_ls=syntax in _JPEG_LS)
    if syntax in _JPEG_2000:
        return bare_jpeg_2000(frame)
    pixels, samples, width = dataset.Rows * dataset.Columns, dataset.SamplesPerPixel, dataset.BitsAllocated // 8
    if syntax == uid.RLELossless:
        return bare_run_lengths(frame, segments=samples * width, pixels=pixels)
    if syntax == uid.EncapsulatedUncompressedExplicitVRLittleEndian and width:
        if len(frame) < pixels * samples * width:
            raise ValueError(TRUNCATED)
        return frame[: pixels * samples * width]
    raise ValueError(UNKNOWN)


def bare_jpeg(frame: bytes, *, lossless_ls: bool) -> bytes:
    """Return a JPEG or JPEG-LS codestream with nothing but its frame, tables and scans.

    Comments, application segments (save the colour transforms of Adobe and HP, cut to their own length), segments of
    unknown kind, bytes behind the tables within a segment and all behind the end of image are gone.

    Raises:
        ValueError: it does not begin as JPEG does, a segment is broken, or text stands at the end of a scan.
    """
    if not frame.startswith(b"\xff\xd8"):
        raise ValueError("a frame does not begin as JPEG does")
    kept, place, scanned = [frame[:2]], 2, False
    end_of_scan = _SCAN_END_LS if lossless_ls else _SCAN_END
    while place + 1 < len(frame):
        if frame[place] != 0xFF:
            raise ValueError(BROKEN)
        marker = frame[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker == 0xD9:
            break
        length = int.from_bytes(frame[place + 2 : place + 4], "big")
        body = frame[place + 4 : place + 2 + length]
        if length < 2 or len(body) != length - 2:
            raise ValueError(BROKEN)
        needed = _needed(marker, body)
        if needed is not None:
            kept += [frame[place : place + 2], (len(needed) + 2).to_bytes(2, "big"), needed]
        place += 2 + length
        if marker == 0xDA:
            scanned = True
            found = end_of_scan.search(frame, place)
            stop = found.start() if found else len(frame)
            _refuse_text(frame[place:stop])
            kept.append(frame[place:stop])
            place = stop
    if not scanned:
        raise ValueError(BROKEN)
    return b"".join([*kept, b"\xff\xd9"])


def _needed(marker: int, body: bytes) -> bytes | None:
    """What a decoder takes of a segment's body; None where it takes nothing."""
    if marker in _HIERARCHICAL or (marker == 0xF8 and body[:1] != b"\x01"):
        raise ValueError(BROKEN)
    if marker == 0xEE:
        return body[:12] if body.startswith(b"Adobe") else None
    if marker == 0xE8:
        return body[:5] if body.startswith(b"mrfx") else None
    if marker in _FRAMES:
        return _exact(body, 6 + 3 * body[5] if len(body) > 5 else 6)
    if marker == 0xDA:
        return _exact(body, 4 + 2 * body[0] if body else 1)
    if marker == 0xDB:
        return body[: _tables(body, lambda at: 129 if body[at] >> 4 else 65)]
    if marker == 0xC4:
        return body[: _tables(body, lambda at: 17 + sum(body[at + 1 : at + 17]))]
    if marker in (0xDC, 0xDD):
        return _exact(body, 2) if marker == 0xDC else body[:4]
    return body[:11] if marker == 0xF8 else None


def _exact(body: bytes, length: int) -> bytes:
    if len(body) < length:
        raise ValueError(BROKEN)
    return body[:length]


def _tables(body: bytes, size_at: Callable[[int], int]) -> int:
    """How many bytes of a segment are whole tables, one after the other."""
    place = 0
    while place < len(body) and place + size_at(place) <= len(body):
        place += size_at(place)
    return place


def _refuse_text(data: bytes) -> None:
    """Refuse entropy-coded data that end with printable text: a decoder stops before it when all pixels are there."""
    found = _LETTERS.search(data.rstrip(_BLANKS)[-_LOOKED_AT:])
    if found and len(set(found.group())) >= _FEWEST_SIGNS:
        raise ValueError(TEXT)


def bare_jpeg_2000(frame: bytes) -> bytes:
    """Return a JPEG 2000 codestream with nothing but the headers that decide on pixels and its tile-parts.

    Raises:
        ValueError: with :data:`BOXES`, where a header is broken, or where text stands at the end of a tile-part.
    """
    if not frame.startswith(b"\xff\x4f\xff\x51"):
        raise ValueError(BOXES)
    kept, place = [frame[:2]], 2
    place = _headers(frame, place, b"\xff\x90", kept)
    while frame[place : place + 2] == b"\xff\x90":
        start, length = place, int.from_bytes(frame[place + 6 : place + 10], "big")
        stop = start + length if length else _end_of_codestream(frame, start)
        if stop > len(frame):
            raise ValueError(TRUNCATED)
        header: list[bytes] = []
        place = _headers(frame, start + 12, b"\xff\x93", header)
        if place > stop:
            raise ValueError(BROKEN)
        _refuse_text(frame[place:stop])
        parts = b"".join(header) + frame[place:stop]
        whole = (12 + len(parts)).to_bytes(4, "big")
        kept += [frame[start : start + 6], whole, frame[start + 10 : start + 12], parts]
        place = stop
    if len(kept) < 3:
        raise ValueError(BROKEN)
    return b"".join([*kept, b"\xff\xd9"])


def _headers(frame: bytes, place: int, until: bytes, kept: list[bytes]) -> int:
    """Copy the needed segments from `place` up to the marker `until`; where that stands."""
    while (marker := frame[place : place + 2]) != until:
        length = 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
        if len(marker) < 2 or marker[0] != 0xFF or length < 4 or place + length > len(frame):
            raise ValueError(BROKEN)
        if marker[1] == 0x51:
            components = int.from_bytes(frame[place + 38 : place + 40], "big")
            if length != 40 + 3 * components:
                raise ValueError(BROKEN)
        if marker[1] == 0x50:
            parts = frame[place + 4 : place + 8]
            if length != 8 + 2 * int.from_bytes(parts, "big").bit_count():
                raise ValueError(BROKEN)
        if marker[1] in _MAIN_2000:
            kept.append(frame[place : place + length])
        place += length
    return place


def _end_of_codestream(frame: bytes, start: int) -> int:
    """Where a last tile-part of unknown length ends: no packet holds a marker above FF8F (15444-1 B.10.1)."""
    begun = frame.find(b"\xff\x93", start)
    found = frame.find(b"\xff\xd9", begun) if begun >= 0 else -1
    return found if found >= 0 else len(frame)


def bare_run_lengths(frame: bytes, *, segments: int, pixels: int) -> bytes:
    """Return a frame of run lengths whose segments end with their pixels and follow each other.

    Args:
        frame: the frame's fragments, joined.
        segments: how many the header has to announce: samples a pixel times bytes a sample.
        pixels: how many pixels, and so bytes, each segment decodes to.

    Raises:
        ValueError: the header is broken or announces other segments, or a segment is too short.
    """
    count = int.from_bytes(frame[:4], "little")
    if len(frame) < 64 or count != segments or not 1 <= count <= _MAXIMUM_SEGMENTS:
        raise ValueError(BROKEN)
    starts = [int.from_bytes(frame[4 * at : 4 * at + 4], "little") for at in range(1, count + 1)]
    stops = [*starts[1:], len(frame)]
    if starts[0] < 64 or any(stop < start for start, stop in zip(starts, stops, strict=True)):
        raise ValueError(BROKEN)
    parts = [_segment(frame[start:stop], pixels) for start, stop in zip(starts, stops, strict=True)]
    offsets, place = b"", 64
    for part in parts:
        offsets += place.to_bytes(4, "little")
        place += len(part)
    return b"".join([count.to_bytes(4, "little"), offsets.ljust(60, b"\0"), *parts])


def _segment(segment: bytes, pixels: int) -> bytes:
    """The segment up to its last run, of even length. Pillow, which is fast, says whether more stands behind it."""
    bare = segment
    if not _ends_with_its_pixels(bare, pixels):
        bare = segment[:-1] if segment.endswith(b"\0") else b""
        if not _ends_with_its_pixels(bare, pixels):
            bare = _by_hand(segment, pixels)
    return bare + bytes(len(bare) % 2)


def _ends_with_its_pixels(segment: bytes, pixels: int) -> bool:
    """Whether the last run ends with the last pixel and the segment with it.

    A mark is written behind it, 128 pixels of one value and one more, and as many more pixels are asked for: where all
    of them have that value, nothing stood between. The value follows from the segment, so that none is at home with it.
    """
    value = bytes([zlib.crc32(segment) & 0xFF])
    mark = b"\x81" + value + b"\x00" + value
    try:
        row = Image.frombytes("L", (pixels + _MARKED, 1), segment + mark, "packbits", "L")
    except ValueError:
        return False
    return row.crop((pixels, 0, pixels + _MARKED, 1)).tobytes() == value * _MARKED


def _by_hand(segment: bytes, pixels: int) -> bytes:
    """Copy run by run until all pixels are there; the last run is cut to them."""
    kept, place, left = bytearray(), 0, pixels
    while left and place < len(segment):
        control = segment[place]
        if control == 128:
            place += 1
        elif control < 128:
            literal = segment[place + 1 : place + 2 + control]
            if len(literal) != control + 1:
                raise ValueError(TRUNCATED)
            taken = literal[:left]
            kept += bytes([len(taken) - 1]) + taken
            left, place = left - len(taken), place + 2 + control
        else:
            repeated = segment[place + 1 : place + 2]
            if not repeated:
                raise ValueError(TRUNCATED)
            taken_count = min(257 - control, left)
            kept += bytes([257 - taken_count if taken_count > 1 else 0]) + repeated
            left, place = left - taken_count, place + 2
    if left:
        raise ValueError(TRUNCATED)
    return bytes(kept)
