"""Hospitals full of fundus phantoms, written as DICOM: pictures that look like photographs of eyes and are of nobody.

Each hospital has its own camera. Most patients have two eyes, alike but not equal, with a grade of diabetic
retinopathy each. Everything depends on a public seed only; every patient has a random stream of its own, so the result
is the same whatever the number of processes. The files are read back by the loaders that real data take.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from fedgan_secure.data.phantoms.drawing import Camera, draw_anatomy, draw_camera, draw_eye
from fedgan_secure.data.reading.layouts import DR_GRADES
from fedgan_secure.data.reading.parallel import Failed, default_workers, map_batches
from fedgan_secure.errors import InputError

GRADES = DR_GRADES
CLASSES = len(GRADES)
TASK = "drawing phantoms"
TARGET = "fedgan_secure.data.phantoms.phantoms:write_batch"
DRAWING_VERSION = 1
_MARK = ".phantoms.json"
_BATCH = 32

Row = tuple[str, str, int]


@dataclass(frozen=True)
class PhantomSettings:
    """How many patients each hospital has, and who they are.

    `image_size` is the size that will be trained at; pictures are drawn a quarter larger. `grades` are the
    probabilities of the grades 0 to 4, `two_eyes` the probability that both eyes were photographed.
    """

    patients: int
    image_size: int = 64
    seed: int = 1
    grades: tuple[float, ...] = (0.28, 0.18, 0.22, 0.16, 0.16)
    two_eyes: float = 0.8

    def __post_init__(self) -> None:
        if self.patients < 1:
            raise InputError(f"{self.patients} phantom patients were asked for, expected at least 1")
        if len(self.grades) != CLASSES or min(self.grades) < 0 or abs(sum(self.grades) - 1) > 1e-6:
            raise InputError(f"the grades' probabilities are {self.grades}, expected {CLASSES} that add up to 1")

    @property
    def native_size(self) -> int:
        """Side of a drawn picture, in pixels."""
        return self.image_size * 5 // 4


@dataclass(frozen=True)
class Eye:
    """One photograph: uint8[n,n,3], grade 0..4, ``L`` or ``R``."""

    pixels: NDArray[np.uint8]
    grade: int
    laterality: Literal["L", "R"]


def hospital_camera(seed: int, hospital: int) -> Camera:
    """The camera of the hospital with this index, from the public seed."""
    return draw_camera(np.random.default_rng([seed, hospital]), hospital)


def draw_patient(hospital: int, index: int, camera: Camera, settings: PhantomSettings) -> list[Eye]:
    """One or two eyes of patient `index` of `hospital`; the second eye's grade differs by one in a quarter of them."""
    generator = np.random.default_rng([settings.seed, hospital, index])
    anatomy = draw_anatomy(generator)
    grade = int(np.searchsorted(np.cumsum(settings.grades)[:-1], generator.uniform(), side="right"))
    sides: list[Literal["L", "R"]] = ["R", "L"]
    if generator.uniform() >= settings.two_eyes:
        sides = [sides[int(generator.integers(2))]]
    eyes = []
    for number, side in enumerate(sides):
        own = grade
        if number and generator.uniform() < 0.25:
            own = min(CLASSES - 1, max(0, grade + (1 if generator.uniform() < 0.5 else -1)))
        pixels = draw_eye(generator, camera, anatomy, own, side == "L", settings.native_size)
        eyes.append(Eye(pixels, own, side))
    return eyes


def write_hospitals(
    folder: Path,
    names: Sequence[str],
    settings: PhantomSettings,
    progress: Callable[[str, int, int], None] | None = None,
    workers: int | None = None,
) -> dict[str, Path]:
    """Write ``folder/NAME/PHANTOM-NAME-0001-R.dcm`` ... and ``labels.csv`` for every hospital; name -> its folder.

    A hospital's folder is whole or absent; one that is there already and was drawn with the same settings is kept.
    Raises InputError when a folder holds something else or cannot be written.
    """
    result = {name: folder / name for name in names}
    _check_names(names)
    total = len(names) * settings.patients
    buildings: dict[int, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for hospital, (name, path) in enumerate(result.items()):
            if not _already_there(path, _mark(name, hospital, settings)):
                buildings[hospital] = Path(tempfile.mkdtemp(prefix=f".{name}-building-", dir=folder))
        work = [(hospital, index) for hospital in buildings for index in range(settings.patients)]
        done = total - len(work)
        rows: dict[int, list[Row]] = {hospital: [] for hospital in buildings}
        common = (buildings, tuple(names), settings)
        for batch in map_batches(TARGET, common, work, batch=_BATCH, workers=workers or default_workers()):
            _take(batch, rows)
            done += len(batch)
            if progress is not None:
                progress(TASK, done, total)
        for hospital, building in buildings.items():
            _finish(building, rows[hospital], _mark(names[hospital], hospital, settings))
            building.rename(result[names[hospital]])
    except OSError as error:
        raise InputError(
            f"the phantoms cannot be written to {folder} ({error.strerror})", hint="free some space or choose another"
        ) from None
    finally:
        for building in buildings.values():
            shutil.rmtree(building, ignore_errors=True)
    return result


def _take(batch: list[Any], rows: dict[int, list[Row]]) -> None:
    """Add what was drawn to the rows of its hospital; raises InputError for a phantom that could not be drawn."""
    for drawn in batch:
        if isinstance(drawn, Failed):
            raise InputError(f"a phantom could not be drawn: {drawn.reason}")
        rows[drawn[0]] += drawn[1]


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not name or not name.isascii() or not name.isprintable() or len(name) > 40 or set(name) & set("/\\ "):
            raise InputError(f"the hospital name {name!r} cannot name a folder; expected up to 40 letters and digits")


def _mark(name: str, hospital: int, settings: PhantomSettings) -> dict[str, Any]:
    return {"version": DRAWING_VERSION, "hospital": hospital, "name": name, **asdict(settings)}


def _already_there(path: Path, mark: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    try:
        if json.loads((path / _MARK).read_text(encoding="utf-8")) == json.loads(json.dumps(mark)):
            return True
    except (OSError, ValueError):
        pass
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
        return False
    raise InputError(
        f"{path} is there already and does not hold these phantoms", hint="remove it or choose another folder"
    )


def _finish(building: Path, rows: list[tuple[str, str, int]], mark: dict[str, Any]) -> None:
    with (building / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "laterality", "dr_grade"))
        writer.writerows(rows)
    (building / _MARK).write_text(json.dumps(mark), encoding="utf-8")
    building.chmod(0o700)


def write_batch(
    common: tuple[dict[int, Path], tuple[str, ...], PhantomSettings], work: list[tuple[int, int]]
) -> list[tuple[int, list[Row]]]:
    """Draw and write some patients, each (hospital, index); runs in a worker. For each the hospital and its rows."""
    folders, names, settings = common
    form = _Form(settings.native_size, max(len(name) for name in names), len(str(settings.patients)))
    cameras: dict[int, Camera] = {}
    written = []
    for hospital, index in work:
        camera = cameras.setdefault(hospital, hospital_camera(settings.seed, hospital))
        patient = f"PHANTOM-{names[hospital]}-{index + 1:04d}"
        rows: list[Row] = []
        for eye in draw_patient(hospital, index, camera, settings):
            file = f"{patient}-{eye.laterality}.dcm"
            data = form.fill(patient, eye, f"{settings.seed}/{hospital}/{index}")
            (folders[hospital] / file).write_bytes(data)
            rows.append((file, eye.laterality, eye.grade))
        written.append((hospital, rows))
    return written


class _Form:
    """One DICOM file encoded once; for every picture only the bytes that differ are filled in (ten times as fast)."""

    def __init__(self, size: int, longest_name: int, digits: int) -> None:
        self._patient_bytes = len("PHANTOM--") + longest_name + max(4, digits)
        self._patient_bytes += self._patient_bytes % 2
        self._marks = {
            "patient": b"P" * self._patient_bytes,
            "instance": str(_uid("instance")).encode(),
            "study": str(_uid("study")).encode(),
            "series": str(_uid("series")).encode(),
            "side": b"\x20\x00\x62\x00CS\x02\x00R ",
        }
        dataset = _template(size, self._marks)
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        self._head = buffer.getvalue()[: -len(dataset.PixelData)]

    def fill(self, patient: str, eye: Eye, name: str) -> bytes:
        study = _uid(name)
        values = {
            "patient": patient.encode().ljust(self._patient_bytes),
            "instance": _uid(f"{name}/{eye.laterality}").encode(),
            "study": study.encode(),
            "series": _uid(f"{name}/series").encode(),
            "side": self._marks["side"][:-2] + eye.laterality.encode() + b" ",
        }
        head = self._head
        for key, mark in self._marks.items():
            head = head.replace(mark, values[key])
        data = eye.pixels.tobytes()
        return head + data + bytes(len(data) % 2)


def _template(size: int, marks: dict[str, bytes]) -> FileDataset:
    """A Secondary Capture image (PS3.3 A.8.1) with everything that all phantoms share."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID(marks["instance"].decode())
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = UID(marks["instance"].decode())
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.StudyDate = ""
    dataset.StudyTime = ""
    dataset.AccessionNumber = ""
    dataset.Modality = "OP"
    dataset.ConversionType = "SYN"
    dataset.Manufacturer = "fedgan-secure phantoms"
    dataset.ReferringPhysicianName = ""
    dataset.SyntheticData = "YES"
    dataset.PatientName = "Phantom"
    dataset.PatientID = marks["patient"].decode()
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.PatientOrientation = ""
    dataset.StudyInstanceUID = UID(marks["study"].decode())
    dataset.SeriesInstanceUID = UID(marks["series"].decode())
    dataset.StudyID = ""
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.ImageLaterality = "R"
    dataset.BurnedInAnnotation = "NO"
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = bytes(size * size * 3 + size * size * 3 % 2)
    dataset["PixelData"].VR = "OB"
    return dataset


def _uid(name: str) -> UID:
    """A UID under 2.25 (PS3.5 B.2) from a phantom's name, always of 39 digits after the prefix."""
    digest = hashlib.sha256(b"fedgan-secure/phantom/1/" + name.encode()).digest()
    return UID(f"2.25.{10**38 + int.from_bytes(digest[:16], 'big') % (2**128 - 10**38)}")
