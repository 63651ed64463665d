from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from fedgan_secure.data import dicom as reader
from fedgan_secure.data.dicom import read_dicom, read_header
from fedgan_secure.data.pictures import Unreadable

Make = Callable[..., FileDataset]
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def _frames(path: Path, hounsfield_window: bool = False) -> list[np.ndarray]:
    return [pixels for pixels, _ in read_dicom(path, hounsfield_window=hounsfield_window)[1]]


def _write(dataset: FileDataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def _one(dataset: FileDataset, tmp_path: Path, hounsfield_window: bool = False) -> np.ndarray:
    (pixels,) = _frames(_write(dataset, tmp_path / "one.dcm"), hounsfield_window)
    assert pixels.dtype == np.uint8
    return pixels


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_eight_bit_grey_and_colour_come_through_unchanged(dicom: Make, tmp_path: Path) -> None:
    assert np.array_equal(_one(dicom(RAMP), tmp_path), RAMP)
    colour = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)
    assert np.array_equal(_one(dicom(colour), tmp_path), colour)


def test_monochrome1_is_inverted(dicom: Make, tmp_path: Path) -> None:
    assert np.array_equal(_one(dicom(RAMP, PhotometricInterpretation="MONOCHROME1"), tmp_path), 255 - RAMP)


def test_sixteen_bit_is_scaled_by_its_type_not_by_its_content(dicom: Make, tmp_path: Path) -> None:
    dark = np.full((4, 4), 2048, np.uint16)
    assert (_one(dicom(dark, BitsStored=12, HighBit=11), tmp_path) == 128).all()
    assert (_one(dicom(dark), tmp_path) == 8).all()
    signed = np.array([[-32768, 0], [32767, 32767]], np.int16)
    assert _one(dicom(signed), tmp_path).tolist() == [[0, 128], [255, 255]]


def test_a_ct_goes_through_the_abdominal_window(dicom: Make, tmp_path: Path) -> None:
    hounsfield = np.array([[-1000, -160], [40, 240]], np.int16)
    stored = ((hounsfield + 1024) * 2).astype(np.uint16)
    ct = dicom(stored, modality="CT", RescaleSlope="0.5", RescaleIntercept="-1024")
    ct.WindowCenter, ct.WindowWidth = "-600", "1500"  # the file's own window must not be used
    assert _one(ct, tmp_path, True).tolist() == [[0, 0], [128, 255]]


def test_a_ct_without_rescale_or_another_modality_is_quarantined(dicom: Make, tmp_path: Path) -> None:
    stored = np.zeros((2, 2), np.int16)
    with pytest.raises(Unreadable, match="Hounsfield"):
        _one(dicom(stored, modality="CT"), tmp_path, True)
    with pytest.raises(Unreadable, match="modality MR, expected CT"):
        _one(dicom(stored, modality="MR", RescaleSlope=1, RescaleIntercept=0), tmp_path, True)


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        ("LINEAR", [0, 100, 199, 400], [0, 128, 255, 255]),
        ("LINEAR_EXACT", [0, 100, 200, 400], [0, 128, 255, 255]),
        ("SIGMOID", [0, 100, 200, 4000], [30, 128, 225, 255]),
    ],
)
def test_the_files_own_window_is_applied(
    dicom: Make, tmp_path: Path, function: str, values: list[int], expected: list[int]
) -> None:
    pixels = np.array([values], np.uint16)
    found = _one(dicom(pixels, WindowCenter=["100", "5"], WindowWidth=["200", "5"], VOILUTFunction=function), tmp_path)
    assert np.abs(found[0].astype(int) - expected).max() <= 1


def test_an_empty_or_absurd_window_falls_back_to_the_type(dicom: Make, tmp_path: Path) -> None:
    pixels = np.array([[0, 65535]], np.uint16)
    for centre, width in (("", ""), ("10", "0"), ("10", "-5")):
        assert _one(dicom(pixels, WindowCenter=centre, WindowWidth=width), tmp_path).tolist() == [[0, 255]]


def test_a_voi_table_is_applied(dicom: Make, tmp_path: Path) -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "SS", [4, -2, 16])
    table.add_new("LUTData", "US", [65535, 32768, 256, 0])
    stored = np.array([[0, 1, 2, 3, 9]], np.uint16)  # -2 .. 1 and 7 after the rescale
    found = _one(dicom(stored, VOILUTSequence=[table], RescaleSlope=1, RescaleIntercept=-2), tmp_path)
    assert found.tolist() == [[255, 128, 1, 0, 0]]


def test_all_frames_are_read(dicom: Make, tmp_path: Path) -> None:
    frames = np.stack([RAMP, 255 - RAMP, RAMP.T])
    found = _frames(_write(dicom(frames, NumberOfFrames=3), tmp_path / "m.dcm"))
    assert np.array_equal(np.stack(found), frames)
    assert read_header(tmp_path / "m.dcm").frames == 3


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression(dicom: Make, tmp_path: Path, syntax: str) -> None:
    big = np.kron(RAMP, np.ones((4, 4), np.uint8))
    dataset = dicom(big)
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    else:
        _encapsulate(dataset, big, JPEG2000Lossless, "JPEG2000", irreversible=False)
    assert np.array_equal(_one(dataset, tmp_path), big)


def test_jpeg(dicom: Make, tmp_path: Path) -> None:
    big = np.kron(RAMP, np.ones((8, 8), np.uint8))
    dataset = dicom(big)
    _encapsulate(dataset, big, JPEGBaseline8Bit, "JPEG", quality=95)
    assert np.abs(_one(dataset, tmp_path).astype(int) - big).mean() < 3


def _encapsulate(dataset: FileDataset, pixels: np.ndarray, syntax: str, format_: str, **options: object) -> None:
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format_, **options)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax


def test_only_identifier_modality_and_frames_are_kept_from_the_header(dicom: Make, tmp_path: Path) -> None:
    header = read_header(_write(dicom(RAMP, patient=" ID-1 ", modality="OP"), tmp_path / "h.dcm"))
    assert (header.patient_id, header.modality, header.frames) == ("ID-1", "OP", 1)
    assert "Real" not in repr(header)


@pytest.mark.parametrize("path", sorted(TEST_FILES.rglob("*.dcm")), ids=lambda path: path.name)
def test_the_bundled_files_of_pydicom_are_read_or_quarantined(path: Path) -> None:
    start = time.monotonic()
    try:
        frames = _frames(path)
        assert frames
        assert all(frame.dtype == np.uint8 and frame.ndim in (2, 3) for frame in frames)
    except Unreadable as reason:
        assert str(reason)
        assert path.name not in GOOD
    assert time.monotonic() - start < 5


GOOD = {
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm", "693_J2KI.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm", "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "SC_ybr_full_422_uncompressed.dcm", "examples_palette.dcm", "examples_ybr_color.dcm",
    "image_dfl.dcm", "SC_rgb_small_odd.dcm",
}  # fmt: skip


def test_the_same_picture_in_every_encoding_reads_alike() -> None:
    names = ["MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless", "MR_small_expb"]
    expected = _frames(TEST_FILES / "MR_small.dcm")[0]
    for name in names:
        assert np.array_equal(_frames(TEST_FILES / f"{name}.dcm")[0], expected), name


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Rows": 0}, "rows or columns"),
        ({"Rows": 60000, "Columns": 60000}, "more than the limit"),
        ({"NumberOfFrames": 1_000_000}, "more than the limit"),
        ({"Rows": 6000, "Columns": 6000, "NumberOfFrames": 4000}, "more memory than the limit"),
        ({"Rows": 17}, "broken, truncated or inconsistent"),
        ({"Modality": "SR"}, "holds no picture"),
        ({"SamplesPerPixel": 7}, "broken, truncated or inconsistent"),
    ],
)
def test_headers_that_lie_are_quarantined_before_decoding(
    dicom: Make, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(Unreadable, match=reason):
        _one(dicom(RAMP, **change), tmp_path)


def test_files_that_are_not_whole_are_quarantined(dicom: Make, tmp_path: Path) -> None:
    whole = _write(dicom(RAMP), tmp_path / "w.dcm").read_bytes()
    for name, data, reason in (
        ("empty", b"", "empty"),
        ("text", b"x" * 400, "not DICOM"),
        ("truncated", whole[:-100], "broken, truncated"),
        ("header only", whole[:140], "rows or columns|broken|no pixels"),
    ):
        (tmp_path / "bad.dcm").write_bytes(data)
        with pytest.raises(Unreadable, match=reason):
            _frames(tmp_path / "bad.dcm")
            pytest.fail(name)


def test_pixels_without_a_range_are_quarantined(dicom: Make, tmp_path: Path) -> None:
    dataset = dicom(RAMP)
    del dataset.PixelData
    with pytest.raises(Unreadable, match="no pixels"):
        _one(dataset, tmp_path)
    dataset.FloatPixelData = bytes(4 * 256)
    with pytest.raises(Unreadable, match="no known range"):
        _one(dataset, tmp_path)


def test_a_deflate_bomb_is_refused_before_it_inflates(
    dicom: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dicom(np.zeros((2000, 2000), np.uint8))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = _write(dataset, tmp_path / "bomb.dcm")
    assert path.stat().st_size < 20_000
    assert len(_frames(path)) == 1
    for tail in (b"\0", b"\0" * 7, b"x" * 300):
        (tmp_path / "padded.dcm").write_bytes(path.read_bytes() + tail)
        assert len(_frames(tmp_path / "padded.dcm")) == 1
    monkeypatch.setattr(reader, "MAXIMUM_DECODED_BYTES", 1_000_000)
    inflated: list[int] = []
    real = zlib.decompress
    monkeypatch.setattr(zlib, "decompress", lambda *args, **kwargs: inflated.append(1) or real(*args, **kwargs))
    with pytest.raises(Unreadable, match="inflates to more"):
        _frames(path)
    assert not inflated


def test_deep_nesting_is_quarantined(dicom: Make, tmp_path: Path) -> None:
    head = _write(dicom(RAMP), tmp_path / "w.dcm").read_bytes()
    item = bytes.fromhex("feff00e0ffffffff")
    sequence = bytes.fromhex("08004011") + b"SQ\0\0" + bytes.fromhex("ffffffff")
    start = head.index(b"\x10\x00\x10\x00PN")
    (tmp_path / "deep.dcm").write_bytes(head[:start] + (sequence + item) * 20_000 + head[start:])
    begun = time.monotonic()
    with pytest.raises(Unreadable):
        _frames(tmp_path / "deep.dcm")
    assert time.monotonic() - begun < 5
