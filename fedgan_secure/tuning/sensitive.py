"""What a search must not read: the patients' own images, under whatever name they are handed over as public."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fedgan_secure.errors import BudgetRefused, InputError
from fedgan_secure.policy import RunSettings
from fedgan_secure.tuning.experiment import Experiment

_MOST_FILES = 200_000


def check_public(experiment: Experiment) -> None:
    """Refuse "public" images that are a hospital's: the same folder, one inside the other, or equal files.

    Files are compared by size, then by SHA-256. It cannot show that the same pictures were saved anew.

    Raises:
        BudgetRefused: they overlap: a score on them, or training on them, is a release that nothing pays for.
        InputError: the public images do not exist, or either set is too large to be compared.
    """
    private = _private_places(experiment.settings_of({}))
    for key, place in (
        ("objective.dataset", experiment.objective.dataset),
        ("public.dataset", None if experiment.public is None else experiment.public.dataset),
    ):
        if place is None:
            continue
        if not place.exists():
            raise InputError(f"{key}: {place} does not exist", hint="give the folder (or .npz) of the public images")
        for name, own in private.items():
            if _overlap(place.resolve(), own.resolve()):
                raise _refused(key, place, f"it is, holds or lies inside the images of {name}")
        shared = _equal_files(place, list(private.values()))
        if shared is not None:
            raise _refused(
                key, place, f"its file {shared[0].name} is equal to {shared[1].name} of the patients' images"
            )


def _refused(key: str, place: Path, why: str) -> BudgetRefused:
    return BudgetRefused(
        f"{key}: {place} is not public: {why}; what a search reads there for every trial is a release that no "
        "mechanism pays for",
        hint="measure on phantoms, or on images that are no hospital's",
    )


def _private_places(settings: RunSettings) -> dict[str, Path]:
    places = {f"hospital {name}": place for name, place in settings.data.hospital.items()}
    if settings.data.dataset is not None:
        places["the federation's data set"] = settings.data.dataset
    return places


def _overlap(one: Path, other: Path) -> bool:
    return one == other or one.is_relative_to(other) or other.is_relative_to(one)


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    for number, path in enumerate(sorted(place.rglob("*"))):
        if number > _MOST_FILES:
            raise InputError(
                f"{place} holds more than {_MOST_FILES} files, more than are compared with the patients' own",
                hint="name a smaller set as public",
            )
        if path.is_file() and path.suffix.lower() not in (".csv", ".txt", ".json", ".md"):
            yield path


def _equal_files(public: Path, private: list[Path]) -> tuple[Path, Path] | None:
    """A file of the public images and an equal one of the private ones, or None."""
    by_size: dict[int, list[Path]] = {}
    for place in private:
        for path in _files(place):
            by_size.setdefault(path.stat().st_size, []).append(path)
    digests: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in digests:
            with path.open("rb") as file:
                digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return digests[path]

    for path in _files(public):
        for other in by_size.get(path.stat().st_size, ()):
            if digest(path) == digest(other):
                return path, other
    return None
