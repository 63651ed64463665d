"""Take the weights alone out of a Keras file that may be hostile, within bounds that are known before it is opened.

A Keras file can name any layer and any function, ask for any amount of memory and be compressed without end. So the
caller builds the network itself, from a policy, and nothing of the file but numbers is used: exactly the weights of
that network, stored plainly, each of the shape that the network has.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fedgan_secure.models import ModelError
from fedgan_secure.networks.keras_file import CONFIG, ENTRIES, METADATA, WEIGHTS, KerasForm

MOST_FILE_BYTES = 512 * 2**20
MOST_METADATA = 64 * 2**10
MOST_CONFIG = 16 * 2**20
MOST_DATASETS = 4096
MOST_GROUPS = 16_384
_END = struct.Struct("<4s4H2LH")
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, KeyError, RuntimeError,
    NotImplementedError, TypeError, RecursionError,
)  # fmt: skip
HINT = "use the file that the run wrote; `fedgan-secure audit verify RUN` says whether it was changed"


def read_file(path: Path, most: int = MOST_FILE_BYTES) -> bytes:
    """Return the bytes of a model file.

    Raises:
        ModelError: it is missing, cannot be read, or is larger than `most` bytes.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path} cannot be read (it is no file)", hint=HINT)
        with path.open("rb") as file:
            data = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)
    except FileNotFoundError:
        raise ModelError(f"no generator at {path}", hint="name the folder of a finished run") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})", hint=HINT) from None
    if len(data) > most:
        raise ModelError(f"{path} is larger than {most} bytes, expected a model file of less", hint=HINT)
    return data


def entries_of(data: bytes) -> dict[str, bytes]:
    """Return what a Keras file holds: exactly its three entries, stored without compression.

    Raises:
        ModelError: anything else; nothing is inflated, and no more is read than the file is long.
    """
    _check_end(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            listed = archive.infolist()
            names = [entry.filename for entry in listed]
            if sorted(names) != sorted(ENTRIES):
                found = ", ".join(repr(name[:40]) for name in names[:5])
                raise ModelError(f"the model file holds {found}, expected {', '.join(ENTRIES)}", hint=HINT)
            for entry in listed:
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise ModelError(
                        f"{entry.filename} in the model file is compressed or encrypted, expected it stored", hint=HINT
                    )
                most = {METADATA: MOST_METADATA, CONFIG: MOST_CONFIG}.get(entry.filename, len(data))
                if entry.file_size > most:
                    raise ModelError(
                        f"{entry.filename} in the model file has {entry.file_size} bytes, expected at most {most}",
                        hint=HINT,
                    )
            return {name: archive.read(name) for name in names}
    except _UNREADABLE as error:
        raise ModelError(f"the model file cannot be read as a Keras file ({type(error).__name__})", hint=HINT) from None


def weights_from(data: bytes, form: KerasForm) -> list[np.ndarray]:
    """Return the weights of a network from a file, float32 arrays in the order of `form`.

    A file that this software wrote is not parsed: its weights stand where `form` says. Of any other, the HDF5 part is
    looked through for data sets of the network's names and shapes, and for nothing else.

    Args:
        data: the bytes of the file.
        form: of the network, built by the caller.

    Raises:
        ModelError: the file is not one of this network, or a weight is NaN or infinite.
    """
    weights = form.weights_of(data)
    if weights is None or form.file(weights) != data:
        weights = _searched(entries_of(data)[WEIGHTS], form)
    for gap, values in zip(form.gaps, weights, strict=True):
        if not np.isfinite(values).all():
            raise ModelError(f"the weight {gap.path} of the model file holds NaN or infinity", hint=HINT)
    return weights


def shapes_in(data: bytes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the data sets in a file's weights, by path; nothing is allocated for them.

    Raises:
        ModelError: the file cannot be read as a Keras file.
    """
    return _opened(entries_of(data)[WEIGHTS], lambda found: {path: item.shape for path, item in found.items()})


def _searched(weights: bytes, form: KerasForm) -> list[np.ndarray]:
    """The weights of a network from an HDF5 file of another Keras version."""

    def read(found: Mapping[str, Any]) -> list[np.ndarray]:
        missing = [gap.path for gap in form.gaps if gap.path not in found]
        extra = sorted(set(found) - {gap.path for gap in form.gaps})
        if missing or extra:
            raise ModelError(
                f"the model file holds {len(found)} weights, {len(extra)} of them not of this network, and lacks "
                f"{len(missing)} of the network's {len(form.gaps)}",
                hint=HINT,
            )
        for gap in form.gaps:
            _check_dataset(found[gap.path], gap.path, gap.shape)
        return [np.asarray(found[gap.path][()], np.float32) for gap in form.gaps]

    return _opened(weights, read)


def _check_dataset(item: Any, path: str, shape: tuple[int, ...]) -> None:
    """Refuse what is not a plain float32 array of this shape that the file really holds."""
    if tuple(item.shape) != shape or item.dtype != np.dtype("<f4"):
        raise ModelError(
            f"the weight {path} of the model file is {item.dtype}{list(item.shape)}, expected float32{list(shape)}",
            hint=HINT,
        )
    held = item.id.get_storage_size()
    plain = item.chunks is None and item.external is None and not item.is_virtual
    if not plain or held != 4 * int(np.prod(shape, dtype=np.int64)):
        raise ModelError(f"the weight {path} of the model file is not stored as a plain array", hint=HINT)


def _opened(weights: bytes, use: Any) -> Any:
    """What `use` makes of the data sets of an HDF5 file, path -> data set; links out of the file are not followed."""
    try:
        with h5py.File(io.BytesIO(weights), "r") as file:
            found: dict[str, Any] = {}
            groups: list[tuple[str, Any]] = [("", file)]
            seen = 0
            while groups:
                path, group = groups.pop()
                for name in group:
                    link = group.get(name, getlink=True)
                    item = group.get(name) if isinstance(link, h5py.HardLink) else None
                    place = f"{path}/{name}" if path else str(name)
                    seen += 1
                    if seen > MOST_GROUPS or len(found) > MOST_DATASETS or len(place) > 1024:
                        raise ModelError("the model file holds too many weights for any network of ours", hint=HINT)
                    if isinstance(item, h5py.Dataset):
                        found[place] = item
                    elif isinstance(item, h5py.Group):
                        groups.append((place, item))
                    else:
                        raise ModelError(f"{place[:80]!r} in the model file is no weight and no group", hint=HINT)
            return use(found)
    except _UNREADABLE as error:
        raise ModelError(f"the model file's weights cannot be read ({type(error).__name__})", hint=HINT) from None


def _check_end(data: bytes) -> None:
    """Refuse an archive whose directory is long before `zipfile` makes an object of each of its lines."""
    end = data[-_END.size :]
    if len(end) < _END.size or not end.startswith(b"PK\x05\x06"):
        raise ModelError("the model file cannot be read as a Keras file (no end of an archive)", hint=HINT)
    _, *_, count, directory, _, comment = _END.unpack(end)
    if count != len(ENTRIES) or directory > 4096 or comment or data[-_END.size - 20 :].startswith(b"PK\x06\x07"):
        raise ModelError(
            f"the model file's directory has {count} entries in {directory} bytes, expected {len(ENTRIES)}", hint=HINT
        )
