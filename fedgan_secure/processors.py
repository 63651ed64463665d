"""How many processors this process may use."""

from __future__ import annotations

import os


def processors() -> int:
    """At least 1; those that an affinity mask leaves to this process, where the system knows masks."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
