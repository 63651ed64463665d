"""Names of classes are published, so a vocabulary of people is refused unless somebody declares it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgan_secure.data.reading.loading import LoadSettings, load
from fedgan_secure.errors import InputError

Make = Callable[..., Any]
Picture = Callable[..., None]


def tree(root: Path, picture: Picture, *names: str, each: int = 1) -> None:
    for number, name in enumerate(names):
        for image in range(each):
            picture(root / name / f"scan{number}{image}_L.png", 10 * number + image)


@pytest.mark.parametrize(
    "names",
    [
        ("Doe_Jane_1970-01-31", "Roe_Richard_1969-12-01"),
        ("DOE^JANE 19700131", "other"),
        ("sub-01", "sub-02", "sub-03"),
        ("Patient 12", "Patient 7"),
        ("mrn_a17", "mrn_b18"),
        ("case 4711822", "rest"),
        ("31.1.1970", "1.12.69"),
        ("ann", "bob", "cleo", "dora", "eve", "finn"),
    ],
    ids=lambda names: names[0],
)
def test_a_folder_for_every_patient_is_no_vocabulary(tmp_path: Path, picture: Picture, names: tuple[str, ...]) -> None:
    tree(tmp_path, picture, *names)
    with pytest.raises(InputError, match="look like people") as refused:
        load(tmp_path, LoadSettings())
    said = str(refused.value) + str(refused.value.hint)
    assert "label_names" in said and not any(name in said.replace(str(tmp_path), "") for name in names)
    assert load(tmp_path, LoadSettings(label_names=names)).label_names == names


def test_a_label_that_holds_a_patients_name_is_refused(tmp_path: Path, picture: Picture) -> None:
    for number, name in enumerate("abcdef"):
        picture(tmp_path / f"{name}.png", number)
    rows = [f"{name}.png,{owner},{label}" for name, owner, label in zip(
        "abcdef", ("Doe", "Doe", "Roe", "Roe", "Poe", "Poe"), ("mild", "mild Doe", "none", "mild", "none", "none"),
        strict=True,
    )]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(["file,patient,label", *rows]) + "\n")
    with pytest.raises(InputError, match="1 of them hold a word"):
        load(tmp_path, LoadSettings(layout="csv"))


@pytest.mark.parametrize(
    "names",
    [
        ("0 - No DR", "1 - Mild DR", "2 - Moderate DR"), ("NORMAL", "PNEUMONIA"), ("stage 1", "stage 2", "stage 3"),
        ("COVID-19", "normal"), ("grade 4 (2019 criteria)", "rest"), ("1", "2"), ("case", "control"),
        ("pT1", "pT2", "pT3"), ("pattern3", "pattern4"), ("subtype1", "subtype2"),
    ],
    ids=lambda names: names[0],
)  # fmt: skip
def test_words_for_classes_are_read(tmp_path: Path, picture: Picture, names: tuple[str, ...]) -> None:
    tree(tmp_path, picture, *names, each=2)
    assert set(load(tmp_path, LoadSettings()).label_names) == set(names)


def test_many_classes_of_several_patients_are_read(tmp_path: Path, picture: Picture) -> None:
    names = ("ann", "bob", "cleo", "dora", "eve", "finn")
    for number, name in enumerate(names):
        for patient in "xyz":
            picture(tmp_path / name / f"{patient}{number}_L.png", number)
    assert load(tmp_path, LoadSettings()).label_names == names


def test_grades_of_one_patient_each_are_no_people(tmp_path: Path, picture: Picture) -> None:
    names = ("0 - none", "1 mild", "2", "3_severe", "4", "5 x", "6")
    tree(tmp_path, picture, *names)
    assert set(load(tmp_path, LoadSettings()).label_names) == set(names)


def test_a_word_of_many_patients_is_no_name(tmp_path: Path, picture: Picture) -> None:
    """As in sets whose files are called after their class: COVID-1.png, COVID-2.png."""
    for number in range(12):
        picture(
            tmp_path / ("COVID", "NORMAL")[number % 2] / f"{('COVID', 'NORMAL')[number % 2]}-{number}_L.png", number
        )
    assert load(tmp_path, LoadSettings()).label_names == ("COVID", "NORMAL")


def test_an_array_with_one_label_makes_no_million_classes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 20), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 2, 1, 999_999]))
    result = load(tmp_path / "a.npz", LoadSettings(image_size=28, channels=1, unit="image"))
    assert result.label_names == ("0", "1", "2") and result.dataset.labels.tolist() == [0, 2, 1, -1]


def test_one_label_does_not_make_a_million_classes(tmp_path: Path, picture: Picture) -> None:
    for number, name in enumerate("abc"):
        picture(tmp_path / f"{name}.png", number)
    (tmp_path / "t.csv").write_text("file,patient,label\na.png,P1,0\nb.png,P2,2\nc.png,P3,999999\n")
    result = load(tmp_path, LoadSettings(layout="csv"))
    assert result.label_names == ("0", "1", "2")
    assert dict(result.findings.unusable_labels)["c.png"].startswith("the label is not a whole number below 1000")


NAMES = ("Kowalski", "Nguyen", "Ivanova", "Okafor", "Lindqvist", "Moreau", "Tanaka", "Silva")


@pytest.mark.parametrize("header", ["file,label", "patient,label"])
def test_a_label_that_is_the_name_in_a_header_is_refused(dicom: Make, tmp_path: Path, header: str) -> None:
    """Two files a patient: no class is of one file alone, and the header alone says whose they are."""
    rows = []
    for number, name in enumerate(NAMES):
        for image in range(2):
            made = dicom(np.full((8, 8), 10 * number + image, np.uint8), patient=f"{name[:3].upper()}-{number}")
            made.PatientName = f"{name}^Ann"
            made.save_as(tmp_path / f"{number}-{image}.dcm", enforce_file_format=True)
            key = f"{number}-{image}.dcm" if header.startswith("file") else made.PatientID
            rows.append(f"{key},{name if number % 2 else 'well'}")
    (tmp_path / "labels.csv").write_text("\n".join([header, *dict.fromkeys(rows)]) + "\n")
    with pytest.raises(InputError, match="also in a patient's identifier or name") as refused:
        load(tmp_path, LoadSettings(layout="dicom"))
    assert not any(name in str(refused.value) for name in NAMES)
    collected = LoadSettings(layout="dicom", label_names=("well", *NAMES[1::2]), labels_collected=True)
    with pytest.raises(InputError, match="look like people"):
        load(tmp_path, collected)
    declared = load(tmp_path, LoadSettings(layout="dicom", label_names=("well", *NAMES[1::2])))
    assert declared.dataset.patients == len(NAMES)


def test_classes_of_one_patient_each_are_refused_whatever_the_number_of_files(dicom: Make, tmp_path: Path) -> None:
    rows = ["file,label"]
    for number in range(6):
        for image in range(3):
            made = dicom(np.full((8, 8), 10 * number + image, np.uint8), patient=f"Q{number}")
            made.PatientName = ""
            made.save_as(tmp_path / f"{number}-{image}.dcm", enforce_file_format=True)
            rows.append(f"{number}-{image}.dcm,{'abcdef'[number] * 3}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(InputError, match="6 of them hold one patient alone"):
        load(tmp_path, LoadSettings(layout="dicom"))


@pytest.mark.parametrize("names", [tuple(f"{name} Anna" for name in NAMES), tuple(f"{a}{n}" for n, a in enumerate(
    ["AK", "BL", "CM", "DN", "EO", "FP", "GQ", "HR"], 19))], ids=["names", "initials"])  # fmt: skip
def test_many_folders_of_a_few_pictures_are_people_where_nobody_is_named(
    tmp_path: Path, picture: Picture, names: tuple[str, ...]
) -> None:
    """What unit "image" must not let through: the refusal of a folder without patients leads there."""
    for number, name in enumerate(names):
        for image in range(2):
            picture(tmp_path / name / f"scan{image}.png", 10 * number + image)
    with pytest.raises(InputError, match="no more than 4 pictures"):
        load(tmp_path, LoadSettings(unit="image"))
    assert load(tmp_path, LoadSettings(unit="image", label_names=names)).dataset.classes == 8


@pytest.mark.parametrize("name", ["3 Feb 1951", "12 March 1960", "1951 Feb 04", "4.feb.51", "7. Mai 1949"])
def test_a_date_in_words_is_a_date(tmp_path: Path, picture: Picture, name: str) -> None:
    tree(tmp_path, picture, name, "well", each=3)
    with pytest.raises(InputError, match="hold a date"):
        load(tmp_path, LoadSettings())


def test_folders_of_a_study_are_no_classes(tmp_path: Path, picture: Picture) -> None:
    for number, name in enumerate(("rawdata/sub-01", "derivatives/sub-01")):
        picture(tmp_path / name / "scan_L.png", number)
    with pytest.raises(InputError, match="not classes"):
        load(tmp_path, LoadSettings())
