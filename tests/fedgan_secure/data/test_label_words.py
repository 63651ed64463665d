"""Labels that are no classes, and classes written twice: set aside or said, never silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedgan_secure.data.reading.label_words import label_notes
from fedgan_secure.data.reading.loading import LoadSettings, load

Picture = Callable[..., None]


def table(root: Path, picture: Picture, labels: list[str]) -> Path:
    for number in range(len(labels)):
        picture(root / f"{number}.png", number)
    rows = [f"{number}.png,p{number},{label}" for number, label in enumerate(labels)]
    (root / "t.csv").write_text("\n".join(["file,patient,label", *rows]) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("missing", ["nan", "NaN", "NA", "N/A", "#N/A", "null", "<NA>", "-", "?"])
@pytest.mark.parametrize("others", [["mild", "severe", "mild"], ["0", "1", "2"]])
def test_a_missing_value_is_no_class(tmp_path: Path, picture: Picture, missing: str, others: list[str]) -> None:
    result = load(table(tmp_path, picture, [*others, missing]), LoadSettings(layout="csv"))
    assert result.label_names == tuple(sorted(set(others)))
    assert result.dataset.labels.tolist()[3] == -1
    assert result.findings.unusable_labels == (("3.png", "the label is empty"),)


def test_a_declared_class_may_be_called_anything(tmp_path: Path, picture: Picture) -> None:
    declared = LoadSettings(layout="csv", label_names=("mild", "NA"))
    assert load(table(tmp_path, picture, ["mild", "NA", "mild"]), declared).dataset.labels.tolist() == [0, 1, 0]


def test_one_class_written_twice_is_said(tmp_path: Path, picture: Picture) -> None:
    labels = ["Normal", "normal", "no  finding", "No finding", "sick", "Normal"]
    (note,) = [text for text in load(table(tmp_path, picture, labels), LoadSettings(layout="csv")).findings.notes
               if "several ways" in text]  # fmt: skip
    assert "2 classes" in note and "'Normal' (2) and 'normal' (1)" in note


def test_a_value_to_ignore_is_asked_about(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 20), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 1, 2, 3, 1, 255]))
    settings = LoadSettings(unit="image", image_size=28, channels=1)
    notes = load(tmp_path / "a.npz", settings).findings.notes
    assert any("the largest label is 255, and 251 of the 256 classes" in text for text in notes)
    declared = load(tmp_path / "a.npz", LoadSettings(unit="image", image_size=28, channels=1, classes=4))
    assert declared.dataset.labels.tolist() == [0, 1, 2, 3, 1, -1] and not any(
        "255" in text for text in declared.findings.notes
    )


def test_ordinary_vocabularies_are_left_in_peace() -> None:
    assert label_notes({"0 no DR": 3, "1 mild": 0, "2 moderate": 2}) == []
    assert label_notes({str(number): number % 3 for number in range(40)}) == []
    assert label_notes({"mild": 1, "unknown": 2}) == [
        "the labels 'unknown' may stand for a missing value, and are classes here: declare the classes "
        "(data.label_names) to set them aside"
    ]
