"""List a folder's files without ever leaving it: symbolic links that lead out are refused, hidden files left alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fedgan_secure.errors import InputError

MAXIMUM_FILES = 5_000_000
_LEFT_ALONE = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Entry:
    """One file: its path relative to the folder (with forward slashes), size in bytes, time of change in ns."""

    path: str
    size: int
    changed: int


@dataclass(frozen=True)
class Listing:
    """Every file of a folder in the order of its path, what was refused, with the reason, and how many files and
    folders are hidden or the system's own."""

    root: Path
    entries: tuple[Entry, ...]
    refused: tuple[tuple[str, str], ...]
    hidden: int = 0


def list_folder(path: Path) -> Listing:
    """List `path` recursively. Raises InputError when it is missing, not a folder, unreadable or empty."""
    if not path.exists():
        raise InputError(f"{path} does not exist", hint="give the folder (or the .npz file) that holds the images")
    if not path.is_dir():
        raise InputError(
            f"{path} is a file, expected a folder of images or an .npz file", hint="give the folder that holds the file"
        )
    root = path.resolve()
    entries: list[Entry] = []
    refused: list[tuple[str, str]] = []
    pending, hidden = [""], 0
    while pending:
        prefix = pending.pop()
        try:
            children = list(os.scandir(root / prefix))
        except PermissionError:
            if not prefix:
                raise InputError(
                    f"there is no permission to list {path}", hint="ask for read and execute permission on the folder"
                ) from None
            refused.append((prefix, "no permission to list this folder"))
            continue
        except OSError as error:
            refused.append((prefix or ".", f"cannot be listed ({error.strerror})"))
            continue
        for child in children:
            if child.name.startswith(".") or child.name in _LEFT_ALONE:
                hidden += 1
                continue
            relative = f"{prefix}/{child.name}" if prefix else child.name
            if child.is_symlink() and not _inside(Path(child.path), root):
                refused.append((relative, "a symbolic link that leads out of the folder or nowhere"))
            elif child.is_dir(follow_symlinks=False):
                pending.append(relative)
            elif child.is_symlink() and child.is_dir():
                refused.append((relative, "a symbolic link to a folder (its files are read where they lie)"))
            elif child.is_file():
                status = child.stat()
                entries.append(Entry(relative, status.st_size, status.st_mtime_ns))
                if len(entries) > MAXIMUM_FILES:
                    raise InputError(f"{path} holds more than {MAXIMUM_FILES} files", hint="give a smaller folder")
            else:
                refused.append((relative, "neither a file nor a folder"))
    if not entries and not refused:
        raise InputError(f"{path} is empty, expected images", hint="check the path; `data check` shows what is found")
    entries.sort(key=lambda entry: entry.path)
    return Listing(root, tuple(entries), tuple(sorted(refused)), hidden)


def readable(name: str) -> str:
    """Return the name of a file or folder as text that can be written: bytes that are not UTF-8 are read as
    Windows-1252, which nearly all such names are, and as Latin-1 where even that does not fit."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        data = os.fsencode(name)
        try:
            return data.decode("cp1252")
        except UnicodeDecodeError:
            return data.decode("latin-1")
    return name


def _inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False
