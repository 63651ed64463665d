"""A generated image as a DICOM file: Secondary Capture, marked as synthetic, of no patient.

PS3.3 A.8.1 (Secondary Capture Image), C.12.1 (SOP Common: Synthetic Data (0008,001C) = YES). The file names no patient:
the type 2 attributes of the patient and the study are there and empty. Its identifiers are digests of what it shows and
where it comes from, below 2.25 (PS3.5 B.2), so that the same images of the same run are the same files.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from fedgan_secure.data.pixels import CT_ABDOMEN, CT_WINDOW, FUNDUS

_CLASS = UID("2.25.158309846311537853104718713524811270187")
"""This implementation's own identifier (Implementation Class UID), drawn once at random."""
_MODALITIES = {CT_ABDOMEN: "CT", FUNDUS: "OP"}


@dataclass(frozen=True)
class Origin:
    """What a file says of where it comes from; `statement` is free text, `report_digest` hexadecimal."""

    statement: str
    report_digest: str
    model_digest: str


@dataclass(frozen=True)
class Series:
    """One set of generated images: the key of its identifiers, and what every file of it says.

    Every image is of nobody and like no other, so each has a patient identifier, a study and a series of its own: a
    reader that tells people apart by PatientID takes no two of them for one person, nor for somebody without one.
    """

    key: bytes
    origin: Origin
    modality: str
    hounsfield: bool

    @classmethod
    def of(cls, images: NDArray[np.uint8], origin: Origin, preprocessing: str) -> Series:
        """The series of `images`, uint8[N,H,W,C]. With the preprocessing of CT, files hold Hounsfield units: the
        levels 0 to 255 stand for the window that the images were trained in."""
        key = hashlib.sha256(f"{origin.model_digest} {origin.report_digest} {images.shape}".encode())
        key.update(np.ascontiguousarray(images).data.cast("B"))
        return cls(
            key=key.digest(),
            origin=origin,
            modality=_MODALITIES.get(preprocessing, "OT"),
            hounsfield=preprocessing == CT_ABDOMEN,
        )


def dicom_file(image: NDArray[np.uint8], number: int, label: str | None, series: Series) -> FileDataset:
    """Image `number` (from 1) of a series, uint8[H,W,1 or 3], as a data set that is ready to be saved."""
    pixels = _grey(image) if series.hounsfield else image
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(series.key, f"instance {number}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _CLASS
    dataset = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.StudyDate = ""
    dataset.StudyTime = ""
    dataset.AccessionNumber = ""
    dataset.Modality = series.modality
    dataset.ConversionType = "SYN"
    dataset.Manufacturer = "fedgan-secure"
    dataset.ReferringPhysicianName = ""
    dataset.Laterality = ""
    dataset.SeriesDescription = "Synthetic images"
    dataset.SyntheticData = "YES"
    dataset.DerivationDescription = _text(series.origin.statement, 1024)
    dataset.PatientName = ""
    dataset.PatientID = f"SYNTHETIC-{series.key.hex()[:12]}-{number:05d}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.PatientOrientation = ""
    dataset.StudyInstanceUID = _uid(series.key, f"study {number}")
    dataset.SeriesInstanceUID = _uid(series.key, f"series {number}")
    dataset.StudyID = ""
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    comment = f"report sha256:{series.origin.report_digest}" + (f"; label: {label}" if label is not None else "")
    dataset.ImageComments = _text(comment, 10240)
    dataset.BurnedInAnnotation = "NO"
    _add_pixels(dataset, pixels)
    if series.hounsfield:
        centre, width = CT_WINDOW
        dataset.RescaleIntercept = f"{centre - width / 2:g}"
        dataset.RescaleSlope = f"{width / 255:.12f}"
        dataset.RescaleType = "HU"
        dataset.WindowCenter, dataset.WindowWidth = f"{centre:g}", f"{width:g}"
    return dataset


def _add_pixels(dataset: FileDataset, pixels: NDArray[np.uint8]) -> None:
    height, width, channels = pixels.shape
    dataset.SamplesPerPixel = channels
    dataset.PhotometricInterpretation = "RGB" if channels == 3 else "MONOCHROME2"
    if channels == 3:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = height, width
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    data = pixels.tobytes()
    dataset.PixelData = data + bytes(len(data) % 2)
    dataset["PixelData"].VR = "OB"


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.shape[2] == 1:
        return image
    return np.asarray(Image.fromarray(image).convert("L"), dtype=np.uint8)[:, :, None]


def _uid(key: bytes, purpose: str) -> UID:
    """A UUID-derived identifier (PS3.5 B.2) from the first 128 bits of a digest."""
    return UID(f"2.25.{int.from_bytes(hashlib.sha256(purpose.encode() + b' ' + key).digest()[:16], 'big')}")


def _text(value: str, limit: int) -> str:
    """A value that every reader takes: printable ASCII without backslashes, cut to the length its type allows."""
    return re.sub(r"[^\x20-\x5b\x5d-\x7e]", "?", value)[:limit].strip()
