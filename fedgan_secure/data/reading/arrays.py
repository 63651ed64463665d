"""Read an .npz of images and labels in blocks, so that memory stays bounded whatever the file holds."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedgan_secure.data.pixels.preprocess import to_levels
from fedgan_secure.errors import InputError

PAIRS = (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y"))
PATIENTS = ("patient", "patients", "patient_train", "train_patient", "train_patients")
MAXIMUM_BYTES = 64 * 1024**3
BLOCK_BYTES = 4 * 1024 * 1024
_HINT = f"expected the arrays {', '.join(' and '.join(pair) for pair in PAIRS[:3])}, and optionally patient"


@dataclass(frozen=True)
class Arrays:
    """What an .npz holds: names, shape and type of its images, and its small arrays in memory.

    `shape` is (N, h, w) or (N, h, w, c); `labels` int64[N] or None; `patients` str[N] or None; `unread`: names of
    the other arrays in the file.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    labels: NDArray[np.int64] | None
    patients: tuple[str, ...] | None
    unread: tuple[str, ...] = ()


def open_arrays(path: Path) -> Arrays:
    """Read the headers and the labels of an .npz. Raises InputError with what was found and what was expected."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            pair = next((pair for pair in PAIRS if pair[0] in members), None)
            if pair is None:
                raise InputError(f"{path.name} holds the arrays {', '.join(sorted(members)) or 'none'}", hint=_HINT)
            with archive.open(members[pair[0]]) as file:
                shape, dtype = _header(file, path, pair[0])
            _check_images(path, pair[0], shape, dtype)
            labels = None
            if pair[1] in members:
                raw = _small(archive, members[pair[1]], path, shape[0])
                if raw.dtype.kind not in "iub":
                    raise InputError(f"{pair[1]} in {path.name} has type {raw.dtype}, expected whole numbers")
                labels = raw.astype(np.int64)
            patients, used = None, set(pair)
            for name in PATIENTS:
                if name in members:
                    raw = _small(archive, members[name], path, shape[0])
                    if raw.dtype.kind not in "iuU":
                        raise InputError(f"{name} in {path.name} has type {raw.dtype}, expected numbers or text")
                    patients = tuple(str(value) for value in raw.tolist())
                    used.add(name)
                    break
            unread = tuple(sorted(set(members) - used))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", hint="check the path") from None
    except PermissionError:
        raise InputError(f"there is no permission to read {path}", hint="ask for read permission") from None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{path} is not a readable .npz file ({type(error).__name__})", hint="write it again with numpy.savez"
        ) from None
    return Arrays(path, pair[0], shape, dtype, labels, patients, unread)


def blocks(arrays: Arrays) -> Iterator[NDArray[np.uint8]]:
    """The images in order, in blocks of a few MiB, as uint8[n,h,w] or uint8[n,h,w,3]."""
    count, item_shape = arrays.shape[0], arrays.shape[1:]
    item_bytes = int(np.prod(item_shape)) * arrays.dtype.itemsize
    per_block = max(1, BLOCK_BYTES // max(1, item_bytes))
    try:
        with zipfile.ZipFile(arrays.path) as archive, archive.open(arrays.name + ".npy") as file:
            _header(file, arrays.path, arrays.name)
            for start in range(0, count, per_block):
                number = min(per_block, count - start)
                data = file.read(number * item_bytes)
                if len(data) != number * item_bytes:
                    raise EOFError
                block = np.frombuffer(data, dtype=arrays.dtype).reshape(number, *item_shape)
                if block.dtype != np.uint8:
                    block = to_levels(block.astype(np.float64), 0.0, float(np.iinfo(block.dtype).max))
                yield block[..., 0] if block.ndim == 4 and block.shape[3] == 1 else block
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{arrays.path} is broken or truncated ({type(error).__name__})", hint="write or copy it again"
        ) from None


def _header(file: Any, path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(file)
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = reader(file)
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise InputError(
            f"{name} in {path.name} holds {'Python objects' if dtype.hasobject else 'columns first'}",
            hint="save it as a plain array: numpy.savez(path, name=numpy.ascontiguousarray(array))",
        )
    return tuple(int(size) for size in shape), dtype


def _check_images(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    described = f"{name} in {path.name} is {dtype}{list(shape)}"
    good = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if not good or min(shape) < 1 or max(shape[1:3]) > 16384:
        raise InputError(f"{described}; expected [N,H,W] or [N,H,W,1 or 3]", hint=_HINT)
    if dtype not in (np.dtype("u1"), np.dtype("u2")):
        raise InputError(f"{described}; expected uint8 or uint16", hint="floating-point pixels have no known range")
    if int(np.prod(shape, dtype=np.float64)) * dtype.itemsize > MAXIMUM_BYTES:
        raise InputError(f"{described}: more than {MAXIMUM_BYTES // 2**30} GiB", hint="store the images as files")


def _small(archive: zipfile.ZipFile, member: str, path: Path, count: int) -> NDArray[Any]:
    with archive.open(member) as file:
        shape, dtype = _header(file, path, member.removesuffix(".npy"))
        if shape not in ((count,), (count, 1)) or dtype.itemsize > 1024:
            raise InputError(
                f"{member.removesuffix('.npy')} in {path.name} is {dtype}{list(shape)}, expected one value for each of "
                f"the {count} images",
                hint="labels and patients are one-dimensional",
            )
        data = file.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype=dtype).reshape(count)
