"""Write generated images in the layout of a data set, with what is needed to know where they come from.

Arrays in, files out: no model is loaded here. An output folder is written beside its place and renamed, so that it is
whole or absent. The bytes depend on the images, the labels and the provenance alone. DICOM: see `synthetic_dicom`;
names and label tables: see `synthetic_layouts`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fedgan_secure.data.pixels import PLAIN
from fedgan_secure.errors import InputError
from fedgan_secure.synthesis.dicom import Origin, Series, dicom_file
from fedgan_secure.synthesis.layouts import ARRAYS, FLAT, Tree, plan_tree

SIDECAR = "provenance.json"
SIDECAR_SCHEMA = "fedgan-secure/generated/1"
SHEET = "contact-sheet.png"
SHEET_IN_LAYOUT = "contact-sheet.svg"
"""In the layout of a data set the sheet has a type that no loader takes for one of the images; browsers show it."""
_JPEG_QUALITY = 95
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

    @property
    def training(self) -> str:
        """How the model was trained, as a DICOM file says it."""
        private = self.epsilon != "unbounded"
        return "with differential privacy" if private else "WITHOUT differential privacy"


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
    return png_bytes(contact_sheet(images, columns, labels, scale))


def sheet_name(layout: str) -> str:
    """The file name of the contact sheet in a layout."""
    return SHEET if layout == FLAT else SHEET_IN_LAYOUT


def write_images(
    folder: Path,
    images: NDArray[np.uint8],
    labels: Sequence[int] | None,
    provenance: Provenance,
    label_names: Sequence[str] | None = None,
    *,
    layout: str = FLAT,
    form: str = "png",
    preprocessing: str = PLAIN,
) -> list[Path]:
    """Write images, the label table of the layout, a contact sheet and the sidecar into `folder`.

    Args:
        folder: new or empty.
        images: uint8[N,H,W,1 or 3].
        labels: int[N] (indices of `label_names` when given), or None.
        layout: ``flat`` (00001.png, labels.csv), or one that the loaders read (`synthetic_layouts`).
        form: png, jpeg, dicom or npz, as the layout allows.
        preprocessing: what the run's images went through; decides the modality and the units of DICOM files.

    Returns:
        The image files in order (of the layout npz, its one file).

    Raises:
        InputError: the folder holds anything or cannot be written, or the layout does not fit.
    """
    _check(images, labels)
    if len(images) == 0:
        raise InputError("there are no images to write; expected at least one", hint="set --count")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty", hint="choose another --output")
    tree = plan_tree(layout, form, len(images), labels, label_names)
    names = None if labels is None else [_label_name(int(label), label_names) for label in labels]
    building: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-building-", dir=folder.parent))
        building.chmod(0o755)
        files = _write_pixels(building, tree, images, labels, names, provenance, preprocessing)
        for file, rows in tree.tables.items():
            with (building / file).open("w", newline="", encoding="utf-8") as table:
                csv.writer(table, lineterminator="\n").writerows(rows)
        shown = slice(0, _SHEET_LIMIT)
        columns = min(16, max(1, round(min(len(images), _SHEET_LIMIT) ** 0.5)))
        sheet = contact_sheet(images[shown], columns, None if names is None else names[shown])
        if layout == FLAT:
            (building / SHEET).write_bytes(png_bytes(sheet))
        else:
            (building / SHEET_IN_LAYOUT).write_text(_svg(sheet), encoding="ascii")
        described = {
            "schema": SIDECAR_SCHEMA,
            "synthetic": True,
            "provenance": asdict(provenance),
            "layout": layout,
            "format": form,
            "images": len(images),
            "shape": list(images.shape[1:]),
            "label_names": None if label_names is None else list(label_names),
            "sha256": {
                path.relative_to(building).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(building.rglob("*"))
                if path.is_file()
            },
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


def write_png(
    folder: Path,
    images: NDArray[np.uint8],
    labels: Sequence[int] | None,
    provenance: Provenance,
    label_names: Sequence[str] | None = None,
) -> list[Path]:
    """Write ``00001.png``, ... and ``labels.csv``: :func:`write_images` in the layout ``flat``."""
    return write_images(folder, images, labels, provenance, label_names)


def write_dicom(
    folder: Path,
    images: NDArray[np.uint8],
    labels: Sequence[int] | None,
    provenance: Provenance,
    label_names: Sequence[str] | None = None,
) -> list[Path]:
    """Write ``00001.dcm``, ... and ``labels.csv``: :func:`write_images` in the layout ``flat``."""
    return write_images(folder, images, labels, provenance, label_names, form="dicom")


def _write_pixels(
    building: Path,
    tree: Tree,
    images: NDArray[np.uint8],
    labels: Sequence[int] | None,
    names: Sequence[str] | None,
    provenance: Provenance,
    preprocessing: str,
) -> Sequence[str]:
    """Write every image where `tree` says; returns the relative paths."""
    if tree.form == "npz":
        arrays: dict[str, NDArray[Any]] = {"train_images": images[..., 0] if images.shape[3] == 1 else images}
        if labels is not None:
            arrays["train_labels"] = np.asarray(labels, dtype=np.int64)[:, None]
        np.savez_compressed(building / ARRAYS, allow_pickle=False, **arrays)
        return (ARRAYS,)
    for file in tree.files:
        (building / file).parent.mkdir(parents=True, exist_ok=True)
    if tree.form == "dicom":
        series = Series.of(images, _origin(provenance), preprocessing)
        for number, (file, image) in enumerate(zip(tree.files, images, strict=True)):
            label = None if names is None else names[number]
            dicom_file(image, number + 1, label, series).save_as(building / file, enforce_file_format=True)
        return tree.files
    for file, image in zip(tree.files, images, strict=True):
        if tree.form == "jpeg":
            _image(image).save(building / file, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
        else:
            _image(image).save(building / file, format="PNG", compress_level=6)
    return tree.files


def _origin(provenance: Provenance) -> Origin:
    statement = (
        f"Drawn by a generative model trained {provenance.training}: epsilon {provenance.epsilon}, delta "
        f"{provenance.delta}, per {provenance.unit}, {provenance.rounds} rounds. "
        f"Model sha256 {provenance.model_digest}. Report sha256 {provenance.report_digest}. Synthetic: of no patient's "
        "record."
    )
    return Origin(statement, provenance.report_digest, provenance.model_digest)


def _label_name(label: int, names: Sequence[str] | None) -> str:
    return names[label] if names is not None and 0 <= label < len(names) else str(label)


def _check(images: NDArray[np.uint8], labels: Sequence[Any] | None) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError("images must be uint8[N,H,W,1 or 3]")
    if labels is not None and len(labels) != len(images):
        raise ValueError("there must be one label for every image")


def _svg(picture: Image.Image) -> str:
    """A picture as an SVG file that holds it as PNG."""
    size = f'width="{picture.width}" height="{picture.height}"'
    data = base64.b64encode(png_bytes(picture)).decode("ascii")
    image = f'<image {size} href="data:image/png;base64,{data}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<title>Generated images</title>\n{image}\n</svg>\n'


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as PNG; the bytes depend on its pixels only."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def _image(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
