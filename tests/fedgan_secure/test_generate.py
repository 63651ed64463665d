from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from fedgan_secure.data import LoadSettings, load
from fedgan_secure.errors import InputError
from fedgan_secure.synthesis import generate
from fedgan_secure.synthesis.generate import (
    Provenance,
    contact_sheet,
    contact_sheet_png,
    to_uint8,
    write_dicom,
    write_png,
)

PROVENANCE = Provenance(
    run="2031-1",
    model_digest="ab" * 32,
    report_digest="cd" * 32,
    epsilon="7.9312",
    delta="1e-4",
    unit="patient",
    rounds=3,
)
GREY = np.random.default_rng(1).integers(0, 256, (7, 28, 28, 1), dtype=np.uint8)
COLOUR = np.random.default_rng(2).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


def test_floats_become_levels() -> None:
    levels = to_uint8(np.array([-1.0, 0.0, 1.0, -3.0, 5.0, np.nan]))
    assert levels.tolist() == [0, 128, 255, 0, 255, 0]
    every = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
    assert to_uint8(every).tolist() == list(range(256))


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_png_files_hold_the_images(tmp_path: Path, images: np.ndarray) -> None:
    labels = [index % 2 for index in range(len(images))]
    files = write_png(tmp_path / "out", images, labels, PROVENANCE, ("no", "yes"))
    assert [file.name for file in files] == [f"{number:05d}.png" for number in range(1, len(images) + 1)]
    for file, image in zip(files, images, strict=True):
        with Image.open(file) as picture:
            assert np.array_equal(np.asarray(picture).reshape(image.shape), image)
    with (tmp_path / "out" / "labels.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["label_name"] for row in rows[:2]] == ["no", "yes"]
    assert [row["file"] for row in rows] == [file.name for file in files]


def test_the_sidecar_names_where_the_images_come_from_and_every_file(tmp_path: Path) -> None:
    write_png(tmp_path / "out", GREY, None, PROVENANCE)
    described = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert described["synthetic"] is True
    assert described["provenance"]["model_digest"] == "ab" * 32
    assert (described["provenance"]["epsilon"], described["provenance"]["delta"]) == ("7.9312", "1e-4")
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"provenance.json"}
    assert set(described["sha256"]) == names
    for name, digest in described["sha256"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert not (tmp_path / "out" / "labels.csv").exists()


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_dicom_files_say_that_they_are_synthetic_and_of_nobody(tmp_path: Path, images: np.ndarray) -> None:
    labels = [index % 2 for index in range(len(images))]
    files = write_dicom(tmp_path / "out", images, labels, PROVENANCE, ("no", "yes"))
    seen = set()
    for number, (file, image) in enumerate(zip(files, images, strict=True)):
        dataset = pydicom.dcmread(file)
        assert dataset[0x0008, 0x001C].value == "YES"
        assert dataset.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
        assert str(dataset.PatientName) == dataset.PatientBirthDate == dataset.PatientSex == ""
        assert re.fullmatch(rf"SYNTHETIC-[0-9a-f]{{12}}-{number + 1:05d}", dataset.PatientID)
        assert "cd" * 32 in dataset.DerivationDescription
        assert "ab" * 32 in dataset.DerivationDescription
        assert "epsilon 7.9312, delta 1e-4, per patient" in dataset.DerivationDescription
        assert dataset.ImageComments.endswith(f"label: {('no', 'yes')[labels[number]]}")
        assert dataset.BurnedInAnnotation == "NO"
        assert np.array_equal(dataset.pixel_array.reshape(image.shape), image)
        assert len(dataset.DerivationDescription) <= 1024
        seen.add(dataset.SOPInstanceUID)
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
    assert len(seen) == len(images)
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"):  # a study is of one patient (PS3.3 A.1.2)
        assert len({pydicom.dcmread(file)[keyword].value for file in files}) == len(images)
    others = write_dicom(tmp_path / "others", images[::-1], None, PROVENANCE)
    assert not {pydicom.dcmread(file).PatientID for file in files} & {
        pydicom.dcmread(file).PatientID for file in others
    }


def test_every_attribute_of_a_generated_file_is_valid(tmp_path: Path) -> None:
    files = write_dicom(tmp_path / "out", COLOUR, None, PROVENANCE)
    with pydicom.config.disable_value_validation():
        loose = pydicom.dcmread(files[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
        strict = pydicom.dcmread(files[0])
        for element in strict.iterall():
            assert element.value == loose[element.tag].value
    required = (
        "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ConversionType", "Rows",
        "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
        "PixelData",
    )  # fmt: skip
    for keyword in required:
        assert strict[keyword].value not in (None, "")
    for keyword in ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"):
        assert keyword in strict


def test_generated_dicom_is_read_back_by_the_loaders(tmp_path: Path) -> None:
    write_dicom(tmp_path / "out", GREY, [index % 3 for index in range(7)], PROVENANCE)
    for unit in ("patient", "image"):
        result = load(tmp_path / "out", LoadSettings(layout="dicom", unit=unit, image_size=28, channels=1))
        assert np.array_equal(result.dataset.images, GREY)
        assert result.dataset.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert result.dataset.patients == 7
        assert [path for path, _ in result.findings.quarantined] == ["contact-sheet.png"]


def test_the_folder_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*_: object) -> Image.Image:
        calls.append(1)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return Image.new("L", (2, 2))

    monkeypatch.setattr(generate, "_image", fail)
    with pytest.raises(InputError, match="No space left"):
        write_png(tmp_path / "out", GREY, None, PROVENANCE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_png(tmp_path / "out", GREY, None, PROVENANCE)  # empty is fine
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    for write in (write_png, write_dicom):
        with pytest.raises(InputError, match="is there already and not empty") as caught:
            write(tmp_path / "out", COLOUR, None, PROVENANCE)
        assert caught.value.exit_code == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    with pytest.raises(InputError, match="no images"):
        write_png(tmp_path / "none", GREY[:0], None, PROVENANCE)


def test_the_contact_sheet_shows_every_image() -> None:
    sheet = contact_sheet(COLOUR, 3, scale=1)
    pixels = np.asarray(sheet)
    assert pixels.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    for index in range(5):
        row, column = divmod(index, 3)
        assert np.array_equal(pixels[2 + row * 66 : 66 + row * 66, 2 + column * 66 : 66 + column * 66], COLOUR[index])


def test_labels_stand_at_the_left_of_uniform_rows_or_beneath_each_image() -> None:
    plain = contact_sheet(COLOUR[:4], 2, scale=1)
    left = contact_sheet(COLOUR[:4], 2, ["a", "a", "b", "b"], scale=1)
    beneath = contact_sheet(COLOUR[:4], 2, ["a", "b", "a", "b"], scale=1)
    assert left.width > plain.width
    assert left.height == plain.height
    assert beneath.width == plain.width
    assert beneath.height > plain.height


def test_the_contact_sheet_is_reproducible_and_small_images_are_enlarged() -> None:
    data = contact_sheet_png(GREY, 4, list(range(7)))
    assert data == contact_sheet_png(GREY.copy(), 4, list(range(7)))
    with Image.open(io.BytesIO(data)) as sheet:
        assert sheet.info == {}
        assert sheet.width >= 4 * 28 * 3
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet(GREY[:0], 4)
