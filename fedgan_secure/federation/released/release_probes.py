"""Made-up patients through the very sum that a release makes of real ones: does it hold what the layout says?

The probes see no patient, so that their outcome tells nothing of patients and cannot be a false alarm by chance. What a
made-up patient should add is worked out here from the layout's public numbers, image by image, and shares no code with
the sum under test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedgan_audits.facts import TestName
from fedgan_secure.moments import AnyLayout, MomentsLayout, patients_at_a_time
from fedgan_secure.statistics import ImageStatistics, ReleasedSum

Summing = Callable[[ImageStatistics], ReleasedSum]
"""From the statistics of images to the clipped sum over patients: what is under test."""
Noising = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``(total float64[D], known noise float32[D]) -> float64[D]``: the sum with that noise, as it is decoded."""


@dataclass(frozen=True)
class Outcomes:
    """The outcome of each probe, and the figures behind them (public)."""

    outcomes: dict[TestName, bool | None]
    figures: str


HUGE = 1e4
"""A feature of a made-up patient who must be clipped."""
_TELLING = 1e-2
"""Share of the clip norm by which a clipped made-up patient may fall short of it."""


def probe_sum(summing: Summing, layout: AnyLayout, clip_norm: float) -> Outcomes:
    """Send made-up patients through a release's sum.

    * clip_probe: a patient far above the bound, with one image or many, with one label or all, adds a vector of the
      clip norm; one with NaN or infinity adds nothing.
    * divisor_probe: a patient of each label, and one without, adds to their own block and histogram cell what the
      layout says, and nothing elsewhere; three such patients add three times what one adds, to the bit.
    * rows: a crowd of different patients, more than are held at a time, with their images in disorder, adds what each
      of them adds, each once.

    Args:
        summing: the sum under test.
        layout: of the released vectors.
        clip_norm: C, as recorded.

    Returns:
        The three outcomes, and public figures.
    """
    longest, fits = _clipped(summing, layout, clip_norm)
    structure = _structure(summing, layout, clip_norm)
    crowd = _crowd(summing, layout, clip_norm)
    outcomes: dict[TestName, bool | None] = {
        "clip_probe": fits,
        "divisor_probe": structure <= _allowed(layout, clip_norm),
        "rows": crowd <= _allowed(layout, clip_norm),
    }
    return Outcomes(
        outcomes,
        f"made-up patients add {longest:.6g} of at most {clip_norm:.6g}; "
        f"one of each label is off by {structure:.3g}, a crowd by {crowd:.3g} a patient",
    )


def probe_noise(noising: Noising, dimension: int, deviation: float, resolution: float) -> Outcomes:
    """Whether known noise of plus and minus one comes out `deviation` times as large, with and without a sum.

    Args:
        noising: what adds noise and encodes.
        dimension: D.
        deviation: as recorded.
        resolution: the grid that the result is rounded to.
    """
    known = np.where(np.arange(dimension) % 3 == 0, 1.0, -1.0).astype(np.float32)
    worst = 0.0
    for total in (np.zeros(dimension), np.resize([0.25, -0.5, 0.75], dimension)):
        off = np.abs(noising(total, known) - total - deviation * known.astype(np.float64))
        worst = max(worst, float(off.max()))
    allowed = resolution + 1e-6 * deviation
    return Outcomes({"noise_probe": worst <= allowed}, f"known noise is off by {worst:.3g} of at most {allowed:.3g}")


def _allowed(layout: AnyLayout, clip_norm: float) -> float:
    """What truncation and float32 may move one patient's coordinate, with room; a wrong weight moves it by more."""
    least = min(layout.scales)
    return min(1e-6 * clip_norm, 0.01 * least)


def _features(layout: AnyLayout, rows: int) -> np.ndarray:
    """float32[rows, d], a fixed pattern within +-1, every row another; nobody's."""
    column, row = np.arange(layout.features), np.arange(rows)[:, None]
    pattern = ((37 * column + 11 * row + 5 * (row // 7)) % 33 - 16) / 16
    if isinstance(layout, MomentsLayout):
        pattern = pattern / math.sqrt(layout.features)  # a norm below 1, as those of real coefficients
    return pattern.astype(np.float32)


def _codes(layout: AnyLayout, rows: int) -> np.ndarray:
    """float32[rows, axes], in the middle of cell 0, 1, 2, ... in turn; no axes where there is no histogram."""
    if isinstance(layout, MomentsLayout):
        return np.zeros((rows, 0), np.float32)
    bins = layout.colour_bins
    return bins.centres[(7 * np.arange(rows) + 3) % bins.cells]


def _made_up(layout: AnyLayout, labels: list[int], patient: list[int]) -> ImageStatistics:
    rows = len(labels)
    return ImageStatistics(
        _features(layout, rows),
        _codes(layout, rows),
        np.array(labels, np.int32),
        np.array(patient, np.int32),
        max(patient) + 1,
    )


def _expected(layout: AnyLayout, images: ImageStatistics, clip_norm: float) -> np.ndarray:
    """float64[D], what these patients add together by the layout's public numbers."""
    total = np.zeros(layout.dimension)
    rows_of: dict[int, list[int]] = {}
    for row, one in enumerate(images.patient.tolist()):
        rows_of.setdefault(one, []).append(row)
    for own in rows_of.values():
        vector = sum((_expected_of(layout, images, row) for row in own), np.zeros(layout.dimension)) / len(own)
        total += vector * min(1.0, clip_norm / max(float(np.linalg.norm(vector)), 1e-12))
    return total


def _expected_of(layout: AnyLayout, images: ImageStatistics, row: int) -> np.ndarray:
    """float64[D], what an image that is its patient's only one gives, unclipped."""
    feature, label = images.features[row].astype(np.float64), int(images.labels[row])
    vector = np.zeros(layout.dimension)
    edge = layout.blocks * layout.width
    if isinstance(layout, MomentsLayout):
        lines = [one * np.append(one, math.sqrt(2) * feature[place + 1 :]) for place, one in enumerate(feature)]
        moments = [layout.first_weight * feature, *(layout.second_weight * line for line in lines)]
    else:
        root = math.sqrt(layout.features)
        moments = [layout.first_weight / root * feature, layout.second_weight / root * (feature**2 - 1)]
        vector[edge + (7 * row + 3) % layout.colour_bins.cells] = layout.colour_weight
    if label >= 0 or not layout.classes:
        blocks = vector[:edge].reshape(layout.blocks, -1)
        blocks[label if layout.classes else 0] = np.concatenate([[layout.count_weight], *moments])
    return vector


def _clipped(summing: Summing, layout: AnyLayout, clip_norm: float) -> tuple[float, bool]:
    """The longest vector that one made-up patient adds, and whether all are as they should be."""
    every = list(range(layout.classes)) or [0]
    norms = []
    for labels in ([every[0]], [every[-1]], every, every * 3):
        images = _made_up(layout, labels, [0] * len(labels))
        huge = ImageStatistics(HUGE * (1 + np.abs(images.features)), images.codes, images.labels, images.patient, 1)
        norms.append(float(np.linalg.norm(summing(huge).total)))
    fits = all(clip_norm * (1 - _TELLING) <= norm <= clip_norm for norm in norms)
    for value in (np.nan, np.inf):
        images = _made_up(layout, every, [0] * len(every))
        spoilt = images.features.copy()
        spoilt[0, 0] = value
        lost = ImageStatistics(spoilt, images.codes, images.labels, images.patient, 1)
        norms.append(float(np.abs(summing(lost).total).sum()))
        fits = fits and norms[-1] == 0.0
    return max(norms), fits


def _structure(summing: Summing, layout: AnyLayout, clip_norm: float) -> float:
    """By how much a coordinate of a made-up patient is off, over all labels, none, and three patients for one."""
    worst = 0.0
    for label in [*(range(layout.classes) or [0]), -1]:
        images = _made_up(layout, [label], [0])
        alone = summing(images).total
        worst = max(worst, float(np.abs(alone - _expected(layout, images, clip_norm)).max()))
        thrice = np.zeros(3, np.int64)
        three = ImageStatistics(
            images.features[thrice], images.codes[thrice], images.labels[thrice], np.arange(3, dtype=np.int32), 3
        )
        if not np.array_equal(summing(three).total, 3 * alone):
            return math.inf
    return worst if math.isfinite(worst) else math.inf


def _crowd(summing: Summing, layout: AnyLayout, clip_norm: float) -> float:
    """By how much a coordinate of a crowd's sum is off, for each patient of it."""
    patients = 2 * patients_at_a_time(layout) + 1
    owners = [one for turn in range(3) for one in range(patients) if one % 3 >= turn]
    labels = [(5 * row + row // 4) % (layout.classes + 1) - 1 if layout.classes else 0 for row in range(len(owners))]
    images = _made_up(layout, labels, owners)
    found = summing(images)
    if found.patients != patients:
        return math.inf
    off = float(np.abs(found.total - _expected(layout, images, clip_norm)).max()) / patients
    return off if math.isfinite(off) else math.inf
