"""Read one DICOM file: its patient identifier (to be made a pseudonym at once) and its frames as uint8 pixels.

Grey values go through the modality transformation and then through a window that is either the preprocessing's (CT:
Hounsfield units, 40/400) or the file's own value-of-interest transformation, or the bounds of the stored type: never
through a statistic of the pixels (DICOM PS3.3 C.11.1, C.11.2). Colour is converted to RGB. Sizes are bounded before
anything is decoded. Decoding is pydicom's, with the decoders of :mod:`decoders`; none of them is under the GPL.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, iter_pixels

from fedgan_secure.data.identifiers.identifiers import HeaderFacts, dicom_facts
from fedgan_secure.data.identifiers.persons import marks_of
from fedgan_secure.data.pixels.decoders import WRONG_SIZE, plugin_for
from fedgan_secure.data.pixels.gdcm_process import CRASHED, TOO_LONG
from fedgan_secure.data.pixels.pictures import MAXIMUM_PIXELS, Unreadable
from fedgan_secure.data.pixels.preprocess import CT_WINDOW, to_levels

MAXIMUM_FILE_BYTES = 1024 * 1024 * 1024
MAXIMUM_DECODED_BYTES = 512 * 1024 * 1024
MAXIMUM_FRAMES = 4096
_LOG = logging.getLogger("pydicom")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_NOT_PRIMARY = frozenset({"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "DOC"})


@dataclass(frozen=True)
class DicomHeader:
    """What the loader needs from a header; it never leaves the loader. `marks`: see `persons.marks_of`."""

    patient_id: str
    modality: str
    frames: int
    facts: HeaderFacts = field(default_factory=HeaderFacts)
    marks: dict[str, bytes] = field(default_factory=dict, repr=False)


def looks_like_dicom(path: Path) -> bool:
    """Whether the file has DICOM's mark (``DICM`` at byte 128)."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> DicomHeader:
    """Identifier, modality and number of frames, without pixels. Raises :class:`Unreadable` with the reason."""
    with dicom_reasons():
        return _header(_read(path, stop_before_pixels=True))


def read_dicom(
    path: Path, *, hounsfield_window: bool | None, all_frames: bool = True, mark_key: bytes | None = None
) -> tuple[DicomHeader, Iterator[Any]]:
    """The header and an iterator over frames, each (uint8[h,w] or uint8[h,w,3], stored pixels as bytes).

    With `hounsfield_window` the file must be a CT in Hounsfield units, and the abdominal window is applied; with None,
    that holds for a file that says it is a CT, and for no other. The iterator too raises :class:`Unreadable` with the
    reason.
    """
    with dicom_reasons():
        dataset = _read(path, stop_before_pixels=False)
        header = _header(dataset)
        _check_pixels(dataset, header)
        if hounsfield_window is None:
            hounsfield_window = header.modality == "CT"
        if hounsfield_window and header.modality != "CT":
            raise Unreadable(f"modality {header.modality or 'missing'}, expected CT")
        if not hounsfield_window and header.modality in _NOT_PRIMARY:
            raise Unreadable(f"modality {header.modality} holds no picture of a patient")
        marks = {} if mark_key is None else marks_of(dataset, mark_key)
        header = replace(header, facts=dicom_facts(dataset), marks=marks)
    return header, _frames(dataset, header, hounsfield_window, all_frames)


def _frames(dataset: Any, header: DicomHeader, hounsfield_window: bool, all_frames: bool) -> Iterator[Any]:
    with dicom_reasons():
        wanted = None if all_frames and header.frames > 1 else [0]
        plugin = plugin_for(dataset.file_meta.TransferSyntaxUID)
        for number, frame in enumerate(iter_pixels(dataset, indices=wanted, decoding_plugin=plugin)):
            stored = np.asarray(frame)
            if stored.ndim == 3:
                pixels = _colour(dataset, stored)
            elif dataset.PhotometricInterpretation == "PALETTE COLOR":
                mapped = apply_color_lut(stored, dataset)
                pixels = to_levels(mapped[..., :3].astype(np.float64), 0.0, float(np.iinfo(mapped.dtype).max))
            elif hounsfield_window:
                pixels = _hounsfield(dataset, stored, number)
            else:
                pixels = _by_value(partial(_grey, dataset, frame=number), stored)
            yield pixels, stored.tobytes()


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
        if isinstance(error, PermissionError):
            reason = "no permission to read it"
        elif isinstance(error, MemoryError):
            reason = "decoding it needs more memory than there is"
        elif isinstance(error, RecursionError):
            reason = "sequences nested too deeply"
        elif isinstance(error, pydicom.errors.InvalidDicomError):
            reason = "not DICOM: the mark DICM is missing"
        elif isinstance(error, RuntimeError | NotImplementedError | ValueError) and WRONG_SIZE in str(error):
            reason = "its compressed pixels announce another size than its header"
        elif CRASHED in str(error):
            reason = "decoding it crashed the decoder"
        elif TOO_LONG in str(error):
            reason = "decoding it took too long"
        elif isinstance(error, RuntimeError) and "exceptions were raised" in str(error):
            reason = "its compressed pixels are broken, or of a kind that its decoder does not take"
        elif isinstance(error, RuntimeError | NotImplementedError) and re.search("plugin|decod", str(error)):
            reason = "no installed decoder takes its transfer syntax"
        else:
            reason = f"broken, truncated or inconsistent ({type(error).__name__})"
        raise Unreadable(reason) from None


def _read(path: Path, *, stop_before_pixels: bool) -> Any:
    if not stop_before_pixels:
        return pydicom.dcmread(BytesIO(read_guarded(path)))
    with path.open("rb") as file:
        _check_start(path, file)
        return pydicom.dcmread(file, stop_before_pixels=True)


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
    start = file.read(2048)
    if start[128:132] != b"DICM":
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


def _stored_bounds(dataset: Any) -> tuple[float, float]:
    bits = int(dataset.get("BitsStored", 0) or dataset.BitsAllocated)
    if int(dataset.get("PixelRepresentation", 0) or 0) == 1:
        return -float(2 ** (bits - 1)), float(2 ** (bits - 1) - 1)
    return 0.0, float(2**bits - 1)


def _functional(dataset: Any, frame: int, sequence: str) -> Any:
    """The data set that holds an attribute group: the file's own, or an enhanced file's functional group."""
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups, None)
        if items and index < len(items) and items[index].get(sequence, None):
            return items[index].get(sequence)[0]
    return dataset


def _rescale(dataset: Any, frame: int) -> tuple[float, float] | None:
    source = _functional(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = source.get("RescaleSlope", None), source.get("RescaleIntercept", None)
    if slope is None or intercept is None or float(slope) == 0.0:
        return None
    return float(slope), float(intercept)


def _hounsfield(dataset: Any, stored: NDArray[Any], frame: int) -> NDArray[np.uint8]:
    rescale = _rescale(dataset, frame)
    if rescale is None:
        raise Unreadable("a CT without rescale slope and intercept: its Hounsfield units are unknown")
    centre, width = CT_WINDOW
    slope, intercept = rescale

    def levels(stored: NDArray[Any]) -> NDArray[np.uint8]:
        return to_levels(stored.astype(np.float64) * slope + intercept, centre - width / 2, centre + width / 2)

    return _by_value(levels, stored)


def _by_value(levels: Callable[[NDArray[Any]], NDArray[np.uint8]], stored: NDArray[Any]) -> NDArray[np.uint8]:
    """``levels(stored)``, where `levels` looks at one value at a time: computed once for each value that can occur."""
    lowest, highest = int(stored.min()), int(stored.max())
    if highest - lowest >= stored.size:
        return levels(stored)
    table = levels(np.arange(lowest, highest + 1, dtype=np.int64).astype(stored.dtype))
    return np.asarray(table.take(np.subtract(stored, lowest, dtype=np.intp)), dtype=np.uint8)


def _grey(dataset: Any, stored: NDArray[Any], *, frame: int) -> NDArray[np.uint8]:
    low, high = _stored_bounds(dataset)
    values = stored.astype(np.float64)
    if dataset.get("ModalityLUTSequence", None):
        values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
        low, high = 0.0, float(2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    elif (rescale := _rescale(dataset, frame)) is not None:
        values = values * rescale[0] + rescale[1]
        low, high = sorted((low * rescale[0] + rescale[1], high * rescale[0] + rescale[1]))
    if dataset.get("VOILUTSequence", None):
        looked_up = apply_voi_lut(np.rint(values).astype(np.int64), dataset, prefer_lut=True)
        pixels = to_levels(
            np.asarray(looked_up, dtype=np.float64),
            0.0,
            float(2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1),
        )
    else:
        pixels = _windowed(_functional(dataset, frame, "FrameVOILUTSequence"), values, low, high)
    return np.asarray(255 - pixels, dtype=np.uint8) if _inverted(dataset) else pixels


def _inverted(dataset: Any) -> bool:
    shape = dataset.get("PresentationLUTShape", None)
    if shape is not None and str(shape) in ("IDENTITY", "INVERSE"):
        return str(shape) == "INVERSE"
    return bool(dataset.PhotometricInterpretation == "MONOCHROME1")


def _windowed(source: Any, values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """The first window of PS3.3 C.11.2.1.2 (LINEAR, LINEAR_EXACT or SIGMOID), or the type's bounds without one."""
    centres, widths = source.get("WindowCenter", None), source.get("WindowWidth", None)
    if centres is None or widths is None or centres == "" or widths == "":
        return to_levels(values, low, high)
    centre = float(centres[0] if isinstance(centres, pydicom.multival.MultiValue) else centres)
    width = float(widths[0] if isinstance(widths, pydicom.multival.MultiValue) else widths)
    function = str(source.get("VOILUTFunction", None) or "LINEAR").upper()
    if function == "SIGMOID" and width > 0:
        return to_levels(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -60, 60))), 0.0, 1.0)
    if function == "LINEAR_EXACT" and width > 0:
        return to_levels(values, centre - width / 2, centre + width / 2)
    if width >= 1:
        if width == 1:
            return np.where(values > centre - 0.5, 255, 0).astype(np.uint8)
        return to_levels(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)
    return to_levels(values, low, high)


def _colour(dataset: Any, stored: NDArray[Any]) -> NDArray[np.uint8]:
    if stored.shape[2] < 3:
        raise Unreadable(f"{stored.shape[2]} samples per pixel, expected 1 or 3")
    rgb = stored[:, :, :3]
    if rgb.dtype == np.uint8:
        return np.ascontiguousarray(rgb)
    low, high = _stored_bounds(dataset)
    return to_levels(rgb.astype(np.float64), low, high)
