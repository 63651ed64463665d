"""The front door of the data room: a folder or an .npz file in, a :class:`PatientDataset` and what was found out."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedgan_secure.data.identifiers.identifiers import IdentifierCounter
from fedgan_secure.data.identifiers.persons import COUNTED, PLACEHOLDER, SeveralPeople, is_placeholder, look_alike
from fedgan_secure.data.patients import (
    MINIMUM_SECRET_BYTES,
    PatientDataset,
    normal_identifier,
    person_pseudonym,
    pseudonym,
)
from fedgan_secure.data.pixels.preprocess import IMAGE_SIZES, PLAIN, PREPROCESSING, preprocess
from fedgan_secure.data.reading import cache
from fedgan_secure.data.reading.arrays import Arrays, blocks, open_arrays
from fedgan_secure.data.reading.decode import TARGET, Decoded, DecodeSettings, is_excluded
from fedgan_secure.data.reading.findings import DataFindings, findings_from_dict, reasons
from fedgan_secure.data.reading.label_words import label_notes
from fedgan_secure.data.reading.layouts import KNOWN_LAYOUTS, plan_folder, unsupported
from fedgan_secure.data.reading.listing import list_folder
from fedgan_secure.data.reading.parallel import Failed, default_workers, map_batches
from fedgan_secure.data.reading.people_as_classes import refuse_people_of_headers
from fedgan_secure.data.reading.plans import MOST_CLASSES, LayoutOptions, Plan
from fedgan_secure.errors import InputError

Progress = Callable[[str, int, int], None]
TASK = "reading images"
CACHE_VERSION = 5
BATCH = 64
MOST_LISTED = 100_000


@dataclass(frozen=True)
class LoadSettings:
    """How to read a data set. Every hospital of a federation uses the same layout, preprocessing, size, channels,
    classes and unit; the rest is its own.

    `unit` image makes every image a patient of its own (weaker: say so). `secret` keys the pseudonyms (at least 16
    bytes; empty: a fresh random one, so that pseudonyms and the cache last for this call only). `cache_dir` None keeps
    the pixels in an unnamed temporary file. `labels_collected`: `label_names` were collected from the data and declared
    by nobody.
    """

    layout: str = "auto"
    image_size: int = 64
    channels: int = 3
    unit: Literal["patient", "image"] = "patient"
    preprocessing: str = "auto"
    exclude: tuple[str, ...] = ()
    patient_pattern: str | None = None
    label_names: tuple[str, ...] | None = None
    classes: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    patient_column: str | None = None
    labels_collected: bool = False
    secret: bytes = field(default=b"", repr=False)
    cache_dir: Path | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.layout not in KNOWN_LAYOUTS:
            raise unsupported(self.layout)
        if self.image_size not in IMAGE_SIZES:
            raise InputError(f"the image size is {self.image_size}, expected 28, 64 or 128", hint="set --image-size")
        if self.channels not in (1, 3):
            raise InputError(f"the number of channels is {self.channels}, expected 1 or 3", hint="set --channels")
        if self.unit not in ("patient", "image"):
            raise InputError(f"the unit is {self.unit!r}, expected patient or image", hint="set --unit")
        if self.preprocessing not in ("auto", *PREPROCESSING):
            raise InputError(
                f"the preprocessing is {self.preprocessing!r}, expected auto or one of {', '.join(PREPROCESSING)}",
                hint="leave it at auto to let the layout choose",
            )
        if self.secret and len(self.secret) < MINIMUM_SECRET_BYTES:
            raise InputError(f"the pseudonym secret has {len(self.secret)} bytes, expected {MINIMUM_SECRET_BYTES}")


@dataclass(frozen=True)
class Resolved:
    """What a policy should name so that every hospital reads alike.

    `unit_remark` is what a public report should say about who the unit is ("": nothing); it follows from the layout
    and holds no count. `labels_fixed` is False where the label vocabulary was collected from the data, and True where
    it was declared, where the layout fixes it, and where there are no labels. After a second reading with the collected
    vocabulary declared, only the first says where it came from.
    """

    layout: str
    preprocessing: str
    label_names: tuple[str, ...]
    names_patient: bool
    unit_remark: str = ""
    labels_fixed: bool = False

    @property
    def classes(self) -> int:
        """Number of classes, 0 without labels."""
        return len(self.label_names)


@dataclass(frozen=True)
class LoadResult:
    """The data set, what was found on the way (confidential), and the public choices that were made.

    `unit_remark` and `labels_fixed` as in :class:`Resolved`. `people`: the pseudonyms of all persons whose images are
    here, those included who were left out (see :func:`person_pseudonym`).
    """

    dataset: PatientDataset
    findings: DataFindings
    layout: str
    preprocessing: str
    label_names: tuple[str, ...]
    unit_remark: str = ""
    labels_fixed: bool = False
    people: frozenset[str] = frozenset()


def resolve(path: Path | str, settings: LoadSettings) -> Resolved:
    """Look at names, tables and a few headers only. Raises InputError like :func:`load`."""
    plan = _open(Path(path), settings).plan
    return Resolved(
        plan.layout, plan.preprocessing, plan.label_names, plan.names_patient, plan.unit_remark, plan.labels_fixed
    )


def load(path: Path | str, settings: LoadSettings, progress: Progress | None = None) -> LoadResult:
    """Read a data set.

    Raises InputError when the path is missing, empty, unreadable, mixed or of no known layout, when the layout names
    no patient and the unit is the patient, and when no image is left. A single file that cannot be used is
    quarantined with its reason, and the rest goes on. Only pixels, labels and keyed pseudonyms reach the result.
    """
    source = _open(Path(path), settings)
    if settings.unit == "patient" and not source.plan.names_patient:
        raise InputError(
            f"the layout {source.plan.layout} of {path} names no patient, and the unit of privacy is the patient",
            hint="use --unit image (a weaker promise: it protects single images), or name the patients "
            "(class folders: a pattern; csv: a column; npz: an array called patient)",
        )
    secret = settings.secret or os.urandom(32)
    name = _entry_name(source, settings, secret)
    shape = (settings.image_size, settings.image_size, settings.channels)
    entry = cache.read_entry(settings.cache_dir, name) if settings.cache_dir is not None else None
    findings: DataFindings | None = None
    if entry is not None:
        try:
            findings = findings_from_dict(entry.facts["findings"])
        except (KeyError, TypeError):
            entry = None
    if settings.cache_dir is not None:
        cache.remove_outdated(settings.cache_dir, name)
    if entry is None or findings is None:
        with cache.Building(settings.cache_dir, name, shape) as building:
            collected = _Collector(source.plan, settings, secret, building, progress)
            if source.arrays is not None:
                collected.take_arrays(source.arrays)
            else:
                collected.take_files()
            findings = collected.findings()
            facts = {
                "findings": findings.to_dict(),
                "pseudonyms": collected.pseudonyms,
                "people": collected.people,
                "excluded_people": [person_pseudonym(secret, name) for name in findings.excluded_found],
            }
            entry = building.finish(collected.labels(), collected.patient(), facts)
    dataset = PatientDataset(
        entry.images,
        entry.labels,
        entry.patient,
        findings.classes,
        tuple(entry.facts["pseudonyms"]),
        people=tuple(entry.facts["people"]),
    )
    plan = source.plan
    return LoadResult(
        dataset,
        findings,
        plan.layout,
        plan.preprocessing,
        plan.label_names,
        plan.unit_remark,
        plan.labels_fixed,
        frozenset(entry.facts["people"]) | frozenset(entry.facts["excluded_people"]),
    )


def unknown_exclusions(exclude: Iterable[str], found: Iterable[DataFindings]) -> tuple[str, ...]:
    """Return those of the identifiers and paths to leave out that are in none of the data sets with these findings."""
    known = {normal_identifier(name) for findings in found for name in findings.excluded_found}
    return tuple(name for name in dict.fromkeys(exclude) if normal_identifier(name) not in known)


def unknown_names(names: Sequence[str], unknown: Sequence[str]) -> InputError:
    """Return the error for patients to exclude that nobody is; it repeats no identifier, only its place."""
    places = ", ".join(str(number) for number, name in enumerate(names, 1) if name in unknown)
    return InputError(
        f"patients to exclude: asked {len(names)}, found {len(names) - len(unknown)}: nobody has the name given as "
        f"number {places}",
        hint="check the identifiers against the data (blanks around them and case do not matter); add --unknown-ok "
        "where their images are not there any more",
    )


@dataclass
class _Source:
    plan: Plan
    fingerprint: list[Any]
    arrays: Arrays | None = None


def _open(path: Path, settings: LoadSettings) -> _Source:
    if path.suffix.lower() == ".npz" and not path.is_dir():
        if settings.layout not in ("auto", "npz"):
            raise InputError(
                f"{path} is an .npz file, and the layout asked for is {settings.layout}", hint="use --layout npz"
            )
        source = _open_arrays(path, settings)
    elif settings.layout == "npz":
        raise InputError(f"{path} is not an .npz file", hint="give the path of the .npz file itself")
    else:
        listing = list_folder(path)
        options = LayoutOptions(
            settings.patient_pattern,
            settings.image_column,
            settings.label_column,
            settings.patient_column,
            settings.label_names,
            settings.classes,
            settings.unit,
        )
        plan = plan_folder(listing, settings.layout, options)
        source = _Source(plan, [[entry.path, entry.size, entry.changed] for entry in listing.entries])
    if settings.preprocessing != "auto":
        source.plan.preprocessing = settings.preprocessing
    if settings.classes is not None and len(source.plan.label_names) not in (0, settings.classes):
        raise InputError(
            f"{path} has {len(source.plan.label_names)} classes, and {settings.classes} were declared",
            hint="declare the classes that the labels have",
        )
    return source


def _open_arrays(path: Path, settings: LoadSettings) -> _Source:
    arrays = open_arrays(path)
    status = path.stat()
    plan = Plan("npz", path.resolve(), names_patient=arrays.patients is not None, preprocessing=PLAIN)
    if arrays.unread:
        plan.notes.append(
            f"arrays that are not read: {', '.join(arrays.unread[:6])}; put all images into one pair of arrays"
        )
    if arrays.labels is not None:
        known = arrays.labels[arrays.labels < MOST_CLASSES]
        count = settings.classes or int(max(0, known.max(initial=0)) + 1)
        plan.label_names = settings.label_names or tuple(str(index) for index in range(count))
        if settings.label_names is None and settings.classes is None:
            plan.labels_fixed = False
            plan.notes.append("the classes are those of the labels found here")
    return _Source(plan, [[path.name, status.st_size, status.st_mtime_ns]], arrays)


def _entry_name(source: _Source, settings: LoadSettings, secret: bytes) -> str:
    """``SOURCE-CONTENT-PREPARATION``: digests of where the files are, what they are, and how they are prepared."""
    plan = source.plan
    content = {
        "version": CACHE_VERSION,
        "files": source.fingerprint,
        "exclude": sorted(settings.exclude),
        "secret": hmac.new(secret, b"fedgan-secure/cache/2", hashlib.sha256).hexdigest(),
    }
    preparation = {
        "layout": plan.layout,
        "labels": plan.label_names,
        "settings": repr(replace(settings, cache_dir=None, workers=None, exclude=(), secret=b"")),
        "preprocessing": plan.preprocessing,
    }
    digests = [
        hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:20]
        for part in (str(plan.root), content, preparation)
    ]
    return "-".join(digests)


class _Collector:
    """Gathers images, labels, pseudonyms and findings while the pixels go straight to the cache's file."""

    def __init__(
        self, plan: Plan, settings: LoadSettings, secret: bytes, building: cache.Building, progress: Progress | None
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._secret = secret
        self._building = building
        self._progress = progress
        self._labels: list[int] = []
        self._patient: list[int] = []
        self._known: dict[str, int] = {}
        self._named: list[str] = []
        self.pseudonyms: list[str] = []
        self.people: list[str] = []
        self._to_exclude = frozenset(normal_identifier(name) for name in settings.exclude)
        self._digests: dict[bytes, list[tuple[str, str]]] = {}
        self._quarantined = list(plan.quarantined)
        self._unlabelled: list[str] = []
        self._excluded: set[str] = set()
        self._excluded_images = 0
        self._files = 0
        self._identifiers = IdentifierCounter()
        self._several = SeveralPeople()
        self._key = b""
        self._headers_name = any(item.patient is None for item in plan.items)
        self._words: dict[bytes, set[str]] = {}
        self._owners: dict[int, set[str]] = {}

    def labels(self) -> NDArray[np.int32]:
        return np.array(self._labels, dtype=np.int32)

    def patient(self) -> NDArray[np.int32]:
        return np.array(self._patient, dtype=np.int32)

    def take_files(self) -> None:
        plan, settings = self._plan, self._settings
        common = DecodeSettings(
            plan.root,
            plan.preprocessing,
            settings.image_size,
            settings.channels,
            self._to_exclude,
            needs_patient=settings.unit == "patient",
            counted=self._plan.layout in COUNTED,
        )
        self._key = common.digest_key
        workers = settings.workers or default_workers()
        total, done = len(plan.items), 0
        for results in map_batches(TARGET, common, plan.items, batch=BATCH, workers=workers):
            for item, result in zip(plan.items[done : done + len(results)], results, strict=True):
                if isinstance(result, Failed):
                    self._quarantined.append((item.path, result.reason))
                else:
                    self._take_file(item.path, item.label, result)
            done += len(results)
            self._report(done, total)

    def _take_file(self, path: str, label: int, decoded: Decoded) -> None:
        if decoded.excluded:
            self._leave_out(path, decoded.patient)
            return
        if decoded.images is None:
            self._quarantined.append((path, decoded.reason))
            return
        if decoded.patient is not None:
            label = self._plan.file_labels.get((path, decoded.patient), label)
        if label < 0 and decoded.patient is not None:
            label = self._plan.patient_labels.get(decoded.patient, -1)
        self._files += 1
        self._identifiers.add(decoded.facts)
        if decoded.patient is not None and decoded.marks:
            self._several.add(normal_identifier(decoded.patient), decoded.marks)
        if decoded.patient is not None and self._headers_name:
            person = normal_identifier(decoded.patient)
            self._owners.setdefault(label, set()).add(person)
            for word in decoded.words:
                self._words.setdefault(word, set()).add(person)
        if label < 0 and self._plan.label_names:
            self._unlabelled.append(path)
        self._building.append(decoded.images)
        several = len(decoded.images) > 1
        for frame, digest in enumerate(decoded.digests):
            name = f"{path}#{frame + 1}" if several else path
            self._add(name, path, decoded.patient, label, digest)

    def _leave_out(self, name: str, patient: str | None) -> None:
        self._excluded |= {one for one in (name, patient) if one and normal_identifier(one) in self._to_exclude}
        self._excluded_images += 1

    def take_arrays(self, arrays: Arrays) -> None:
        settings, total, done = self._settings, arrays.shape[0], 0
        classes = len(self._plan.label_names)
        for block in blocks(arrays):
            prepared: list[NDArray[np.uint8]] = []
            for offset, pixels in enumerate(block):
                index = done + offset
                patient = arrays.patients[index] if arrays.patients is not None else None
                name = f"{arrays.name}[{index}]"
                if patient is not None and settings.unit != "image" and is_placeholder(patient, counted=True):
                    self._quarantined.append((name, PLACEHOLDER.format(patient)))
                    continue
                if is_excluded(self._to_exclude, patient, name):
                    self._leave_out(name, patient)
                    continue
                label = int(arrays.labels[index]) if arrays.labels is not None else -1
                if label >= classes or label < -1:
                    self._plan.unusable_labels.append((name, f"the label is not one of the {classes} classes"))
                    label = -1
                if label < 0 and classes:
                    self._unlabelled.append(name)
                prepared.append(preprocess(pixels, self._plan.preprocessing, settings.image_size, settings.channels))
                self._add(name, name, patient, label, hashlib.sha256(pixels.tobytes()).digest()[:16])
            if prepared:
                self._building.append(np.stack(prepared))
            done += len(block)
            self._report(done, total)
        self._files = 1

    def _add(self, name: str, file: str, patient: str | None, label: int, digest: bytes) -> None:
        by_image = self._settings.unit == "image" or patient is None
        owner = name if by_image or patient is None else patient
        key = owner if by_image else normal_identifier(owner)
        index = self._known.get(key)
        if index is None:
            index = self._known[key] = len(self._known)
            if not by_image:
                self._named.append(owner)
            self.pseudonyms.append(pseudonym(self._secret, owner))
            # Whatever the unit, beside every image stands whose it is: by that somebody is left out.
            self.people.append(person_pseudonym(self._secret, file if patient is None else patient))
        self._labels.append(label)
        self._patient.append(index)
        self._digests.setdefault(digest, []).append((name, patient if patient is not None else name))

    def _report(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(TASK, done, total)

    def findings(self) -> DataFindings:
        """Everything that was found. Raises InputError when no image is left."""
        plan, settings = self._plan, self._settings
        if not self._labels:
            why = reasons(self._quarantined) or f"{self._excluded_images} excluded"
            raise InputError(
                f"no image of {plan.root} can be used: {why}",
                hint="see `fedgan-secure data check` for every file; check the layout, the preprocessing and the files",
            )
        if not plan.labels_fixed or settings.labels_collected:
            owners = {label: found for label, found in self._owners.items() if label >= 0}
            refuse_people_of_headers(plan, owners, self._words, self._key)
        groups = [group for group in self._digests.values() if len(group) > 1]
        across = [group for group in groups if len({owner for _, owner in group}) > 1]
        within = [group for group in groups if len({owner for _, owner in group}) == 1]
        notes = list(plan.notes)
        if settings.exclude and not self._excluded:
            notes.append("none of the patients to exclude was found here")
        if settings.unit == "image" and plan.names_patient:
            notes.append("the unit is the image although this layout names the patient: a weaker promise")
        if alike := look_alike(self._named):
            shown = "; ".join(" and ".join(group[:3]) for group in alike[:3])
            notes.append(
                f"{len(alike)} groups of identifiers differ by leading zeros, a final .0, separators or a visit and "
                f"were taken for different patients, such as {shown}: if they are one person, write them alike"
            )
        counts = np.bincount(np.array(self._labels) + 1, minlength=len(plan.label_names) + 1)
        labels = {name: int(count) for name, count in zip(plan.label_names, counts[1:], strict=True)}
        if not plan.labels_fixed:
            notes += label_notes(labels)
        return DataFindings(
            layout=plan.layout,
            preprocessing=plan.preprocessing,
            unit=settings.unit,
            patients=len(self._known),
            images=len(self._labels),
            files=self._files,
            classes=len(plan.label_names),
            labels={**labels, "none": int(counts[0])},
            quarantined=tuple(sorted(self._quarantined))[:MOST_LISTED],
            duplicates=tuple(tuple(name for name, _ in group) for group in across)[:MOST_LISTED],
            duplicates_within_patient=tuple(tuple(name for name, _ in group) for group in within)[:MOST_LISTED],
            duplicate_patients=tuple(sorted({tuple(sorted({owner for _, owner in group})) for group in across})),
            unlabelled=tuple(self._unlabelled)[:MOST_LISTED],
            labels_without_image=tuple(plan.labels_without_image)[:MOST_LISTED],
            unusable_labels=tuple(plan.unusable_labels)[:MOST_LISTED],
            excluded_found=tuple(sorted(self._excluded)),
            excluded_images=self._excluded_images,
            notes=tuple(notes),
            identifiers=self._identifiers.counts(),
            several_people=self._several.found()[:MOST_LISTED],
            left_out=plan.left_out,
        )
