"""Every kind of DICOM pixel is within one level of what DCMTK shows, or its file is set aside with a reason."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from tests.fedgan_secure.data.conftest import make_dicom
from tests.fedgan_secure.data.references import by_dcmtk, difference, ours, run

from fedgan_secure.data import LoadSettings, load
from fedgan_secure.data.pixels.dicom import read_dicom
from fedgan_secure.data.pixels.pictures import Unreadable

RNG = np.random.default_rng(1)
WORDS = RNG.integers(0, 65536, (40, 50)).astype(np.uint16)
SIGNED = WORDS.view(np.int16)
BYTES = WORDS.astype(np.uint8)
COLOUR = RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8)
COLOUR16 = RNG.integers(0, 65536, (40, 50, 3)).astype(np.uint16)
TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
TEN: dict[str, Any] = {"BitsStored": 10, "HighBit": 9}
HOUNSFIELD: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": 0, "modality": "CT"}


def table(descriptor: list[int], data: Any, vr: str = "US", descriptor_vr: str = "") -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", descriptor_vr or ("SS" if descriptor[1] < 0 else "US"), descriptor)
    item.add_new("LUTData", vr, data)
    return [item]


def palette(pixels: np.ndarray, descriptor: list[int], tables: list[bytes], **header: Any) -> FileDataset:
    dataset = make_dicom(pixels, PhotometricInterpretation="PALETTE COLOR", **header)
    for colour, data in zip(("Red", "Green", "Blue"), tables, strict=True):
        name = f"{colour}PaletteColorLookupTable"
        dataset.add_new(f"{name}Descriptor", "SS" if descriptor[1] < 0 else "US", descriptor)
        dataset.add_new(f"{name}Data", "OW", data)
    return dataset


def planar(pixels: np.ndarray, **header: Any) -> FileDataset:
    dataset = make_dicom(pixels, PlanarConfiguration=1, **header)
    dataset.PixelData = pixels.transpose(2, 0, 1).tobytes()
    return dataset


def rle(dataset: FileDataset) -> FileDataset:
    dataset.compress(RLELossless)
    return dataset


def subsampled() -> FileDataset:
    dataset = make_dicom(COLOUR, PhotometricInterpretation="YBR_FULL_422")
    pairs = np.stack([COLOUR[:, ::2, 0], COLOUR[:, 1::2, 0], COLOUR[:, ::2, 1], COLOUR[:, ::2, 2]], axis=2)
    dataset.PixelData = pairs.tobytes()
    return dataset


FALLING = np.arange(255, -1, -1)
NARROW = [RNG.integers(0, 256, 256).astype(np.uint8) for _ in range(3)]
WIDE = [RNG.integers(0, 65536, 256).astype("<u2") for _ in range(3)]
SAME: dict[str, Callable[[], FileDataset]] = {
    "10 of 16 bits with garbage": lambda: make_dicom(WORDS, **TEN),
    "12 of 16 bits, signed, with garbage": lambda: make_dicom(SIGNED, **TWELVE),
    "signed 8 bits": lambda: make_dicom(BYTES.view(np.int8)),
    "20 of 32 bits": lambda: make_dicom(WORDS.astype(np.uint32) * 65521, BitsStored=20, HighBit=19),
    "high bit 15 of 12": lambda: make_dicom(SIGNED, BitsStored=12, HighBit=15),
    "high bit 13 of 12": lambda: make_dicom(WORDS, BitsStored=12, HighBit=13),
    "run lengths, 12 of 16, signed": lambda: rle(make_dicom(SIGNED, **TWELVE)),
    "CT, 12 of 16, signed": lambda: make_dicom(SIGNED, **TWELVE, **HOUNSFIELD),
    "MONOCHROME1 with two windows": lambda: make_dicom(
        WORDS, PhotometricInterpretation="MONOCHROME1", WindowCenter=[30000, 5], WindowWidth=[20000, 9]
    ),
    "MONOCHROME1 with a VOI table": lambda: make_dicom(
        WORDS, PhotometricInterpretation="MONOCHROME1", VOILUTSequence=table([1024, 0, 10], list(range(1024))), **TEN
    ),
    "falling rescale": lambda: make_dicom(SIGNED, RescaleSlope="-1.7", RescaleIntercept="12"),
    "modality table of 12 bits": lambda: make_dicom(
        WORDS, ModalityLUTSequence=table([4096, 0, 12], list(range(4095, -1, -1))), **TWELVE
    ),
    "modality table of 65536 entries": lambda: make_dicom(
        WORDS, ModalityLUTSequence=table([0, 0, 16], np.arange(65535, -1, -1).astype("<u2").tobytes(), "OW")
    ),
    "modality table of bytes in words": lambda: make_dicom(
        BYTES, ModalityLUTSequence=table([256, 0, 8], FALLING.astype(np.uint8).tobytes(), "OW")
    ),
    "VOI table of bytes in words": lambda: make_dicom(
        BYTES, VOILUTSequence=table([256, 0, 8], FALLING.astype(np.uint8).tobytes(), "OW")
    ),
    "VOI table of bytes, an odd number": lambda: make_dicom(
        BYTES, VOILUTSequence=table([255, 0, 8], FALLING[1:].astype(np.uint8).tobytes() + b"\0", "OW")
    ),
    "VOI table of 8 bits a word": lambda: make_dicom(BYTES, VOILUTSequence=table([256, 0, 8], FALLING.tolist())),
    "VOI table, first input -2048": lambda: make_dicom(
        SIGNED, VOILUTSequence=table([4096, -2048, 16], list(range(0, 65536, 16))), **TWELVE
    ),
    "VOI table, first input -2048 written as unsigned": lambda: make_dicom(
        SIGNED, VOILUTSequence=table([4096, 65536 - 2048, 16], list(range(0, 65536, 16)), "US", "US"), **TWELVE
    ),
    "palette": lambda: palette(BYTES, [256, 0, 16], [one.tobytes() for one in WIDE]),
    "palette of 12 bits": lambda: palette(BYTES, [256, 0, 12], [(one >> 4).tobytes() for one in WIDE]),
    "palette of bytes in words": lambda: palette(BYTES, [256, 0, 8], [one.tobytes() for one in NARROW]),
    "palette of 8 bits a word": lambda: palette(BYTES, [256, 0, 8], [one.astype("<u2").tobytes() for one in NARROW]),
    "palette that begins at 20": lambda: palette(BYTES, [200, 20, 16], [one[:200].tobytes() for one in WIDE]),
    "palette of signed indices": lambda: palette(BYTES.view(np.int8), [256, -128, 16], [one.tobytes() for one in WIDE]),
    "palette, 6 of 8 bits with garbage": lambda: palette(
        BYTES, [64, 0, 16], [one[:64].tobytes() for one in WIDE], BitsStored=6, HighBit=5
    ),
    "RGB of 12 of 16 bits with garbage": lambda: make_dicom(COLOUR16, **TWELVE),
    "RGB of 6 of 8 bits": lambda: make_dicom(COLOUR, BitsStored=6, HighBit=5),
    "RGB by plane": lambda: planar(COLOUR),
    "YBR_FULL": lambda: make_dicom(COLOUR, PhotometricInterpretation="YBR_FULL"),
    "YBR_FULL by plane": lambda: planar(COLOUR, PhotometricInterpretation="YBR_FULL"),
    "YBR_FULL, run lengths": lambda: rle(make_dicom(COLOUR, PhotometricInterpretation="YBR_FULL")),
    "YBR_FULL_422": subsampled,
}


@pytest.mark.parametrize("kind", SAME)
def test_a_kind_is_within_one_level_of_dcmtk(kind: str, tmp_path: Path) -> None:
    """Also after DCMTK has written it in big-endian words and with implicit VRs."""
    file = tmp_path / "one.dcm"
    dataset = SAME[kind]()
    dataset.save_as(file, enforce_file_format=True)
    expected = by_dcmtk(file, dataset)
    assert expected is not None and len(np.unique(expected)) > 2
    assert difference(ours(file)[0], expected) <= 1
    if dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian:
        for option in ("+tb", "+ti"):
            other = tmp_path / "other.dcm"
            assert run("dcmconv", option, str(file), str(other)).returncode == 0
            if dataset.BitsAllocated == 32 and option == "+tb":
                with pytest.raises(Unreadable, match="32 bits in big-endian words"):
                    ours(other)
                continue
            again = by_dcmtk(other, dataset)
            assert again is not None and difference(ours(other)[0], again) <= 1, option


COMPRESSED = {
    "12 of 16 bits with garbage": (WORDS, {}),
    "signed, extended": (SIGNED << 4 >> 4, {}),
    "signed, not extended": ((WORDS & 0xFFF).view(np.int16), {}),
    "signed, an overlay in bit 15": (((WORDS & 0xFFF) | 0x8000).view(np.int16), {}),
    "CT, signed, not extended": ((WORDS & 0xFFF).view(np.int16), HOUNSFIELD),
    "CT, signed, an overlay in bit 15": (((WORDS & 0xFFF) | 0x8000).view(np.int16), HOUNSFIELD),
}
ENCODERS = {
    "JPEG-LS": ("dcmcjpls", "+pr"),
    "JPEG-LS, cooked": ("dcmcjpls", "+pc"),
    "JPEG lossless": ("dcmcjpeg", "+e1"),
    "JPEG lossless, process 14": ("dcmcjpeg", "+el"),
    "run lengths": ("dcmcrle",),
    "JPEG 2000": (),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_codestream_wider_than_its_bits_is_read_as_the_native_file(kind: str, encoder: str, tmp_path: Path) -> None:
    pixels, header = COMPRESSED[kind]
    native, file = tmp_path / "native.dcm", tmp_path / "compressed.dcm"
    dataset = make_dicom(pixels, **TWELVE, **header)
    dataset.save_as(native, enforce_file_format=True)
    if encoder == "JPEG 2000":
        jpeg_2000(dataset, pixels.view(np.uint16)).save_as(file, enforce_file_format=True)
    else:
        plain = make_dicom(pixels.view(np.uint16), **TWELVE, **header) if "cooked" in encoder else dataset
        plain.save_as(tmp_path / "plain.dcm", enforce_file_format=True)
        assert run(*ENCODERS[encoder], str(tmp_path / "plain.dcm"), str(file)).returncode == 0
        compressed = pydicom.dcmread(file)  # cooked: the 12 bits alone, which DCMTK takes without a sign only
        compressed.PixelRepresentation = dataset.PixelRepresentation
        compressed.save_as(file, enforce_file_format=True)
    expected = by_dcmtk(native, dataset)
    assert expected is not None
    assert difference(ours(file)[0], expected) <= 1


def jpeg_2000(dataset: FileDataset, pixels: np.ndarray) -> FileDataset:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", no_jp2=True, irreversible=False)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length, dataset["PixelData"].VR = True, "OB"
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return dataset


ASIDE: dict[str, tuple[Callable[[], FileDataset], str]] = {
    "6 of 8 bits without a window": (lambda: make_dicom(BYTES, BitsStored=6, HighBit=5), "fewer than 128 steps"),
    "a slope that leaves few steps": (
        lambda: make_dicom(WORDS, RescaleSlope="0.003", RescaleIntercept="0"),
        "fewer than 512 steps",
    ),
    "MONOCHROME1 said to be shown as it is": (
        lambda: make_dicom(WORDS, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="IDENTITY"),
        "contradicts",
    ),
    "MONOCHROME2 said to be shown inverted": (lambda: make_dicom(WORDS, PresentationLUTShape="INVERSE"), "contradicts"),
    "shape LIN OD": (lambda: make_dicom(WORDS, PresentationLUTShape="LIN OD"), "presentation table"),
    "a window by another function": (
        lambda: make_dicom(WORDS, WindowCenter=9, WindowWidth=9, VOILUTFunction="CUBIC"),
        "function that is not known",
    ),
    "a palette of 16 bits that uses 8": (
        lambda: palette(BYTES, [256, 0, 16], [one.astype("<u2").tobytes() for one in NARROW]),
        "its range is unknown",
    ),
    "entries above their bits": (
        lambda: palette(BYTES, [256, 0, 8], [one.tobytes() for one in WIDE]),
        "more than the 8 bits",
    ),
    "a table shorter than it says": (
        lambda: make_dicom(BYTES, VOILUTSequence=table([256, 0, 16], [1, 2, 3])),
        "expected 256 entries",
    ),
    "values between a table's entries": (
        lambda: make_dicom(
            BYTES, RescaleSlope="0.5", RescaleIntercept=0, VOILUTSequence=table([256, 0, 8], FALLING.tolist())
        ),
        "between the entries",
    ),
    "a supplemental palette": (lambda: make_dicom(WORDS, PixelPresentation="MIXED"), "shown in colour"),
    "YBR of 16 bits": (lambda: make_dicom(COLOUR16, PhotometricInterpretation="YBR_FULL"), "YBR colours of 16"),
    "HSV": (lambda: make_dicom(COLOUR, PhotometricInterpretation="HSV"), "photometric interpretation"),
    "signed colours": (lambda: make_dicom(COLOUR.view(np.int8)), "colours with a sign"),
    "bits that contradict each other": (lambda: make_dicom(WORDS, BitsStored=12, HighBit=5), "contradict each other"),
    "more bits than are allocated": (lambda: make_dicom(WORDS, BitsStored=17, HighBit=16), "contradict each other"),
    "a codestream of 8 bits for 12 signed ones": (
        lambda: jpeg_2000(make_dicom(SIGNED, **TWELVE), BYTES),
        "other bits or another sign",
    ),
    "CT in colour": (lambda: make_dicom(COLOUR, **HOUNSFIELD), "a CT in colour"),
    "CT by palette": (
        lambda: palette(BYTES, [256, 0, 16], [one.tobytes() for one in WIDE], **HOUNSFIELD),
        "a CT in colour",
    ),
    "CT in another unit": (
        lambda: make_dicom(SIGNED, RescaleType="US", **HOUNSFIELD),
        "not in Hounsfield units by its header",
    ),
    "CT through a modality table": (
        lambda: make_dicom(BYTES, ModalityLUTSequence=table([256, 0, 8], FALLING.tolist()), **HOUNSFIELD),
        "not in Hounsfield units by its header",
    ),
    "CT without rescale": (lambda: make_dicom(SIGNED, modality="CT"), "Hounsfield units are unknown"),
    "CT shown inverted": (
        lambda: make_dicom(SIGNED, PhotometricInterpretation="MONOCHROME1", **HOUNSFIELD),
        "shown inverted",
    ),
    "text burned in": (lambda: make_dicom(BYTES, modality="MR", BurnedInAnnotation="YES"), "text is burned into"),
}


@pytest.mark.parametrize("kind", ASIDE)
def test_what_readers_may_show_differently_is_set_aside(kind: str, tmp_path: Path) -> None:
    make, reason = ASIDE[kind]
    make().save_as(tmp_path / "one.dcm", enforce_file_format=True)
    with pytest.raises(Unreadable, match=reason):
        ours(tmp_path / "one.dcm")


@pytest.mark.parametrize("layout", ["csv", "dicom"])
def test_a_ct_is_in_hounsfield_units_whatever_the_layout(layout: str, tmp_path: Path) -> None:
    """Its own window, which shows lungs, is not used."""
    stored = np.full((28, 28), 140 + 1024, np.uint16)
    for name, modality in (("ct", "CT"), ("mr", "MR")):
        dataset = make_dicom(stored, name, modality, RescaleSlope=1, RescaleIntercept=-1024)
        dataset.WindowCenter, dataset.WindowWidth = "-600", "1500"
        dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    (tmp_path / "labels.csv").write_text("file,patient,label\nct.dcm,ct,0\nmr.dcm,mr,1\n")
    settings = LoadSettings(layout=layout, preprocessing="plain/1", channels=1, image_size=28)
    images = load(tmp_path, settings).dataset
    assert np.unique(images.images).tolist() == [191, 253]


FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def _more_files() -> Path:
    """The files of the package pydicom-data, which are not in the repository."""
    place = os.environ.get("FEDGAN_PYDICOM_DATA")
    if place is None and os.environ.get("FEDGAN_REQUIRE_DICOM_TOOLS"):
        pytest.fail("FEDGAN_PYDICOM_DATA is not set: continuous integration fetches pydicom-data")
    if place is None:
        pytest.skip("FEDGAN_PYDICOM_DATA does not name a folder with the files of pydicom-data 1.0.0")
    return Path(place)


def _expected(path: Path, dataset: Dataset, frame: int, spare: Path) -> np.ndarray:
    """DCMTK's picture; of what it cannot parse or decode (JPEG 2000) its picture of the pixels alone, decoded."""
    found = by_dcmtk(path, dataset, frame)
    if found is not None:
        return found
    bare = Dataset()
    bare.update({tag: dataset[tag] for tag in dataset.keys() if tag.group in (0x0028, 0x7FE0)})  # noqa: SIM118
    bare.Modality, bare.SOPClassUID, bare.SOPInstanceUID = dataset.get("Modality"), "1.2.3", "1.2.3.4"
    bare.file_meta = dataset.file_meta
    if "JPEG 2000" in dataset.file_meta.TransferSyntaxUID.name:
        decoded = pixel_array(bare)
        bare.PixelData, bare["PixelData"].VR = decoded.tobytes(), "OW"
        bare.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if bare.PhotometricInterpretation.startswith("YBR"):
            bare.PhotometricInterpretation = "RGB"
    bare.save_as(spare, enforce_file_format=True)
    found = by_dcmtk(spare, dataset, frame)
    assert found is not None, path.name
    return found


@pytest.mark.parametrize(("name", "equal", "aside"), [("pydicom", 49, 30), ("pydicom-data", 58, 10)])
def test_real_files_are_within_one_level_of_dcmtk_or_set_aside(
    name: str, equal: int, aside: int, tmp_path: Path
) -> None:
    """For which reasons: docs/medical-data.md, and for those of pydicom `test_dicom`."""
    root = FILES if name == "pydicom" else _more_files()
    found = {"equal": 0, "aside": 0}
    for path in sorted(root.rglob("*.dcm")):
        try:
            frames = ours(path)
        except Unreadable:
            found["aside"] += 1
            continue
        dataset = pydicom.dcmread(path, force=True)
        for number, frame in enumerate(frames[:2], start=1):
            assert difference(frame, _expected(path, dataset, number, tmp_path / "bare.dcm")) <= 1, path.name
        found["equal"] += 1
    assert found == {"equal": equal, "aside": aside}


@pytest.mark.parametrize("unit", ["HU", "hu", "Hounsfield", "Hounsfield Units", "Houndsfield Unit"])
def test_hounsfield_units_however_a_maker_writes_them(tmp_path: Path, unit: str) -> None:
    """The last is what reformats of a large maker say (with that spelling)."""
    plain, named = (
        make_dicom(SIGNED, modality="CT", RescaleSlope="1", RescaleIntercept="-24", **more)
        for more in ({}, {"RescaleType": unit})
    )
    shown = []
    for number, made in enumerate((plain, named)):
        made.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
        _, frames = read_dicom(tmp_path / f"{number}.dcm", hounsfield_window=True)
        shown.append(next(iter(frames))[0])
    assert np.array_equal(*shown)
