"""Where the marks of an x-y chart go: several series, each a line or points with intervals, drawn by page.html.j2.

Both axes start at zero or below the smallest value and end above the largest. Whoever cannot see the chart reads the
same numbers in the table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 26, 26, 56
MARKS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Point:
    """A value with its interval, where it has one, and a word for people."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one kind; `line` joins them in the order of x."""

    name: str
    points: tuple[Point, ...]
    line: bool = True


@dataclass(frozen=True)
class Place:
    """A point's coordinates in the drawing."""

    x: float
    y: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Drawn:
    """A series with its places and the number of its look (0 to 3)."""

    name: str
    look: int
    line: bool
    places: tuple[Place, ...]

    @property
    def mark(self) -> str:
        """The shape of its marks."""
        return MARKS[self.look]

    @property
    def polyline(self) -> str:
        """The points of its line."""
        return " ".join(f"{place.x:g},{place.y:g}" for place in self.places)


@dataclass(frozen=True)
class Tick:
    """A labelled line of the grid."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws."""

    title: str
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[Drawn, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """Round values (steps of 1, 2 or 5 times a power of ten) that enclose low to high, `count` + 2 of them at most."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= span / count * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(step * index for index in range(first, max(last, first + 1) + 1))


def chart(title: str, x_name: str, y_name: str, series: Sequence[Series], *, y_from_zero: bool = True) -> Chart | None:
    """The drawing of up to four series; None where there is nothing finite to draw."""
    drawn = [one for one in series if one.points]
    points = [point for one in drawn for point in one.points]
    if not points or not all(math.isfinite(value) for point in points for value in (point.x, point.y)):
        return None
    heights = [value for p in points for value in (p.y, p.low, p.high) if value is not None]
    at_x = ticks(0.0, max(point.x for point in points) or 1.0, 6)
    lowest = min(0.0, *heights) if y_from_zero else min(heights)
    at_y = ticks(lowest, max(heights), 5)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(value: float) -> float:
        return round(LEFT + (right - LEFT) * (value - at_x[0]) / (at_x[-1] - at_x[0]), 2)

    def y(value: float) -> float:
        return round(bottom - (bottom - TOP) * (value - at_y[0]) / (at_y[-1] - at_y[0]), 2)

    def place(point: Point) -> Place:
        ends = [None if end is None else y(end) for end in (point.low, point.high)]
        return Place(x(point.x), y(point.y), ends[0], ends[1], point.text)

    return Chart(
        title=title,
        x_name=x_name,
        y_name=y_name,
        x_ticks=tuple(Tick(x(value), f"{value:.6g}") for value in at_x),
        y_ticks=tuple(Tick(y(value), f"{value:.6g}") for value in at_y),
        series=tuple(
            Drawn(one.name, index % 4, one.line, tuple(place(p) for p in sorted(one.points, key=lambda p: p.x)))
            for index, one in enumerate(drawn[:4])
        ),
    )
