"""A folder of copies as a whole: of over 60 planted texts none survives, and of 200 innocent files none is lost."""

from __future__ import annotations

import csv
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from fedgan_secure.data.deidentification import DeidentifySettings, deidentify_folder
from fedgan_secure.data.deidentification.folder import DeidentifyResult
from fedgan_secure.data.identifiers.words import path_words
from fedgan_secure.data.pixels.pictures import read_picture
from fedgan_secure.errors import InputError

from .conftest import make_dicom, noise
from .test_deidentification import NAME, NUMBER, PLACES, _bytes, _found, _person
from .test_hidden_text import PLANTS, TEXT, _compressed

BLOCKS = np.kron(noise(7, 8, 8, 3), np.ones((4, 4, 1), np.uint8))
LETTERS = np.kron(np.array([[1, 0, 1], [1, 1, 1], [1, 0, 1]], np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
"""What stands for text in pixels: an H of 9 by 9 pixels."""


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _without_survivors(target: Path) -> None:
    for path in target.rglob("*"):
        assert _found(str(path.relative_to(target)).encode()) == [], path
        if path.is_file():
            assert _found(path.read_bytes()) == [] and TEXT not in path.read_bytes(), path


# Planted.


def _picture_with(form: str, **options: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = BytesIO()
        Image.fromarray(BLOCKS).save(buffer, form, **options)
        return buffer.getvalue() + (TEXT if form != "WEBP" else b"")

    return make


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = TEXT.decode()
    return exif


PICTURES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "EXIF of JPEG": (".jpg", _picture_with("JPEG", exif=_exif())),
    "a comment of JPEG": (".jfif", _picture_with("JPEG", comment=TEXT)),
    "XMP of JPEG": (".jpeg", _picture_with("JPEG", xmp=TEXT)),
    "EXIF of PNG": (".png", _picture_with("PNG", exif=_exif())),
    "EXIF of WebP": (".webp", _picture_with("WEBP", exif=_exif(), lossless=True)),
    "XMP of WebP": (".webp", _picture_with("WEBP", xmp=TEXT, lossless=True)),
    "a comment of GIF": (".gif", _picture_with("GIF", comment=TEXT)),
    "a description of TIFF": (".tif", _picture_with("TIFF", description=TEXT.decode())),
    "behind a BMP": (".bmp", _picture_with("BMP")),
    "a comment of JPEG 2000": (".jp2", _picture_with("JPEG2000", comment=TEXT)),
}


def test_none_of_over_60_planted_texts_survives(tmp_path: Path) -> None:
    source, planted = tmp_path / "s", 0
    for number, (place, plant) in enumerate(PLACES.items()):
        dataset = _person()
        plant(dataset)
        data = _bytes(dataset)
        assert _found(data), place
        _write(source / f"{NAME}_19370214" / f"{number}.dcm", data)
        planted += 1
    for number, (place, (kind, plant)) in enumerate(PLANTS.items()):
        dataset = _compressed(kind, 2)
        plant(dataset)
        data = _bytes(dataset)
        assert TEXT in data, place
        _write(source / "streams" / f"{number}.dcm", data)
        planted += 1
    for number, (place, (suffix, make)) in enumerate(PICTURES.items()):
        data = make()
        assert TEXT in data, place
        _write(source / "pictures" / f"{NAME} {number}{suffix}", data)
        planted += 1
    assert planted >= 60
    result = deidentify_folder(source, tmp_path / "d", DeidentifySettings(workers=1, reviewed=True))
    assert {record.outcome for record in result.records} == {"written"} and len(result.records) == planted
    _without_survivors(tmp_path / "d")


def test_words_of_the_path_do_not_survive_in_free_texts(tmp_path: Path) -> None:
    dataset = make_dicom(noise(1, 16, 16), "P1", "CT", BodyPartExamined="CHEST")
    dataset.ManufacturerModelName, dataset.ConvolutionKernel = f"as for {NAME}", "19370214"
    dataset.SoftwareVersions = "chest abdomen 1.2"
    _write(tmp_path / "s" / "chest" / f"{NAME}_19370214" / "IM_0001.dcm", _bytes(dataset))
    deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    _without_survivors(tmp_path / "d")
    (copy,) = (pydicom.dcmread(path) for path in (tmp_path / "d").rglob("*.dcm"))
    assert (copy.BodyPartExamined, copy.SoftwareVersions) == ("CHEST", "chest abdomen 1.2")
    assert path_words("chest/train/IM_0001.dcm") == {"im_0001"}


def test_a_class_that_is_no_uid_is_set_aside(tmp_path: Path) -> None:
    dataset = _person()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = NAME
    _write(tmp_path / "s" / "x.dcm", _bytes(dataset))
    with pytest.raises(InputError, match="its SOPClassUID is no UID"):
        deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))


def test_a_folder_named_like_one_of_our_dummies_costs_no_file(tmp_path: Path) -> None:
    for number, word in enumerate(("invalid", "removed", "fedgan secure", "profile", "confidentiality", "dicomfields")):
        dataset = _person()
        dataset.SelectorURValue = "http://archive.example/1"
        _write(tmp_path / "s" / word / f"{number}.dcm", _bytes(dataset))
    result = deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    assert [record.reason for record in result.records] == [""] * 6


# Hidden from whoever looks.


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_in_no_copy(mode: str, tmp_path: Path) -> None:
    colour = np.full((32, 32, 3), 90, np.uint8)
    colour[4:13, 4:13][LETTERS] = 250
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:16] = 0
    layers = Image.fromarray(np.dstack([colour, alpha]))
    options: dict[str, Any] = {}
    if mode == "P":
        layers = Image.fromarray(np.where(alpha == 0, np.where(colour[..., 0] == 250, 2, 1), 0).astype(np.uint8), "P")
        layers.putpalette([90, 90, 90, 90, 90, 90, 250, 250, 250])
        options["transparency"] = bytes([255, 0, 0])
    _write(tmp_path / "s" / "x.png", b"")
    (layers if mode == "P" else layers.convert(mode)).save(tmp_path / "s" / "x.png", **options)
    deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1, reviewed=True))
    (copy,) = (tmp_path / "d").rglob("*.png")
    pixels = np.asarray(Image.open(copy).convert("L"))
    assert not pixels[:16].any() and (pixels[16:] == 90).all()


def _rectangular(dataset: Any) -> None:
    dataset.ShutterShape = "RECTANGULAR"
    dataset.ShutterLeftVerticalEdge, dataset.ShutterRightVerticalEdge = 1, 32
    dataset.ShutterUpperHorizontalEdge, dataset.ShutterLowerHorizontalEdge = 17, 32


def _polygonal(dataset: Any) -> None:
    dataset.ShutterShape, dataset.VerticesOfThePolygonalShutter = "POLYGONAL", [17, 1, 17, 32, 32, 32, 32, 1]


def _bitmap(dataset: Any) -> None:
    hidden = np.zeros((32, 32), np.uint8)
    hidden[:16] = 1
    dataset.ShutterShape, dataset.ShutterOverlayGroup = "BITMAP", 0x6000
    for number, kind, value in ((0x10, "US", 32), (0x11, "US", 32), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
                                (0x100, "US", 1), (0x102, "US", 0)):  # fmt: skip
        dataset.add_new((0x6000, number), kind, value)
    dataset.add_new((0x6000, 0x3000), "OB", np.packbits(hidden, bitorder="little").tobytes())


def _of_a_frame(dataset: Any) -> None:
    group, shutter = Dataset(), Dataset()
    _rectangular(shutter)
    group.FrameDisplayShutterSequence = Sequence([shutter])
    dataset.SharedFunctionalGroupsSequence = Sequence([group])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2", "RGB"])
@pytest.mark.parametrize("shutter", [_rectangular, _polygonal, _bitmap, _of_a_frame])
def test_what_a_shutter_hides_is_in_no_copy(
    shutter: Callable[[Any], None], photometric: str, compressed: bool, tmp_path: Path
) -> None:
    pixels = np.full((32, 32), 90, np.uint8)
    pixels[4:13, 4:13][LETTERS] = 250
    stored = np.dstack([pixels] * 3) if photometric == "RGB" else pixels
    dataset = make_dicom(stored, "P1", "DX", BurnedInAnnotation="NO")
    dataset.PhotometricInterpretation = photometric
    if compressed:
        dataset.compress(uid.RLELossless, generate_instance_uid=False)
    shutter(dataset)
    _write(tmp_path / "s" / "x.dcm", _bytes(dataset))
    result = deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    (copy,) = (tmp_path / "d").rglob("*.dcm")
    found = pydicom.dcmread(copy).pixel_array.reshape(32, 32, -1)
    assert len(np.unique(found[:15])) == 1 and (found[17:30, 2:30] == 90).all()
    assert found[0, 0, 0] == (255 if photometric == "MONOCHROME1" else 0)
    assert result.records[0].treated["pixels behind a shutter"] >= 15 * 32


# Labels.


def _table(root: Path, name: str, rows: list[tuple[str, ...]]) -> None:
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _labels(target: Path) -> list[str]:
    with (target / "labels.csv").open(encoding="utf-8") as file:
        return [row["label"] for row in csv.DictReader(file)]


def _labelled(tmp_path: Path, label: str, folder: str = "p", **more: Any) -> DeidentifyResult:
    """Eight files, of which the first four have the label, and the last is set aside."""
    for number in range(8):
        dataset = _person() if number == 7 else make_dicom(noise(number, 16, 16), f"ID-{number}", "CT")
        for keyword, value in more.items():
            setattr(dataset, keyword, value)
        if number == 7:
            dataset.BurnedInAnnotation = "YES"
        _write(tmp_path / "s" / folder / f"{number}.dcm", _bytes(dataset))
    rows = [(f"{folder}/{number}.dcm", label if number < 4 else "normal") for number in range(8)]
    _table(tmp_path / "s", "labels.csv", [("file", "label"), *rows])
    return deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))


@pytest.mark.parametrize(
    "label",
    [f"tumour of {NAME}", f"{NAME.upper()}", f"see {NUMBER}", "born 14.02.1937", "seen 1937-02-14", "sub-01",
     "Patient 12", "number 4711773", "ID-5", f"{NAME}_19370214"],
)  # fmt: skip
def test_a_label_that_names_a_person_is_withheld(label: str, tmp_path: Path) -> None:
    result = _labelled(tmp_path, label)
    assert [name for name, _ in result.labels_withheld] == [label]
    assert result.residual_scan == "PASS" and result.count("written") == 7
    assert sorted(_labels(tmp_path / "d")) == ["", "", "", "", "normal", "normal", "normal"]
    assert label.encode() not in (tmp_path / "d" / "labels.csv").read_bytes()
    assert result.to_dict()["labels_withheld"][0]["label"] == label


def test_a_word_of_a_path_in_a_label_is_withheld_and_an_ordinary_one_is_not(tmp_path: Path) -> None:
    for number in range(8):
        folder = f"{NAME}_x" if number == 0 else f"melanoma/{number}"
        _write(tmp_path / "s" / folder / "1.dcm", _bytes(make_dicom(noise(number, 16, 16), f"ID-{number}", "CT")))
    rows = [(f"melanoma/{number}/1.dcm", "melanoma") for number in range(1, 7)]
    _table(tmp_path / "s", "labels.csv", [("file", "label"), *rows, (f"{NAME}_x/1.dcm", f"as {NAME}")])
    result = deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    assert [name for name, _ in result.labels_withheld] == [f"as {NAME}"]
    assert sorted(_labels(tmp_path / "d")) == ["", "", *["melanoma"] * 6]


def test_labels_of_a_run_that_goes_on_are_compared_again(tmp_path: Path) -> None:
    first = _labelled(tmp_path, f"of {NAME}")
    again = deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    assert again.resumed and again.labels_withheld == first.labels_withheld != ()
    _without_survivors(tmp_path / "d")


@pytest.mark.parametrize(
    "folders", [("sub-01", "sub-02"), (f"{NAME}_19370214", "Other_19400101"), ("sub-01", "a", "b", "c")]
)
def test_a_folder_for_each_patient_makes_no_labels(folders: tuple[str, ...], tmp_path: Path) -> None:
    for number, folder in enumerate(folders):
        for picture in range(3):
            buffer = BytesIO()
            Image.fromarray(noise(10 * number + picture, 16, 16, 3)).save(buffer, "PNG")
            _write(tmp_path / "s" / folder / "anat" / f"x{picture}.png", buffer.getvalue())
    result = deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1, reviewed=True))
    assert result.count("written") == 3 * len(folders)
    _without_survivors(tmp_path / "d")
    for path in (tmp_path / "d").rglob("*.csv"):
        assert b"sub-0" not in path.read_bytes()
    assert result.labels_withheld or result.notes


# Innocent.


def _innocent_dicom(number: int) -> Any:
    kind = number % 8
    if kind == 0:
        return _compressed("run lengths", 1 + number % 3)
    if kind == 1:
        return _compressed("JPEG", 1 + number % 3)
    if kind == 2:
        return _compressed("JPEG 2000", 1 + number % 3)
    pixels = noise(number, 16, 16).astype(np.int16 if kind == 3 else np.uint16) * 7
    dataset = make_dicom(pixels, f"ID-{number}", ("CT", "CR", "DX", "MR")[number % 4])
    dataset.ImageType, dataset.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "LOW DOSE CHEST 1.25"
    dataset.BodyPartExamined, dataset.Manufacturer, dataset.SoftwareVersions = "CHEST", "VENDOR", ["1.2", "x"]
    dataset.WindowCenter, dataset.WindowWidth, dataset.PixelSpacing = [40, 50], [400, 350], [0.5, 0.5]
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.KVP = "-1024", "1", "120"
    dataset.private_block(0x0019, "VENDOR", create=True).add_new(0x10, "FD", 1.5)
    if kind == 4:
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    if kind == 5:
        dataset.ShutterShape = "RECTANGULAR"
        dataset.ShutterLeftVerticalEdge, dataset.ShutterRightVerticalEdge = 0, 17
        dataset.ShutterUpperHorizontalEdge, dataset.ShutterLowerHorizontalEdge = 0, 17
    if kind == 6:
        dataset.PatientName, dataset.InstitutionName = "Normal^Chest", "Basic Hospital"
        dataset.PatientBirthDate = "19700101"
    return dataset


def test_none_of_200_innocent_files_is_lost(tmp_path: Path) -> None:
    source, pixels = tmp_path / "s", {}
    for number in range(120):
        dataset = _innocent_dicom(number)
        name = f"dicom/table 2026/basic profile/{number}" + (".dcm" if number % 2 else "")
        data = _bytes(dataset)
        if number % 8 == 7:
            data = data[132:]  # without preamble
        _write(source / name, data)
        pixels[name] = dataset.pixel_array
    forms = (("jpg", "JPEG"), ("png", "PNG"), ("gif", "GIF"), ("webp", "WEBP"), ("tif", "TIFF"), ("bmp", "BMP"),
             ("jp2", "JPEG2000"), ("jfif", "JPEG"))  # fmt: skip
    for number in range(80):
        suffix, form = forms[number % len(forms)]
        picture = Image.fromarray(np.roll(BLOCKS, number, axis=0))
        if number % 3 == 0:
            picture = picture.convert("L")
        name = f"pictures/class {number % 2}/{number}.{suffix}"
        buffer = BytesIO()
        picture.save(buffer, form)
        _write(source / name, buffer.getvalue())
        pixels[name] = read_picture(source / name)[0]
    result = deidentify_folder(source, tmp_path / "d", DeidentifySettings(workers=1, reviewed=True))
    assert [(record.source, record.reason) for record in result.records if record.outcome != "written"] == []
    assert len(result.records) == 200
    for record in result.records:
        copy = tmp_path / "d" / record.target
        found = pydicom.dcmread(copy).pixel_array if copy.suffix == ".dcm" else np.asarray(Image.open(copy))
        assert np.array_equal(found, pixels[record.source]), record.source
