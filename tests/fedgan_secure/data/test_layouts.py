from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from fedgan_secure.data import LoadSettings, load, resolve
from fedgan_secure.data.reading.layouts import DR_GRADES, KNOWN_LAYOUTS, SUPPORTED_LAYOUTS
from fedgan_secure.errors import InputError

Picture = Callable[..., None]
Make = Callable[..., FileDataset]


def test_a_dicom_tree_is_named_by_patient_id(dicom_tree: Path) -> None:
    result = load(dicom_tree, LoadSettings(channels=1))
    assert (result.layout, result.preprocessing) == ("dicom", "by-modality/1")
    assert (result.dataset.patients, len(result.dataset)) == (5, 10)
    assert [len(result.dataset.images_of(patient)) for patient in range(5)] == [2] * 5
    assert result.findings.labels == {"none": 10}


def test_dicom_labels_come_from_a_table_by_file_or_by_patient(dicom_tree: Path) -> None:
    (dicom_tree / "labels.csv").write_text("file;dr_grade\np0/0.dcm;3\np1/1.dcm;0\np9/0.dcm;1\n")
    result = load(dicom_tree, LoadSettings())
    assert result.label_names == DR_GRADES
    assert result.dataset.labels.tolist() == [3, -1, -1, 0] + [-1] * 6
    assert result.findings.labels_without_image == ("p9/0.dcm",)
    assert len(result.findings.unlabelled) == 8
    (dicom_tree / "labels.csv").write_text("patient_id,label\nID-0,tumour\nID-3,healthy\n")
    result = load(dicom_tree, LoadSettings())
    assert result.label_names == ("healthy", "tumour")
    assert result.dataset.labels.tolist() == [1, 1, -1, -1, -1, -1, 0, 0, -1, -1]


def test_every_file_is_prepared_by_its_own_modality(dicom: Make, tmp_path: Path) -> None:
    """Also where files of several kinds lie together, in either layout that takes DICOM; a policy's word goes first."""
    rows = np.arange(64, dtype=np.int16)
    pixels = np.where((rows[:, None] - 32) ** 2 + (rows - 32) ** 2 < 400, 100 + rows[:, None], -1000).astype(np.int16)
    kinds = {"CT": "ct-abdomen-window/1", "OP": "fundus-crop/1", "MR": "plain/1"}
    alone, together = {}, tmp_path / "together"
    together.mkdir()
    for modality, name in kinds.items():
        window = {"WindowCenter": "-400", "WindowWidth": "1300"}
        made = dicom(pixels, patient=modality, modality=modality, RescaleSlope=1, RescaleIntercept=0, **window)
        folder = tmp_path / modality
        folder.mkdir()
        for place in (folder, together):
            made.save_as(place / f"{modality}.dcm", enforce_file_format=True)
        alone[modality] = load(folder, LoadSettings(preprocessing=name)).dataset.pixels([0]).tobytes()
        assert load(folder, LoadSettings()).dataset.pixels([0]).tobytes() == alone[modality]
    assert len(set(alone.values())) == 3
    for table in ("", "t.csv"):
        if table:
            (together / table).write_text("file,patient\n" + "".join(f"{kind}.dcm,{kind}\n" for kind in kinds))
        result = load(together, LoadSettings(layout="csv" if table else "dicom"))
        assert result.preprocessing == resolve(together, LoadSettings(layout="dicom")).preprocessing == "by-modality/1"
        assert [result.dataset.pixels([row]).tobytes() for row in range(3)] == [alone[kind] for kind in sorted(kinds)]
    declared = load(together, LoadSettings(layout="dicom", preprocessing="ct-abdomen-window/1"))
    assert [path for path, _ in declared.findings.quarantined] == ["MR.dcm", "OP.dcm"]


def test_eyepacs_pairs_the_eyes_and_keeps_each_ones_grade(eyepacs_tree: Path) -> None:
    result = load(eyepacs_tree, LoadSettings())
    assert (result.layout, result.preprocessing, result.label_names) == ("eyepacs", "fundus-crop/1", DR_GRADES)
    assert result.dataset.patients == 4
    assert result.dataset.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 4]
    assert result.dataset.patient_labels().tolist() == [2, 3, 4, 4]


def test_eyepacs_lists_what_does_not_fit(eyepacs_tree: Path, picture: Picture) -> None:
    table = eyepacs_tree / "trainLabels.csv"
    lines = table.read_text().splitlines()
    lines[1] = "1_left,"  # empty
    lines[2] = "1_right,7"  # not a grade
    lines += ["2_left,4", "77_left,2"]  # contradicts; no such picture
    table.write_text("\n".join(lines))
    picture(eyepacs_tree / "train" / "8_left.jpeg", 50)
    picture(eyepacs_tree / "train" / "odd name.jpeg", 51)
    result = load(eyepacs_tree, LoadSettings())
    assert result.dataset.labels.tolist() == [-1, -1, -1, 3, 3, 4, 4, 4, -1]
    found = result.findings
    assert found.unlabelled == ("train/1_left.jpeg", "train/1_right.jpeg", "train/2_left.jpeg", "train/8_left.jpeg")
    assert dict(found.unusable_labels) == {
        "1_left": "the label is empty",
        "1_right": "the label is not one of the 5 classes",
        "2_left": "its rows contradict each other",
    }
    assert found.labels_without_image == ("77_left",)
    assert found.quarantined == (("train/odd name.jpeg", "the file name is not ID_left or ID_right"),)
    assert found.labels["none"] == 4


def test_two_files_of_one_name_get_its_label_and_a_note(eyepacs_tree: Path, picture: Picture) -> None:
    picture(eyepacs_tree / "test" / "1_left.jpeg", 60)
    result = load(eyepacs_tree, LoadSettings())
    assert (result.dataset.patients, result.findings.unlabelled) == (4, ())
    assert result.dataset.labels.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert any("fits several files" in note for note in result.findings.notes)


def test_class_folders(tmp_path: Path, picture: Picture) -> None:
    for number, name in enumerate(["10 - late", "2 - early", "1 - none"]):
        picture(tmp_path / name / f"Patient00{number}_L.jpg", number)
        picture(tmp_path / name / f"Patient00{number}-R.jpg", number + 10)
    picture(tmp_path / "1 - none" / "scan.jpg", 30)
    picture(tmp_path / "loose_L.jpg", 31)
    result = load(tmp_path, LoadSettings(layout="folders"))
    assert result.label_names == ("1 - none", "2 - early", "10 - late")
    assert (result.dataset.patients, len(result.dataset)) == (3, 6)
    assert dict(result.findings.quarantined) == {
        "1 - none/scan.jpg": "the patient pattern does not match its name",
        "loose_L.jpg": "it lies outside the class folders",
    }


def test_class_folders_with_a_pattern_and_a_declared_vocabulary(tmp_path: Path, picture: Picture) -> None:
    for folder in ("cat", "dog", "fish"):
        picture(tmp_path / folder / "x12y1.png", 1)
        picture(tmp_path / folder / "x13y2.png", 2)
    pattern = LoadSettings(patient_pattern=r"x(?P<patient>\d+)y", label_names=("dog", "cat", "bird"))
    result = load(tmp_path, pattern)
    assert result.dataset.patients == 2
    assert result.dataset.classes == 3
    assert sorted(result.dataset.labels.tolist()) == [0, 0, 1, 1]
    assert {reason for _, reason in result.findings.quarantined} == {"its folder is not one of the 3 classes"}
    with pytest.raises(InputError, match="matches no file name"):
        load(tmp_path, LoadSettings(patient_pattern="nobody(.)"))
    with pytest.raises(InputError, match="not a regular expression"):
        load(tmp_path, LoadSettings(patient_pattern="("))
    with pytest.raises(InputError, match="names no patient"):
        load(tmp_path, LoadSettings())
    assert load(tmp_path, LoadSettings(unit="image")).dataset.patients == 6


def _npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


IMAGES = np.random.default_rng(1).integers(0, 256, (6, 20, 20), dtype=np.uint8)


@pytest.mark.parametrize("names", [("x_train", "y_train"), ("train_images", "train_labels")])
def test_npz_arrays(tmp_path: Path, names: tuple[str, str]) -> None:
    path = _npz(tmp_path / "a.npz", **{names[0]: IMAGES, names[1]: np.arange(6)[:, None] % 3, "x_test": IMAGES})
    with pytest.raises(InputError, match="names no patient"):
        load(path, LoadSettings())
    result = load(path, LoadSettings(unit="image", image_size=28, channels=1))
    assert result.dataset.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (result.dataset.patients, result.dataset.classes) == (6, 3)


def test_npz_with_patients(tmp_path: Path) -> None:
    path = _npz(tmp_path / "a.npz", images=IMAGES, patient=np.array(["u", "u", "v", "w", "w", "w"]))
    result = load(path, LoadSettings(exclude=("v",)))
    assert [len(result.dataset.images_of(patient)) for patient in range(2)] == [2, 3]
    assert (result.findings.excluded_found, result.findings.excluded_images) == (("v",), 1)
    assert result.dataset.classes == 0


def test_npz_sixteen_bits_and_colour(tmp_path: Path) -> None:
    deep = _npz(tmp_path / "a.npz", x=np.full((1, 28, 28, 1), 65535 // 2, np.uint16))
    assert load(deep, LoadSettings(unit="image", image_size=28, channels=1)).dataset.images[0, 5, 5, 0] in (127, 128)
    colour = np.random.default_rng(2).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    path = _npz(tmp_path / "b.npz", x=colour)
    assert np.array_equal(load(path, LoadSettings(unit="image", image_size=28)).dataset.images, colour)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, "holds the arrays pictures"),
        ({"x": IMAGES.astype(np.float32)}, "expected uint8"),
        ({"x": IMAGES[0]}, "expected .N,H,W"),
        ({"x": np.zeros((2, 8, 8, 4), np.uint8)}, "expected .N,H,W"),
        ({"x": np.zeros((0, 8, 8), np.uint8)}, "expected .N,H,W"),
        ({"x": IMAGES, "y": np.arange(5)}, "one value for each of the 6"),
        ({"x": IMAGES, "y": np.linspace(0, 1, 6)}, "expected whole numbers"),
        ({"x": np.array([{"a": 1}] * 6)}, "Python objects"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(_npz(tmp_path / "a.npz", **arrays), LoadSettings(unit="image"))


def test_broken_npz(tmp_path: Path) -> None:
    path = _npz(tmp_path / "a.npz", x=np.random.default_rng(1).integers(0, 256, (99, 40, 40), dtype=np.uint8))
    data = path.read_bytes()
    for broken in (data[:1000], b"", b"PK" + data[2:3000], data[:5000] + bytes(2000) + data[7000:]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"not a readable .npz|broken or truncated"):
            load(path, LoadSettings(unit="image"))
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none.npz", LoadSettings(unit="image"))


def test_npz_labels_outside_the_declared_classes_are_listed(tmp_path: Path) -> None:
    path = _npz(tmp_path / "a.npz", x=IMAGES, y=np.array([0, 1, 2, -1, -5, 1]))
    result = load(path, LoadSettings(unit="image", classes=2))
    assert result.dataset.labels.tolist() == [0, 1, -1, -1, -1, 1]
    assert [name for name, _ in result.findings.unusable_labels] == ["x[2]", "x[4]"]


def test_rsna_ct(dicom: Make, tmp_path: Path) -> None:
    for patient, series in (("10", "7"), ("10", "8"), ("11", "9")):
        folder = tmp_path / "train_images" / patient / series
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(int(series)).integers(0, 99, (8, 8)).astype(np.int16)
        ct = dicom(pixels, patient="other", modality="CT", RescaleSlope=1, RescaleIntercept=0)
        ct.save_as(folder / "1.dcm", enforce_file_format=True)
    (tmp_path / "train.csv").write_text("patient_id,any_injury\n10,1\n11,0\n12,1\n")
    result = load(tmp_path, LoadSettings(channels=1))
    assert (result.layout, result.preprocessing) == ("rsna-ct", "ct-abdomen-window/1")
    assert result.dataset.patients == 2
    assert result.dataset.labels.tolist() == [1, 1, 0]
    assert result.findings.labels_without_image == ("12",)


def test_rsna_pneumonia(dicom: Make, tmp_path: Path) -> None:
    folder = tmp_path / "stage_2_train_images"
    folder.mkdir()
    for number, name in enumerate("ab"):
        pixels = np.random.default_rng(number).integers(0, 99, (8, 8), dtype=np.uint8)
        dicom(pixels, modality="CR").save_as(folder / f"{name}.dcm", enforce_file_format=True)
    (tmp_path / "stage_2_train_labels.csv").write_text("patientId;x;Target\na;1;1\na;2;1\nb;;0\n")
    result = load(tmp_path, LoadSettings(channels=1))
    assert result.layout == "rsna-pneumonia"
    assert result.dataset.labels.tolist() == [1, 0]
    assert any("examination" in note for note in result.findings.notes)


def test_aptos_and_idrid_name_no_patient(tmp_path: Path, picture: Picture) -> None:
    picture(tmp_path / "a" / "train_images" / "ab12.png", 1)
    (tmp_path / "a" / "train.csv").write_text("id_code,diagnosis\nab12,2\n")
    picture(tmp_path / "i" / "IDRiD_001.jpg", 1)
    (tmp_path / "i" / "l.csv").write_text("Image name,Retinopathy grade,Risk of macular edema \nIDRiD_001,3,0\n")
    for folder, layout, label in (("a", "aptos", 2), ("i", "idrid", 3)):
        with pytest.raises(InputError, match="names no patient"):
            load(tmp_path / folder, LoadSettings())
        result = load(tmp_path / folder, LoadSettings(unit="image"))
        assert (result.layout, result.dataset.labels.tolist()) == (layout, [label])


@pytest.mark.parametrize("sheet", ["left;right\nA1.png;A2.png\nB1.png;B2.png\n", "A1.png,A2.png\nB1.png,B2.png\n"])
def test_messidor_pairs_are_the_patients(tmp_path: Path, picture: Picture, sheet: str) -> None:
    for number, name in enumerate(("A1", "A2", "B1", "B2", "C1")):
        picture(tmp_path / "IMAGES" / f"{name}.png", number)
    grades = "A1.png,2,0,1\nA2.png,0,0,1\nB1.png,1,0,1\nB2.png,,,0\nC1.png,3,0,1\n"
    header = "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n"
    (tmp_path / "messidor_data.csv").write_text(header + grades)
    with pytest.raises(InputError, match="names no patient"):
        load(tmp_path, LoadSettings())
    (tmp_path / "pairs.csv").write_text(sheet)
    result = load(tmp_path, LoadSettings())
    assert (result.layout, result.preprocessing, result.dataset.patients) == ("messidor", "fundus-crop/1", 2)
    assert result.dataset.labels.tolist() == [2, 0, 1, -1]
    assert result.dataset.patient_labels().tolist() == [2, 1]
    assert result.findings.quarantined == (("IMAGES/C1.png", "the pairing sheet does not name it"),)
    assert result.findings.unusable_labels == (("B2.png", "the label is empty"),)
    assert "examination" in result.unit_remark


def test_any_folder_with_a_table(tmp_path: Path, picture: Picture) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "t.csv").write_text("name,who,what\n0.png,ann,x\n1.png,ann,y\n9.png,ben,x\n")
    settings = LoadSettings(layout="csv", image_column="name", patient_column="who", label_column="what")
    result = load(tmp_path, settings)
    assert (result.dataset.patients, result.dataset.labels.tolist()) == (1, [0, 1])
    assert result.findings.quarantined == (("2.png", "t.csv has no row for it"),)
    assert result.findings.labels_without_image == ("9.png",)
    with pytest.raises(InputError, match="no column 'owner'"):
        load(tmp_path, LoadSettings(layout="csv", image_column="owner"))


def test_a_table_in_another_encoding_is_refused(eyepacs_tree: Path) -> None:
    (eyepacs_tree / "trainLabels.csv").write_bytes("image,level\ngr\xf6\xdfe_left,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load(eyepacs_tree, LoadSettings())


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32"])
def test_a_table_that_cannot_be_read_never_turns_folders_into_classes(eyepacs_tree: Path, encoding: str) -> None:
    text = (eyepacs_tree / "trainLabels.csv").read_text()
    (eyepacs_tree / "trainLabels.csv").write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match="not UTF-8"):
        load(eyepacs_tree, LoadSettings())


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_understood(eyepacs_tree: Path, delimiter: str) -> None:
    table = eyepacs_tree / "trainLabels.csv"
    table.write_text(table.read_text().replace(",", delimiter))
    result = load(eyepacs_tree, LoadSettings())
    assert (result.layout, result.dataset.patients, result.findings.unlabelled) == ("eyepacs", 4, ())


def test_a_delimiter_that_is_not_understood_is_said(eyepacs_tree: Path) -> None:
    table = eyepacs_tree / "trainLabels.csv"
    table.write_text(table.read_text().replace(",", "~"))
    with pytest.raises(InputError, match=r"no label table; expected trainLabels\.csv with"):
        load(eyepacs_tree, LoadSettings(layout="eyepacs"))


def test_missing_empty_mixed_and_unknown_folders(tmp_path: Path, dicom_tree: Path, picture: Picture) -> None:
    cases: list[tuple[Path, str, LoadSettings]] = [(tmp_path / "nowhere", "does not exist", LoadSettings())]
    (tmp_path / "empty").mkdir()
    cases.append((tmp_path / "empty", "is empty", LoadSettings()))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no picture")
    cases.append((tmp_path / "text", "no layout that is known", LoadSettings()))
    cases.append((tmp_path / "text", "no image in the layout dicom", LoadSettings(layout="dicom")))
    cases.append((tmp_path / "text" / "a.txt", "is a file", LoadSettings()))
    picture(dicom_tree / "a.png", 1)
    cases.append((dicom_tree, "mixed: 10 DICOM files and 1 other", LoadSettings()))
    cases.append((dicom_tree, "no label table", LoadSettings(layout="eyepacs")))
    cases.append((dicom_tree, "not an .npz", LoadSettings(layout="npz")))
    for path, message, settings in cases:
        with pytest.raises(InputError, match=message) as caught:
            load(path, settings)
        assert caught.value.exit_code == 2
        assert caught.value.hint
    named = load(dicom_tree, LoadSettings(layout="dicom"))
    assert named.findings.quarantined == (("a.png", "a picture that is not DICOM"),)


def test_layouts_that_are_not_read_say_which_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'dicoms' is unknown; supported: auto, dicom"):
        LoadSettings(layout="dicoms")
    assert set(SUPPORTED_LAYOUTS) == set(KNOWN_LAYOUTS)


@pytest.mark.parametrize(
    "wrong",
    [{"image_size": 32}, {"channels": 2}, {"unit": "eye"}, {"preprocessing": "clahe/3"}, {"secret": b"short"}],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        LoadSettings(**wrong)  # type: ignore[arg-type]
