"""The largest resident set of this process since a moment of one's choosing."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(field: str) -> int | None:
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def restart_peak() -> int:
    """Forget earlier peaks and return what is resident now, in bytes.

    On Linux through /proc/self/clear_refs: a fresh process inherits ru_maxrss from the one that started it, so that
    figure alone would hide a small peak behind a large parent. Elsewhere the peak so far stays, and is returned.
    """
    now = _status("VmRSS")
    if now is None:
        return peak_bytes()
    _CLEAR.write_text("5", encoding="utf-8")
    return now


def peak_bytes() -> int:
    """The largest resident set since `restart_peak`, in bytes."""
    high = _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if high is None else high
