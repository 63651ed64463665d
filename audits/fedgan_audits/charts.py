"""Where the marks of a chart go: coordinates for the SVG of epsilon over rounds, drawn by the templates.

The y axis starts at zero and ends above the largest figure. Whoever cannot see the chart reads the same numbers in
the table beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedgan_audits.sections import Trajectory

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 150, 16, 44


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

    def line(self, marks: tuple[Mark, ...]) -> str:
        """The points of a polyline."""
        return " ".join(f"{mark.x:g},{mark.y:g}" for mark in marks)


def _step(largest: float, count: int) -> float:
    """A round step (1, 2 or 5 times a power of ten) that gives at most `count` steps."""
    rough = largest / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _spread(wanted: list[tuple[float, int]], gap: float) -> dict[int, float]:
    """Label heights near the wanted ones, at least `gap` apart, in order from the top."""
    placed: dict[int, float] = {}
    last = -math.inf
    for y, key in sorted(wanted):
        last = max(y, last + gap)
        placed[key] = last
    overshoot = last - (HEIGHT - BOTTOM)
    return {key: y - max(overshoot, 0.0) for key, y in placed.items()}


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
    wanted = [(planned[-1].y, 0), *((y(float(text)), 2 + index) for index, (_, text) in enumerate(limits))]
    labels = _spread(wanted, 17)
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
            Limit(y(float(text)), labels[2 + index], f"{label} {float(text):.6g}")
            for index, (label, text) in enumerate(limits)
        ),
        planned_label_y=labels[0],
        spent_label_y=spent[-1].y if spent else bottom,
    )
