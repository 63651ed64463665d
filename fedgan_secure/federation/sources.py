"""Every hospital's patients: phantoms that are drawn, one folder each, or one data set split by patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedgan_secure.data import PatientDataset, hospital_names, parse_partition, split
from fedgan_secure.data.phantoms import CLASSES, GRADES, PhantomSettings, write_hospitals
from fedgan_secure.data.reading import (
    DataFindings,
    LoadResult,
    LoadSettings,
    load,
    resolve,
    unknown_exclusions,
    unknown_names,
)
from fedgan_secure.errors import InputError
from fedgan_secure.policy import RunSettings, check_hospital_name
from fedgan_secure.site import equal_pixels, load_secret, note_people, refuse_other_names, refuse_shared_folders
from fedgan_secure.storage import RunDirectory, SiteDirectory, private_folder

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """What the hospitals hold and how it was read.

    `datasets`, `findings` and `excluded` (how many were to be left out by name, and how many of them were found) are
    private, each to its hospital; the rest is public.
    """

    datasets: dict[str, PatientDataset]
    findings: dict[str, dict[str, Any]]
    layouts: tuple[str, ...]
    preprocessing: str
    label_names: tuple[str, ...]
    classes: int
    phantoms: bool
    taken_from_data: tuple[str, ...] = ()
    unit_remark: str = ""
    excluded: tuple[int, int] = (0, 0)


def names_of(settings: RunSettings) -> tuple[str, ...]:
    """The hospitals of a run, in roster order.

    Raises:
        InputError: fewer than three hospitals.
    """
    if settings.data.hospital:
        names = tuple(settings.data.hospital)
        if len(names) < 3:
            raise InputError(
                f"data.hospital: {len(names)} hospital(s), expected at least 3: of two, each sees the other's part",
                hint="give --hospital NAME=PATH three times or more",
            )
        return names
    names = tuple(hospital_names(settings.federation.hospitals))
    for name in names:
        check_hospital_name(name)
    return names


def read(
    settings: RunSettings,
    run: RunDirectory,
    sites: Mapping[str, SiteDirectory],
    progress: Progress | None,
    *,
    unknown_ok: bool = False,
) -> Source:
    """Read (or draw, write and read back) all images of a run.

    `unknown_ok`: a patient to exclude need not be there, whatever the settings say (the images may have been erased).

    Raises:
        InputError: as the loaders do, where a conditional model finds no labels, and where nobody has the name of a
            patient to exclude.
    """
    source, findings = _read(settings, run, sites, progress)
    names = tuple(dict.fromkeys(settings.data.exclude_patient))
    unknown = unknown_exclusions(names, findings)
    if unknown and not (unknown_ok or settings.data.exclude_unknown_ok):
        raise unknown_names(names, unknown)
    return replace(source, excluded=(len(names), len(names) - len(unknown)))


def _read(
    settings: RunSettings, run: RunDirectory, sites: Mapping[str, SiteDirectory], progress: Progress | None
) -> tuple[Source, list[DataFindings]]:
    data = settings.data
    base = LoadSettings(
        layout=data.layout,
        image_size=data.image_size,
        channels=data.channels,
        unit=data.unit,
        preprocessing=data.preprocessing,
        label_names=data.label_names,
        classes=None if data.label_names is None else len(data.label_names),
        exclude=data.exclude_patient,
        patient_pattern=data.patient_pattern,
        image_column=data.image_column,
        label_column=data.label_column,
        patient_column=data.patient_column,
    )
    if data.dataset is not None:
        return _shared(settings, run, base, progress)
    if data.hospital:
        given = {name: Path(place) for name, place in data.hospital.items()}
        refuse_shared_folders(given)
        refuse_other_names({name: place for name, place in given.items() if place.exists()}, sites)
        source, found = _folders(given, settings, sites, base, progress)
        for name, rows in equal_pixels(source.datasets).items():
            source.findings[name]["equal_pixels_in_other_hospitals"] = rows
        return source, found
    names = names_of(settings)
    phantoms = PhantomSettings(patients=data.phantom_patients, image_size=data.image_size, seed=settings.seed)
    folders = write_hospitals(run.phantoms, names, phantoms, progress)
    base = replace(base, layout="dicom", preprocessing="fundus-crop/1", label_names=GRADES, classes=CLASSES)
    read_back, found = _folders(folders, settings, sites, base, progress)
    return replace(read_back, phantoms=True, taken_from_data=()), found


def _folders(
    folders: Mapping[str, Path],
    settings: RunSettings,
    sites: Mapping[str, SiteDirectory],
    base: LoadSettings,
    progress: Progress | None,
) -> tuple[Source, list[DataFindings]]:
    found = {name: resolve(place, base) for name, place in folders.items()}
    preprocessing = sorted({item.preprocessing for item in found.values()})
    if len(preprocessing) > 1:
        raise InputError(
            f"the hospitals' folders hold different kinds of images ({', '.join(preprocessing)}); expected one kind",
            hint="give every hospital the same kind of images, or name the layout with --layout",
        )
    labels = base.label_names or _common_labels([item.label_names for item in found.values()])
    classes = base.classes or len(labels)
    results: dict[str, LoadResult] = {}
    for name, place in folders.items():
        wanted = replace(
            base,
            layout=found[name].layout,
            preprocessing=preprocessing[0],
            label_names=labels or None,
            classes=classes or None,
            labels_collected=base.label_names is None and not all(item.labels_fixed for item in found.values()),
            secret=load_secret(sites[name].pseudonym_secret),
            cache_dir=sites[name].cache,
        )
        results[name] = load(place, wanted, _named(progress, f"hospital {name}"))
        note_people(sites[name].withdrawals, results[name].people)
    source = Source(
        datasets={name: _trainable(result.dataset, settings, name) for name, result in results.items()},
        findings={name: result.findings.to_dict() for name, result in results.items()},
        layouts=tuple(sorted({item.layout for item in found.values()})),
        preprocessing=preprocessing[0],
        label_names=labels if settings.data.conditional else (),
        classes=classes if settings.data.conditional else 0,
        phantoms=False,
        taken_from_data=_undeclared(settings, all(item.labels_fixed for item in found.values()), shared=False),
        unit_remark=" ".join(sorted({item.unit_remark for item in found.values() if item.unit_remark})),
    )
    return source, [result.findings for result in results.values()]


def _shared(
    settings: RunSettings, run: RunDirectory, base: LoadSettings, progress: Progress | None
) -> tuple[Source, list[DataFindings]]:
    if settings.data.dataset is None:
        raise InputError("no data set was named", hint="give --dataset PATH")
    cache = private_folder(run.cache)
    wanted = replace(base, secret=load_secret(cache / "pseudonym.key"), cache_dir=cache)
    result = load(Path(settings.data.dataset), wanted, progress)
    names = names_of(settings)
    dataset = _trainable(result.dataset, settings, "the data set")
    parts = split(dataset, len(names), parse_partition(settings.data.partition), settings.seed)
    findings = {"shared data set": result.findings.to_dict(), "partition": settings.data.partition}
    source = Source(
        datasets=parts,
        findings=dict.fromkeys(names, findings),
        layouts=(result.layout,),
        preprocessing=result.preprocessing,
        label_names=result.label_names if settings.data.conditional else (),
        classes=result.dataset.classes if settings.data.conditional else 0,
        phantoms=False,
        taken_from_data=_undeclared(settings, result.labels_fixed, shared=True),
        unit_remark=result.unit_remark,
    )
    return source, [result.findings]


def _undeclared(settings: RunSettings, labels_fixed: bool, *, shared: bool) -> tuple[str, ...]:
    """The public settings that were not declared and had to be read off the patients' data."""
    taken = {
        "declared patients": settings.privacy.declared_patients is None,
        "label names": settings.data.conditional and settings.data.label_names is None and not labels_fixed,
        "layout": settings.data.layout == "auto",
        "split over hospitals": shared,
    }
    return tuple(name for name, is_taken in taken.items() if is_taken)


def _trainable(dataset: PatientDataset, settings: RunSettings, whose: str) -> PatientDataset:
    """The images that training can use: the labelled ones where the model is conditional."""
    if not settings.data.conditional:
        return dataset
    if dataset.classes == 0:
        raise InputError(
            f"{whose}: no labels were found, and a conditional generator needs them",
            hint="train without labels: --unconditional",
        )
    return dataset.labelled()


def _common_labels(all_labels: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The union of the hospitals' label names, in a fixed order (numbers by value, then text)."""
    union = {label for labels in all_labels for label in labels}
    return tuple(sorted(union, key=lambda text: (0, int(text), "") if text.isdigit() else (1, 0, text)))


def _named(progress: Progress | None, prefix: str) -> Progress | None:
    if progress is None:
        return None
    shown = progress

    def step(task: str, done: int, total: int) -> None:
        shown(f"{prefix}: {task}", done, total)

    return step
