"""The independent readers that pixels are held against: DCMTK for DICOM, libtiff's tiff2rgba for TIFF."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from tests.patience import HANG_SECONDS

from fedgan_secure.data.pixels.dicom import read_dicom

PACKAGES = "dcmtk, libtiff-tools"


def tool(name: str) -> str:
    """The path of a reader's command; the test is skipped without it, and fails where it must be there."""
    found = shutil.which(name)
    if found is None and os.environ.get("FEDGAN_REQUIRE_DICOM_TOOLS"):
        pytest.fail(f"{name} is not here: continuous integration installs {PACKAGES}")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {PACKAGES})")
    return found


def run(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([tool(command[0]), *command[1:]], capture_output=True, timeout=HANG_SECONDS, check=False)


def by_dcmtk(path: Path, dataset: Dataset, frame: int = 1) -> NDArray[np.int64] | None:
    """What DCMTK shows of a frame through the transformations that we apply too; None where it cannot read it."""
    if dataset.get("Modality") == "CT":
        options = ["+Ww", "40", "400"]
    elif dataset.get("VOILUTSequence"):
        options = ["+Wl", "1"]
    elif dataset.get("WindowCenter") not in (None, ""):
        options = ["+Wi", "1"]
    else:
        options = []
    for command in ("dcm2pnm", "dcmj2pnm", "dcml2pnm"):
        done = run(command, "-O", "+opb", "+F", str(frame), *options, str(path))
        if done.returncode == 0 and done.stdout:
            return np.asarray(Image.open(io.BytesIO(done.stdout))).astype(np.int64)
    return None


def ours(path: Path) -> list[NDArray[np.int64]]:
    return [pixels.astype(np.int64) for pixels, _ in read_dicom(path, hounsfield_window=False)[1]]


def difference(one: NDArray[Any], other: NDArray[Any]) -> int:
    """The largest difference in levels; grey counts as three equal colours. Asserts one size."""
    one, other = (np.repeat(some[:, :, None], 3, axis=2) if some.ndim == 2 else some for some in (one, other))
    assert one.shape == other.shape
    return int(np.abs(one.astype(np.int64) - other.astype(np.int64)).max())


def by_tiff2rgba(path: Path) -> NDArray[np.int64]:
    """The RGB of libtiff, composed on black."""
    target = path.with_name("reference.tif")
    done = run("tiff2rgba", "-c", "none", str(path), str(target))
    assert done.returncode == 0, done.stderr
    data = target.read_bytes()
    with Image.open(target) as image:
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        strips = b"".join(data[start : start + length] for start, length in zip(tags[273], tags[279], strict=True))
        return np.frombuffer(strips, np.uint8).reshape(image.height, image.width, -1)[:, :, :3].astype(np.int64)
