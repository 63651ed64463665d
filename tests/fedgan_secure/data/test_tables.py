"""Tables and folders that would give a picture another's label: set aside with the line's number, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedgan_secure.data.reading.loading import LoadSettings, load
from fedgan_secure.data.reading.tables import read_columns, read_table
from fedgan_secure.errors import InputError

Picture = Callable[..., Path]


def written(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes((end.join(lines) + end).encode())
    return path


# lines and columns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["a,1,75,2", "a,Doe, Jane,2", "a,1", "a", "a,1,2,,x"],
    ids=["decimal comma", "a name", "a cell too few", "alone", "after empty ones"],
)
def test_a_line_that_does_not_fit_the_header_is_no_row(tmp_path: Path, line: str) -> None:
    table = read_table(written(tmp_path / "t.csv", "id,height,grade", "x,2,3", line, "y,4,5"))
    assert [row["id"] for row in table.rows] == ["x", "y"] and [row["grade"] for row in table.rows] == ["3", "5"]
    ((where, why),) = table.set_aside()
    assert where == "t.csv, line 3" and "3 columns" in why


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_spreadsheets_end_them(tmp_path: Path, end: str) -> None:
    path = written(tmp_path / "t.csv", "image,level", "a,1", '"b, or not",2', end=end)
    assert read_columns(path) == ("image", "level")
    table = read_table(path)
    assert [tuple(row.values()) for row in table.rows] == [("a", "1"), ("b, or not", "2")] and not table.crooked


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_at_the_start_tell_the_encoding(tmp_path: Path, encoding: str, end: str) -> None:
    lines = ["image,level", *(f"Ä{number}ß,{number % 3}" for number in range(20_000))]
    path = tmp_path / "t.csv"
    path.write_bytes((end.join(lines) + end).encode(encoding))
    assert read_columns(path) == ("image", "level")
    table = read_table(path)
    assert len(table.rows) == 20_000 and table.rows[7] == {"image": "Ä7ß", "level": "1"}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-16-be"])
def test_an_encoding_that_nothing_tells_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("image,level\nÄ1,2\n".encode(encoding))
    with pytest.raises(InputError, match=r"t\.csv is not UTF-8 text") as caught:
        read_table(path)
    assert "UTF-8" in caught.value.hint


def test_empty_cells_at_the_end_are_nothing(tmp_path: Path) -> None:
    """As in the tables that IDRiD comes with."""
    table = read_table(written(tmp_path / "t.csv", "Image name,Retinopathy grade,,,", "a,1,,,,,", "b,2", "c,3,,"))
    assert [row["retinopathy grade"] for row in table.rows] == ["1", "2", "3"] and not table.crooked


def test_a_line_number_counts_lines_of_the_file(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.csv", "image,level", "", '"a', ' b",1', "c,2,3"))
    assert table.crooked == ((5, 3),)


def test_a_table_none_of_whose_lines_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2 has 3"):
        read_table(written(tmp_path / "t.csv", "image,level", "a,left,1", "b,right,2"))


@pytest.mark.parametrize("header", ["image,level,level", "Image, image ,level", "a,b,A"])
def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(InputError, match="two columns named"):
        read_table(written(tmp_path / "t.csv", header, "1,2,3"))


# in layouts -------------------------------------------------------------------------------------------------------


def test_no_grade_moves_into_another_column(eyepacs_tree: Path) -> None:
    """An extra cell before the grade, in two lines: their eyes have no label, and the page says which lines."""
    table = eyepacs_tree / "trainLabels.csv"
    lines = table.read_text().splitlines()
    name, grade = lines[1].split(",")
    lines[1] = f"{name},1,{grade}"
    lines[2] = lines[2].split(",")[0]
    table.write_text("\n".join(lines))
    result = load(eyepacs_tree, LoadSettings())
    assert result.dataset.labels.tolist() == [-1, -1, 2, 3, 3, 4, 4, 4]
    assert [name for name, _ in result.findings.unusable_labels] == [
        "trainLabels.csv, line 2",
        "trainLabels.csv, line 3",
    ]


def test_a_short_row_makes_no_patient_of_its_grade(tmp_path: Path, picture: Picture) -> None:
    for number, name in enumerate("abc"):
        picture(tmp_path / f"{name}.png", number)
    written(tmp_path / "t.csv", "file,patient,label", "a.png,P1,0", "b.png,1", "c.png,P2,1")
    result = load(tmp_path, LoadSettings(layout="csv"))
    assert (result.dataset.patients, len(result.dataset)) == (2, 2)
    assert dict(result.findings.quarantined) == {"b.png": "t.csv has no row for it"}
    assert result.findings.unusable_labels[0][0] == "t.csv, line 3"


def idrid(root: Path, picture: Picture, *sets: str) -> Path:
    for number, name in enumerate(sets):
        picture(root / "1. Original Images" / name / "IDRiD_001.jpg", number)
        written(root / "2. Groundtruths" / f"{name}.csv", "Image name,Retinopathy grade,,", f"IDRiD_001,{number},,")
    return root


def test_idrid_as_distributed_is_refused_and_one_of_its_sets_is_read(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "both" / "2. Groundtruths").mkdir(parents=True)
    root = idrid(tmp_path / "both", picture, "a. Training Set", "b. Testing Set")
    unit = LoadSettings(unit="image")
    with pytest.raises(InputError, match="2 tables that could hold the labels"):
        load(root, unit)
    (root / "2. Groundtruths" / "b. Testing Set.csv").unlink()
    with pytest.raises(InputError, match="1 names twice"):
        load(root, unit)
    (tmp_path / "one" / "2. Groundtruths").mkdir(parents=True)
    assert load(idrid(tmp_path / "one", picture, "a. Training Set"), unit).dataset.labels.tolist() == [0]


def test_two_tables_that_could_hold_the_labels_are_refused(eyepacs_tree: Path) -> None:
    (eyepacs_tree / "aLabels.csv").write_text("image,level\n1_left,4\n")
    with pytest.raises(InputError, match=r"aLabels\.csv, trainLabels\.csv"):
        load(eyepacs_tree, LoadSettings())


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "val", "test"),
        ("a. Training Set", "b. Testing Set"),
        ("Train", "Valid"),
        ("train_images", "test_images"),
    ],
)
def test_the_parts_of_a_split_are_no_classes(tmp_path: Path, picture: Picture, parts: tuple[str, ...]) -> None:
    for part in parts:
        for number, name in enumerate(("ill", "well")):
            picture(tmp_path / part / name / f"P{number}_L.png", number)
    with pytest.raises(InputError, match="the classes would be ill, well") as refused:
        load(tmp_path, LoadSettings())
    assert "Traceback" not in str(refused.value) and refused.value.hint
    assert load(tmp_path / parts[0], LoadSettings()).label_names == ("ill", "well")
    declared = load(tmp_path, LoadSettings(label_names=parts))
    assert declared.label_names == parts


def test_parts_beside_another_folder_are_no_classes(tmp_path: Path, picture: Picture) -> None:
    for number, name in enumerate(("train", "test set", "samples")):
        picture(tmp_path / name / f"P{number}_L.png", number)
    with pytest.raises(InputError, match="test set, train of"):
        load(tmp_path, LoadSettings())


def test_parts_with_pictures_in_them_are_no_classes_either(tmp_path: Path, picture: Picture) -> None:
    picture(tmp_path / "train" / "P1_L.png", 1)
    picture(tmp_path / "test" / "P2_L.png", 2)
    with pytest.raises(InputError, match="parts of a split"):
        load(tmp_path, LoadSettings())


def test_a_folder_around_the_classes_is_no_class(tmp_path: Path, picture: Picture) -> None:
    for number, name in enumerate(("ill", "well")):
        picture(tmp_path / "images" / name / f"P{number}_L.png", number)
    with pytest.raises(InputError, match="lie within it"):
        load(tmp_path, LoadSettings())
    assert load(tmp_path / "images", LoadSettings()).label_names == ("ill", "well")


def test_eyepacs_without_its_table_is_no_class(eyepacs_tree: Path) -> None:
    (eyepacs_tree / "trainLabels.csv").unlink()
    with pytest.raises(InputError, match="image,level"):
        load(eyepacs_tree, LoadSettings())


def test_ordinary_classes_are_still_read(tmp_path: Path, picture: Picture) -> None:
    """Names that only remind of a split, one class with folders of patients, and one class alone."""
    for number, name in enumerate(("training effect", "tested positive", "val d'or")):
        picture(tmp_path / "several" / name / f"P{number}_L.png", number)
    assert len(load(tmp_path / "several", LoadSettings()).label_names) == 3
    picture(tmp_path / "one" / "scans" / "P1_L.png", 1)
    picture(tmp_path / "one" / "scans" / "more" / "P2_L.png", 2)
    assert load(tmp_path / "one", LoadSettings()).label_names == ("scans",)
