"""Reading a bundle that nobody vouches for yet.

Symbolic links, devices, odd names and over-large files are refused, and every refusal is an
:class:`UnreadableFileError` that names the file; nothing outside the folder is ever opened.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from fedgan_audits.errors import AuditError
from fedgan_audits.facts import is_safe_path

MAX_FILES = 1_000_000
MAX_DEPTH = 6
MAX_READ = 64 * 2**20
_CHUNK = 2**20


class UnreadableFileError(AuditError):
    """A file of a bundle that cannot be taken as it is; `file` is its path below `public/`."""

    exit_code = 5
    default_hint = "Take a fresh copy of the run's public folder from whoever published it."

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


ODD_NAME = "a file name that does not belong to a run"
"""What is wrong with a plain file whose name nobody would publish."""
_LEFT_BY_FILE_MANAGERS = re.compile(r"(?i:\.DS_Store|Thumbs\.db|desktop\.ini|\._[^/]+)\Z")


def is_stray(path: str, problem: str | None = None) -> bool:
    """Tell whether a plain file is one that file managers leave in every folder that somebody looks into.

    Args:
        path: relative to the public folder.
        problem: what :meth:`Bundle.walk` says is wrong with it: a link or a folder of such a name is no stray.
    """
    return problem in (None, ODD_NAME) and _LEFT_BY_FILE_MANAGERS.match(path.rpartition("/")[2]) is not None


def printable(name: str) -> str:
    """A file name as it can be shown on a terminal, shortened."""
    return name.encode("unicode_escape", "surrogateescape").decode("ascii", "replace")[:160]


class Bundle:
    """The files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def walk(self) -> Iterator[tuple[str, str | None]]:
        """Every file below the root: its relative path, and what is wrong with it (None when it may be opened)."""
        seen = 0
        pending: list[tuple[str, int]] = [("", 1)]
        while pending:
            folder, depth = pending.pop()
            try:
                entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
            except OSError as error:
                yield printable(folder), f"the folder cannot be read ({error.strerror})"
                continue
            for entry in entries:
                seen += 1
                if seen > MAX_FILES:
                    yield printable(folder), f"more than {MAX_FILES} files"
                    return
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink():
                    yield printable(path), "a symbolic link; expected a plain file"
                elif entry.is_dir(follow_symlinks=False):
                    if depth >= MAX_DEPTH or not is_safe_path(path):
                        yield printable(path), "a folder that does not belong to a run"
                    else:
                        pending.append((path, depth + 1))
                elif not entry.is_file(follow_symlinks=False):
                    yield printable(path), "not a plain file"
                elif not is_safe_path(path):
                    yield printable(path), ODD_NAME
                else:
                    yield path, None

    def _open(self, path: str) -> int:
        if not is_safe_path(path):
            raise UnreadableFileError(printable(path), "not a plain path below the public folder")
        place = self.root
        for part in path.split("/")[:-1]:
            place = place / part
            if place.is_symlink():
                raise UnreadableFileError(path, "a folder on its way is a symbolic link")
        try:
            handle = os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UnreadableFileError(path, "missing") from None
        except OSError as error:
            raise UnreadableFileError(path, f"cannot be opened ({error.strerror})") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise UnreadableFileError(path, "not a plain file")
        return handle

    def read(self, path: str, limit: int = MAX_READ) -> bytes:
        """The bytes of a file of at most `limit` bytes."""
        with os.fdopen(self._open(path), "rb") as file:
            try:
                data = file.read(limit + 1)
            except OSError as error:
                raise UnreadableFileError(path, f"cannot be read ({error.strerror})") from None
        if len(data) > limit:
            raise UnreadableFileError(path, f"larger than {limit} bytes")
        return data

    def digest(self, path: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 of a file of any size."""
        size, state = 0, hashlib.sha256()
        with os.fdopen(self._open(path), "rb") as file:
            try:
                while chunk := file.read(_CHUNK):
                    size += len(chunk)
                    state.update(chunk)
            except OSError as error:
                raise UnreadableFileError(path, f"cannot be read ({error.strerror})") from None
        return size, state.hexdigest()
