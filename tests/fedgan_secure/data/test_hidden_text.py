"""Text beside the pixels of compressed files, pages of text of grey classes, and values that do not fit their kind.

None of it is in a copy, and no file is lost for it that a decoder can read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

from fedgan_secure.data.deidentification import DeidentifySettings, deidentify_folder
from fedgan_secure.data.deidentification.streams import bare_run_lengths
from fedgan_secure.data.identifiers.burned_in import NOT_SAID, risk
from fedgan_secure.errors import InputError

from .conftest import make_dicom, noise

TEXT = b"Zyxwvutsen, Quorralina 14 Feb 1937"
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


def _saved(dataset: Any) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _compressed(kind: str, frames: int = 1) -> Any:
    """A grey file of `frames` frames of one compressed syntax; its pixels are known to pydicom."""
    if kind == "run lengths":
        dataset = make_dicom(np.repeat(noise(1, frames, 16, 8), 2, axis=2), modality="CT", NumberOfFrames=frames)
        dataset.compress(uid.RLELossless, generate_instance_uid=False)
        return dataset
    pixels = np.kron(noise(1, 4, 4), np.ones((8, 8), np.uint8))
    dataset = make_dicom(pixels, modality="CT", NumberOfFrames=frames)
    form, options, syntax = {
        "JPEG": ("JPEG", {}, uid.JPEGBaseline8Bit),
        "JPEG, progressive scans": ("JPEG", {"progressive": True}, uid.JPEGBaseline8Bit),
        "JPEG 2000": ("JPEG2000", {"no_jp2": True}, uid.JPEG2000Lossless),
    }[kind]
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)  # type: ignore[arg-type]
    _put(dataset, [buffer.getvalue()] * frames)
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _put(dataset: Any, frames: list[bytes], **options: Any) -> None:
    dataset.PixelData = encapsulate(frames, **options)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True


def _frames(dataset: Any) -> list[bytes]:
    return list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames)))


def _each(change: Callable[[bytes], bytes]) -> Callable[[Any], None]:
    return lambda dataset: _put(dataset, [change(frame) for frame in _frames(dataset)])


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _after_soi(marker: int, body: bytes) -> Callable[[Any], None]:
    return _each(lambda frame: frame[:2] + _segment(marker, body) + frame[2:])


def _longer_segment(marker: int) -> Callable[[Any], None]:
    def change(frame: bytes) -> bytes:
        at = frame.index(bytes([0xFF, marker]))
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        longer = (length + len(TEXT)).to_bytes(2, "big")
        return frame[: at + 2] + longer + frame[at + 4 : at + 2 + length] + TEXT + frame[at + 2 + length :]

    return _each(change)


def _in_the_gap_of_run_lengths(frame: bytes) -> bytes:
    count = int.from_bytes(frame[:4], "little")
    offsets = [int.from_bytes(frame[4 * at : 4 * at + 4], "little") + len(TEXT) for at in range(1, count + 1)]
    header = struct.pack(f"<{count + 1}I", count, *offsets).ljust(64, b"\0")
    return header + TEXT + frame[64:]


def _in_the_last_run(frame: bytes) -> bytes:
    """The last run repeats one pixel more often than there are pixels; here it is a literal that goes on as text."""
    body = frame[64:].rstrip(b"\0")
    assert body[-2] > 128
    count, value = 257 - body[-2], body[-1:]
    literal = value * count + TEXT
    return frame[:64] + body[:-2] + bytes([len(literal) - 1]) + literal


def _before_the_last_scan(frame: bytes) -> bytes:
    before, scan = frame.rsplit(b"\xff\xda", 1)
    return before + _segment(0xFE, TEXT) + b"\xff\xda" + scan


def _table_of_offsets(dataset: Any) -> None:
    data = dataset.PixelData
    length = int.from_bytes(data[4:8], "little")
    slack = TEXT.ljust(36, b" ")
    dataset.PixelData = (
        data[:4] + struct.pack("<I", length + len(slack)) + data[8 : 8 + length] + slack + data[8 + length :]
    )


def _one_more_fragment(dataset: Any) -> None:
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(TEXT)) + TEXT
    dataset.PixelData = dataset.PixelData + item


JPEG, JPEG_2000, RUNS = "JPEG", "JPEG 2000", "run lengths"
PLANTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "behind the end of image": (JPEG, _each(lambda frame: frame + TEXT)),
    "behind the end of image, with a second end": (JPEG, _each(lambda frame: frame + TEXT + b"\xff\xd9")),
    "a comment": (JPEG, _after_soi(0xFE, TEXT)),
    "an application segment": (JPEG, _after_soi(0xE1, b"Exif\0\0" + TEXT)),
    "behind Adobe's colour transform": (JPEG, _after_soi(0xEE, b"Adobe\0\x64\0\0\0\0\0" + TEXT)),
    "a segment of a kind that is reserved": (JPEG, _after_soi(0xF5, TEXT)),
    "behind the tables of quantisation": (JPEG, _longer_segment(0xDB)),
    "behind Huffman's tables": (JPEG, _longer_segment(0xC4)),
    "behind the header of the frame": (JPEG, _longer_segment(0xC0)),
    "a comment between two scans": ("JPEG, progressive scans", _each(lambda frame: _before_the_last_scan(frame))),
    "behind the end of codestream": (JPEG_2000, _each(lambda frame: frame + TEXT)),
    "behind the end of codestream, with a second end": (JPEG_2000, _each(lambda frame: frame + TEXT + b"\xff\xd9")),
    "a comment of JPEG 2000": (
        JPEG_2000,
        _each(lambda frame: frame.replace(b"\xff\x90", _segment(0x64, b"\0\1" + TEXT) + b"\xff\x90", 1)),
    ),
    "a segment of JPEG 2000 of unknown kind": (
        JPEG_2000,
        _each(lambda frame: frame.replace(b"\xff\x90", _segment(0x6F, TEXT) + b"\xff\x90", 1)),
    ),
    "behind the last run": (RUNS, _each(lambda frame: frame + TEXT)),
    "within the last run": (RUNS, _each(_in_the_last_run)),
    "between the header of run lengths and its first segment": (RUNS, _each(_in_the_gap_of_run_lengths)),
    "offsets that no segment uses": (RUNS, _each(lambda frame: frame[:8] + TEXT.ljust(56, b"\0") + frame[64:])),
    "the slack of the table of offsets": (RUNS, _table_of_offsets),
    "a fragment of its own": (JPEG, _one_more_fragment),
    "a fragment of its own among run lengths": (RUNS, _one_more_fragment),
}  # fmt: skip


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("place", PLANTS)
def test_text_beside_a_compressed_stream_does_not_survive_and_pixels_do(
    place: str, frames: int, tmp_path: Path
) -> None:
    kind, plant = PLANTS[place]
    dataset = _compressed(kind, frames)
    pixels = dataset.pixel_array
    plant(dataset)
    data = _saved(dataset)
    assert TEXT in data, "nothing was planted"
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "x.dcm").write_bytes(data)
    deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    (copy,) = (tmp_path / "d").rglob("*.dcm")
    assert TEXT not in copy.read_bytes() and b"Quorralina" not in copy.read_bytes()
    assert np.array_equal(pydicom.dcmread(copy).pixel_array, pixels)


@pytest.mark.parametrize("kind", [JPEG, JPEG_2000])
def test_text_at_the_end_of_the_entropy_coded_data_is_set_aside(kind: str, tmp_path: Path) -> None:
    dataset = _compressed(kind)
    (frame,) = _frames(dataset)
    frame = frame.rstrip(b"\0")
    assert frame.endswith(b"\xff\xd9")
    changed = frame[:-2] + TEXT + b"\xff\xd9"
    if kind == JPEG_2000:
        at = frame.index(b"\xff\x90") + 6
        length = int.from_bytes(frame[at : at + 4], "big")
        changed = changed[:at] + (length + len(TEXT) if length else 0).to_bytes(4, "big") + changed[at + 4 :]
    _put(dataset, [changed])
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "x.dcm").write_bytes(_saved(dataset))
    with pytest.raises(InputError, match="text stands at the end of its compressed pixels"):
        deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))


def test_run_lengths_in_several_fragments_of_one_frame_are_kept(tmp_path: Path) -> None:
    dataset = _compressed(RUNS)
    pixels = dataset.pixel_array
    _put(dataset, _frames(dataset), fragments_per_frame=3)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "x.dcm").write_bytes(_saved(dataset))
    deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    (copy,) = (tmp_path / "d").rglob("*.dcm")
    assert np.array_equal(pydicom.dcmread(copy).pixel_array, pixels)


def test_a_frame_of_run_lengths_that_has_no_slack_stays_as_it_is() -> None:
    dataset = make_dicom(noise(3, 12, 10).astype(np.uint16) * 77, modality="CT")
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    (frame,) = list(generate_frames(dataset.PixelData, number_of_frames=1))
    assert bare_run_lengths(frame, segments=2, pixels=120) == frame
    with pytest.raises(ValueError, match="truncated"):
        bare_run_lengths(frame[:-9], segments=2, pixels=120)
    for segments in (1, 3):
        with pytest.raises(ValueError, match="broken header"):
            bare_run_lengths(frame, segments=segments, pixels=120)


@pytest.mark.parametrize(
    ("types", "series", "modality", "expected"),
    [
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], "", "CT", NOT_SAID),
        (["DERIVED", "SECONDARY"], "", "MG", NOT_SAID),
        (["derived", "secondary "], "", "DX", NOT_SAID),
        (["ORIGINAL", "PRIMARY", "DOSE"], "", "CT", NOT_SAID),
        (["ORIGINAL", "PRIMARY", "DOSE_INFO"], "", "CT", NOT_SAID),
        (["DERIVED", "PRIMARY", "CT_SOM5 PROT"], "", "CT", NOT_SAID),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "Dose Report", "CT", NOT_SAID),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "Patient Protocol", "CR", NOT_SAID),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "LOW DOSE CHEST", "CT", ""),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "SnapShot Segment 75%", "CT", ""),
        (["DERIVED", "PRIMARY"], "", "DX", ""),
        (["DERIVED", "PRIMARY", "TOMO"], "", "MG", ""),
        ([], "", "CR", ""),
    ],
)
def test_pages_of_text_of_grey_classes_need_a_review(
    types: list[str], series: str, modality: str, expected: str
) -> None:
    dataset = make_dicom(noise(1, 8, 8), modality=modality, ImageType=types, SeriesDescription=series)
    assert risk(dataset) == expected
    dataset.BurnedInAnnotation = "NO"
    assert risk(dataset) == ""


def test_colour_of_a_grey_modality_a_capture_and_a_page_among_frames_need_a_review() -> None:
    assert risk(make_dicom(noise(1, 8, 8, 3), modality="CT")) == NOT_SAID
    assert risk(make_dicom(noise(1, 8, 8), modality="CR", SecondaryCaptureDeviceManufacturer="x")) == NOT_SAID
    enhanced = make_dicom(noise(1, 2, 8, 8), modality="CT", NumberOfFrames=2)
    frame, kind = pydicom.Dataset(), pydicom.Dataset()
    kind.FrameType = ["DERIVED", "SECONDARY", "RESAMPLED", "NONE"]
    frame.CTImageFrameTypeSequence = Sequence([kind])
    enhanced.SharedFunctionalGroupsSequence = Sequence([frame])
    assert risk(enhanced) == NOT_SAID


# Values that do not fit their kind.


def _element(group: int, number: int, kind: str, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    start = struct.pack("<HH", group, number) + kind.encode()
    if kind in ("OB", "OW", "UN", "UT", "SQ"):
        return start + b"\0\0" + struct.pack("<I", size) + value
    return start + struct.pack("<H", size) + value


CREATOR = _element(0x2005, 0x0010, "LO", b"VENDOR  ")
MISFITS: dict[str, bytes] = {
    "a private number of six bytes": CREATOR + _element(0x2005, 0x1001, "FL", bytes(6)),
    "a private number of odd length": CREATOR + _element(0x2005, 0x1001, "US", bytes(3)),
    "a private number in words": CREATOR + _element(0x2005, 0x1001, "DS", TEXT),
    "a private sequence that is none": CREATOR + _element(0x2005, 0x1001, "UN", TEXT),
    "a public number of odd length": _element(0x0054, 0x0081, "US", bytes(3)),
    "a public number in words": _element(0x0054, 0x1330, "IS", TEXT),
}


def _with(element: bytes, *, nested: bool, last: bool) -> bytes:
    data = _saved(make_dicom(noise(1, 16, 16), modality="CT"))
    if nested:
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(element)) + element
        element = _element(0x0054, 0x0016, "SQ", item)
    elif last:
        return data + element.replace(b"\x05\x20", b"\xe1\x7f")
    at = data.index(b"\xe0\x7f\x10\x00")
    return data[:at] + element + data[at:]


@pytest.mark.parametrize("where", ["plain", "nested", "last"])
@pytest.mark.parametrize("misfit", MISFITS)
def test_an_element_of_wrong_length_or_kind_costs_no_file(misfit: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "x.dcm").write_bytes(_with(MISFITS[misfit], nested=where == "nested", last=where == "last"))
    result = deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    assert [record.outcome for record in result.records] == ["written"]
    (copy,) = (tmp_path / "d").rglob("*.dcm")
    assert TEXT not in copy.read_bytes() and b"VENDOR" not in copy.read_bytes()
    assert np.array_equal(pydicom.dcmread(copy).pixel_array, noise(1, 16, 16))


def test_a_misfit_that_describes_the_pixels_is_set_aside(tmp_path: Path) -> None:
    data = _saved(make_dicom(noise(1, 16, 16), modality="CT", SmallestImagePixelValue=3))
    at = data.index(b"\x28\x00\x06\x01")
    (tmp_path / "s").mkdir()
    broken = data[: at + 6] + b"\x03\x00" + bytes(3) + data[at + 10 :]
    (tmp_path / "s" / "x.dcm").write_bytes(broken)
    with pytest.raises(InputError, match="nothing of"):
        deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))


@pytest.mark.parametrize("after", [b"", b"\r\n", b"\0", bytes(70), b" \t\r\n"])
def test_text_at_the_end_of_compressed_data_is_found_whatever_blanks_follow(after: bytes) -> None:
    from fedgan_secure.data.deidentification import streams
    from fedgan_secure.data.deidentification.streams import TEXT, bare_jpeg_2000

    with pytest.raises(ValueError, match=TEXT):
        streams._refuse_text(bytes(range(256)) + b"SMITH JOHN, bed 12" + after)
    streams._refuse_text(bytes(range(256)) + after)
    assert bare_jpeg_2000 is streams.bare_jpeg_2000


def test_segments_that_decode_nothing_do_not_come_along() -> None:
    """Arithmetic conditioning in Huffman JPEG; profiles and capabilities with text in JPEG 2000."""
    from fedgan_secure.data.deidentification import streams

    assert streams._MAIN_2000.isdisjoint({0x56, 0x59, 0x64})
    capabilities = b"\xff\x50" + (18).to_bytes(2, "big") + bytes(4) + b"SMITH JOHN 1"
    with pytest.raises(ValueError, match=streams.BROKEN):
        streams._headers(capabilities + b"\xff\x90", 0, b"\xff\x90", [])
