"""Either kind of released vector: moments of a public start's features, or of an image's own coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedgan_secure.moments.layout import VERSION, MomentsLayout
from fedgan_secure.moments.statistics import moments_sum
from fedgan_secure.statistics import CHUNK_VALUES, ImageStatistics, ReleasedSum, ReleaseLayout
from fedgan_secure.statistics import sums as statistics

AnyLayout = ReleaseLayout | MomentsLayout


def read_layout(values: Mapping[str, Any]) -> AnyLayout:
    """Read the layout of a policy's release.

    Raises:
        InputError: as the layouts' own `from_json`.
    """
    told = values.get("version") if isinstance(values, Mapping) else None
    return MomentsLayout.from_json(values) if told == VERSION else ReleaseLayout.from_json(values)


def release_sum(layout: AnyLayout, images: ImageStatistics, clip_norm: float) -> ReleasedSum:
    """Return the clipped sum over one hospital's patients.

    Raises:
        InputError: arrays that do not fit each other or the layout.
    """
    if isinstance(layout, MomentsLayout):
        return moments_sum(layout, images, clip_norm)
    return images.clipped_sum(layout, clip_norm)


def patients_at_a_time(layout: AnyLayout) -> int:
    """Return how many patients' vectors are held at a time at most."""
    if isinstance(layout, MomentsLayout):
        return max(1, CHUNK_VALUES // layout.width)
    return statistics.patients_at_a_time(layout)
