"""What a measurement means, in words and in a table of figures: for a run's summary, `evaluate` and a model card.

Every threshold is a constant here, with its reason. Loads no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

SHARES = (
    (0.9, "nearly all"),
    (0.5, "most"),
    (0.25, "a part"),
    (0.1, "little"),
)
"""From which share on which word is used: "most" is more than half; a tenth is about what chance leaves either way."""
NEXT_TO_NOTHING = "next to nothing"
LITTLE = 0.25
"""A share of the variety below which the reason is named."""
REPEATED_COVERAGE = 0.05
"""Copies of few pictures lie among real ones, so that coverage is left, but their own neighbourhoods are small, so that
recall falls further. Pictures that are unlike real ones lose both."""
ALIKE = 0.1
"""Pictures of one class that differ by less than a tenth of what real ones do are one picture with small changes."""
NARROW = 0.5
"""Below half of the real spread, a class is named. Real phantoms of other patients were at .96 to 1.06."""


def sentence(figures: Mapping[str, Any]) -> str:
    """Say in plain words what a score means.

    Args:
        figures: the keys of `Score.to_json` (those of `TstrResult` and `Diversity` on one level). ``gain_over_start``
            and ``start_tstr`` are used where they are there.

    Returns:
        One to four sentences without a line break: whether the pictures carry the classes, whether they have the
        variety of real ones, and what the patients' data added to the public start.
    """
    parts = [_usefulness(figures), _variety(figures), _gain(figures)]
    return " ".join(part for part in parts if part)


def table(figures: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a header and rows of cells: what was measured, of the generated images, the public start, real images.

    Args:
        figures: as for `sentence`. The column of the public start is there when its figures are.

    Returns:
        The header, and rows of as many cells. A cell without a figure is empty.
    """
    prefixes = ("", "start_") if "start_spread" in figures or "start_tstr" in figures else ("",)
    header = ("", "generated", "public start alone", "real images")
    rows = [*_tstr_rows(figures, prefixes)]
    for key in ("coverage", "recall"):
        cells = (_with_interval(figures, prefix + key) for prefix in prefixes)
        rows.append((key.capitalize(), *cells, _number(figures.get(f"{key}_real"), 2)))
    for key, name in (("spread", "Spread within a class"), ("spread_without_colour", "  without mean colour")):
        rows.append((name, *(_number(figures.get(prefix + key), 2) for prefix in prefixes), "1"))
    for key in figures["colour_distance"]:
        distances = (figures[f"{prefix}colour_distance"].get(key) for prefix in prefixes)
        real = _number(figures["colour_distance_real"].get(key))
        rows.append((f"Distance of {key.replace('_', '/')}", *(_number(distance) for distance in distances), real))
    return (header if len(prefixes) > 1 else (*header[:2], header[3])), rows


def lines(figures: Mapping[str, Any]) -> list[str]:
    """Return the table as text, a line for every row; two spaces are between columns.

    Args:
        figures: as for `sentence`.
    """
    header, rows = table(figures)
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def flattened(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of `run_score.measure` on one level, as `sentence` and `lines` read them."""
    kept = ("tstr_missing_because", "gain_over_start", "gain_over_start_interval_95")
    figures = {**_one_level(result), **{key: result[key] for key in kept if key in result}}
    if result.get("start") is not None:
        figures |= {f"start_{key}": value for key, value in _one_level(result["start"]).items()}
    return figures


def share_of_teaching(figures: Mapping[str, Any]) -> float | None:
    """Return how much of what real images teach beyond guessing the generated ones teach, at least 0.

    (TSTR - largest class) / (TRTR - largest class); None where there is no TSTR, or where real images teach nothing.
    """
    if figures.get("tstr") is None or _joint(figures, "trtr")[0] <= figures["chance"]:
        return None
    return max((figures["tstr"] - figures["chance"]) / (figures["trtr"] - figures["chance"]), 0.0)


def share_of_variety(figures: Mapping[str, Any]) -> float | None:
    """Return the smaller of coverage and recall, each over what real images reach, 0..1; None where not assessed."""
    shares = []
    for key in ("coverage", "recall"):
        value, real = figures.get(key), figures.get(f"{key}_real")
        if value is None or real is None:
            return None
        shares.append(min(value / real, 1.0) if real > 0 else 0.0)
    return min(shares)


def _one_level(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {**(parts["tstr"] or {"tstr": None}), **parts["diversity"]}


def _usefulness(figures: Mapping[str, Any]) -> str:
    if figures.get("tstr") is None:
        reason = figures.get("tstr_missing_because", "it was not measured")
        return f"Whether the pictures carry classes was not assessed: {reason}."
    low, high = _joint(figures, "tstr")
    measured = (
        f"A classifier trained on the generated pictures labels real ones right in {_percent(figures['tstr'])} "
        f"({100 * low:.0f} to {100 * high:.0f}), trained on real pictures in {_percent(figures['trtr'])}, always "
        f"saying the commonest class in {_percent(figures['chance'])}: "
    )
    share = share_of_teaching(figures)
    if share is None:
        return measured + "on these images even real pictures teach it no more than guessing, so this says nothing."
    if low <= figures["chance"]:
        return measured + "no better than guessing; the pictures do not show what distinguishes the classes."
    return measured + f"the pictures carry {_word(share)} of what distinguishes the classes."


def _variety(figures: Mapping[str, Any]) -> str:
    spread, shape = figures.get("spread"), figures.get("spread_without_colour")
    of_a_class = " of a class" if len(figures.get("spread_by_class", ())) > 1 else ""
    if spread is not None and spread < ALIKE:
        return f"The pictures{of_a_class} are nearly all alike: the generator has collapsed."
    text = _covering(figures)
    if alike := _classes(figures, ALIKE):
        text += f" The pictures of {alike} are nearly all alike."
    elif narrow := _classes(figures, NARROW):
        text += f" The pictures of {narrow} vary less than half as much as real ones."
    elif shape is not None and shape < NARROW:
        text += f" Apart from their colour, the pictures{of_a_class} vary less than half as much as real ones."
    return text.strip()


def _covering(figures: Mapping[str, Any]) -> str:
    share = share_of_variety(figures)
    if share is None:
        return ""
    coverage, recall = figures["coverage"], figures["recall"]
    text = (
        f"They show {_word(share)} of the variety of real pictures (coverage {_percent(coverage)}, recall "
        f"{_percent(recall)}; other real pictures {_percent(figures['coverage_real'])} and "
        f"{_percent(figures['recall_real'])})"
    )
    if share >= LITTLE:
        return f"{text}."
    if coverage >= REPEATED_COVERAGE and recall < coverage / 2:
        return f"{text}: a few kinds of picture come again and again."
    return f"{text}: they do not look like real ones."


def _gain(figures: Mapping[str, Any]) -> str:
    interval = figures.get("gain_over_start_interval_95")
    if interval is None:
        return ""
    start = f"The public start alone, without any patient's data, reaches {_percent(figures['start_tstr'])}"
    low, high = (100 * value for value in interval)
    points = 100 * figures["gain_over_start"]
    if low > 0:
        return f"{start}: training added {points:.0f} points ({low:.0f} to {high:.0f})."
    if high < 0:
        return f"{start}: training took {-points:.0f} points away ({-high:.0f} to {-low:.0f})."
    return f"{start}: no difference that this measurement can tell ({low:+.0f} to {high:+.0f} points)."


def _tstr_rows(figures: Mapping[str, Any], prefixes: Sequence[str]) -> list[tuple[str, ...]]:
    if figures.get("tstr") is None:
        return []

    def row(name: str, key: str, show: Callable[[Any], str]) -> tuple[str, ...]:
        generated = (show(figures.get(f"{prefix}tstr{key}")) for prefix in prefixes)
        return (name, *generated, show(figures.get(f"trtr{key}")))

    rows = [
        row("Accuracy of a classifier (TSTR)", "", _number),
        row("  95 % over test images", "_interval_95", _interval),
        row("  95 % over classifiers", "_seed_interval_95", _interval),
        row("  of each classifier", "_by_seed", lambda values: ", ".join(_number(value) for value in values or ())),
        ("  always the commonest class", _number(figures["chance"]), *("" for _ in prefixes)),
    ]
    return [cells for cells in rows if any(cells[1:])]


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    if figures.get(key) is None:
        return "too few images"
    low, high = figures[f"{key}_interval_95"]
    return f"{figures[key]:.2f} ({low:.2f} to {high:.2f})"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _number(value: float | None, places: int = 3) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _classes(figures: Mapping[str, Any], below: float) -> str:
    """Name the classes whose spread is below a share of the real one; empty where none is, or where there is one."""
    by_class: Sequence[float | None] = figures.get("spread_by_class", ())
    if len(by_class) < 2:
        return ""
    found = [str(label) for label, value in enumerate(by_class) if value is not None and value < below]
    if not found:
        return ""
    return ("class " if len(found) == 1 else "classes ") + ", ".join(found)


def _word(share: float) -> str:
    return next((word for least, word in SHARES if share >= least), NEXT_TO_NOTHING)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _joint(figures: Mapping[str, Any], key: str) -> tuple[float, float]:
    low, high = figures[f"{key}_joint_interval_95"]
    return low, high
