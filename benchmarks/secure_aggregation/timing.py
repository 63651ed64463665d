"""Seconds of alternated pieces of work, so that a busy machine disturbs all sides of a ratio alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median


def cpu_seconds(work: Callable[[], object]) -> float:
    """User and system CPU seconds of this process, all its threads included, while `work` runs."""
    start = time.process_time()
    work()
    return time.process_time() - start


def wall_seconds(work: Callable[[], object]) -> float:
    """How long one waits for `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(works: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run every work `repeats` times, one after the other in turn; each returns its own seconds.

    The order is turned round on every other repetition, so that no side always runs behind the same one.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(repeats):
        names = list(works)
        for name in reversed(names) if repetition % 2 else names:
            found[name].append(works[name]())
    return found


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in samples.items()}
