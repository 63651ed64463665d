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
    root = _root(path)
    entries: list[Entry] = []
    refused: list[tuple[str, str]] = []
    pending, hidden = [""], 0
    while pending:
        prefix = pending.pop()
        children, why = _children(root / prefix)
        if why and not prefix and "permission" in why:
            raise InputError(
                f"there is no permission to list {path}", hint="ask for read and execute permission on the folder"
            )
        if why:
            refused.append((prefix or ".", why))
        for child in children:
            if child.name.startswith(".") or child.name in _LEFT_ALONE:
                hidden += 1
                continue
            relative = f"{prefix}/{child.name}" if prefix else child.name
            if why := _no_entry(child, root):
                refused.append((relative, why))
            elif child.is_dir(follow_symlinks=False):
                pending.append(relative)
            else:
                status = child.stat()
                entries.append(Entry(relative, status.st_size, status.st_mtime_ns))
        if len(entries) > MAXIMUM_FILES:
            raise InputError(f"{path} holds more than {MAXIMUM_FILES} files", hint="give a smaller folder")
    if not entries and not refused:
        raise InputError(f"{path} is empty, expected images", hint="check the path; `data check` shows what is found")
    entries.sort(key=lambda entry: entry.path)
    return Listing(root, tuple(entries), tuple(sorted(refused)), hidden)


def _root(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path} does not exist", hint="give the folder (or the .npz file) that holds the images")
    if not path.is_dir():
        raise InputError(
            f"{path} is a file, expected a folder of images or an .npz file", hint="give the folder that holds the file"
        )
    return path.resolve()


def _children(folder: Path) -> tuple[list[os.DirEntry[str]], str]:
    """What lies in a folder, and why it cannot be listed ("": it can)."""
    try:
        return list(os.scandir(folder)), ""
    except PermissionError:
        return [], "no permission to list this folder"
    except OSError as error:
        return [], f"cannot be listed ({error.strerror})"


def _no_entry(child: os.DirEntry[str], root: Path) -> str:
    """Why something in a folder is neither read nor looked into ("": it is)."""
    if child.is_symlink() and not _inside(Path(child.path), root):
        return "a symbolic link that leads out of the folder or nowhere"
    if child.is_symlink() and child.is_dir():
        return "a symbolic link to a folder (its files are read where they lie)"
    return "" if child.is_dir(follow_symlinks=False) or child.is_file() else "neither a file nor a folder"


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
