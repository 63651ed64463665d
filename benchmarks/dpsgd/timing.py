"""Interleaved timing: every round runs each side once, so that what else the machine does hits all sides alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Times:
    """Seconds of every round of one side, by the clock and by the processor (all threads)."""

    wall: tuple[float, ...]
    processor: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median wall seconds."""
        return statistics.median(self.wall)

    @property
    def processor_median(self) -> float:
        """Median processor seconds."""
        return statistics.median(self.processor)


def interleaved(sides: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 2) -> dict[str, Times]:
    """Run all sides in turn, ``rounds`` times after ``warm`` uncounted rounds; the order turns round every time."""
    wall: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(warm):
        for side in sides.values():
            side()
    for index in range(rounds):
        for name in list(sides) if index % 2 == 0 else list(sides)[::-1]:
            started, used = time.perf_counter(), time.process_time()
            sides[name]()
            wall[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - used)
    return {name: Times(tuple(wall[name]), tuple(processor[name])) for name in sides}


def ratio(times: Mapping[str, Times], above: str, below: str) -> dict[str, float]:
    """Ratio of two sides: of the medians by the clock, by the processor, and the median ratio within a round."""
    pairs = [left / right for left, right in zip(times[above].wall, times[below].wall, strict=True)]
    return {
        "ratio": times[above].median / times[below].median,
        "processor_ratio": times[above].processor_median / times[below].processor_median,
        "median_of_rounds": statistics.median(pairs),
    }
