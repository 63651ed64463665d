from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest

from fedgan_secure.data import LoadSettings, load
from fedgan_secure.data.phantoms import phantoms
from fedgan_secure.data.phantoms.phantoms import (
    CLASSES,
    PhantomSettings,
    draw_patient,
    hospital_camera,
    write_hospitals,
)
from fedgan_secure.errors import InputError

SMALL = PhantomSettings(12, image_size=28, seed=5)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def test_hospitals_are_written_and_read_back_like_any_dicom_tree(tmp_path: Path) -> None:
    folders = write_hospitals(tmp_path, ["a", "b"], SMALL)
    for name, folder in folders.items():
        result = load(folder, LoadSettings(image_size=28))
        assert (result.layout, result.preprocessing, result.dataset.classes) == ("dicom", "by-modality/1", CLASSES)
        assert result.dataset.patients == 12
        assert 12 < len(result.dataset) <= 24
        assert not result.findings.quarantined
        assert not result.findings.duplicates
        assert result.findings.labels["none"] == 0
        file = pydicom.dcmread(folder / sorted(path.name for path in folder.glob("*.dcm"))[0])
        assert file.PatientID == f"PHANTOM-{name}-0001"
        assert (file.SyntheticData, file.Modality, file.ImageLaterality) == ("YES", "OP", file.filename[-5])
        assert file.file_meta.MediaStorageSOPInstanceUID == file.SOPInstanceUID


def test_the_pictures_in_the_files_are_the_drawn_ones_with_their_grades(tmp_path: Path) -> None:
    folder = write_hospitals(tmp_path, ["a"], SMALL)["a"]
    grades = dict(line.split(",")[::2] for line in (folder / "labels.csv").read_text().splitlines()[1:])
    seen = set()
    for index in range(12):
        for eye in draw_patient(0, index, hospital_camera(5, 0), SMALL):
            name = f"PHANTOM-a-{index + 1:04d}-{eye.laterality}.dcm"
            file = pydicom.dcmread(folder / name)
            assert np.array_equal(file.pixel_array, eye.pixels)
            assert int(grades[name]) == eye.grade
            seen.add(str(file.SOPInstanceUID))
    assert len(seen) == len(grades) == len(list(folder.glob("*.dcm")))


def test_the_seed_alone_decides_whatever_the_number_of_processes(tmp_path: Path) -> None:
    many = PhantomSettings(40, image_size=28, seed=5)
    one = write_hospitals(tmp_path / "1", ["a"], many, workers=1)["a"]
    two = write_hospitals(tmp_path / "2", ["a"], many, workers=2)["a"]
    assert _digest(one) == _digest(two)
    other = write_hospitals(tmp_path / "3", ["a"], PhantomSettings(40, image_size=28, seed=6), workers=1)["a"]
    assert _digest(other) != _digest(one)


def test_a_complete_folder_is_kept_and_another_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hospitals(tmp_path, ["a"], SMALL)
    monkeypatch.setattr(phantoms, "map_batches", lambda *_args, **_more: iter(()))
    seen: list[tuple[str, int, int]] = []
    write_hospitals(tmp_path, ["a"], SMALL, lambda *step: seen.append(step))
    assert len(list((tmp_path / "a").glob("*.dcm"))) > 12
    with pytest.raises(InputError, match="does not hold these phantoms"):
        write_hospitals(tmp_path, ["a"], PhantomSettings(13, image_size=28, seed=5))


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hospitals(tmp_path, ["a"], SMALL, interrupt)
    assert list(tmp_path.iterdir()) == []


def _by_grade(grade: int, hospital: int = 0, count: int = 12) -> np.ndarray:
    one_hot = tuple(float(index == grade) for index in range(CLASSES))
    settings = PhantomSettings(count, image_size=64, seed=3, grades=one_hot, two_eyes=0.0)
    camera = hospital_camera(3, hospital)
    pictures = []
    for index in range(count):
        (eye,) = draw_patient(hospital, index, camera, settings)
        assert eye.grade == grade
        pictures.append(eye.pixels if eye.laterality == "R" else eye.pixels[:, ::-1])
    return np.stack(pictures).astype(float)


def test_it_looks_like_a_fundus() -> None:
    healthy = _by_grade(0)
    assert healthy[:, :3, :3].max() == 0  # black around the disc of the eye
    middle = healthy[:, 20:60, 20:60].mean(axis=(0, 1, 2))
    assert middle[0] > 1.5 * middle[1] > 1.5 * middle[2]  # reddish
    disc = healthy[:, 38:44, 56:62].mean()  # the optic disc, right of the centre in a right eye
    macula = healthy[:, 39:45, 33:38].mean()
    assert disc > 1.5 * macula


def test_the_grades_differ_visibly() -> None:
    def lesions(grade: int) -> tuple[float, float]:
        pictures = _by_grade(grade)
        red, green, blue = np.moveaxis(pictures, -1, 0)
        inside = np.hypot(*np.mgrid[-1:1:80j, -1:1:80j]) < 0.8
        dark = ((red < 110) & (green < 35) & inside).mean()
        yellow = ((green > 1.8 * blue) & (green > 170) & (red > 200) & inside).mean()
        return float(dark), float(yellow)

    measured = [lesions(grade) for grade in range(CLASSES)]
    dark = [pair[0] for pair in measured]
    assert dark[0] < dark[1] < dark[2] < dark[3] < dark[4]
    assert measured[3][1] > measured[2][1] > measured[1][1]


def test_every_hospital_has_its_own_camera() -> None:
    colours = [_by_grade(0, hospital, 6)[:, 20:60, 20:60].mean(axis=(0, 1, 2)) for hospital in range(4)]
    for first in range(4):
        for second in range(first):
            assert np.abs(colours[first] - colours[second]).max() > 8


def test_two_eyes_are_alike_but_not_equal() -> None:
    settings = PhantomSettings(20, image_size=64, seed=3, grades=(1, 0, 0, 0, 0), two_eyes=1.0)
    camera = hospital_camera(3, 0)
    patients = [draw_patient(0, index, camera, settings) for index in range(6)]
    pairs = [(right.pixels.astype(float), left.pixels[:, ::-1].astype(float)) for right, left in patients]
    own = np.mean([np.abs(right - left).mean() for right, left in pairs])
    others = np.mean([np.abs(pairs[i][0] - pairs[i - 1][1]).mean() for i in range(6)])
    assert 0 < own < 0.75 * others


def test_most_patients_have_two_eyes_and_grades_follow_the_distribution() -> None:
    settings = PhantomSettings(300, image_size=28, seed=2)
    camera = hospital_camera(2, 0)
    patients = [draw_patient(0, index, camera, settings) for index in range(300)]
    assert 0.72 < np.mean([len(eyes) == 2 for eyes in patients]) < 0.88
    first = np.bincount([eyes[0].grade for eyes in patients], minlength=CLASSES) / 300
    assert np.abs(first - settings.grades).max() < 0.1


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"patients": 1, "grades": (0.5, 0.5, 0.5, 0, 0)}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        PhantomSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot name a folder"):
        write_hospitals(Path("unused"), ["../a"], SMALL)
