"""Files that are whole or absent: atomic writes, owner-only folders, and one process at a time.

Every write goes to a temporary neighbour, is fsynced and renamed, and the folder is fsynced: after a crash or a full
disk a reader finds the old bytes or the new ones, never a part of either.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_secure.errors import InputError


def private_folder(path: Path) -> Path:
    """Make `path` with mode 0700 (or tighten it) and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


_NO_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    }
)


@contextmanager
def explain_disk(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into an error that says what to do.

    Raises:
        InputError: no space, a quota, a read-only place, missing rights, or a place that is none (a file for a folder).
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"the disk is full: {path} could not be written",
                hint="free some space, then `fedgan-secure run --resume RUN`; nothing half-written was kept",
            ) from error
        if error.errno in _NO_PLACE:
            raise InputError(
                f"{path} cannot be written: {os.strerror(error.errno)}",
                hint="choose another place to write to (--output, --site-dir or --html)",
            ) from error
        raise


def write_bytes(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write `data` to `path` atomically and durably (mode 0600 where `private`)."""
    temporary = path.with_name(f".{path.name}.tmp")
    with explain_disk(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode(), private=private)


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file of ours.

    Raises:
        InputError: absent or not JSON; `what` names it for a person.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"no {what}: {path} does not exist", hint="is this a folder that `run` made?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{what} {path} cannot be read: {error}", hint="restore it from a backup") from error


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy, atomically."""
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue(), private=True)


def read_array(path: Path) -> np.ndarray:
    """Read one .npy array (no pickles).

    Raises:
        InputError: absent or damaged.
    """
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {path} cannot be read: {error}", hint="restore it from a backup") from error
    return array


def sync_folder(path: Path) -> None:
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold an advisory lock on `path` while the body runs, after waiting for whoever holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def sole_owner(path: Path, what: str) -> Iterator[None]:
    """Hold an advisory lock on `path` while the body runs.

    Raises:
        InputError: another process holds it, or the file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(
            f"{what} cannot be locked: {path}: {error.strerror}", hint="check the folder's owner and permissions"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{what} is in use by another process", hint="wait until it ends, or stop it, and try again"
            ) from error
        yield
    finally:
        os.close(descriptor)
