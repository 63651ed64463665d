"""Write generated images as PNG or DICOM, with what is needed to know where they come from.

Arrays in, files out: no model is loaded here. An output folder is written beside its place and renamed, so that it is
whole or absent. A DICOM file says that it is synthetic, names no patient, and carries the digest of the privacy report
of the model that drew it (Secondary Capture, DICOM PS3.3 A.8.1; Synthetic Data (0008,001C)).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from fedgan_secure.errors import InputError

SIDECAR = "provenance.json"
SIDECAR_SCHEMA = "fedgan-secure/generated/1"
SHEET = "contact-sheet.png"
LABELS = "labels.csv"
_SHEET_LIMIT = 256
_GAP = 2


@dataclass(frozen=True)
class Provenance:
    """Where generated images come from: the run, SHA-256 digests (hexadecimal) of its model and last report, and the
    guarantee as the report states it (`epsilon` and `delta` as printed there; ``unbounded`` without privacy)."""

    run: str
    model_digest: str
    report_digest: str
    epsilon: str
    delta: str
    unit: str
    rounds: int
    statement: str = ""


def to_uint8(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Map [-1,1] to 0..255, rounding to nearest and clipping; any shape. Not-a-number becomes 0."""
    scaled = np.rint((np.asarray(images, dtype=np.float32) + 1.0) * 127.5)
    return np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255).astype(np.uint8)


def contact_sheet(
    images: NDArray[np.uint8], columns: int, labels: Sequence[int | str] | None = None, scale: int | None = None
) -> Image.Image:
    """Images uint8[N,H,W,C] in rows of `columns`, as an RGB picture, each enlarged `scale` times (default: to about 96
    pixels) without smoothing. With `labels` (one per image) each row that has a single label carries it at its left,
    otherwise every image has its own beneath it."""
    _check(images, labels)
    if columns < 1 or len(images) == 0:
        raise ValueError("a contact sheet needs at least one image and one column")
    count, height, width, _ = images.shape
    factor = scale or max(1, round(96 / max(height, width)))
    rows = -(-count // columns)
    texts = [str(label) for label in labels] if labels is not None else []
    by_row = [sorted(set(texts[row * columns : (row + 1) * columns])) for row in range(rows)] if texts else []
    at_left = bool(by_row) and all(len(found) == 1 for found in by_row)
    font = ImageFont.load_default(size=14)
    margin = 0
    if at_left:
        margin = 12 + int(max(font.getlength(found[0]) for found in by_row))
    beneath = 20 if texts and not at_left else 0
    cell_w, cell_h = width * factor + _GAP, height * factor + _GAP + beneath
    sheet = Image.new("RGB", (margin + min(columns, count) * cell_w + _GAP, rows * cell_h + _GAP), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    for index in range(count):
        row, column = divmod(index, columns)
        x, y = margin + column * cell_w + _GAP, row * cell_h + _GAP
        picture = _image(images[index]).convert("RGB")
        sheet.paste(picture.resize((width * factor, height * factor), Image.Resampling.NEAREST), (x, y))
        if beneath:
            draw.text((x + 2, y + height * factor + 1), texts[index], fill=(225, 225, 230), font=font)
        elif at_left and column == 0:
            draw.text((6, y + height * factor // 2 - 8), texts[index], fill=(225, 225, 230), font=font)
    return sheet


def contact_sheet_png(
    images: NDArray[np.uint8], columns: int, labels: Sequence[int | str] | None = None, scale: int | None = None
) -> bytes:
    """The contact sheet as PNG; the bytes depend on the images and labels only (no time, no metadata)."""
    buffer = io.BytesIO()
    contact_sheet(images, columns, labels, scale).save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def write_png(
    folder: Path,
    images: NDArray[np.uint8],
    labels: Sequence[int] | None,
    provenance: Provenance,
    label_names: Sequence[str] | None = None,
) -> list[Path]:
    """Write ``00001.png``, ..., ``labels.csv`` (when labelled), a contact sheet and the sidecar into `folder`.

    `images` uint8[N,H,W,1 or 3]; `labels` int[N] (indices of `label_names` when given). Returns the picture files.
    Raises InputError when the folder holds anything or cannot be written.
    """

    def write(path: Path, image: NDArray[np.uint8], number: int, label: str | None) -> None:
        _image(image).save(path, format="PNG", compress_level=6)

    return _write(folder, images, labels, provenance, label_names, ".png", write)


def write_dicom(
    folder: Path,
    images: NDArray[np.uint8],
    labels: Sequence[int] | None,
    provenance: Provenance,
    label_names: Sequence[str] | None = None,
) -> list[Path]:
    """Write ``00001.dcm``, ... as Secondary Capture images marked as synthetic, with the files of :func:`write_png`."""
    study, series = _uid(), _uid()
    now = datetime.now(UTC)

    def write(path: Path, image: NDArray[np.uint8], number: int, label: str | None) -> None:
        _dicom(image, number, label, provenance, (study, series), now).save_as(path, enforce_file_format=True)

    return _write(folder, images, labels, provenance, label_names, ".dcm", write)


def _write(
    folder: Path,
    images: NDArray[np.uint8],
    labels: Sequence[int] | None,
    provenance: Provenance,
    label_names: Sequence[str] | None,
    suffix: str,
    write: Callable[[Path, NDArray[np.uint8], int, str | None], None],
) -> list[Path]:
    _check(images, labels)
    if len(images) == 0:
        raise InputError("there are no images to write; expected at least one", hint="set --count")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty", hint="choose another --output")
    names = None if labels is None else [_label_name(int(label), label_names) for label in labels]
    building: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-building-", dir=folder.parent))
        building.chmod(0o755)
        digits = max(5, len(str(len(images))))
        files = [f"{number:0{digits}d}{suffix}" for number in range(1, len(images) + 1)]
        for number, file in enumerate(files):
            write(building / file, images[number], number + 1, None if names is None else names[number])
        if names is not None and labels is not None:
            with (building / LABELS).open("w", newline="", encoding="utf-8") as table:
                writer = csv.writer(table, lineterminator="\n")
                writer.writerow(("file", "label", "label_name"))
                writer.writerows(zip(files, [int(label) for label in labels], names, strict=True))
        shown = slice(0, _SHEET_LIMIT)
        columns = min(16, max(1, round(min(len(images), _SHEET_LIMIT) ** 0.5)))
        sheet = contact_sheet_png(images[shown], columns, None if names is None else names[shown])
        (building / SHEET).write_bytes(sheet)
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(building.iterdir())}
        described = {
            "schema": SIDECAR_SCHEMA,
            "synthetic": True,
            "provenance": asdict(provenance),
            "images": len(images),
            "shape": list(images.shape[1:]),
            "label_names": None if label_names is None else list(label_names),
            "sha256": digests,
        }
        (building / SIDECAR).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        building.rename(folder)
        building = None
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror})", hint="free some space, or choose another --output"
        ) from None
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
    return [folder / file for file in files]


def _label_name(label: int, names: Sequence[str] | None) -> str:
    return names[label] if names is not None and 0 <= label < len(names) else str(label)


def _check(images: NDArray[np.uint8], labels: Sequence[Any] | None) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError("images must be uint8[N,H,W,1 or 3]")
    if labels is not None and len(labels) != len(images):
        raise ValueError("there must be one label for every image")


def _image(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _uid() -> UID:
    return UID(f"2.25.{secrets.randbits(128)}")


def _text(value: str, limit: int) -> str:
    """A value that every reader takes: printable ASCII without backslashes, cut to the length its type allows."""
    return re.sub(r"[^\x20-\x5b\x5d-\x7e]", "?", value)[:limit].strip()


def _dicom(
    image: NDArray[np.uint8],
    number: int,
    label: str | None,
    provenance: Provenance,
    uids: tuple[UID, UID],
    now: datetime,
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = _uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.StudyDate = ""
    dataset.StudyTime = ""
    dataset.AccessionNumber = ""
    dataset.Modality = "OT"
    dataset.ConversionType = "SYN"
    dataset.Manufacturer = "fedgan-secure"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription = "Synthetic images"
    dataset.SyntheticData = "YES"
    dataset.DerivationDescription = _text(
        f"Drawn by a generative model trained with differential privacy: epsilon {provenance.epsilon}, delta "
        f"{provenance.delta}, per {provenance.unit}, {provenance.rounds} rounds. "
        f"Model sha256 {provenance.model_digest}. Report sha256 {provenance.report_digest}. Shows no patient.",
        1024,
    )
    dataset.PatientName = ""
    dataset.PatientID = ""
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.PatientOrientation = ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids
    dataset.StudyID = ""
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = number
    comment = f"report sha256:{provenance.report_digest}" + (f"; label: {label}" if label is not None else "")
    dataset.ImageComments = _text(comment, 10240)
    dataset.BurnedInAnnotation = "NO"
    height, width, channels = image.shape
    dataset.SamplesPerPixel = channels
    dataset.PhotometricInterpretation = "RGB" if channels == 3 else "MONOCHROME2"
    if channels == 3:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = height, width
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    data = image.tobytes()
    dataset.PixelData = data + bytes(len(data) % 2)
    dataset["PixelData"].VR = "OB"
    return dataset
