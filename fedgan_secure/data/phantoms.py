"""Hospitals full of fundus phantoms, written as DICOM: pictures that look like photographs of eyes and are of nobody.

Each hospital has its own camera. Most patients have two eyes, alike but not equal, with a grade of diabetic
retinopathy each. Everything depends on a public seed only; every patient has a random stream of its own, so the result
is the same whatever the number of processes. The files are read back by the loaders that real data take.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from fedgan_secure.data.layouts import DR_GRADES
from fedgan_secure.data.parallel import Failed, default_workers, map_batches
from fedgan_secure.data.phantom_drawing import Camera, draw_anatomy, draw_camera, draw_eye
from fedgan_secure.errors import InputError

GRADES = DR_GRADES
CLASSES = len(GRADES)
TASK = "drawing phantoms"
TARGET = "fedgan_secure.data.phantoms:write_batch"
DRAWING_VERSION = 1
_MARK = ".phantoms.json"
_BATCH = 32


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
    total, done = len(names) * settings.patients, 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for hospital, (name, path) in enumerate(result.items()):
            mark = {"version": DRAWING_VERSION, "hospital": hospital, "name": name, **asdict(settings)}
            if not _already_there(path, mark):
                building = Path(tempfile.mkdtemp(prefix=f".{name}-building-", dir=folder))
                try:
                    common = (building, name, hospital, settings)
                    indices = list(range(settings.patients))
                    rows: list[tuple[str, str, int]] = []
                    for batch in map_batches(
                        TARGET, common, indices, batch=_BATCH, workers=workers or default_workers()
                    ):
                        for eyes in batch:
                            if isinstance(eyes, Failed):
                                raise InputError(f"a phantom could not be drawn: {eyes.reason}")
                            rows += eyes
                        if progress is not None:
                            progress(TASK, min(total, done + len(batch)), total)
                        done += len(batch)
                    _finish(building, rows, mark)
                    building.rename(path)
                finally:
                    if building.exists():
                        shutil.rmtree(building, ignore_errors=True)
            else:
                done += settings.patients
                if progress is not None:
                    progress(TASK, done, total)
    except OSError as error:
        raise InputError(
            f"the phantoms cannot be written to {folder} ({error.strerror})", hint="free some space or choose another"
        ) from None
    return result


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


def write_batch(common: tuple[Path, str, int, PhantomSettings], indices: list[int]) -> list[list[tuple[str, str, int]]]:
    """Draw and write some patients (runs in a worker); for each the rows (file, laterality, grade)."""
    folder, name, hospital, settings = common
    camera = hospital_camera(settings.seed, hospital)
    dataset = _template(settings.native_size)
    written = []
    for index in indices:
        patient = f"PHANTOM-{name}-{index + 1:04d}"
        rows = []
        for eye in draw_patient(hospital, index, camera, settings):
            file = f"{patient}-{eye.laterality}.dcm"
            _fill(dataset, patient, eye, f"{settings.seed}/{hospital}/{index}")
            dataset.save_as(folder / file, enforce_file_format=True)
            rows.append((file, eye.laterality, eye.grade))
        written.append(rows)
    return written


def _template(size: int) -> FileDataset:
    """A Secondary Capture image (PS3.3 A.8.1) with everything that all phantoms share."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID("2.25.0")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = UID("2.25.0")
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
    dataset.PatientID = "PHANTOM"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.PatientOrientation = ""
    dataset.StudyInstanceUID = UID("2.25.0")
    dataset.SeriesInstanceUID = UID("2.25.0")
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
    dataset.PixelData = b""
    dataset["PixelData"].VR = "OB"
    return dataset


def _fill(dataset: FileDataset, patient: str, eye: Eye, name: str) -> None:
    instance = _uid(f"{name}/{eye.laterality}")
    dataset.file_meta.MediaStorageSOPInstanceUID = instance
    dataset["SOPInstanceUID"].value = instance
    dataset["StudyInstanceUID"].value = dataset["SeriesInstanceUID"].value = _uid(name)
    dataset["PatientID"].value = patient
    dataset["ImageLaterality"].value = eye.laterality
    dataset["InstanceNumber"].value = 1 if eye.laterality == "R" else 2
    data = eye.pixels.tobytes()
    dataset["PixelData"].value = data + bytes(len(data) % 2)


def _uid(name: str) -> UID:
    """A UID under 2.25 (PS3.5 B.2) from a phantom's name."""
    digest = hashlib.sha256(b"fedgan-secure/phantom/1/" + os.fsencode(name)).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")
