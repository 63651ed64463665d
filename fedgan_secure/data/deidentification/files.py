"""De-identify a batch of files: the work that worker processes do. A file is written whole, once, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pydicom
from PIL import Image

from fedgan_secure.data.deidentification import headers, residual, shuttered, streams
from fedgan_secure.data.deidentification.keyed import Keys
from fedgan_secure.data.deidentification.manifest import Record
from fedgan_secure.data.identifiers import burned_in as pixels
from fedgan_secure.data.identifiers.words import holds, names
from fedgan_secure.data.pixels.dicom import dicom_reasons, hides_bits, parse, read_guarded
from fedgan_secure.data.pixels.pictures import Unreadable, read_picture

TARGET = "fedgan_secure.data.deidentification.files:deidentify_batch"
SAME_UID = "another file has the same SOPInstanceUID and other content"
HIDDEN_BITS = "the unused bits of its pixels hold something, which no reader shows and a copy would hold"
REVIEWED = "declared looked at by a person"
NOTHING_SAID = "a photograph outside DICOM: nothing says that no text is burned in"
_UID = re.compile(r"[0-9.]{1,64}")
_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True)
class Task:
    """One file: its path in the source, its kind, the patient by the layout (None: the header names it), size, time."""

    path: str
    kind: Literal["dicom", "picture"]
    patient: str | None
    size: int
    changed_ns: int


@dataclass(frozen=True)
class Settings:
    """The same for every file. `reviewed`: a person has looked at the pictures whose header says nothing. `labels`:
    texts that are searched for the identifying values of every file."""

    source: Path
    target: Path
    keys: Keys = field(repr=False)
    reviewed: bool = False
    labels: tuple[str, ...] = ()


def deidentify_batch(settings: Settings, tasks: list[Task]) -> list[Record]:
    """Treat every file; one that cannot be released gives its reason instead of a copy."""
    return [_one(settings, task) for task in tasks]


def _one(settings: Settings, task: Task) -> Record:
    labels: list[str] = []  # filled while the file is treated: what is set aside counts for them too
    record = Record(task.path, task.size, task.changed_ns, "set aside", labels=labels)
    try:
        if task.kind == "picture":
            return _picture(settings, task, record)
        return _dicom(settings, task, record, labels)
    except Unreadable as reason:
        return replace(record, reason=str(reason))
    except (MemoryError, OSError, ValueError) as error:
        return replace(record, reason=f"broken or inconsistent ({type(error).__name__})")


def _dicom(settings: Settings, task: Task, record: Record, labels: list[str]) -> Record:
    with dicom_reasons():
        data = read_guarded(settings.source / task.path)
        record = replace(record, source_sha256=hashlib.sha256(data).hexdigest())
        dataset = parse(BytesIO(data))
        del data
        _refuse_no_object(dataset)
        original = residual.look_at(dataset, task.path)
        labels += [name for name in settings.labels if holds(name, original.words) or names(name, original.short)]
        said = pixels.risk(dataset)
        why = _why_no_risk(dataset)
        if said and not (said == pixels.NOT_SAID and settings.reviewed):
            raise Unreadable(said)
        if hides_bits(dataset):
            raise Unreadable(HIDDEN_BITS)
        if task.patient is not None:
            dataset.PatientID = task.patient
        blanked = shuttered.blank(dataset)
        done = headers.clean(dataset, settings.keys, task.path, original.words, original.of_path)
        try:
            cut = streams.strip(dataset)
        except ValueError as error:
            raise Unreadable(str(error)) from None
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        whole = buffer.getvalue()
        written = pydicom.dcmread(BytesIO(whole))
        found = residual.scan(original, written, whole)
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise Unreadable(f"the residual scan found {found[0].reason} at {found[0].place}{more}")
    if blanked:
        done["pixels behind a shutter"] = blanked
    if cut:
        done["bytes around the pixels"] = cut
    name = f"dicom/{dataset.file_meta.MediaStorageSOPInstanceUID}.dcm"
    record = replace(record, patient=str(dataset.PatientID))
    record = replace(record, treated=dict(done), pixels=REVIEWED if said else why)
    return _write(settings, record, name, whole)


def _refuse_no_object(dataset: Any) -> None:
    """Refuse a DICOMDIR, and what does not say which object it is or how its bytes are to be read."""
    if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
        raise Unreadable("a DICOMDIR lists the original files and their patients")
    if not dataset.file_meta.get("TransferSyntaxUID", None):
        raise Unreadable("its transfer syntax is missing")
    if not dataset.get("SOPClassUID", None):
        raise Unreadable("its SOPClassUID is missing: no kind of DICOM object")
    if not _UID.fullmatch(str(dataset.SOPClassUID)):
        raise Unreadable("its SOPClassUID is no UID: digits and dots")


def _why_no_risk(dataset: Any) -> str:
    if "PixelData" not in dataset:
        return "holds no picture"
    said = str(dataset.get("BurnedInAnnotation", None) or "").upper() == "NO"
    return "its header says that no text is burned in" if said else "of a kind that seldom has text burned in"


def _picture(settings: Settings, task: Task, record: Record) -> Record:
    """Write the pixels alone, as PNG: no header of the original can come along."""
    path = settings.source / task.path
    pixels_read, _ = read_picture(path)
    record = replace(record, source_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    if not settings.reviewed:
        raise Unreadable(NOTHING_SAID)
    buffer = BytesIO()
    Image.fromarray(pixels_read).save(buffer, format="PNG")
    whole = buffer.getvalue()
    if extra := set(png_chunks(whole)) - {"IHDR", "IDAT", "IEND"}:
        raise Unreadable(f"the residual scan found the chunk {sorted(extra)[0]}")
    name = f"pictures/{settings.keys.file(task.path)}.png"
    patient = settings.keys.patient(task.patient) if task.patient is not None else ""
    record = replace(record, treated={"header of the picture": 1}, pixels=REVIEWED, patient=patient)
    return _write(settings, record, name, whole)


def png_chunks(data: bytes) -> list[str]:
    """The names of the chunks of a PNG file in their order."""
    names, place = [], 8
    while place + 8 <= len(data):
        names.append(data[place + 4 : place + 8].decode("latin-1"))
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return names


def _write(settings: Settings, record: Record, name: str, data: bytes) -> Record:
    """Write beside the final place and link, so that a file is whole or absent and nothing is ever overwritten."""
    digest = hashlib.sha256(data).hexdigest()
    record = replace(record, target=name, target_sha256=digest)
    place = settings.target / name
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, place)
        except FileExistsError:
            there = hashlib.sha256(place.read_bytes()).hexdigest()
            if there == digest:
                return replace(record, outcome="duplicate")
            return replace(record, target="", target_sha256="", reason=SAME_UID)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
    return replace(record, outcome="written")
