"""Where the marks of a chart go: coordinates for the SVG of epsilon over rounds, drawn by the templates.

The y axis starts at zero and ends above the largest figure. Whoever cannot see the chart reads the same numbers in
the table beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedgan_audits.facts import Trajectory

WIDTH, HEIGHT = 600, 310
LEFT, RIGHT, TOP, BOTTOM = 42, 22, 22, 44


@dataclass(frozen=True)
class Mark:
    """A point with its place and its figure."""

    x: float
    y: float
    round: int
    text: str


@dataclass(frozen=True)
class Tick:
    """A labelled line of the grid."""

    at: float
    text: str


@dataclass(frozen=True)
class Limit:
    """A horizontal line that must not be crossed."""

    y: float
    label_y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws."""

    width: int
    height: int
    left: int
    right: float
    top: int
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    planned: tuple[Mark, ...]
    spent: tuple[Mark, ...]
    limits: tuple[Limit, ...]
    planned_label_y: float
    spent_label_y: float
    spent_label_at_end: bool

    def line(self, marks: tuple[Mark, ...]) -> str:
        """The points of a polyline."""
        return " ".join(f"{mark.x:g},{mark.y:g}" for mark in marks)


def _step(largest: float, count: int) -> float:
    """A round step (1, 2 or 5 times a power of ten) that gives at most `count` steps."""
    rough = largest / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _beside(y: float, taken: list[float]) -> float:
    """A height for a label above the line at `y`, or below it where a label is there already."""
    for at in (y - 7, y + 17, y - 24, y + 34):
        if all(abs(at - other) >= 16 for other in taken):
            return at
    return y - 7


def _clear(first: float, second: float, lines: list[float]) -> float:
    """Of two heights for a label the first, unless its letters touch a line and those of the second do so less."""

    def distance(at: float) -> float:
        return min((abs(at - 4 - line) for line in lines), default=math.inf)

    return second if distance(first) < 11 and distance(second) > distance(first) else first


def epsilon_chart(trajectory: Trajectory) -> Chart | None:
    """The chart of one trajectory; None when a figure is unbounded (there is nothing to draw)."""
    texts = [point.planned for point in trajectory.points] + [point.spent for point in trajectory.points if point.spent]
    if "unbounded" in texts or len(trajectory.points) < 2:
        return None
    limits = [(label, text) for label, text in (("target", trajectory.target), ("cap", trajectory.cap)) if text]
    highest = max(float(text) for text in (*texts, *(text for _, text in limits)))
    if highest <= 0:
        return None
    step = _step(highest * 1.05, 5)
    top_value = step * math.ceil(highest * 1.05 / step)
    last_round = max(trajectory.points[-1].round, 1)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(number: int) -> float:
        return round(LEFT + (right - LEFT) * number / last_round, 2)

    def y(value: float) -> float:
        return round(bottom - (bottom - TOP) * value / top_value, 2)

    planned = tuple(Mark(x(p.round), y(float(p.planned)), p.round, p.planned) for p in trajectory.points)
    spent = tuple(Mark(x(p.round), y(float(p.spent)), p.round, p.spent) for p in trajectory.points if p.spent)
    labels: list[float] = []
    for _, text in sorted(limits, key=lambda limit: -float(limit[1])):
        labels.append(_beside(y(float(text)), labels))
    ordered = sorted(limits, key=lambda limit: -float(limit[1]))
    lines = [y(float(text)) for _, text in limits]
    tip = spent[-1] if spent else Mark(LEFT, bottom, 0, "")
    at_end = tip.x > right - 120
    above_below = (tip.y - 11, min(tip.y + 24, bottom - 8))
    x_step = max(1, math.ceil(last_round / 12))
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=bottom,
        x_ticks=tuple(Tick(x(number), str(number)) for number in range(0, last_round + 1, x_step)),
        y_ticks=tuple(Tick(y(step * index), f"{step * index:.6g}") for index in range(round(top_value / step) + 1)),
        planned=planned,
        spent=spent,
        limits=tuple(
            Limit(y(float(text)), at, f"{label} {text}") for (label, text), at in zip(ordered, labels, strict=True)
        ),
        planned_label_y=_clear(planned[-1].y - 11, planned[-1].y + 24, lines),
        spent_label_y=_clear(*(above_below if at_end else above_below[::-1]), lines),
        spent_label_at_end=at_end,
    )
