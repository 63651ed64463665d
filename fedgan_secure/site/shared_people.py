"""One person in two hospitals: the same folder or file is refused, equal pixels are told to the hospitals alone.

A report says for how many hospitals a patient's figure holds, and whoever gives one folder to two hospitals makes that
false. Only what one process holds can be compared; between machines nobody compares patients (the declared bound).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from fedgan_secure.data import PatientDataset
from fedgan_secure.data.pixels import looks_like_dicom
from fedgan_secure.errors import InputError
from fedgan_secure.storage import SiteDirectory, read_json, write_json

TABLES = frozenset({".csv", ".tsv", ".txt", ".md", ".json", ".toml", ".xlsx", ".pdf"})
"""Endings of what may lie beside images for everybody, such as a licence or a table of labels, unless it is DICOM."""
_HINT = (
    "give every hospital its own images; one data set that several hospitals are to share is split by patient with "
    "--dataset"
)
_Identity = tuple[int, int]


def refuse_shared_folders(folders: Mapping[str, Path]) -> None:
    """Refuse to give one folder, one inside the other, or one file (by a link of any kind) to two hospitals.

    Raises:
        InputError: naming the hospitals and their folders, and no file, since a file's name may be a patient's.
    """
    for (name, place), (other, elsewhere) in combinations(folders.items(), 2):
        here, there = place.resolve(), elsewhere.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise InputError(
                f"hospitals {name} and {other} were given the same images: {place} and {elsewhere} are one folder, or "
                "one holds the other; expected images of different patients",
                hint=_HINT,
            )
    seen: dict[_Identity, str] = {}
    for name, place in folders.items():
        own = dict.fromkeys(_files(place), name)
        for identity in own:
            if (holder := seen.get(identity)) is not None:
                raise InputError(
                    f"hospitals {holder} and {name} were given the same file: it stands (by a link) in "
                    f"{folders[holder]} and in {place}; expected images of different patients",
                    hint=_HINT,
                )
        seen |= own


def refuse_other_names(folders: Mapping[str, Path], sites: Mapping[str, SiteDirectory]) -> None:
    """Refuse images that a lasting site directory knows as another hospital's, and note whose these are.

    The ledger of these patients is kept under that name; under a new one their budget would begin anew.

    Raises:
        InputError: naming the folder and both names.
    """
    for name, place in folders.items():
        site, here = sites[name], _origin(place)
        if not site.lasting:
            continue
        for other in sorted(site.root.parent.iterdir()):
            known = replace(site, root=other).images
            if other == site.root or not known.is_file() or not _is_among(here, read_json(known, "list of folders")):
                continue
            raise InputError(
                f"hospital {name}: the images in {place} are those of hospital {other.name} in {site.root.parent}, "
                "where the ledger of these patients is kept",
                hint=f"run them as {other.name}; where other patients' images lie there by now, take it out of {known}",
            )
    for name, place in folders.items():
        site, here = sites[name], _origin(place)
        if site.lasting:
            held = read_json(site.images, "list of folders") if site.images.is_file() else {"folders": []}
            if not _is_among(here, held):
                write_json(site.images, {"folders": [*held["folders"], here]}, private=True)


def _origin(place: Path) -> dict[str, Any]:
    status = place.stat()
    return {"path": str(place.resolve()), "device": status.st_dev, "inode": status.st_ino}


def _is_among(here: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Whether a folder is one of those held, by its path, or by its place on the disk where it was renamed."""
    return any(
        one["path"] == here["path"] or (one["device"], one["inode"]) == (here["device"], here["inode"])
        for one in held["folders"]
    )


def _files(place: Path) -> Iterator[_Identity]:
    """Device and inode of every file that may hold images, links followed; what cannot be read is the loader's."""
    if place.is_file():
        yield _identity(place.stat())
        return
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder) / name
            if path.suffix.lower() in TABLES and not looks_like_dicom(path):
                continue
            try:
                yield _identity(path.stat())
            except OSError:
                continue


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def equal_pixels(datasets: Mapping[str, PatientDataset]) -> dict[str, list[dict[str, Any]]]:
    """Return, for each hospital that has any, its images whose pixels another hospital's patients have, too.

    Args:
        datasets: hospital -> its patients, as they are trained on.

    Returns:
        hospital -> a row for each other hospital: its name, how many of the OWN images are there as well, and the
        pseudonyms of the OWN patients concerned, which only their hospital can lead back to people. Confidential: for
        that hospital's annex and the terminal. Images of one colour are left out: they show nobody.
    """
    held = {name: _digests(dataset) for name, dataset in datasets.items()}
    patients = {name: dataset.patient for name, dataset in datasets.items()}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, own in held.items():
        for other, theirs in held.items():
            common = own.keys() & theirs.keys() if other != name else set()
            if common:
                images = [index for digest in common for index in own[digest]]
                whose = {datasets[name].pseudonyms[int(patients[name][index])] for index in images}
                row = {"hospital": other, "images": len(images), "patients": sorted(whose)}
                found.setdefault(name, []).append(row)
    return found


def _digests(dataset: PatientDataset) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for index, pixels in enumerate(dataset.images):
        if pixels.min() != pixels.max():
            found.setdefault(hashlib.sha256(pixels.tobytes()).digest(), []).append(index)
    return found
