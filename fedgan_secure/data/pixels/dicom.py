"""Read one DICOM file: its patient identifier (to be made a pseudonym at once) and its frames as uint8 pixels.

CT goes through Hounsfield units and the window 40/400, other grey values through the file's own transformations
(:mod:`levels`), colour is converted to RGB, and what a display shutter hides is black. Sizes are bounded before
anything is decoded. Decoding is pydicom's, with the decoders of :mod:`decoders`; none of them is under the GPL.
"""

from __future__ import annotations

import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import get_decoder
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fedgan_secure.data.identifiers.burned_in import BURNED_IN, risk
from fedgan_secure.data.identifiers.identifiers import HeaderFacts, dicom_facts
from fedgan_secure.data.identifiers.persons import marks_of, words_of_person
from fedgan_secure.data.pixels.decoders import WRONG_PRECISION, WRONG_SIZE, plugin_for
from fedgan_secure.data.pixels.gdcm_process import CRASHED, TOO_LONG
from fedgan_secure.data.pixels.levels import (
    COLOUR_CT,
    colour_levels,
    functional_group,
    grey_levels,
    hounsfield_levels,
    palette_levels,
    rgb_of_ybr,
)
from fedgan_secure.data.pixels.marks import MARK, START_BYTES, is_dicom
from fedgan_secure.data.pixels.pictures import MAXIMUM_PIXELS, Unreadable
from fedgan_secure.data.pixels.shutters import apply_shutter
from fedgan_secure.data.pixels.stored import Layout, holds_unused_bits, layout_of, values_of

MAXIMUM_FILE_BYTES = 1024 * 1024 * 1024
MAXIMUM_DECODED_BYTES = 512 * 1024 * 1024
MAXIMUM_FRAMES = 4096
_LOG = logging.getLogger("pydicom")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_UNDEFINED = 0xFFFFFFFF
_READ = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB"})
_NOT_PRIMARY = frozenset({"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "DOC"})


@dataclass(frozen=True)
class DicomHeader:
    """What the loader needs from a header; it never leaves the loader. `marks`: see `persons.marks_of`; `words`:
    of identifier and name, see `persons.words_of_person`."""

    patient_id: str
    modality: str
    frames: int
    facts: HeaderFacts = field(default_factory=HeaderFacts)
    marks: dict[str, bytes] = field(default_factory=dict, repr=False)
    words: frozenset[bytes] = field(default=frozenset(), repr=False)


def read_header(path: Path) -> DicomHeader:
    """Identifier, modality and number of frames, without pixels. Raises :class:`Unreadable` with the reason."""
    with dicom_reasons():
        return _header(_read(path, stop_before_pixels=True))


def read_dicom(
    path: Path, *, hounsfield_window: bool, all_frames: bool = True, mark_key: bytes | None = None
) -> tuple[DicomHeader, Iterator[Any]]:
    """The header and an iterator over frames, each (uint8[h,w] or uint8[h,w,3], stored pixels as bytes).

    A CT is in Hounsfield units and goes through the abdominal window, or is set aside, whatever the layout; with
    `hounsfield_window` the file must be a CT. A display shutter is applied. A file that says that text is burned into
    its pixels is set aside. The iterator too raises
    :class:`Unreadable` with the reason.
    """
    with dicom_reasons():
        dataset = _read(path, stop_before_pixels=False)
        header = _header(dataset)
        _check_pixels(dataset, header)
        if hounsfield_window and header.modality != "CT":
            raise Unreadable(f"modality {header.modality or 'missing'}, expected CT")
        if not hounsfield_window and header.modality in _NOT_PRIMARY:
            raise Unreadable(f"modality {header.modality} holds no picture of a patient")
        if header.modality == "CT" and not str(dataset.get("PhotometricInterpretation", "")).startswith("MONOCHROME"):
            raise Unreadable(COLOUR_CT)
        if risk(dataset) == BURNED_IN:
            raise Unreadable(BURNED_IN)
        header = replace(header, facts=dicom_facts(dataset))
        if mark_key is not None:
            words = words_of_person(dataset, header.patient_id, mark_key)
            header = replace(header, marks=marks_of(dataset, mark_key), words=words)
        layout = layout_of(dataset)
    return header, _frames(dataset, header, layout, all_frames)


def hides_bits(dataset: Any) -> bool:
    """Return whether bits that no reader shows hold anything in a frame, such as an overlay without a header.

    Raises :class:`Unreadable` where the frames cannot be decoded to tell.
    """
    if "PixelData" not in dataset or dataset.get("BitsStored", None) in (None, dataset.get("BitsAllocated", None)):
        return False
    with dicom_reasons():
        layout = layout_of(dataset)
        return any(holds_unused_bits(np.asarray(frame), layout) for frame in _decoded(dataset, layout, None))


def _frames(dataset: Any, header: DicomHeader, layout: Layout, all_frames: bool) -> Iterator[Any]:
    with dicom_reasons():
        wanted = None if all_frames and header.frames > 1 else [0]
        for number, frame in enumerate(_decoded(dataset, layout, wanted)):
            values = values_of(np.asarray(frame), layout)
            pixels = _levels(dataset, values, layout, header, number)
            pixels = apply_shutter(functional_group(dataset, number, "FrameDisplayShutterSequence"), dataset, pixels)
            yield pixels, values.tobytes()


def _decoded(dataset: Any, layout: Layout, wanted: list[int] | None) -> Iterator[NDArray[Any]]:
    """Frames as their decoder gives them, but for YBR, which becomes RGB and needs all 8 bits of a sample to count."""
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = plugin_for(syntax)
    if plugin and layout.high != layout.stored - 1:
        raise Unreadable(f"compressed pixels of {layout.stored} bits with high bit {layout.high}")
    if layout.allocated == 32 and not syntax.is_little_endian:
        raise Unreadable("32 bits in big-endian words: readers disagree on their order")
    options = {"correct_unused_bits": False, "apply_j2k_sign_correction": False, "apply_jls_sign_correction": False}
    decoder = get_decoder(syntax)
    for raw, found in decoder.iter_array(dataset, indices=wanted, raw=True, decoding_plugin=plugin, **options):
        colours = str(found["photometric_interpretation"])
        if colours in ("YBR_FULL", "YBR_FULL_422"):
            if (layout.allocated, layout.stored, layout.signed) != (8, 8, False):
                raise Unreadable(f"YBR colours of {layout.stored} bits, expected 8 without a sign")
            yield rgb_of_ybr(raw)
        elif colours in _READ:
            yield raw
        else:
            raise Unreadable("its photometric interpretation is missing, or of a kind that is not read")


def _levels(dataset: Any, values: NDArray[Any], layout: Layout, header: DicomHeader, frame: int) -> NDArray[np.uint8]:
    if values.ndim == 3:
        return colour_levels(values, layout)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return palette_levels(dataset, values, layout)
    if header.modality == "CT":
        return hounsfield_levels(dataset, values, frame)
    return grey_levels(dataset, values, layout, frame)


class dicom_reasons:  # noqa: N801 - reads as a phrase: `with dicom_reasons():`
    """Turn whatever a parser or decoder raises on a hostile file into :class:`Unreadable` with a reason."""

    def __enter__(self) -> None:
        self._propagate, _LOG.propagate = _LOG.propagate, False  # pydicom's remarks quote values
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._warnings.__exit__(None, None, None)
        _LOG.propagate = self._propagate
        if error is None or isinstance(error, Unreadable) or not isinstance(error, Exception):
            return
        raise Unreadable(_reason(error)) from None


_REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str], ...] = (
    (PermissionError, "", "no permission to read it"),
    (MemoryError, "", "decoding it needs more memory than there is"),
    (RecursionError, "", "sequences nested too deeply"),
    (pydicom.errors.InvalidDicomError, "", "not DICOM: the mark DICM is missing"),
    ((RuntimeError, ValueError), WRONG_SIZE, "its compressed pixels announce another size than its header"),
    (
        (RuntimeError, ValueError),
        WRONG_PRECISION,
        "its compressed pixels have other bits or another sign than its header says",
    ),
    (Exception, CRASHED, "decoding it crashed the decoder"),
    (Exception, TOO_LONG, "decoding it took too long"),
    (
        RuntimeError,
        "exceptions were raised",
        "its compressed pixels are broken, or of a kind that its decoder does not take",
    ),
    (RuntimeError, "plugin", "no installed decoder takes its transfer syntax"),
    (RuntimeError, "decod", "no installed decoder takes its transfer syntax"),
)
"""(kind of error, what its text holds, the reason for people); the first that fits counts."""


def _reason(error: Exception) -> str:
    text = str(error)
    for kind, part, reason in _REASONS:
        if isinstance(error, kind) and part in text:
            return reason
    return f"broken, truncated or inconsistent ({type(error).__name__})"


def _read(path: Path, *, stop_before_pixels: bool) -> Any:
    if not stop_before_pixels:
        return parse(BytesIO(read_guarded(path)))
    with path.open("rb") as file:
        _check_start(path, file)
        return parse(file, stop_before_pixels=True)


def parse(file: Any, *, stop_before_pixels: bool = False) -> Any:
    """Parse an open file that has passed :func:`read_guarded` or its checks.

    Without the mark of part 10 there may be no meta information: then the transfer syntax is that of the elements
    themselves, which compressed pixels do not tell.

    Args:
        file: binary, at its start.
        stop_before_pixels: leave the pixels and what follows them unread.

    Returns:
        A pydicom data set whose meta information names a transfer syntax, unless a marked file names none.

    Raises:
        Unreadable: compressed pixels without a transfer syntax.
    """
    marked = file.read(132)[128:] == MARK
    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=stop_before_pixels, force=not marked)
    if not marked and "TransferSyntaxUID" not in dataset.file_meta:
        if "PixelData" in dataset and dataset.get_item("PixelData").length == _UNDEFINED:
            raise Unreadable("its pixels are compressed and its transfer syntax is missing")
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def read_guarded(path: Path) -> bytes:
    """The bytes of a DICOM file, after what can be refused by its size, its mark or its deflated length.

    Raises :class:`Unreadable` with the reason, or OSError.
    """
    with path.open("rb") as file:
        _check_start(path, file)
        return file.read()


def _check_start(path: Path, file: Any) -> None:
    size = path.stat().st_size
    if size > MAXIMUM_FILE_BYTES:
        raise Unreadable(f"the file is larger than {MAXIMUM_FILE_BYTES // 2**20} MiB")
    if size == 0:
        raise Unreadable("the file is empty")
    start = file.read(START_BYTES)
    if not is_dicom(start):
        raise Unreadable("not DICOM: the mark DICM is missing")
    if _DEFLATED in start:
        file.seek(0)
        _check_deflated(file.read())
    file.seek(0, os.SEEK_SET)


def _check_deflated(data: bytes) -> None:
    """Refuse a deflated data set that would inflate beyond the limit, before a parser inflates it whole."""
    if data[132:136] != b"\x02\x00\x00\x00" or data[136:138] != b"UL":
        raise Unreadable("deflated, and without the length of its meta information")
    start = 144 + int.from_bytes(data[140:144], "little")
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    total, rest = 0, data[start:]
    while rest and not inflate.eof:
        total += len(inflate.decompress(rest, 2**20))
        rest = inflate.unconsumed_tail
        if total > MAXIMUM_DECODED_BYTES:
            raise Unreadable("inflates to more than the limit allows")


def _header(dataset: Any) -> DicomHeader:
    identifier = str(dataset.get("PatientID", None) or "").strip(" \0")
    return DicomHeader(
        patient_id=identifier,
        modality=str(dataset.get("Modality", None) or "").strip().upper(),
        frames=max(1, int(dataset.get("NumberOfFrames", None) or 1)),
    )


def _check_pixels(dataset: Any, header: DicomHeader) -> None:
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise Unreadable("floating-point pixels have no known range")
    if "PixelData" not in dataset:
        raise Unreadable("it holds no pixels")
    rows, columns = int(dataset.get("Rows", 0) or 0), int(dataset.get("Columns", 0) or 0)
    samples, bits = int(dataset.get("SamplesPerPixel", 1) or 1), int(dataset.get("BitsAllocated", 16) or 16)
    if rows < 1 or columns < 1:
        raise Unreadable("its rows or columns are missing or zero")
    if rows * columns > MAXIMUM_PIXELS or header.frames > MAXIMUM_FRAMES:
        raise Unreadable(f"{columns} x {rows} pixels in {header.frames} frames are more than the limit allows")
    if rows * columns * samples * max(1, bits // 8) * header.frames > MAXIMUM_DECODED_BYTES:
        raise Unreadable("its pixels would take more memory than the limit allows")
