"""What a display shutter or unused bits hide is neither trained on nor passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless
from tests.fedgan_secure.data.conftest import make_dicom
from tests.fedgan_secure.data.references import ours

from fedgan_secure.data.deidentification.files import HIDDEN_BITS, Settings, Task, deidentify_batch
from fedgan_secure.data.deidentification.keyed import Keys
from fedgan_secure.data.pixels.pictures import Unreadable

SHAPE = (40, 50)
PIXELS = np.random.default_rng(3).integers(60, 250, SHAPE).astype(np.uint8)
ROWS, COLUMNS = (axis + 1 for axis in np.mgrid[: SHAPE[0], : SHAPE[1]])
RECTANGLE: dict[str, Any] = {
    "ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 5, "ShutterRightVerticalEdge": 30,
    "ShutterUpperHorizontalEdge": 3, "ShutterLowerHorizontalEdge": 20,
}  # fmt: skip
CIRCLE: dict[str, Any] = {
    "ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [20, 25], "RadiusOfCircularShutter": 12,
}  # fmt: skip
TRIANGLE: dict[str, Any] = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [5, 5, 5, 45, 35, 5]}
IN_RECTANGLE = (COLUMNS >= 5) & (COLUMNS <= 30) & (ROWS >= 3) & (ROWS <= 20)
IN_CIRCLE = (ROWS - 20) ** 2 + (COLUMNS - 25) ** 2 <= 144
IN_TRIANGLE = (COLUMNS >= 5) & (ROWS >= 5) & ((ROWS - 5) / 30 + (COLUMNS - 5) / 40 < 1)


def shown(tmp_path: Path, pixels: np.ndarray = PIXELS, **header: Any) -> np.ndarray:
    file = tmp_path / "one.dcm"
    make_dicom(pixels, **header).save_as(file, enforce_file_format=True)
    return ours(file)[0]


@pytest.mark.parametrize(
    ("header", "visible"),
    [
        (RECTANGLE, IN_RECTANGLE),
        (CIRCLE, IN_CIRCLE),
        (TRIANGLE, IN_TRIANGLE),
        ({**RECTANGLE, **CIRCLE, "ShutterShape": ["RECTANGULAR", "CIRCULAR"]}, IN_RECTANGLE & IN_CIRCLE),
    ],
    ids=["rectangle", "circle", "polygon", "two shapes"],
)
def test_what_a_shutter_hides_is_black(tmp_path: Path, header: dict[str, Any], visible: np.ndarray) -> None:
    assert np.array_equal(shown(tmp_path, **header), np.where(visible, PIXELS, 0))
    inverted = shown(tmp_path, **header, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(inverted, np.where(visible, 255 - PIXELS, 0))
    colour = np.stack([PIXELS] * 3, axis=2)
    assert np.array_equal(shown(tmp_path, colour, **header), np.where(visible[:, :, None], colour, 0))


def test_the_value_of_a_shutter_is_shown(tmp_path: Path) -> None:
    assert np.array_equal(
        shown(tmp_path, **RECTANGLE, ShutterPresentationValue=0x8000), np.where(IN_RECTANGLE, PIXELS, 128)
    )


def test_an_overlay_that_is_a_shutter_hides_its_ones(tmp_path: Path) -> None:
    plane = np.zeros((10, 16), np.uint8)
    plane[2:6, 3:12] = 1
    dataset = make_dicom(PIXELS, ShutterShape="BITMAP", ShutterOverlayGroup=0x6002)
    for element, vr, value in (
        (0x0010, "US", 10), (0x0011, "US", 16), (0x0040, "CS", "G"), (0x0050, "SS", [5, -1]), (0x0100, "US", 1),
        (0x0102, "US", 0), (0x3000, "OW", np.packbits(plane, bitorder="little").tobytes()),
    ):  # fmt: skip
        dataset.add_new((0x6002, element), vr, value)
    dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    expected = PIXELS.copy()
    expected[6:10, 1:10] = 0  # rows 5 + 2 on, columns -1 + 3 on, counted from 1
    assert np.array_equal(ours(tmp_path / "one.dcm")[0], expected)


def test_each_frame_has_its_own_shutter(tmp_path: Path) -> None:
    dataset = make_dicom(np.stack([PIXELS, PIXELS]), NumberOfFrames=2)
    groups = []
    for header in (RECTANGLE, CIRCLE):
        shutter, item = Dataset(), Dataset()
        for name, value in header.items():
            setattr(shutter, name, value)
        item.FrameDisplayShutterSequence = [shutter]
        groups.append(item)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    first, second = ours(tmp_path / "one.dcm")
    assert np.array_equal(first, np.where(IN_RECTANGLE, PIXELS, 0))
    assert np.array_equal(second, np.where(IN_CIRCLE, PIXELS, 0))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 5}, "incomplete"),
        ({"ShutterShape": "STAR"}, "unknown shape"),
        ({name: value for name, value in CIRCLE.items() if name != "ShutterShape"}, "incomplete"),
        ({"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 2, 3, 4]}, "incomplete"),
        ({"ShutterShape": "BITMAP", "ShutterOverlayGroup": 0x6000}, "incomplete"),
        ({**CIRCLE, "PixelAspectRatio": [2, 1]}, "not square"),
    ],
)
def test_a_shutter_that_cannot_be_applied_sets_its_file_aside(
    tmp_path: Path, header: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unreadable, match=reason):
        shown(tmp_path, **header)


def test_no_copy_holds_what_a_shutter_hides(tmp_path: Path, secret: bytes) -> None:
    """A person who has looked at the picture has not seen it, so --pixels-reviewed does not help."""
    (tmp_path / "out").mkdir()
    settings = Settings(tmp_path, tmp_path / "out", Keys(secret), reviewed=True)
    for name, header in (("plain", {}), ("shut", RECTANGLE)):
        make_dicom(PIXELS, modality="MR", **header).save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    plain, shut = deidentify_batch(settings, [Task(f"{name}.dcm", "dicom", None, 1, 1) for name in ("plain", "shut")])
    assert (plain.outcome, shut.outcome) == ("written", "written")
    assert np.array_equal(dcmread(tmp_path / "out" / plain.target).pixel_array, PIXELS)
    copy, seen = dcmread(tmp_path / "out" / shut.target).pixel_array, shown(tmp_path, **RECTANGLE) != 0
    assert not copy[~seen].any() and shut.treated["pixels behind a shutter"] == np.count_nonzero(copy != PIXELS)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("cell", "representation", "written"),
    [
        (0x0FFF, 0, True),
        (0x8001, 0, False),
        (0xF801, 1, True),
        (0x0801, 1, True),
        (0x8801, 1, False),
        (0xF001, 1, False),
    ],
)
def test_no_copy_holds_something_in_unused_bits(
    tmp_path: Path, secret: bytes, cell: int, representation: int, written: bool, compressed: bool
) -> None:
    """12 of 16 bits: zeros and a sign that is carried on tell nothing; anything else may be an overlay."""
    (tmp_path / "out").mkdir()
    pixels = np.full((16, 16), 7, np.uint16)
    pixels[3, 4] = cell
    header = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": representation}
    dataset = make_dicom(pixels, modality="MR", **header)
    if compressed:
        dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    settings = Settings(tmp_path, tmp_path / "out", Keys(secret))
    (record,) = deidentify_batch(settings, [Task("one.dcm", "dicom", None, 1, 1)])
    assert (record.outcome, record.reason) == (("written", "") if written else ("set aside", HIDDEN_BITS))
