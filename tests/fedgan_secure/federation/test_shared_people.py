"""One person in two hospitals of one process: folders and files are refused, equal pixels are told confidentially."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.site.shared_people import equal_pixels, refuse_other_names, refuse_shared_folders
from fedgan_secure.storage import SiteDirectory


def folders(root: Path, *names: str) -> dict[str, Path]:
    """A folder for each hospital, with two images that nobody else has, and a licence that everybody has."""
    made = {}
    for name in names:
        (root / name / "patient-1").mkdir(parents=True)
        for index in range(2):
            (root / name / "patient-1" / f"{index}.png").write_bytes(f"{name} {index}".encode())
        made[name] = root / name
    return made


def test_hospitals_with_images_of_their_own_are_taken(tmp_path: Path) -> None:
    given = folders(tmp_path, "a", "b", "c")
    licence = tmp_path / "LICENCE.txt"
    licence.write_text("for all")
    for place in given.values():
        os.link(licence, place / "LICENCE.txt")
    refuse_shared_folders(given)


@pytest.mark.parametrize("way", ["same", "link to the folder", "through ..", "one inside the other"])
def test_one_folder_for_two_hospitals_is_refused(tmp_path: Path, way: str) -> None:
    given = folders(tmp_path, "a", "b", "c")
    (tmp_path / "link").symlink_to(given["a"])
    given["c"] = {
        "same": given["a"],
        "link to the folder": tmp_path / "link",
        "through ..": given["b"] / ".." / "a",
        "one inside the other": given["a"] / "patient-1",
    }[way]
    with pytest.raises(InputError, match="hospitals a and c were given the same images") as caught:
        refuse_shared_folders(given)
    assert "--dataset" in str(caught.value.hint)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_one_file_in_two_hospitals_is_refused_and_not_named(tmp_path: Path, link: object) -> None:
    given = folders(tmp_path, "a", "b", "c")
    assert callable(link)
    link(given["a"] / "patient-1" / "0.png", given["b"] / "mueller-hans.png")
    with pytest.raises(InputError, match="hospitals a and b were given the same file") as caught:
        refuse_shared_folders(given)
    assert "mueller" not in f"{caught.value} {caught.value.hint}" and "0.png" not in str(caught.value)


def test_one_array_for_two_hospitals_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"images")
    os.link(tmp_path / "a.npz", tmp_path / "b.npz")
    with pytest.raises(InputError, match="the same file"):
        refuse_shared_folders({"a": tmp_path / "a.npz", "b": tmp_path / "b.npz", "c": tmp_path / "missing"})


def test_equal_pixels_are_named_by_pseudonyms_of_the_hospital_that_is_told() -> None:
    random = np.random.default_rng(7)
    images = random.integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    black = np.zeros((1, 8, 8, 1), np.uint8)

    def hospital(name: str, pixels: np.ndarray) -> PatientDataset:
        people = [f"{name}{index}" for index in range(len(pixels))]
        return PatientDataset(pixels, [-1] * len(pixels), range(len(pixels)), 0, people)

    datasets = {
        "a": hospital("a", np.concatenate([images[:3], black])),
        "b": hospital("b", np.concatenate([images[2:5], black])),
        "c": hospital("c", np.concatenate([images[5:], black])),
    }
    found = equal_pixels(datasets)
    assert found == {
        "a": [{"hospital": "b", "images": 1, "patients": ["a2"]}],
        "b": [{"hospital": "a", "images": 1, "patients": ["b0"]}],
    }
    assert equal_pixels({name: datasets[name] for name in "ac"}) == {}


def sites(root: Path, *names: str, lasting: bool = True) -> dict[str, SiteDirectory]:
    return {name: SiteDirectory(root / name, "run", lasting).prepare() for name in names}


@pytest.mark.parametrize("way", ["the same", "a link", "renamed"])
def test_another_name_for_known_images_begins_no_budget_anew(tmp_path: Path, way: str) -> None:
    given = folders(tmp_path, "north", "south", "west")
    refuse_other_names(given, sites(tmp_path / "sites", *given))
    refuse_other_names(given, sites(tmp_path / "sites", *given))
    place = given["north"]
    if way == "a link":
        (tmp_path / "link").symlink_to(place)
        place = tmp_path / "link"
    elif way == "renamed":
        place = place.rename(tmp_path / "archive")
    others = {"nord": place, "south": given["south"], "west": given["west"]}
    with pytest.raises(InputError, match="are those of hospital north") as caught:
        refuse_other_names(others, sites(tmp_path / "sites", *others))
    assert "run them as north" in str(caught.value.hint)
    assert not (tmp_path / "sites" / "nord" / "images.json").exists()
    refuse_other_names(others, sites(tmp_path / "elsewhere", *others))


def test_a_site_of_one_run_knows_nothing_of_another(tmp_path: Path) -> None:
    given = folders(tmp_path, "a", "b", "c")
    made = sites(tmp_path / "run", *given, lasting=False)
    refuse_other_names(given, made)
    assert not made["a"].images.exists()


def test_dicom_under_another_ending_is_a_file_like_any(tmp_path: Path) -> None:
    given = folders(tmp_path, "a", "b", "c")
    (given["a"] / "scan.txt").write_bytes(bytes(128) + b"DICM" + b"1")
    os.link(given["a"] / "scan.txt", given["b"] / "scan.txt")
    with pytest.raises(InputError, match="hospitals a and b were given the same file"):
        refuse_shared_folders(given)
