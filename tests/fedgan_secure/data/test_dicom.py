from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import get_decoder
from pydicom.uid import DeflatedExplicitVRLittleEndian, HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from fedgan_secure.data.pixels import decoders, gdcm_process
from fedgan_secure.data.pixels import dicom as reader
from fedgan_secure.data.pixels.dicom import read_dicom, read_header
from fedgan_secure.data.pixels.pictures import Unreadable

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


NARROW = {
    "unsigned": (np.uint16, 0, {}),
    "signed": (np.int16, -200, {}),
    "falling": (np.int16, -200, {"RescaleSlope": "-1.7", "RescaleIntercept": "12.3"}),
    "sigmoid": (np.uint16, 0, {"WindowCenter": "90", "WindowWidth": "170", "VOILUTFunction": "SIGMOID"}),
    "inverted": (np.uint16, 900, {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1000, "WindowWidth": 90}),
    "hounsfield": (np.int16, -200, {"RescaleSlope": "1.3", "RescaleIntercept": "-24", "modality": "CT"}),
}


@pytest.mark.parametrize("name", NARROW)
def test_a_table_of_levels_gives_what_every_pixel_alone_would(dicom: Make, tmp_path: Path, name: str) -> None:
    kind, lowest, header = NARROW[name]
    narrow = np.random.default_rng(5).integers(lowest, lowest + 400, (48, 48)).astype(kind)
    wide = narrow.copy()
    wide[0, :2] = np.iinfo(kind).min, np.iinfo(kind).max  # more values between them than pixels: no table
    by_table = _one(dicom(narrow, **header), tmp_path, name == "hounsfield")
    by_pixel = _one(dicom(wide, **header), tmp_path, name == "hounsfield")
    assert np.array_equal(by_table.ravel()[2:], by_pixel.ravel()[2:])
    assert len(np.unique(by_table)) > 1


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


BUNDLED = Path(pydicom.__file__).parent / "data"
NOT_DICOM = {
    "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "no_meta.dcm", "rtstruct.dcm",
}  # fmt: skip
BROKEN = {"MR_truncated.dcm": "broken, truncated", "badVR.dcm": "broken, truncated"}
WITHOUT_MARK = {"rtstruct.dcm", "ExplVR_LitEndNoMeta.dcm", "ExplVR_BigEndNoMeta.dcm"}
SEGMENTED = {"gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"}
NO_PICTURE = {"liver_1frame.dcm", "liver_expb_1frame.dcm"}


def _expected_reason(path: Path, dataset: pydicom.Dataset) -> str | None:
    """Why a bundled file cannot be read, from what pydicom itself says of it; None: it must be read."""
    if path.read_bytes()[128:132] != b"DICM" and path.name not in WITHOUT_MARK:
        return "the mark DICM is missing"
    if path.name in BROKEN:
        return BROKEN[path.name]
    if path.name == "JPEG2000-embedded-sequence-delimiter.dcm":
        return "announce another size"
    if path.name in NO_PICTURE or (dataset.get("Modality") == "RTDOSE" and "PixelData" in dataset):
        return "holds no picture of a patient"
    if "PixelData" not in dataset:
        return "it holds no pixels"
    if path.name in SEGMENTED:
        return "its palette is segmented"
    if dataset.get("SamplesPerPixel") == 3 and dataset.BitsAllocated == 32:
        return "colours of 32 bits"
    if "Rows" not in dataset:
        return "rows or columns are missing"
    return None


def test_all_bundled_files_of_pydicom_are_read_or_quarantined_for_the_right_reason() -> None:
    files = [path for path in sorted(BUNDLED.rglob("*")) if path.is_file() and path.suffix not in (".py", ".pyc")]
    outcomes = {"read": 0, "set aside": 0}
    for path in files:
        start = time.process_time()
        dataset = pydicom.dcmread(path, force=True) if path.name not in ("zipMR.gz",) else pydicom.Dataset()
        expected = _expected_reason(path, dataset)
        try:
            frames = _frames(path)
        except Unreadable as reason:
            assert expected is not None and expected in str(reason), (path.name, str(reason))
            outcomes["set aside"] += 1
        else:
            assert expected is None and frames, path.name
            assert all(frame.dtype == np.uint8 and frame.ndim in (2, 3) for frame in frames)
            outcomes["read"] += 1
        assert time.process_time() - start < 5, path.name
    assert len(files) > 150
    assert outcomes["read"] > 80
    assert {path.name for path in files} > NOT_DICOM


@pytest.mark.parametrize(
    ("name", "shape", "places"),
    [
        ("JPGExtended.dcm", (1024, 256), {(420, 140): 244, (230, 120): 95}),
        ("JPEG-lossy.dcm", (1024, 256), {(420, 140): 244, (230, 120): 95}),
        ("J2K_pixelrep_mismatch.dcm", (512, 512), {(0, 0): -2000, (47, 279): 621, (328, 106): -377}),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64), {(0, 31): 422, (31, 0): 366, (63, 63): 862}),
        ("GDCMJ2K_TextGBR.dcm", (400, 400, 3), {(45, 140, 0): 223, (46, 140, 1): 0, (350, 195, 2): 128}),
        ("SC_rgb_jpeg_gdcm.dcm", (100, 100, 3), {(5, 50, 0): 255, (15, 50, 1): 128, (85, 50, 2): 192}),
    ],
)
def test_compressed_pixels_have_the_values_that_pydicoms_own_tests_name(
    name: str, shape: tuple[int, ...], places: dict[tuple[int, ...], int]
) -> None:
    """Values from pydicom 3.0's tests/pixels/pixels_reference.py, checked there against other decoders."""
    (_, stored), *_ = read_dicom(TEST_FILES / name, hounsfield_window=False)[1]
    dataset = pydicom.dcmread(TEST_FILES / name)
    dtype = np.dtype(f"{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}")
    pixels = np.frombuffer(stored, dtype).reshape(shape)
    assert {place: int(pixels[place]) for place in places} == places


def test_every_compressed_syntax_has_one_decoder_named_for_it() -> None:
    for syntax in (*decoders.BY_PILLOW, *decoders.BY_GDCM):
        assert decoders.plugin_for(syntax) in get_decoder(syntax).available_plugins, syntax
    assert decoders.plugin_for(RLELossless) == ""


def test_a_codestream_larger_than_its_header_is_refused_before_it_is_decoded(
    dicom: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []
    monkeypatch.setattr(decoders.pydicom_pillow, "_decode_frame", lambda *_: called.append("decoded"))
    monkeypatch.setattr(decoders, "_by_gdcm", lambda *_: called.append("decoded"))
    big = np.kron(RAMP, np.ones((8, 8), np.uint8))
    for syntax, format_, options in ((JPEGBaseline8Bit, "JPEG", {}), (JPEG2000Lossless, "JPEG2000", {})):
        dataset = dicom(RAMP)
        _encapsulate(dataset, big, syntax, format_, **options)
        with pytest.raises(Unreadable, match="announce another size"):
            _one(dataset, tmp_path)
    assert called == []
    assert capfd.readouterr().err == ""


def test_a_frame_that_kills_or_hangs_gdcm_costs_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """GDCM aborts on this near-lossless JPEG-LS frame whose header is damaged; the next file is read all the same."""
    good = TEST_FILES / "JPEGLSNearLossless_08.dcm"
    expected = _frames(good)[0]
    damaged = bytearray(good.read_bytes())
    header = damaged.index(b"\xff\xf7")
    damaged[header + 4], damaged[header + 12] = 48, 146  # precision; mapping table
    monkeypatch.setattr(decoders, "_check_precision", lambda *_: None)  # else that refuses it first
    (tmp_path / "x.dcm").write_bytes(damaged)
    with pytest.raises(Unreadable, match="decoding it crashed the decoder"):
        _frames(tmp_path / "x.dcm")
    assert np.array_equal(_frames(good)[0], expected)
    child = decoders._GDCM._running()
    os.kill(child.pid, signal.SIGSTOP)  # it hangs for good, whatever the load of the machine
    monkeypatch.setattr(gdcm_process, "SECONDS_PER_FRAME", 0.2)
    with pytest.raises(Unreadable, match="decoding it took too long"):
        _frames(good)
    assert child.poll() == -signal.SIGKILL
    monkeypatch.undo()
    assert np.array_equal(_frames(good)[0], expected)
    assert capfd.readouterr().err == ""


def test_a_syntax_without_decoder_says_so(dicom: Make, tmp_path: Path) -> None:
    dataset = dicom(RAMP)
    _encapsulate(dataset, RAMP, HTJ2KLossless, "JPEG2000")
    with pytest.raises(Unreadable, match="no installed decoder takes its transfer syntax"):
        _one(dataset, tmp_path)


def test_the_same_picture_in_every_encoding_reads_alike() -> None:
    names = [
        "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless", "MR_small_expb",
        "MR_small_jpeg_ls_lossless",
    ]  # fmt: skip
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
    begun = time.process_time()
    with pytest.raises(Unreadable):
        _frames(tmp_path / "deep.dcm")
    assert time.process_time() - begun < 5
