"""Adding one patient must not change what another patient's images and labels become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from fedgan_secure.data import LoadResult, LoadSettings, load, resolve
from fedgan_secure.data.reading.layouts import DR_GRADES
from fedgan_secure.data.reading.naming import CONFLICT

Picture = Callable[..., None]
Make = Callable[..., FileDataset]
Records = dict[str, list[tuple[bytes, int]]]
CSV = LoadSettings(layout="csv", secret=b"the same secret for both")


def _records(result: LoadResult) -> Records:
    """pseudonym -> every image with its label."""
    data = result.dataset
    return {
        name: sorted((data.pixels([row]).tobytes(), int(data.labels[row])) for row in data.images_of(patient))
        for patient, name in enumerate(data.pseudonyms)
    }


def _table(folder: Path, *rows: str, header: str = "file,patient,label") -> None:
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.parametrize(
    ("x_path", "x_row", "y_path", "y_row"),
    [
        ("x/a.png", "a.png,X,0", "more/a.png", "more/a.png,Y,1"),  # Y by its path: the bare name is X's
        ("a.png", "a.png,X,0", "more/a.png", "more/a.png,Y,1"),  # X's path looks like a bare name
        ("X/a.png", "a.png,X,0", "Y/a.png", "a.png,Y,1"),  # both bare: the patient's folder tells them apart
        ("images/a.png", "a.png,X,0", "y/a.png", "a.png,Y,1"),  # the folder tells Y's only
        ("images/a.png", "images/a.png,X,0", "other/a.png", "a.png,Y,1"),
        ("images/a.png", "images/a,X,0", "images/b.png", "a.png,Y,1"),  # Y claims X's file by a bare name
        ("a.png", "a.png,X,0", "b.png", "./a.png,,1"),  # a row without patient
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_twin_of_another_patient_leaves_the_first_as_it_was(
    tmp_path: Path, picture: Picture, x_path: str, x_row: str, y_path: str, y_row: str, first: bool
) -> None:
    picture(tmp_path / x_path, 1)
    picture(tmp_path / "z.png", 2)
    _table(tmp_path, x_row, "z.png,Z,1")
    before = _records(load(tmp_path, CSV))
    assert len(before) == 2
    picture(tmp_path / y_path, 3)
    _table(tmp_path, *([x_row, y_row] if first else [y_row, x_row]), "z.png,Z,1")
    after = _records(load(tmp_path, CSV))
    assert {name: after.get(name) for name in before} == before


def test_a_bare_name_that_nothing_tells_apart_loses_no_image(tmp_path: Path, picture: Picture) -> None:
    picture(tmp_path / "one" / "a.png", 1)
    _table(tmp_path, "a.png,X,0")
    (before,) = _records(load(tmp_path, CSV)).values()
    picture(tmp_path / "another" / "a.png", 2)
    result = load(tmp_path, CSV)
    (after,) = _records(result).values()
    assert set(before) < set(after)
    assert result.findings.quarantined == ()
    assert any("fits several files" in note for note in result.findings.notes)


def test_the_same_image_under_two_names_is_read_once(tmp_path: Path, picture: Picture) -> None:
    picture(tmp_path / "s" / "a.png", 1)
    _table(tmp_path, "s/a.png,X,1", "s\\a.png,Y,0", "a,Z,0", "s/a.png,X,1", "s/a.png,W,0")
    result = load(tmp_path, CSV)
    assert (result.dataset.patients, result.dataset.labels.tolist()) == (1, [1])
    assert result.findings.unusable_labels == (("s\\a.png", CONFLICT), ("s/a.png", CONFLICT), ("a", CONFLICT))


def test_aptos_twins_keep_the_label(tmp_path: Path, picture: Picture) -> None:
    settings = LoadSettings(unit="image", secret=CSV.secret)
    picture(tmp_path / "train_images" / "ab12.png", 1)
    _table(tmp_path, "ab12,2", header="id_code,diagnosis")
    before = _records(load(tmp_path, settings))
    picture(tmp_path / "copies" / "ab12.png", 2)
    for rows in (["ab12,2"], ["ab12,2", "copies/ab12.png,4"], ["ab12,2", "ab12,4"]):
        _table(tmp_path, *rows, header="id_code,diagnosis")
        after = _records(load(tmp_path, settings))
        assert len(after) == 2
        assert {name: after.get(name) for name in before} == before


def test_dicom_twins_keep_the_label(dicom: Make, tmp_path: Path) -> None:
    def write(folder: str, patient: str, seed: int) -> None:
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(seed).integers(0, 99, (8, 8), dtype=np.uint8)
        dicom(pixels, patient).save_as(tmp_path / folder / "0.dcm", enforce_file_format=True)

    def labels(*rows: str) -> dict[str, list[int]]:
        (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
        settings = LoadSettings(secret=CSV.secret, label_names=("no", "yes"))
        return {name: [label for _, label in images] for name, images in _records(load(tmp_path, settings)).items()}

    write("p0", "X", 1)
    before = labels("file,label", "0.dcm,yes")
    assert list(before.values()) == [[1]]
    write("another", "Y", 2)
    for rows in (
        ["file,label", "0.dcm,yes"],
        ["file,label", "another/0.dcm,no", "0.dcm,yes"],
        ["file,label", "0.dcm,yes", "0.dcm,no"],
        ["file,patient,label", "0.dcm,Y,no", "0.dcm,X,yes"],
    ):
        after = labels(*rows)
        assert {name: after.get(name) for name in before} == before, rows
    assert sorted(after.values()) == [[0], [1]]


def test_identifiers_taken_by_a_pattern_ignore_case(tmp_path: Path, picture: Picture) -> None:
    for number, name in enumerate(("P01_L", "p01_R", "P02_L")):
        picture(tmp_path / "folders" / "sick" / f"{name}.jpg", number)
    assert load(tmp_path / "folders", LoadSettings()).dataset.patients == 2
    own = LoadSettings(patient_pattern=r"(?P<patient>P\d+)")
    assert load(tmp_path / "folders", own).dataset.patients == 2
    for name in ("P01", "p01"):
        left = load(tmp_path / "folders", LoadSettings(exclude=(name,)))
        assert (left.dataset.patients, left.findings.excluded_images) == (1, 2)
    for number, name in enumerate(("A7_left", "a7_RIGHT")):
        picture(tmp_path / "eyes" / "train" / f"{name}.jpeg", number)
    (tmp_path / "eyes" / "trainLabels.csv").write_text("image,level\nA7_left,1\n")
    assert load(tmp_path / "eyes", LoadSettings()).dataset.patients == 1


def _labelled(folder: Path, picture: Picture, labels: list[str], **settings: object) -> LoadResult:
    for number in range(len(labels)):
        if not (folder / f"{number}.png").exists():
            picture(folder / f"{number}.png", number, size=(28, 28))
    _table(folder, *(f"{number}.png,p{number},{label}" for number, label in enumerate(labels)))
    return load(folder, LoadSettings(layout="csv", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ["unknown", "1.5", "-1", "0 no"])
def test_one_odd_label_does_not_recode_the_numbers(tmp_path: Path, picture: Picture, odd: str) -> None:
    result = _labelled(tmp_path, picture, ["2", "10", "0", "2.0", odd])
    assert result.dataset.labels.tolist() == [2, 10, 0, 2, -1]
    assert result.label_names == tuple(str(number) for number in range(11))
    ((name, reason),) = result.findings.unusable_labels
    assert name == "4.png"
    assert "not a whole number" in reason
    assert not result.labels_fixed


def test_one_odd_number_does_not_recode_the_words(tmp_path: Path, picture: Picture) -> None:
    result = _labelled(tmp_path, picture, ["sick", "healthy", "sick", "0"])
    assert (result.label_names, result.dataset.labels.tolist()) == (("healthy", "sick"), [1, 0, 1, -1])
    assert [name for name, _ in result.findings.unusable_labels] == ["3.png"]


def test_a_declared_vocabulary_sets_unknown_labels_aside(tmp_path: Path, picture: Picture) -> None:
    words = _labelled(tmp_path, picture, ["sick", "healthy", "odd", "7", "0"], label_names=("sick", "healthy"))
    assert words.dataset.labels.tolist() == [0, 1, -1, -1, 0]
    assert [reason for _, reason in words.findings.unusable_labels] == ["the label is not one of the 2 classes"] * 2
    numbers = _labelled(tmp_path, picture, ["1", "2.0", "3", "0", "sick"], label_names=("1", "2", "3"))
    assert numbers.dataset.labels.tolist() == [0, 1, 2, -1, -1]
    assert words.labels_fixed
    assert numbers.labels_fixed


def test_whether_the_vocabulary_is_fixed_is_said(eyepacs_tree: Path, tmp_path: Path, picture: Picture) -> None:
    def both(path: Path, **settings: object) -> bool:
        wanted = LoadSettings(unit="image", **settings)  # type: ignore[arg-type]
        assert resolve(path, wanted).labels_fixed == load(path, wanted).labels_fixed
        return resolve(path, wanted).labels_fixed

    assert both(eyepacs_tree)
    assert resolve(eyepacs_tree, LoadSettings()).label_names == DR_GRADES
    picture(tmp_path / "aptos" / "ab.png", 1)
    (tmp_path / "aptos" / "train.csv").write_text("id_code,diagnosis\nab,2\n")
    assert both(tmp_path / "aptos")
    picture(tmp_path / "idrid" / "IDRiD_001.jpg", 1)
    (tmp_path / "idrid" / "l.csv").write_text("Image name,Retinopathy grade\nIDRiD_001,3\n")
    assert both(tmp_path / "idrid")
    picture(tmp_path / "folders" / "cat" / "a.png", 1)
    assert not both(tmp_path / "folders")
    assert not both(tmp_path / "folders", classes=1)
    assert both(tmp_path / "folders", label_names=("cat", "dog"))
    npz = tmp_path / "a.npz"
    np.savez(npz, x=np.zeros((2, 8, 8), np.uint8), y=np.array([0, 1]))
    assert not both(npz)
    assert both(npz, classes=2)
    assert both(npz, label_names=("a", "b"))


def test_only_the_layout_of_examinations_has_a_remark(dicom: Make, dicom_tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rsna" / "stage_2_train_images"
    folder.mkdir(parents=True)
    dicom(np.zeros((8, 8), np.uint8), modality="CR").save_as(folder / "a.dcm", enforce_file_format=True)
    (tmp_path / "rsna" / "stage_2_train_labels.csv").write_text("patientId,x,Target\na,1,1\n")
    for found in (resolve(tmp_path / "rsna", LoadSettings()), load(tmp_path / "rsna", LoadSettings())):
        assert "names one examination" in found.unit_remark
        assert "one person may count several times" in found.unit_remark
        assert not any(character.isdigit() for character in found.unit_remark)
        assert found.labels_fixed
    assert load(dicom_tree, LoadSettings()).unit_remark == resolve(dicom_tree, LoadSettings()).unit_remark == ""
