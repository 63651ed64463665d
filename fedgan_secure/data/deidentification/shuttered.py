"""Blank what a display shutter hides: nobody who looks sees it, so nobody can say that it holds no text."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.pixels.utils import get_expected_length

from fedgan_secure.data.pixels.decoders import plugin_for
from fedgan_secure.data.pixels.levels import functional_group
from fedgan_secure.data.pixels.pictures import Unreadable
from fedgan_secure.data.pixels.shutters import apply_shutter

UNKNOWN = "a shutter hides part of its pixels, which are stored in a way that cannot be blanked"
_SEQUENCE = "FrameDisplayShutterSequence"
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_MARKS = ("ShutterShape", "ShutterLeftVerticalEdge", "CenterOfCircularShutter", "VerticesOfThePolygonalShutter",
          "ShutterOverlayGroup")  # fmt: skip


def blank(dataset: Any) -> int:
    """Blank the pixels that the shutter of a data set, or of one of its frames, hides.

    Compressed pixels are decoded for it, by the decoder that loading uses, and stay native. Files without a shutter
    are not touched. To be called before overlays are removed, since a shutter may be one.

    Args:
        dataset: changed in place.

    Returns:
        The number of pixels blanked.

    Raises:
        Unreadable: the shutter cannot be applied exactly, or the pixels cannot be blanked.
    """
    if "PixelData" not in dataset or not _has_shutter(dataset):
        return 0
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        plugin = plugin_for(dataset.file_meta.TransferSyntaxUID)
        dataset.decompress(decoding_plugin=plugin, generate_instance_uid=False)
    bits, samples = int(dataset.BitsAllocated), int(dataset.SamplesPerPixel)
    little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    if bits not in (8, 16, 32) or not little or str(dataset.PhotometricInterpretation) == "YBR_FULL_422":
        raise Unreadable(UNKNOWN)
    count = max(1, int(dataset.get("NumberOfFrames", None) or 1))
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    flat = np.frombuffer(bytearray(dataset.PixelData[: get_expected_length(dataset)]), dtype=f"<u{bits // 8}")
    planar = samples > 1 and int(dataset.get("PlanarConfiguration", None) or 0) == 1
    frames = flat.reshape((count, samples, rows, columns) if planar else (count, rows, columns, samples))
    inverted = str(dataset.PhotometricInterpretation) == "MONOCHROME1"
    value = (
        (1 << int(dataset.BitsStored)) - 1 if inverted and dataset.file_meta.TransferSyntaxUID.is_little_endian else 0
    )
    blanked = 0
    for number in range(count):
        hidden = _hidden(dataset, number, (rows, columns))
        (frames[number].transpose(1, 2, 0) if planar else frames[number])[hidden] = value
        blanked += int(np.count_nonzero(hidden))
    data = flat.tobytes()
    dataset.PixelData = data + bytes(len(data) % 2)
    return blanked


def _has_shutter(dataset: Any) -> bool:
    if any(name in dataset for name in _MARKS):
        return True
    groups = [
        dataset.get(name, None) or () for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    ]
    return any(_SEQUENCE in item for items in groups for item in items)


def _hidden(dataset: Any, number: int, shape: tuple[int, int]) -> Any:
    """bool[h,w]: what the shutter of a frame hides, or that of the whole file."""
    white = np.full((*shape, 3), 255, np.uint8)
    hidden = apply_shutter(dataset, dataset, white)[:, :, 0] == 0
    group = functional_group(dataset, number, _SEQUENCE)
    return hidden if group is dataset else hidden | (apply_shutter(group, dataset, white)[:, :, 0] == 0)
