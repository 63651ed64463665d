"""Images decoded once, kept in a memory-mapped file that only the hospital's own user can read.

An entry's name is a digest of what it was made from: the files (path, size, time of change), the label tables, the
settings and the pseudonym secret. It is written beside its final place and renamed, so it is whole or absent; an entry
that does not check out is built again. When the files or the excluded patients change, older entries of the same folder
are removed, so that a withdrawn patient's pixels do not stay behind. A cache holds pixels: protect it like the images.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedgan_secure.errors import InputError

HEADER_BYTES = 128
FULL_CHECK_BYTES = 1024**3
_READ = 8 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """A cached data set: uint8[N,H,W,C] memory-mapped read-only, int32[N] labels and patients, and what was found."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    patient: NDArray[np.int32]
    facts: dict[str, Any]


class ImageWriter:
    """Appends uint8[n,H,W,C] blocks to an .npy file whose length is known only at the end."""

    def __init__(self, file: IO[bytes], shape: tuple[int, int, int]) -> None:
        self._file = file
        self._shape = shape
        self._digest = hashlib.sha256()
        self.count = 0
        file.write(bytes(HEADER_BYTES))

    def append(self, images: NDArray[np.uint8]) -> None:
        data = np.ascontiguousarray(images).data.cast("B") if len(images) else b""
        self._file.write(data)
        self._digest.update(data)
        self.count += len(images)

    def finish(self) -> str:
        """Write the header; the SHA-256 of the pixels in hexadecimal."""
        header = io.BytesIO()
        npy.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self._shape)}
        )
        if len(header.getvalue()) != HEADER_BYTES:
            raise ValueError("the array header does not have its usual length")
        self._file.flush()
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.flush()
        return self._digest.hexdigest()


class Building:
    """An entry, or a temporary file, being written. Use as a context manager; unfinished work is removed."""

    def __init__(self, directory: Path | None, name: str, shape: tuple[int, int, int]) -> None:
        self._directory = directory
        self._name = name
        self._shape = shape
        self._folder: Path | None = None

    def __enter__(self) -> Building:
        try:
            if self._directory is None:
                self._file: IO[bytes] = tempfile.TemporaryFile()
            else:
                make_private(self._directory)
                _remove_leftovers(self._directory)
                prefix = f"building-{os.getpid()}-"
                self._folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._directory))
                self._file = (self._folder / "images.npy").open("w+b")
            self.writer = ImageWriter(self._file, self._shape)
        except OSError as error:
            raise _no_room(self._directory, error) from None
        return self

    def append(self, images: NDArray[np.uint8]) -> None:
        try:
            self.writer.append(images)
        except OSError as error:
            raise _no_room(self._directory, error) from None

    def finish(self, labels: NDArray[np.int32], patient: NDArray[np.int32], facts: dict[str, Any]) -> Entry:
        """Complete the entry and open it."""
        try:
            digest = self.writer.finish()
            if self._directory is None or self._folder is None:
                images = np.memmap(
                    self._file, dtype=np.uint8, mode="r", offset=HEADER_BYTES, shape=(self.writer.count, *self._shape)
                )
                return Entry(images, labels, patient, facts)
            os.fsync(self._file.fileno())
            self._file.close()
            np.savez(self._folder / "index.npz", labels=labels, patient=patient)
            index = hashlib.sha256((self._folder / "index.npz").read_bytes()).hexdigest()
            checked = _facts_digest(facts)
            described = {"images_sha256": digest, "index_sha256": index, "facts_sha256": checked, "facts": facts}
            (self._folder / "entry.json").write_text(json.dumps(described), encoding="utf-8")
            final = self._directory / self._name
            if final.exists():
                shutil.rmtree(final)
            self._folder.rename(final)
            self._folder = None
        except OSError as error:
            raise _no_room(self._directory, error) from None
        entry = read_entry(self._directory, self._name)
        if entry is None:
            raise InputError(
                f"the cache entry just written in {self._directory} does not read back", hint="check that disk"
            )
        return entry

    def __exit__(self, *_: object) -> None:
        if self._directory is not None:
            self._file.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def make_private(directory: Path) -> None:
    """Create the directory for its owner alone (0700), and close it to others when it exists."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.chmod(0o700)


def read_entry(directory: Path, name: str) -> Entry | None:
    """Open an entry and check it: digests (of the pixels up to 1 GiB, beyond that the size). None when it is absent or
    damaged."""
    folder = directory / name
    try:
        described = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        index = (folder / "index.npz").read_bytes()
        if hashlib.sha256(index).hexdigest() != described["index_sha256"]:
            return None
        if _facts_digest(described["facts"]) != described["facts_sha256"]:
            return None
        with np.load(io.BytesIO(index), allow_pickle=False) as arrays:
            labels, patient = arrays["labels"].astype(np.int32), arrays["patient"].astype(np.int32)
        path = folder / "images.npy"
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
            return None
        if images.nbytes <= FULL_CHECK_BYTES and _digest(path) != described["images_sha256"]:
            return None
        return Entry(images, labels, patient, dict(described["facts"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def remove_outdated(directory: Path, name: str) -> None:
    """Remove entries of the same folder (same first part of the name) made from other files or other exclusions
    (another second part)."""
    source, content, _ = name.split("-")
    if not directory.is_dir():
        return
    for folder in directory.glob(f"{source}-*-*"):
        if folder.name.split("-")[1] != content:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(directory: Path) -> None:
    for folder in directory.glob("building-*-*"):
        number = folder.name.split("-")[1]
        if number.isdigit() and not _alive(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True


def _facts_digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def _no_room(directory: Path | None, error: OSError) -> InputError:
    where = directory if directory is not None else Path(tempfile.gettempdir())
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"there is no space left in {where}", hint="free some space, or use another disk")
    return InputError(f"{where} cannot be written ({error.strerror})", hint="check its permissions")
