"""From the values of a DICOM file to uint8 levels: modality, value of interest, presentation (PS3.3 C.11).

Never through a statistic of the pixels: the bounds are those of the stored type, of a table or of a window. What the
standard leaves open, or a header says two ways, sets the file aside.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from fedgan_secure.data.pixels.pictures import Unreadable
from fedgan_secure.data.pixels.preprocess import CT_WINDOW, to_levels
from fedgan_secure.data.pixels.stored import Layout
from fedgan_secure.data.pixels.tables import palette_of, table_of

FEWEST_STEPS, FEWEST_FRACTIONS = 128, 512
_HOUNSFIELD = re.compile(r"HU|HOUND?SFIELD( UNITS?)?")
"""Rescale types that are Hounsfield units: HU (PS3.3 C.11.1.1.2), and what a maker's reformats say, as spelt there."""
COLOUR_CT = "a CT in colour is not in Hounsfield units"


def functional_group(dataset: Any, frame: int, sequence: str) -> Any:
    """Return the data set that holds an attribute group: the file's own, or an enhanced file's functional group."""
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups, None)
        if items and index < len(items) and items[index].get(sequence, None):
            return items[index].get(sequence)[0]
    return dataset


def hounsfield_levels(dataset: Any, values: NDArray[Any], frame: int) -> NDArray[np.uint8]:
    """Return a CT's values through the abdominal window. Raises :class:`Unreadable` where they are in another unit."""
    source = functional_group(dataset, frame, "PixelValueTransformationSequence")
    rescale = _rescale(source)
    if rescale is None:
        raise Unreadable("a CT without rescale slope and intercept: its Hounsfield units are unknown")
    unit = str(source.get("RescaleType", None) or dataset.get("RescaleType", None) or "HU").strip().upper()
    if not _HOUNSFIELD.fullmatch(unit) or dataset.get("ModalityLUTSequence", None):
        raise Unreadable("a CT whose values are not in Hounsfield units by its header")
    if dataset.PhotometricInterpretation != "MONOCHROME2" or _inverted(dataset):
        raise Unreadable("a CT that is shown inverted: whether its Hounsfield units are too cannot be told")
    centre, width = CT_WINDOW
    slope, intercept = rescale

    def levels(some: NDArray[Any]) -> NDArray[np.uint8]:
        return to_levels(some.astype(np.float64) * slope + intercept, centre - width / 2, centre + width / 2)

    return by_value(levels, values)


def grey_levels(dataset: Any, values: NDArray[Any], layout: Layout, frame: int) -> NDArray[np.uint8]:
    """Return grey values as the file itself wants them shown, 0 black and 255 white."""
    if str(dataset.get("PixelPresentation", None) or "").strip().upper() in ("COLOR", "MIXED"):
        raise Unreadable("a part of its grey values is to be shown in colour")
    return by_value(partial(_grey, dataset, layout=layout, frame=frame), values)


def palette_levels(dataset: Any, values: NDArray[Any], layout: Layout) -> NDArray[np.uint8]:
    """Return the colours uint8[h,w,3] of palette indices."""
    tables = palette_of(dataset, *layout.bounds)
    return np.stack([to_levels(table.look_up(values).astype(float), 0.0, table.highest) for table in tables], axis=2)


def colour_levels(values: NDArray[Any], layout: Layout) -> NDArray[np.uint8]:
    """Return RGB values uint8[h,w,3], scaled by the bounds of their type."""
    if values.shape[2] != 3:
        raise Unreadable(f"{values.shape[2]} samples per pixel, expected 1 or 3")
    if layout.signed:
        raise Unreadable("colours with a sign have no known range")
    if layout.allocated > 16:
        raise Unreadable(f"colours of {layout.allocated} bits a sample, expected 8 or 16")
    if layout.stored == 8:
        return np.ascontiguousarray(values.astype(np.uint8, copy=False))
    return to_levels(values.astype(np.float64), *layout.bounds)


def rgb_of_ybr(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8[h,w,3] RGB of full-range YCbCr, within one level of the standard and of DCMTK.

    The standard (PS3.3 C.7.6.3.1.2) and libjpeg centre the chroma at 128, DCMTK at 127.5, which makes red and blue
    differ by two levels; these two are centred at 127.75 here and green at 127.9.
    """
    y, blue, red = (values[:, :, at].astype(np.float64) for at in range(3))
    green = y - 0.344136 * (blue - 127.9) - 0.714136 * (red - 127.9)
    rgb = np.stack((y + 1.402 * (red - 127.75), green, y + 1.772 * (blue - 127.75)), axis=2)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def by_value(levels: Callable[[NDArray[Any]], NDArray[np.uint8]], values: NDArray[Any]) -> NDArray[np.uint8]:
    """``levels(values)``, where `levels` looks at one value at a time: computed once for each value that can occur."""
    lowest, highest = int(values.min()), int(values.max())
    if highest - lowest >= values.size:
        return levels(values)
    table = levels(np.arange(lowest, highest + 1, dtype=np.int64).astype(values.dtype))
    return np.asarray(table.take(np.subtract(values, lowest, dtype=np.intp)), dtype=np.uint8)


def _rescale(source: Any) -> tuple[float, float] | None:
    slope, intercept = source.get("RescaleSlope", None), source.get("RescaleIntercept", None)
    if slope is None or intercept is None or float(slope) == 0.0:
        return None
    return float(slope), float(intercept)


def _grey(dataset: Any, stored: NDArray[Any], *, layout: Layout, frame: int) -> NDArray[np.uint8]:
    values, low, high = _modality(dataset, stored, layout, frame)
    if dataset.get("VOILUTSequence", None):
        if not np.array_equal(values, np.rint(values)):
            raise Unreadable("its values lie between the entries of its VOI table")
        table = table_of(dataset.VOILUTSequence[0], "VOI table", low, high)
        pixels = to_levels(table.look_up(values).astype(np.float64), 0.0, table.highest)
    else:
        pixels = _windowed(functional_group(dataset, frame, "FrameVOILUTSequence"), values, low, high)
    return np.asarray(255 - pixels, dtype=np.uint8) if _inverted(dataset) else pixels


def _modality(
    dataset: Any, stored: NDArray[Any], layout: Layout, frame: int
) -> tuple[NDArray[np.float64], float, float]:
    """The values after the modality transformation, and the least and the greatest that there can be."""
    low, high = layout.bounds
    if dataset.get("ModalityLUTSequence", None):
        table = table_of(dataset.ModalityLUTSequence[0], "modality table", low, high)
        return table.look_up(stored).astype(np.float64), 0.0, table.highest
    values = stored.astype(np.float64)
    rescale = _rescale(functional_group(dataset, frame, "PixelValueTransformationSequence"))
    if rescale is not None:
        values = values * rescale[0] + rescale[1]
        low, high = sorted((low * rescale[0] + rescale[1], high * rescale[0] + rescale[1]))
    return values, low, high


def _inverted(dataset: Any) -> bool:
    inverted = bool(dataset.PhotometricInterpretation == "MONOCHROME1")
    shape = str(dataset.get("PresentationLUTShape", None) or "").strip().upper()
    if dataset.get("PresentationLUTSequence", None) or shape not in ("", "IDENTITY", "INVERSE"):
        raise Unreadable("its presentation table is of a kind that is not read")
    if shape and (shape == "INVERSE") != inverted:
        raise Unreadable("its presentation shape contradicts its photometric interpretation")
    return inverted


def _windowed(source: Any, values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """The first window of PS3.3 C.11.2.1.2 (LINEAR, LINEAR_EXACT or SIGMOID), or the type's bounds without one."""
    centres, widths = source.get("WindowCenter", None), source.get("WindowWidth", None)
    if centres is None or widths is None or centres == "" or widths == "":
        return _unwindowed(values, low, high)
    centre = float(centres[0] if isinstance(centres, pydicom.multival.MultiValue) else centres)
    width = float(widths[0] if isinstance(widths, pydicom.multival.MultiValue) else widths)
    function = str(source.get("VOILUTFunction", None) or "LINEAR").upper()
    if function == "SIGMOID" and width > 0:
        return to_levels(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -60, 60))), 0.0, 1.0)
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise Unreadable("its window is applied by a function that is not known")
    if function == "LINEAR_EXACT" and width > 0:
        return to_levels(values, centre - width / 2, centre + width / 2)
    if width >= 1:
        if width == 1:
            return np.where(values > centre - 0.5, 255, 0).astype(np.uint8)
        return to_levels(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)
    return _unwindowed(values, low, high)


def _unwindowed(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """From bound to bound; of few steps readers make different greys (DCMTK shows the upper of two as 128)."""
    fewest = FEWEST_STEPS if np.array_equal(values, np.rint(values)) else FEWEST_FRACTIONS
    if high - low < fewest - 1:
        raise Unreadable(f"its grey values span fewer than {fewest} steps, and no window says what is white")
    return to_levels(values, low, high)
