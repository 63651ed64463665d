"""The real sets, where they are: FEDGAN_TEST_DATA, or shared/data beside the checkout; in CI they must be there."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from fedgan_secure.data import LoadSettings, load


def _data() -> Path:
    if os.environ.get("FEDGAN_TEST_DATA"):
        return Path(os.environ["FEDGAN_TEST_DATA"])
    return Path(__file__).resolve().parents[3].parent / "shared" / "data"


def _path(name: str) -> Path:
    path = _data() / name
    if not path.exists() and os.environ.get("CI"):
        pytest.fail(f"{name} is not here: continuous integration has the real sets beside the checkout")
    if not path.exists():
        pytest.skip(f"{name} is not here: set FEDGAN_TEST_DATA to the folder that holds it")
    return path


def test_real_fundus_photographs() -> None:
    result = load(_path("fundus-eyepacs-layout"), LoadSettings())
    assert (result.layout, result.dataset.patients, len(result.dataset)) == ("eyepacs", 300, 600)
    assert result.findings.duplicates == (
        ("train/299_left.jpeg", "train/300_left.jpeg"),
        ("train/299_right.jpeg", "train/300_right.jpeg"),
    )
    assert result.findings.duplicate_patients == (("299", "300"),)
    assert not result.findings.quarantined


def test_real_fundus_photographs_in_class_folders() -> None:
    result = load(_path("fundus-srahim"), LoadSettings(preprocessing="fundus-crop/1"))
    assert (result.layout, result.dataset.patients, len(result.dataset)) == ("folders", 300, 600)
    assert result.dataset.classes == 10


def test_real_ct_slices() -> None:
    result = load(_path("ct-abdomen-dicom"), LoadSettings(channels=1))
    assert (result.layout, result.preprocessing) == ("dicom", "by-modality/1")
    assert (result.dataset.patients, len(result.dataset)) == (10, 22)
    assert not result.findings.quarantined


def test_mnist_loads_in_bounded_memory_and_quickly_again(tmp_path: Path) -> None:
    settings = LoadSettings(unit="image", image_size=28, channels=1, secret=bytes(32), cache_dir=tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = load(_path("mnist.npz"), settings)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (len(result.dataset), result.dataset.classes) == (60000, 10)
    assert grown < 300_000  # KiB
    start = time.process_time()
    again = load(_path("mnist.npz"), settings)
    assert time.process_time() - start < 3
    assert again.findings == result.findings
