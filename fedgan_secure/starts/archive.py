"""Read and write the arrays of a start file (npz) without trusting it: no pickle, nothing larger than was expected.

`numpy.load` allocates what a header asks for. Here the caller says which arrays and shapes it expects, and an entry
is read only as far as such an array is long, whatever the file's headers promise.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

MOST_FILE_BYTES = 64 * 2**20
MOST_HEADER_BYTES = 4096
MOST_DIRECTORY_BYTES = 65_536
_SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype><f2|<f4|<f8|<i8|\|u1|<U[1-9][0-9]{0,6})', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:[0-9]{1,9}, ?)*(?:[0-9]{1,9})?)\), \} *\n"
)
_END = struct.Struct(
    "<4s4H2LH"
)  # of a zip archive: signature, disks, entries, size and place of the directory, comment
_READ_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, struct.error, RuntimeError)


class ArchiveError(ValueError):
    """A start file is not what was expected; the message says what was found and expected."""


class Archive:
    """Give the arrays of one npz file, each of a dtype and shape that the caller expects."""

    def __init__(self, data: bytes) -> None:
        """Open the bytes of an npz file.

        Raises:
            ArchiveError: when it is no zip archive of uniquely named, plainly compressed ``.npy`` entries.
        """
        _check_end(data)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _READ_ERRORS:
            raise ArchiveError("it is not an npz archive") from None
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            name = entry.filename.removesuffix(_SUFFIX)
            if not entry.filename.endswith(_SUFFIX) or name in self._entries:
                raise ArchiveError(f"its entry {entry.filename[:80]!r} is not an array or is there twice")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
                raise ArchiveError(f"its entry {entry.filename[:80]!r} is encrypted or compressed in an unusual way")
            self._entries[name] = entry

    @property
    def names(self) -> frozenset[str]:
        """Names of the arrays."""
        return frozenset(self._entries)

    def text(self, name: str, most: int) -> str:
        """Return a string array of no dimensions, at most `most` characters long.

        Raises:
            ArchiveError: when it is missing, longer, or no string.
        """
        dtype, shape, stream = self._open(name)
        with stream:
            if dtype.kind != "U" or shape != () or not 0 < dtype.itemsize <= 4 * most:
                raise ArchiveError(f"{name} is {dtype} {shape}, expected one string of at most {most} characters")
            return str(self._data(name, stream, dtype, shape)[()])

    def array(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...] = ("<f2", "<f4")) -> NDArray[np.generic]:
        """Return the array `name`, which must have this shape and one of these dtypes.

        Raises:
            ArchiveError: when it is missing or different.
        """
        dtype, there, stream = self._open(name)
        with stream:
            if there != shape or dtype.str not in dtypes:
                raise ArchiveError(f"{name} is {dtype.str}{list(there)}, expected {' or '.join(dtypes)}{list(shape)}")
            return self._data(name, stream, dtype, shape)

    def rows(self, name: str, width: int, most: int) -> NDArray[np.uint8]:
        """Return uint8[n, width] with n from 0 to `most`.

        Raises:
            ArchiveError: when it is missing or different.
        """
        dtype, shape, stream = self._open(name)
        with stream:
            if dtype.str != "|u1" or len(shape) != 2 or shape[1] != width or not 0 <= shape[0] <= most:
                raise ArchiveError(f"{name} is {dtype.str}{list(shape)}, expected |u1[n, {width}] with n up to {most}")
            return self._data(name, stream, dtype, shape).astype(np.uint8)

    def _open(self, name: str) -> tuple[np.dtype, tuple[int, ...], IO[bytes]]:
        """Read the header of an entry and no more: dtype, shape and the stream behind the header."""
        entry = self._entries.get(name)
        if entry is None:
            raise ArchiveError(f"it has no array {name}")
        try:
            stream = self._zip.open(entry)
            prefix = stream.read(len(_MAGIC) + 2)
            length = int.from_bytes(prefix[len(_MAGIC) :], "little")
            header = stream.read(min(length, MOST_HEADER_BYTES))
        except _READ_ERRORS:
            raise ArchiveError(f"its array {name} cannot be read") from None
        match = _HEADER.fullmatch(header)
        if not prefix.startswith(_MAGIC) or len(header) != length or match is None:
            raise ArchiveError(f"{name} is not a plain array of numbers or text in C order (npy format 1.0)")
        shape = tuple(int(part) for part in match["shape"].replace(b" ", b"").split(b",") if part)
        return np.dtype(match["dtype"].decode()), shape, stream

    def _data(self, name: str, stream: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> NDArray[np.generic]:
        size = math.prod(shape) * dtype.itemsize
        try:
            data = stream.read(size + 1)
        except _READ_ERRORS:
            raise ArchiveError(f"its array {name} is damaged") from None
        if len(data) != size:
            raise ArchiveError(f"its array {name} has not the {size} bytes that its shape needs")
        return np.frombuffer(data, dtype).reshape(shape)


def _check_end(data: bytes) -> None:
    """Refuse a zip archive with a long directory: `zipfile` would make an object of every entry before any is seen."""
    if len(data) < _END.size:
        raise ArchiveError("it is not an npz archive")
    signature, *_, directory_bytes, _, comment_bytes = _END.unpack(data[-_END.size :])
    if signature != b"PK\x05\x06" or comment_bytes:
        raise ArchiveError("it is not an npz archive, or something follows the archive")
    if directory_bytes > MOST_DIRECTORY_BYTES:
        raise ArchiveError(f"its directory has {directory_bytes} bytes, expected at most {MOST_DIRECTORY_BYTES}")
    if data[-_END.size - 20 : -_END.size].startswith(b"PK\x06\x07"):
        raise ArchiveError("it is in the zip64 format, which no start needs")


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ArchiveError: when it cannot be read or is larger than 64 MiB.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ArchiveError(f"it cannot be read ({error.strerror})") from None
    if len(data) > MOST_FILE_BYTES:
        raise ArchiveError(f"it is larger than {MOST_FILE_BYTES // 2**20} MiB")
    return data


def pack(arrays: Mapping[str, NDArray[np.generic]], *, compress: bool = True) -> bytes:
    """Return the bytes of an npz file with these arrays; equal arrays give equal bytes (names sorted, no clock)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compresslevel=9) as archive:
        for name in sorted(arrays):
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asarray(arrays[name], order="C"), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(name + _SUFFIX, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
            archive.writestr(info, entry.getvalue())
    return buffer.getvalue()
