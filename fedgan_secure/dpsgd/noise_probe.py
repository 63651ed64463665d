"""Made-up patients through the very step that real ones go through: what does one of them add, and what does noise?

The probes see the public weights and made-up inputs (pictures or features), no patient, so their outcome tells nothing
of patients and cannot be a false alarm by chance. The made-up gradient is scaled far above the clip norm through the
weights of the loss, so that a missing or wrong clip shows whatever state the network is in; where its gradient is zero
or not finite, the probe says that it cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedgan_audits.facts import TestName
from fedgan_secure.dpsgd.clipping import MARGIN

Contribution = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
"""``(inputs, labels, weights, noise) -> float32[d]``: what the step would give to the optimiser, by the public divisor.
[p * m, ...] copies of the example, int32[p * m, 1], float32[p, m], float32[d] or None for no noise."""
Example = tuple[int, int, int] | np.ndarray
"""One made-up input: an array as it stands, or (H, W, C) for the `picture` of that shape."""

SCALE = 1e4
"""Weight of a probe's loss: its gradient, where there is any to speak of, ends far above the clip norm."""
_ROWS, _DRAWN = 4, 3
_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Probed:
    """Outcome of each probe, None where it could not tell, and the figures behind them (public)."""

    outcomes: dict[TestName, bool | None]
    figures: str


def picture(shape: tuple[int, int, int]) -> np.ndarray:
    """uint8[H, W, C], a fixed pattern with edges and slopes; no patient's."""
    height, width, channels = shape
    y, x, c = np.ogrid[:height, :width, :channels]
    return np.asarray((37 * (x // 3) + 11 * y * (1 + c) + 90 * ((x + y) % 5 == 0)) % 256, dtype=np.uint8)


def feature_row(size: int) -> np.ndarray:
    """float32[size], a fixed pattern of values from -1 to 1; no patient's."""
    return ((np.arange(size) * 37 % 11 - 5) / 5.0).astype(np.float32)


def _copies(example: Example, count: int) -> np.ndarray:
    one = example if isinstance(example, np.ndarray) else picture(example)
    return np.broadcast_to(one, (count, *one.shape)).copy()


def probe(contribution: Contribution, example: Example, images_per_patient: int, clip_norm: float) -> Probed:
    """Run the probes on one step.

    Args:
        contribution: the step under test; asked for noise only where it takes any (see `noise_scale`).
        example: the made-up input that every image of a made-up patient is.
        images_per_patient: m.
        clip_norm: C, as recorded.
    """
    m = images_per_patient
    inputs = _copies(example, _ROWS * m)
    labels = np.zeros((_ROWS * m, 1), np.int32)

    def given(patients: int) -> np.ndarray:
        weights = np.zeros((_ROWS, m), np.float32)
        weights[:patients] = SCALE / m
        return np.asarray(contribution(inputs, labels, weights, None), np.float64)

    empty = given(0)
    one, several = given(1) - empty, given(_DRAWN) - empty
    norm = float(np.linalg.norm(one))
    off = float(np.linalg.norm(several - _DRAWN * one))
    if not np.isfinite([norm, off]).all():
        return Probed({"clip_probe": None, "divisor_probe": None}, f"a made-up patient adds {norm:.6g}")
    telling = norm >= clip_norm * (1 - MARGIN) * (1 - _TOLERANCE)
    outcomes: dict[TestName, bool | None] = {
        "clip_probe": norm <= clip_norm if telling else None,
        "divisor_probe": off <= _TOLERANCE * _DRAWN * norm if norm > 0 else None,
    }
    return Probed(outcomes, f"a made-up patient adds {norm:.6g} of at most {clip_norm:.6g}; three are off by {off:.3g}")


def noise_scale(
    contribution: Contribution, example: Example, images_per_patient: int, size: int, deviation: float
) -> Probed:
    """Whether known noise, float32[d] of plus and minus one, comes out `deviation` times as large, whoever is drawn."""
    m = images_per_patient
    inputs = _copies(example, _ROWS * m)
    labels = np.zeros((_ROWS * m, 1), np.int32)
    known = np.where(np.arange(size) % 3 == 0, 1.0, -1.0).astype(np.float32)
    worst = 0.0
    for patients in (0, _DRAWN):
        weights = np.zeros((_ROWS, m), np.float32)
        weights[:patients] = 1.0 / m
        quiet, loud = (np.asarray(contribution(inputs, labels, weights, noise)) for noise in (None, known))
        if not np.isfinite(quiet).all():
            return Probed({"noise_probe": None}, "the step is not finite")
        worst = max(worst, float(np.abs((loud - quiet) / deviation - known).max()))
    return Probed({"noise_probe": worst <= _TOLERANCE}, f"known noise is off by {worst:.3g} of its deviation")
