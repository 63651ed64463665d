"""Small trees of every layout, made of noise and squares: no picture of a person is in the repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def make_dicom(pixels: NDArray[Any], patient: str = "P1", modality: str = "OT", **attributes: Any) -> FileDataset:
    """A valid little DICOM file around `pixels`: [h,w], [h,w,3] or [frames,h,w] (with NumberOfFrames given)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.PatientName, dataset.Modality = patient, "Somebody^Real", modality
    colour = pixels.ndim == 3 and pixels.shape[2] == 3 and "NumberOfFrames" not in attributes
    height, width = pixels.shape[:2] if colour or pixels.ndim == 2 else pixels.shape[1:3]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = height, width, 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = pixels.tobytes()
    dataset.PixelData = data + bytes(len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


@pytest.fixture
def dicom() -> Callable[..., FileDataset]:
    return make_dicom


@pytest.fixture
def dicom_tree(tmp_path: Path) -> Path:
    """Five patients with two pictures each."""
    root = tmp_path / "dicom"
    for number in range(5):
        (root / f"p{number}").mkdir(parents=True)
        for slice_ in range(2):
            pixels = noise(number * 10 + slice_, 40, 32)
            make_dicom(pixels, f"ID-{number}").save_as(root / f"p{number}" / f"{slice_}.dcm", enforce_file_format=True)
    return root


@pytest.fixture
def picture() -> Callable[..., None]:
    def write(path: Path, seed: int, size: tuple[int, int] = (48, 40), **options: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed, size[1], size[0], 3)).save(path, **options)

    return write


@pytest.fixture
def eyepacs_tree(tmp_path: Path, picture: Callable[..., None]) -> Path:
    """Four patients with two eyes, grades 0 to 4."""
    root = tmp_path / "eyepacs"
    lines = ["image,level"]
    for number in range(1, 5):
        for eye, side in enumerate(("left", "right")):
            picture(root / "train" / f"{number}_{side}.jpeg", number * 2 + eye)
            lines.append(f"{number}_{side},{min(4, number + eye)}")
    (root / "trainLabels.csv").write_text("\n".join(lines) + "\n")
    return root


SECRET = b"a hospital's own secret of some length"


@pytest.fixture
def secret() -> bytes:
    return SECRET
