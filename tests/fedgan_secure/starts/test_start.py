"""A start file is data from a stranger: it is read only if it is exactly what a start is."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.errors import InputError
from fedgan_secure.starts import Architecture, check_fits, read_start, shipped_start
from fedgan_secure.starts import start as module
from fedgan_secure.starts.archive import Archive, ArchiveError, pack
from fedgan_secure.starts.start import metadata_text, start_bytes

SHIPPED = Path(module.__file__).parent / "shipped" / "fundus64.npz"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    with np.load(SHIPPED, allow_pickle=False) as file:
        return dict(file)


def metadata_of(arrays: Arrays) -> dict[str, Any]:
    return json.loads(str(arrays["metadata"]))  # type: ignore[no-any-return]


def test_the_shipped_start_says_what_it_is() -> None:
    start = shipped_start()
    assert (start.name, start.image_size, start.channels, start.classes, start.counts) == ("fundus64/1", 64, 3, 5, 6)
    assert start.features == 271 and start.outputs == slice(260, 271)
    assert start.blocks == ((0, 48), (48, 60), (60, 260), (260, 271))
    assert "public-fundus/1" in start.statement and "no patient's image" in start.statement
    assert start.figures["pictures_each"] == 1000 and start.made["simulator"] == "public-fundus/1"
    assert start.public_means.shape == (5, 271) and start.public_covariance.shape == (271, 271)
    assert not start.picture_digests.size
    assert all(value.dtype == np.float32 and not value.flags.writeable for value in start.weights.values())
    assert np.linalg.eigvalsh(start.public_covariance.astype(np.float64)).min() > -1e-4


def test_a_start_is_read_without_tensorflow() -> None:
    code = (
        "import sys\nfrom fedgan_secure.starts import shipped_start\nshipped_start()\nassert 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_changed_installed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: Arrays) -> None:
    (tmp_path / "fundus64.npz").write_bytes(pack({**arrays, "g_last/1": arrays["g_last/1"] + np.float16(1)}))
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    module._shipped.cache_clear()
    with pytest.raises(InputError, match="installed public start") as refused:
        shipped_start()
    assert "install" in refused.value.hint
    module._shipped.cache_clear()


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(InputError, match="not known") as refused:
        shipped_start("other/1")
    assert "fundus64/1" in refused.value.hint


def test_equal_arrays_make_equal_files(arrays: Arrays) -> None:
    assert pack(arrays) == pack(dict(reversed(list(arrays.items())))) == SHIPPED.read_bytes()


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    shipped = shipped_start()
    grey = Architecture(2, 0, 1)
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal(shape) for name, shape in grey.weight_shapes().items()}
    size = grey.features
    statistics = {
        "feature_mean": np.zeros(size, np.float32),
        "feature_std": np.ones(size, np.float32),
        "public_means": np.zeros((2, size), np.float32),
        "public_covariance": np.eye(size, dtype=np.float32),
    }
    metadata = {**_facts(shipped), "name": "own/2", "channels": 1, "classes": 2, "counts": 0, "label_names": ["a", "b"]}
    digests = np.arange(48, dtype=np.uint8).reshape(3, 16)
    (tmp_path / "start.npz").write_bytes(start_bytes(metadata, weights, statistics, digests))
    start = read_start(tmp_path / "start.npz")
    assert (start.name, start.channels, start.label_names, start.features) == ("own/2", 1, ("a", "b"), 221)
    assert np.array_equal(start.picture_digests, digests)
    assert np.array_equal(start.weights["g_mix/0"], weights["g_mix/0"].astype(np.float16).astype(np.float32))
    check_fits(start, 64, 1)


def _facts(start: module.PublicStart) -> dict[str, Any]:
    return {
        "name": start.name,
        "image_size": 64,
        "channels": 3,
        "classes": 5,
        "counts": 6,
        "label_names": list(start.label_names),
        "statement": start.statement,
        "figures": {},
        "made": {},
    }


def drop(arrays: Arrays) -> None:
    del arrays["f_grade/0"]


def add(arrays: Arrays) -> None:
    arrays["extra"] = np.zeros(3, np.float32)


def widen(arrays: Arrays) -> None:
    arrays["g_mix/0"] = np.zeros((96, 97), np.float16)


def not_a_number(arrays: Arrays) -> None:
    arrays["g_last/1"] = np.array([0, np.nan, 0], np.float16)


def infinite_mean(arrays: Arrays) -> None:
    arrays["public_means"] = np.full((5, 271), np.inf, np.float32)


def integers(arrays: Arrays) -> None:
    arrays["g_mix/1"] = np.zeros(96, np.int64)


def double(arrays: Arrays) -> None:
    arrays["g_mix/1"] = np.zeros(96, np.float64)


def fortran(arrays: Arrays) -> None:
    arrays["f_hidden/0"] = np.asfortranarray(arrays["f_hidden/0"])


def flat_feature(arrays: Arrays) -> None:
    arrays["feature_std"] = np.zeros(271, np.float32)


def crooked(arrays: Arrays) -> None:
    covariance = arrays["public_covariance"].copy()
    covariance[0, 1] += 1
    arrays["public_covariance"] = covariance


def long_digests(arrays: Arrays) -> None:
    arrays["picture_digests"] = np.zeros((2, 17), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "f_grade/0"),
        (add, "extra"),
        (widen, r"\[96, 97\].*expected.*\[96, 96\]"),
        (not_a_number, "g_last/1 has values that are not finite"),
        (infinite_mean, "public_means has values that are not finite"),
        (integers, "<i8"),
        (double, "<f8"),
        (fortran, "not a plain array"),
        (flat_feature, "not above 0"),
        (crooked, "not symmetric"),
        (long_digests, "expected.*16"),
    ],
)
def test_other_arrays_than_a_start_has_are_refused(
    change: Callable[[Arrays], None], message: str, arrays: Arrays, tmp_path: Path
) -> None:
    changed = dict(arrays)
    change(changed)
    path = tmp_path / "start.npz"
    np.savez(path, **changed) if change is fortran else path.write_bytes(pack(changed, compress=False))
    with pytest.raises(InputError, match=message) as refused:
        read_start(path)
    assert str(path) in str(refused.value) and "pretrain" in refused.value.hint


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "format"),
        ("image_size", 128, "128 pixels"),
        ("image_size", True, "integer"),
        ("classes", 10**9, "classes"),
        ("classes", 1, "classes"),
        ("counts", -1, "counts"),
        ("channels", 4, "channels"),
        ("classes", "5", "integer"),
        ("name", "../x/1", "name"),
        ("name", 7, "name"),
        ("label_names", ["a"], "label_names"),
        ("label_names", ["a", "b", "c", "d", "e\x1b[2J"], "label_names"),
        ("statement", "two\nlines", "statement"),
        ("statement", "x" * 1001, "statement"),
        ("figures", [], "figures"),
    ],
)
def test_other_metadata_than_a_start_has_is_refused(
    key: str, value: Any, message: str, arrays: Arrays, tmp_path: Path
) -> None:
    text = json.dumps({**metadata_of(arrays), key: value})
    (tmp_path / "start.npz").write_bytes(pack({**arrays, "metadata": np.array(text)}, compress=False))
    with pytest.raises(InputError, match=message):
        read_start(tmp_path / "start.npz")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 5000, '{"format": "fedgan-secure public start/1"}'])
def test_metadata_that_is_none_is_refused(text: str, arrays: Arrays, tmp_path: Path) -> None:
    (tmp_path / "start.npz").write_bytes(pack({**arrays, "metadata": np.array(text)}, compress=False))
    with pytest.raises(InputError, match="metadata"):
        read_start(tmp_path / "start.npz")


def zip_of(entries: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_a_bomb_is_not_inflated(arrays: Arrays) -> None:
    header = npy(np.zeros(96, np.float16))[:128]
    bomb = zip_of([("g_mix/1.npy", header + bytes(40 * 2**20))])
    assert len(bomb) < 2**17
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="has not the 192 bytes"):
        Archive(bomb).array("g_mix/1", (96,))
    assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    tracemalloc.stop()


def test_a_shape_is_refused_before_anything_of_it_is_read() -> None:
    header = npy(np.zeros(96, np.float16))[:128].replace(b"(96,), }        ", b"(999999999,), } ")
    with pytest.raises(ArchiveError, match="999999999"):
        Archive(zip_of([("g_mix/1.npy", header)])).array("g_mix/1", (96,))


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (96,), }\n",
        b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (96,), }\n",
        b"{'descr': '<f2', 'fortran_order': False, 'shape': (-96,), }\n",
        b"{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (96,), }\n",
        b"(" * 4000,
        b"",
    ],
)
def test_headers_are_not_evaluated(header: bytes) -> None:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(192)
    with pytest.raises(ArchiveError, match="not a plain array"):
        Archive(zip_of([("a.npy", data)])).array("a", (96,))


def test_pickles_are_refused() -> None:
    data = npy(np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ArchiveError, match="not a plain array"):
        Archive(zip_of([("a.npy", data)])).array("a", (1,))


def test_odd_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_start(tmp_path / "none.npz")
    with pytest.raises(InputError, match="cannot be read"):
        read_start(tmp_path)
    good = zip_of([("a.npy", npy(np.zeros(1)))])
    for data, message in (
        (b"", "not an npz"),
        (b"PK" * 50, "not an npz"),
        (good + b"x", "not an npz"),
        (zip_of([("a.txt", b"x")]), "not an array"),
        (zip_of([(f"{number}.npy", b"") for number in range(2000)]), "directory"),
    ):
        with pytest.raises(ArchiveError, match=message):
            Archive(data)
    with pytest.warns(UserWarning), pytest.raises(ArchiveError, match="twice"):
        Archive(zip_of([("a.npy", b""), ("a.npy", b"")]))


def test_a_file_that_is_too_large_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedgan_secure.starts.archive.MOST_FILE_BYTES", 2**20)
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_start(SHIPPED)


@settings(max_examples=25)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_has_another_digest(data: st.DataObject, tmp_path_factory: Any) -> None:
    original = SHIPPED.read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    damaged = bytearray(original)
    damaged[place] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    path = tmp_path_factory.mktemp("damaged") / "start.npz"
    path.write_bytes(damaged)
    try:
        start = read_start(path)
    except InputError:
        return
    assert start.digest != shipped_start().digest


def test_a_start_of_another_size_does_not_fit() -> None:
    start = shipped_start()
    check_fits(start, 64, 3)
    for size, channels in ((128, 3), (64, 1), (28, 3)):
        with pytest.raises(InputError, match="makes colour pictures of 64 x 64 pixels, but the run trains") as refused:
            check_fits(start, size, channels)
        assert refused.value.hint


def test_a_name_that_no_file_may_have_is_refused_before_training() -> None:
    with pytest.raises(InputError, match="name"):
        metadata_text({**_facts(shipped_start()), "name": "No Name"})


@pytest.mark.parametrize(("classes", "counts", "channels"), [(1, 0, 3), (51, 0, 3), (5, -1, 3), (5, 21, 3), (5, 6, 2)])
def test_shapes_have_bounds(classes: int, counts: int, channels: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Architecture(classes, counts, channels)
