"""De-identify a folder into another: originals untouched, nothing overwritten, a cut-off run goes on where it was.

The copies get names that only the hospital's secret makes, since file and folder names of the source may name patients.
Beside the destination, in a folder of the hospital alone, lie the secret and the manifest. Labels come along as one
table with pseudonyms, `labels.csv`, so that the copies train as they are.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fedgan_secure.data.deidentification.files import TARGET, Settings, Task
from fedgan_secure.data.deidentification.keyed import Keys
from fedgan_secure.data.deidentification.labels import withheld
from fedgan_secure.data.deidentification.manifest import Manifest, Record
from fedgan_secure.data.identifiers.profile import PROFILE_EDITION, anonymizer_version, profile_digest
from fedgan_secure.data.patients import MINIMUM_SECRET_BYTES
from fedgan_secure.data.reading.layouts import plan_folder
from fedgan_secure.data.reading.left_out import describe
from fedgan_secure.data.reading.listing import Listing, list_folder
from fedgan_secure.data.reading.parallel import Failed, default_workers, map_batches
from fedgan_secure.data.reading.plans import TABLE_SUFFIXES, Item, Kinds, LayoutOptions, Plan
from fedgan_secure.errors import InputError

Progress = Callable[[str, int, int], None]
TASK = "de-identifying"
BATCH = 8
TABLE = "a table: it is not copied, since nobody knows what its columns say"
MANIFEST, SECRET, LABELS, PATIENTS = "manifest.jsonl", "secret.key", "labels.csv", "patients.csv"


@dataclass(frozen=True)
class DeidentifySettings:
    """How to treat a folder.

    `confidential` None: a folder named after the destination, beside it. `secret_file` None: made there on the first
    run. `reviewed`: a person has looked at every picture of a kind that often has text burned in and whose header does
    not say; a header that says YES is set aside all the same.
    """

    layout: str = "auto"
    patient_pattern: str | None = None
    confidential: Path | None = None
    secret_file: Path | None = None
    reviewed: bool = False
    workers: int | None = None


@dataclass(frozen=True)
class DeidentifyResult:
    """What was done (confidential): every file of the source with its outcome, and the residual scan's answer."""

    records: tuple[Record, ...]
    confidential: Path
    layout: str
    table: str
    resumed: bool
    labels_withheld: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def count(self, outcome: str) -> int:
        return sum(record.outcome == outcome for record in self.records)

    @property
    def residual_scan(self) -> str:
        """PASS: every copy that was written passed the scan (one that did not was never written). "NOT ASSESSED"
        where nothing was written."""
        return "PASS" if self.count("written") else "NOT ASSESSED"

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON types."""
        return {
            "layout": self.layout,
            "written": self.count("written"),
            "duplicates": self.count("duplicate"),
            "set_aside": [{"path": one.source, "reason": one.reason} for one in self.of("set aside")],
            "not_copied": [{"path": one.source, "reason": one.reason} for one in self.of("not copied")],
            "withheld_by_residual_scan": sum("residual scan" in one.reason for one in self.of("set aside")),
            "residual_scan": self.residual_scan,
            "profile": PROFILE_EDITION,
            "profile_sha256": profile_digest(),
            "dicom_anonymizer": anonymizer_version(),
            "codes": ["113100"],
            "table": self.table,
            "labels_withheld": [{"label": label, "reason": reason} for label, reason in self.labels_withheld],
            "notes": list(self.notes),
            "confidential": str(self.confidential),
            "resumed": self.resumed,
        }

    def of(self, outcome: str) -> list[Record]:
        return [record for record in self.records if record.outcome == outcome]


def deidentify_folder(
    source: Path | str, target: Path | str, settings: DeidentifySettings, progress: Progress | None = None
) -> DeidentifyResult:
    """Write de-identified copies of the pictures in `source` below `target`.

    Raises InputError when a folder is missing or lies inside the other, when the destination holds something else,
    when it was begun with another secret or profile, when the disk is full, and when nothing could be written.
    """
    source, target = Path(source), Path(target)
    listing = list_folder(source)
    confidential = settings.confidential or target.with_name(target.name + "-confidential")
    _check_places(listing.root, target, confidential)
    try:
        confidential.mkdir(parents=True, exist_ok=True, mode=0o700)
        confidential.chmod(0o700)
        keys = Keys(_secret(settings.secret_file, confidential / SECRET))
        header = {
            "source": str(listing.root),
            "secret": keys.fingerprint(),
            "profile": profile_digest(),
            "dicom_anonymizer": anonymizer_version(),
        }
        plan = _plan(listing, settings)
        with Manifest(confidential / MANIFEST, header) as manifest:
            if not manifest.records and target.exists() and any(target.iterdir()):
                raise InputError(
                    f"{target} is not empty and was not begun by this command", hint="give a new folder for the copies"
                )
            target.mkdir(parents=True, exist_ok=True, mode=0o700)
            for leftover in target.glob("*/.writing-*"):
                leftover.unlink()
            labels = () if plan.labels_fixed else plan.label_names
            common = Settings(listing.root, target.resolve(), keys, settings.reviewed, labels)
            _treat(listing, plan, common, settings, manifest, progress)
            known = {entry.path for entry in listing.entries} | {path for path, _ in listing.refused}
            records = tuple(record for path, record in sorted(manifest.records.items()) if path in known)
            hidden = withheld(plan, records)
            table = _write_table(target, plan, keys, records, hidden)
            result = DeidentifyResult(
                records,
                confidential,
                plan.layout,
                table,
                manifest.resumed,
                tuple(sorted(hidden.items())),
                tuple(plan.notes),
            )
    except OSError as error:
        raise InputError(
            f"{error.filename or target} cannot be written ({error.strerror})", hint="check space and permissions there"
        ) from None
    if not result.count("written"):
        why = Counter(record.reason for record in result.of("set aside")).most_common(3)
        reasons = "; ".join(f"{count} x {reason}" for reason, count in why) or "it holds no picture"
        raise InputError(
            f"nothing of {source} was written: {reasons}",
            hint="where a header does not say whether text is burned in, look at the pictures, then give "
            f"--pixels-reviewed; every file and its reason: {confidential / MANIFEST}",
        )
    return result


def _check_places(source: Path, target: Path, confidential: Path) -> None:
    for name, place in (("destination", target.resolve()), ("confidential folder", confidential.resolve())):
        if place == source or place.is_relative_to(source) or source.is_relative_to(place):
            raise InputError(
                f"the {name} {place} lies inside the source, or the source in it",
                hint="give a folder elsewhere: originals are never changed",
            )
    if confidential.resolve().is_relative_to(target.resolve()):
        raise InputError(
            f"the confidential folder {confidential} lies inside the destination",
            hint="the destination is passed on, the manifest and the secret are not",
        )
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file", hint="give a folder for the copies")


def _secret(given: Path | None, own: Path) -> bytes:
    place = given or own
    if given is None and not own.exists():
        handle = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
    try:
        secret = place.read_bytes()
    except OSError as error:
        raise InputError(f"the secret {place} cannot be read ({error.strerror})", hint="check --secret-file") from None
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise InputError(
            f"the secret {place} has {len(secret)} bytes, expected at least {MINIMUM_SECRET_BYTES}",
            hint="write one with: head -c 32 /dev/urandom > FILE",
        )
    return secret


def _plan(listing: Listing, settings: DeidentifySettings) -> Plan:
    """The layout's own plan; where none is recognised and none was asked for, every picture by itself."""
    try:
        return plan_folder(listing, settings.layout, LayoutOptions(settings.patient_pattern), publish_labels=False)
    except InputError as error:
        if settings.layout != "auto":
            raise
        unplanned = f"no labels and no patients of a layout come along: {error}"
    kinds = Kinds(listing)
    plan = Plan("none", listing.root, names_patient=False, notes=[unplanned])
    plan.items = [Item(entry.path, "dicom", None) for entry in kinds.dicom]
    plan.items += [Item(entry.path, "picture", None) for entry in kinds.pictures]
    plan.quarantined.extend(listing.refused)
    return plan


def _treat(
    listing: Listing,
    plan: Plan,
    common: Settings,
    settings: DeidentifySettings,
    manifest: Manifest,
    progress: Progress | None,
) -> None:
    entries = {entry.path: entry for entry in listing.entries}
    set_aside = dict(plan.quarantined)
    tasks = [
        Task(item.path, item.kind, item.patient, entries[item.path].size, entries[item.path].changed)
        for item in plan.items
        if item.path not in set_aside
    ]
    planned = {task.path for task in tasks}
    for path, reason in sorted(set_aside.items()):
        _add(manifest, Record(path, *_stat(entries, path), "set aside", reason))
    for path in sorted(set(entries) - planned - set(set_aside)):
        _add(manifest, Record(path, *_stat(entries, path), "not copied", _why_not(path)))
    pending = [task for task in tasks if not _done(manifest, task, common.target)]
    done = len(tasks) - len(pending)
    if progress is not None:
        progress(TASK, done, len(tasks))
    taken = {record.target: record.source for record in manifest.records.values() if record.outcome == "written"}
    workers = settings.workers or default_workers()
    place = 0
    for results in map_batches(TARGET, common, pending, batch=BATCH, workers=workers):
        for task, result in zip(pending[place : place + len(results)], results, strict=True):
            if isinstance(result, Failed):
                result = Record(task.path, task.size, task.changed_ns, "set aside", result.reason)
            if result.outcome == "duplicate" and taken.get(result.target, task.path) == task.path:
                result = Record(**{**vars(result), "outcome": "written"})  # written before the manifest could say so
            if result.outcome == "written":
                taken[result.target] = task.path
            _add(manifest, result)
        place += len(results)
        if progress is not None:
            progress(TASK, done + place, len(tasks))


def _why_not(path: str) -> str:
    return TABLE if PurePosixPath(path).suffix.lower() in TABLE_SUFFIXES else describe(path)[1]


def _stat(entries: dict[str, Any], path: str) -> tuple[int, int]:
    entry = entries.get(path)
    return (entry.size, entry.changed) if entry is not None else (0, 0)


def _add(manifest: Manifest, record: Record) -> None:
    if manifest.records.get(record.source) != record:
        manifest.add(record)


def _done(manifest: Manifest, task: Task, target: Path) -> bool:
    """Whether an earlier run has written this file and both it and its copy are as they were."""
    record = manifest.records.get(task.path)
    if record is None or record.outcome not in ("written", "duplicate") or record.labels is None:
        return False
    same = (record.size, record.changed_ns) == (task.size, task.changed_ns)
    return same and (target / record.target).is_file()


def _write_table(target: Path, plan: Plan, keys: Keys, records: tuple[Record, ...], hidden: Mapping[str, str]) -> str:
    """A table with the columns file, patient and label as far as they are known; its name, "" where none is needed.

    A label in `hidden` is left empty. Without labels, DICOM needs none: each copy names its patient.
    """
    items = {item.path: item for item in plan.items}
    by_patient = {keys.patient(patient): label for patient, label in plan.patient_labels.items()}
    by_file = {(path, keys.patient(patient)): label for (path, patient), label in plan.file_labels.items()}
    rows = []
    for record in records:
        item = items.get(record.source)
        if record.outcome != "written" or item is None:
            continue
        patient = keys.patient(item.patient) if item.patient is not None else record.patient
        label = by_file.get((record.source, patient), item.label)
        label = by_patient.get(patient, -1) if label < 0 else label
        text = plan.label_names[label] if label >= 0 else ""
        rows.append((record.target, patient, "" if text in hidden else text))
    pictures = any(row[1] and not row[0].endswith(".dcm") for row in rows)
    labelled = any(text not in hidden for text in plan.label_names)
    name = LABELS if rows and labelled else PATIENTS if pictures else ""
    if not name:
        return ""
    columns = ["file", *(["patient"] if any(row[1] for row in rows) else []), *(["label"] if labelled else [])]
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(columns)
    for row in sorted(rows):
        values = dict(zip(("file", "patient", "label"), row, strict=True))
        table.writerow([values[column] for column in columns])
    temporary = target / f".{name}.writing"
    temporary.write_text(written.getvalue(), encoding="utf-8")
    temporary.replace(target / name)
    return name
