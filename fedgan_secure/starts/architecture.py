"""The shapes of a public start: layers, latent vector and feature columns, without TensorFlow.

A start has two networks: a conditional generator and a feature network whose last outputs are the grade and, where the
public pictures have them, lesion counts. Their layers' names and shapes follow from three numbers: classes, counts and
channels. A file is checked against them before it is read.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

IMAGE_SIZE = 64
CHANNELS = (1, 3)
MOST_CLASSES = 50
MOST_COUNTS = 20
NOISE_VECTOR = 64
NOISE_MAPS = (8, 16, 32)
LATENT = NOISE_VECTOR + sum(side * side for side in NOISE_MAPS)
"""Length of the generator's first input: the noise vector, then a noise map of 8 x 8, 16 x 16 and 32 x 32."""
LABEL_WIDTH = 32
MIX_WIDTH = 96
GENERATOR_WIDTHS = (128, 96, 64, 48, 32)
START_SIDE = 4
FEATURE_WIDTHS = (24, 48, 64)
HIDDEN_WIDTH = 64
GROUPS = 8
SOFT_LIMIT = 6.0
"""A standardised feature s becomes SOFT_LIMIT * tanh(s / SOFT_LIMIT)."""
OUTPUTS_WEIGHT = 2.0
"""Factor of the columns that tell the grade and the counts."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """Describe the networks of a start.

    `classes` of the label, `counts` of lesions that the feature network also tells (0 when the public pictures have
    none), `channels` 1 (grey) or 3 (colour).

    Raises:
        ValueError: for numbers out of range.
    """

    classes: int
    counts: int
    channels: int = 3

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= MOST_CLASSES or not 0 <= self.counts <= MOST_COUNTS:
            raise ValueError(
                f"{self.classes} classes and {self.counts} counts; "
                f"expected 2 to {MOST_CLASSES} classes and 0 to {MOST_COUNTS} counts"
            )
        if self.channels not in CHANNELS:
            raise ValueError(f"{self.channels} channels; expected 1 or 3")

    @property
    def outputs(self) -> int:
        """Number of columns that tell the grade and the counts."""
        return self.classes + self.counts

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Columns (first, end) of: colours of 4 x 4 cells, spread and shape of colours, responses, outputs."""
        colours = 16 * self.channels
        shape = 3 * self.channels + self.channels * (self.channels - 1) // 2
        responses = sum(FEATURE_WIDTHS) + FEATURE_WIDTHS[-1]
        ends = [0]
        for width in (colours, shape, responses, self.outputs):
            ends.append(ends[-1] + width)
        return tuple(itertools.pairwise(ends))

    @property
    def features(self) -> int:
        """Number of features d; 271 for five classes, six counts and colour."""
        return self.blocks[-1][1]

    def weight_shapes(self) -> dict[str, Shape]:
        """Return the shape of every weight, by ``layer/0`` (kernel, table or scale) and ``layer/1`` (bias)."""
        return {**self._generator_shapes(), **self._feature_shapes()}

    def _generator_shapes(self) -> dict[str, Shape]:
        widths = GENERATOR_WIDTHS
        shapes: dict[str, Shape] = {"g_label/0": (self.classes, LABEL_WIDTH)}
        shapes |= _dense("g_mix", NOISE_VECTOR + LABEL_WIDTH, MIX_WIDTH)
        shapes |= _dense("g_dense", MIX_WIDTH, START_SIDE * START_SIDE * widths[0])
        for index, (width, following) in enumerate(itertools.pairwise(widths)):
            shapes |= _dense(f"g_scale{index}", MIX_WIDTH, width)
            shapes |= _dense(f"g_shift{index}", MIX_WIDTH, width)
            shapes |= {f"g_up{index}/0": (4, 4, following, width), f"g_up{index}/1": (following,)}
            if index < len(NOISE_MAPS):
                shapes[f"g_noise{index}/0"] = (1, 1, 1, following)
        last = len(widths) - 1
        shapes |= _dense(f"g_scale{last}", MIX_WIDTH, widths[-1])
        return shapes | {"g_last/0": (3, 3, widths[-1], self.channels), "g_last/1": (self.channels,)}

    def _feature_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        before = self.channels
        for index, width in enumerate(FEATURE_WIDTHS):
            shapes |= {f"f_conv{index}/0": (5, 5, before, width), f"f_conv{index}/1": (width,)}
            shapes |= {f"f_norm{index}/0": (width,), f"f_norm{index}/1": (width,)}
            before = width
        shapes |= _dense("f_hidden", 2 * before, HIDDEN_WIDTH)
        shapes |= _dense("f_grade", HIDDEN_WIDTH, self.classes)
        if self.counts:
            shapes |= _dense("f_counts", HIDDEN_WIDTH, self.counts)
        return shapes


def _dense(name: str, width: int, following: int) -> dict[str, Shape]:
    return {f"{name}/0": (width, following), f"{name}/1": (following,)}
