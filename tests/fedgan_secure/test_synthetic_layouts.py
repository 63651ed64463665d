"""A generated folder is read by the loaders of the layout that it was written in, with the same labels."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from fedgan_secure.data import LoadSettings, load
from fedgan_secure.data.pixels.preprocess import CT_ABDOMEN, FUNDUS, PLAIN
from fedgan_secure.data.reading.layouts import DR_GRADES
from fedgan_secure.errors import InputError
from fedgan_secure.synthesis.generate import write_images
from fedgan_secure.synthesis.layouts import LAYOUTS, forms_of, plan_tree
from tests.fedgan_secure.test_generate import PROVENANCE
from tests.patience import HANG_SECONDS

GREY = np.random.default_rng(5).integers(0, 256, (7, 28, 28, 1), dtype=np.uint8)
COLOUR = np.random.default_rng(6).integers(0, 256, (7, 28, 28, 3), dtype=np.uint8)
GRADES = [3, 0, 4, 1, 2, 4, 0]
INJURED = [0, 1, 1, 0, 0, 1, 0]
ROUND_TRIPS = {
    "eyepacs": (GRADES, DR_GRADES, PLAIN),
    "aptos": (GRADES, DR_GRADES, PLAIN),
    "idrid": (GRADES, DR_GRADES, PLAIN),
    "dicom": (GRADES, DR_GRADES, FUNDUS),
    "rsna-ct": (INJURED, ("no injury", "injury"), CT_ABDOMEN),
    "rsna-pneumonia": (INJURED, ("no opacity", "opacity"), PLAIN),
    "folders": (GRADES, ("a none", "b mild", "c moderate", "d severe", "e worst"), PLAIN),
    "csv": (INJURED, ("healthy", "sick"), PLAIN),
    "npz": (GRADES, ("0", "1", "2", "3", "4"), PLAIN),
}


def unit_of(layout: str) -> str:
    return "patient" if layout in ("eyepacs", "rsna-ct", "rsna-pneumonia", "folders") else "image"


@pytest.mark.parametrize("layout", ROUND_TRIPS)
def test_what_was_generated_loads_back_with_the_same_labels(tmp_path: Path, layout: str) -> None:
    labels, names, preprocessing = ROUND_TRIPS[layout]
    form = forms_of(layout)[0]
    images = GREY if form == "dicom" else COLOUR
    written = write_images(
        tmp_path / "out", images, labels, PROVENANCE, names, layout=layout, form=form, preprocessing=preprocessing
    )
    place = written[0] if layout == "npz" else tmp_path / "out"
    read_as = CT_ABDOMEN if preprocessing == CT_ABDOMEN else PLAIN
    settings = LoadSettings(
        layout=layout, unit=unit_of(layout), image_size=28, channels=images.shape[3], preprocessing=read_as
    )
    result = load(place, settings)
    assert result.label_names == names
    wanted = sorted(range(7), key=lambda index: (names[labels[index]], index)) if layout == "folders" else range(7)
    assert result.dataset.labels.tolist() == [labels[index] for index in wanted]
    assert result.dataset.patients == 7, "every generated image is somebody of its own"
    assert not result.findings.quarantined and len(result.dataset) == 7, "the contact sheet is none of the images"
    assert not result.findings.unlabelled and not result.findings.unusable_labels
    if layout not in ("csv", "dicom", "npz"):
        assert load(place, replace(settings, layout="auto")).layout == layout, "the folder does not say what it is"
    if form != "jpeg":
        assert np.array_equal(result.dataset.images, images[list(wanted)]), "the pixels came back changed"
    else:
        assert np.abs(result.dataset.images.astype(int) - images).mean() < 6


def test_names_and_columns_are_those_of_the_public_sets() -> None:
    eyepacs = plan_tree("eyepacs", "jpeg", 2, [3, 0], DR_GRADES)
    assert eyepacs.files == ("train/synthetic00001_left.jpeg", "train/synthetic00002_left.jpeg")
    assert eyepacs.tables["trainLabels.csv"] == [
        ("image", "level"), ("synthetic00001_left", "3"), ("synthetic00002_left", "0")
    ]  # fmt: skip
    ct = plan_tree("rsna-ct", "dicom", 1, [1], ("no injury", "injury"))
    assert ct.files == ("train_images/synthetic00001/1/1.dcm",)
    assert ct.tables["train.csv"] == [("patient_id", "any_injury"), ("synthetic00001", "1")]
    chest = plan_tree("rsna-pneumonia", "dicom", 1, [1], ("no opacity", "opacity"))
    assert chest.tables["stage_2_train_labels.csv"][1] == ("synthetic00001", "", "", "", "", "1")
    messidor = plan_tree("messidor", "png", 1, [2], DR_GRADES)
    assert messidor.tables["messidor_data.csv"][1] == ("synthetic00001.png", "2", "", "1")
    assert plan_tree("folders", "png", 1, [1], ("no", "yes")).files == ("yes/synthetic00001_L.png",)
    assert plan_tree("aptos", "png", 1, [1], ("2", "4")).tables["train.csv"][1][1] == "4", "a number stands for itself"


def test_no_identifier_could_be_a_patients(tmp_path: Path) -> None:
    for layout in set(LAYOUTS) - {"flat", "npz"}:
        classes = 2 if layout.startswith("rsna") else 5
        tree = plan_tree(layout, forms_of(layout)[0], 3, [0, 1, 1], tuple(str(number) for number in range(classes)))
        assert len(set(tree.files)) == 3 and all("synthetic" in file for file in tree.files), layout


@pytest.mark.parametrize(
    ("layout", "form", "labels", "names", "said"),
    [
        ("eyepacs", "dicom", [0], DR_GRADES, "eyepacs has no dicom files"),
        ("rsna-ct", "dicom", [4], DR_GRADES, "has 2 classes, and this generator has 5"),
        ("folders", "png", None, None, "takes no label"),
        ("folders", "png", [0], ("../up",), "cannot name a folder"),
        ("folders", "png", [0], (".hidden",), "cannot name a folder"),
        ("nonsense", "png", [0], None, "expected one of flat"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, layout: str, form: str, labels: list[int] | None, names: tuple[str, ...] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        write_images(tmp_path / "out", GREY[:1], labels, PROVENANCE, names, layout=layout, form=form)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["png", "jpeg", "dicom"])
def test_the_same_images_are_the_same_bytes(tmp_path: Path, form: str) -> None:
    for name in ("one", "two"):
        write_images(tmp_path / name, COLOUR, GRADES, PROVENANCE, DR_GRADES, form=form)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*"))
    assert len(files) == 7 + 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    if form == "dicom":
        write_images(tmp_path / "other", COLOUR[::-1], GRADES, PROVENANCE, DR_GRADES, form=form)
        of = [pydicom.dcmread(tmp_path / name / "00001.dcm").SOPInstanceUID for name in ("one", "other")]
        assert of[0] != of[1], "other images may not share an identifier"


def test_a_model_without_privacy_is_not_called_private_in_its_files(tmp_path: Path) -> None:
    write_images(tmp_path / "out", GREY, None, replace(PROVENANCE, epsilon="unbounded"), form="dicom")
    said = pydicom.dcmread(tmp_path / "out" / "00001.dcm").DerivationDescription
    assert "WITHOUT differential privacy" in said and "trained with" not in said


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One file of every kind of DICOM that is written: grey, colour, labelled or not, of a CT, of an eye."""
    root = tmp_path_factory.mktemp("kinds")
    for name, images, labels, preprocessing in (
        ("grey", GREY, None, PLAIN), ("colour", COLOUR, GRADES, PLAIN), ("eye", COLOUR, GRADES, FUNDUS),
        ("ct", GREY, INJURED, CT_ABDOMEN), ("ct-in-colour", COLOUR, INJURED, CT_ABDOMEN),
    ):  # fmt: skip
        write_images(root / name, images[:1], labels[:1] if labels else None, PROVENANCE, form="dicom",
                     preprocessing=preprocessing)  # fmt: skip
    return sorted(root.glob("*/00001.dcm"))


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None and os.environ.get("FEDGAN_REQUIRE_DICOM_TOOLS"):
        pytest.fail(f"{name} is not here: continuous integration installs dcmtk and dicom3tools")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: dcmtk, dicom3tools)")
    return found


def test_another_reader_opens_the_files_and_sees_the_same_pixels(kinds: list[Path], tmp_path: Path) -> None:
    for file in kinds:
        done = subprocess.run([tool("dcmdump"), "-q", str(file)], capture_output=True, text=True, timeout=HANG_SECONDS)
        assert done.returncode == 0 and done.stderr == "", (file, done.stderr)
        assert "(0008,001c) CS [YES]" in done.stdout, file
        raw = tmp_path / "pixels.pnm"
        dump = subprocess.run(
            [tool("dcm2pnm"), "-q", "+Wi", "1", "+on", str(file), str(raw)]
            if "ct" in file.parent.name
            else [tool("dcm2pnm"), "-q", "+on", str(file), str(raw)],
            capture_output=True, text=True, timeout=HANG_SECONDS,
        )  # fmt: skip
        assert dump.returncode == 0, (file, dump.stderr)
        from PIL import Image

        stored = pydicom.dcmread(file).pixel_array.astype(int)
        with Image.open(raw) as picture:
            shown = np.asarray(picture).astype(int)
        assert shown.shape == stored.shape and np.abs(shown - stored).max() <= 1, file


NEWER_THAN_THE_TOOL = (
    "Error - Attribute with an even group number is not a recognized standard attribute - (0x0008,0x001c)"
)
"""Synthetic Data is newer than the dictionary of Debian's dicom3tools, which does not know it."""


def test_the_validator_of_dicom3tools_finds_no_error(kinds: list[Path]) -> None:
    for file in kinds:
        done = subprocess.run([tool("dciodvfy"), str(file)], capture_output=True, text=True, timeout=HANG_SECONDS)
        said = done.stdout + done.stderr
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        errors = [line for line in errors if not line.startswith(NEWER_THAN_THE_TOOL)]
        assert "SCImage" in said and errors == [], (file, said)


def test_tables_are_plain_csv(tmp_path: Path) -> None:
    write_images(tmp_path / "out", GREY, INJURED, PROVENANCE, ('he said "no"', "yes, twice"), layout="csv")
    with (tmp_path / "out" / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[:2] == [["file", "label"], ["synthetic00001.png", 'he said "no"']]


@pytest.mark.parametrize("names", [DR_GRADES, tuple(str(number) for number in range(11))], ids=["grades", "eleven"])
def test_keras_reads_class_folders_by_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Names are right, and indices are Keras' own: it sorts folders as text, so "10" comes before "2" (docs)."""
    from keras.utils import image_dataset_from_directory

    labels = [number % len(names) for number in range(2 * len(names))]
    images = np.zeros((len(labels), 28, 28, 3), np.uint8) + np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    write_images(tmp_path / "out", images, labels, PROVENANCE, names, layout="folders")
    found = image_dataset_from_directory(
        tmp_path / "out", image_size=(28, 28), batch_size=1, shuffle=False, verbose=False
    )
    assert found.class_names == sorted(names)
    shown = [(round(float(image[0, 0, 0, 0])), found.class_names[int(label[0])]) for image, label in found]
    assert sorted(shown) == [(number, names[label]) for number, label in enumerate(labels)]


def test_the_contact_sheet_of_a_layout_is_the_same_picture(tmp_path: Path) -> None:
    import base64
    import io
    from xml.etree import ElementTree

    for layout in ("flat", "folders"):
        write_images(tmp_path / layout, COLOUR, [number % 5 for number in range(len(COLOUR))], PROVENANCE, DR_GRADES,
                     layout=layout)  # fmt: skip
    svg = ElementTree.parse(tmp_path / "folders" / "contact-sheet.svg").getroot()  # noqa: S314 - our own file
    image = next(element for element in svg if element.tag.endswith("image"))
    data = base64.b64decode(image.attrib["href"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as inside, Image.open(tmp_path / "flat" / "contact-sheet.png") as flat:
        assert np.array_equal(np.asarray(inside), np.asarray(flat))
        assert (svg.attrib["width"], svg.attrib["height"]) == (str(flat.width), str(flat.height))
