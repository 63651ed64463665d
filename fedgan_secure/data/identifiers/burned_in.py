"""What can hide in and around the pixels of a DICOM file: text burned in, overlays in unused bits, bytes that no
decoder shows. Burned-in text is never looked for and never painted over: a file that may hold some is set aside.
"""

from __future__ import annotations

from typing import Any

from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import get_expected_length

BURNED_IN = "its header says that text is burned into the pixels"
FEATURES = "its header says that the person can be recognised from the pixels"
NOT_SAID = "a picture of a kind that often has text burned in, and its header does not say that there is none"
OVERLAY = "an overlay is stored in the unused bits of its pixels"
BOXES = "its JPEG 2000 frames are wrapped in a file format that may hold text"
RISKY_MODALITIES = frozenset({"US", "IVUS", "XA", "RF", "SC", "OT", "XC", "GM", "SM", "ES", "OP", "OPT", "DMS", "DG"})
RISKY_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.6",  # ultrasound
    "1.2.840.10008.5.1.4.1.1.3",  # ultrasound, several frames
    "1.2.840.10008.5.1.4.1.1.12",  # angiography and fluoroscopy
    "1.2.840.10008.5.1.4.1.1.77.1",  # photographs and video through lenses
)
_JPEG = frozenset(
    {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless,
     uid.JPEGLSNearLossless}
)  # fmt: skip
_JPEG_2000 = frozenset({uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K})


def risk(dataset: Any) -> str:
    """Why a file's pixels may name the patient, or "" where the header gives no reason to think so.

    Only a header that says nothing (:data:`NOT_SAID`) can be answered by a person who has looked at the pictures.
    """
    if "PixelData" not in dataset:
        return ""
    burned = str(dataset.get("BurnedInAnnotation", None) or "").strip().upper()
    if burned == "YES":
        return BURNED_IN
    if str(dataset.get("RecognizableVisualFeatures", None) or "").strip().upper() == "YES":
        return FEATURES
    for tag in dataset.keys():  # noqa: SIM118 - iterating over a data set would parse every element
        if tag.group & 0xFF00 == 0x6000 and tag.element == 0x0102 and int(dataset[tag].value or 0) != 0:
            return OVERLAY
    return NOT_SAID if burned != "NO" and is_risky(dataset) else ""


def is_risky(dataset: Any) -> bool:
    """Whether files of this modality or class often have text burned in (ultrasound, capture, angiography, photos)."""
    modality = str(dataset.get("Modality", None) or "").strip().upper()
    sop_class = str(dataset.get("SOPClassUID", None) or "")
    conversion = str(dataset.get("ConversionType", None) or "").strip()
    return (
        modality in RISKY_MODALITIES
        or conversion != ""
        or any(sop_class == root or sop_class.startswith(root + ".") for root in RISKY_CLASSES)
    )


def strip(dataset: Any) -> int:
    """Take out what no decoder shows: bytes after native pixels, comments and application segments of JPEG frames.

    Pixels stay as they are, bit by bit. Returns the number of bytes taken out. Raises ValueError where the frames
    cannot be told apart, or with :data:`BOXES`.
    """
    if "PixelData" not in dataset:
        return 0
    syntax = dataset.file_meta.TransferSyntaxUID
    data = dataset.PixelData
    if not syntax.is_encapsulated:
        expected = get_expected_length(dataset)
        if len(data) < expected:
            raise ValueError("the pixels are truncated")
        whole = data[:expected] + bytes(expected % 2)
        dataset.PixelData = whole
        return max(0, len(data) - len(whole))
    if syntax not in _JPEG and syntax not in _JPEG_2000:
        return 0
    count = max(1, int(dataset.get("NumberOfFrames", None) or 1))
    frames = list(generate_frames(data, number_of_frames=count))
    cleaned = [_without_comments(frame, jpeg_2000=syntax in _JPEG_2000) for frame in frames]
    removed = sum(map(len, frames)) - sum(map(len, cleaned))
    if removed or len(frames) == 1:
        dataset.PixelData = encapsulate(cleaned)
        dataset["PixelData"].is_undefined_length = True
    return removed


def _without_comments(frame: bytes, *, jpeg_2000: bool) -> bytes:
    """The codestream without comments (COM) and application segments, save Adobe's colour transform (APP14)."""
    if jpeg_2000:
        if not frame.startswith(b"\xff\x4f\xff\x51"):
            raise ValueError(BOXES)
        kept, end, dropped = [frame[:2]], 0x90, {0x64}
    else:
        if not frame.startswith(b"\xff\xd8"):
            raise ValueError("a frame does not begin as JPEG does")
        kept, end, dropped = [frame[:2]], 0xDA, {0xFE, *range(0xE0, 0xEE), 0xEF}
    place = 2
    while place + 4 <= len(frame):
        if frame[place] != 0xFF:
            raise ValueError("a frame has a broken header")
        marker = frame[place + 1]
        if marker == end:
            break
        if marker == 0xFF:
            place += 1
            continue
        length = 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
        keep = marker not in dropped or (marker == 0xE8 and not jpeg_2000 and frame[place + 4 : place + 8] == b"mrfx")
        if keep:
            kept.append(frame[place : place + length])
        place += length
    if not jpeg_2000:
        last = frame.rfind(b"\xff\xd9")
        kept.append(frame[place : last + 2 if last >= place else len(frame)])
    else:
        kept.append(frame[place:])
    return b"".join(kept)
