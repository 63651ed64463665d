"""What a run's public folder holds, remembered from one manifest to the next, so that each file is read once.

Between two rounds a few files are new and all the others are as they were. A file is read again when its size, its
inode or one of its times says that it was written since; what escapes that makes a manifest that does not fit its
folder, which every verification sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fedgan_audits.bundle.reading import Bundle

_Found = TypeVar("_Found")
_Stamp = tuple[int, int, int, int]


def _stamp(place: Path) -> _Stamp:
    """Size, inode, and the times of the last change of content and of status, in nanoseconds."""
    status = place.lstat()
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@dataclass
class Inventory:
    """Facts of the files below one folder, each with the stamp of the file that it was read from."""

    _kept: dict[tuple[str, str], tuple[_Stamp, object]] = field(default_factory=dict)

    def remembered(self, bundle: Bundle, path: str, what: str, read: Callable[[], _Found]) -> _Found:
        """The fact `what` of the file at `path` as `read` gives it, or gave it while the file was as it is now.

        The stamp is taken before reading: a file that is written meanwhile is read again the next time.
        """
        try:
            stamp = _stamp(bundle.root / path)
        except OSError:
            return read()
        kept = self._kept.get((path, what))
        if kept is not None and kept[0] == stamp:
            return kept[1]  # type: ignore[return-value]
        found = read()
        self._kept[path, what] = (stamp, found)
        return found
