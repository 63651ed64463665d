"""The vector of a run that adapts a public start: its heads, their layout and first weights. Needs no TensorFlow."""

from fedgan_secure.heads.head_settings import HeadSettings
from fedgan_secure.heads.head_start import linear_discriminant
from fedgan_secure.heads.heads import (
    HeadsLayout,
    HeadsSpec,
    build_heads,
    check_centre,
    heads_graph,
    random_heads,
    standardised,
)
from fedgan_secure.heads.vector import AdaptedLayout, heads_spec

__all__ = [
    "AdaptedLayout",
    "HeadSettings",
    "HeadsLayout",
    "HeadsSpec",
    "build_heads",
    "check_centre",
    "heads_graph",
    "heads_spec",
    "linear_discriminant",
    "random_heads",
    "standardised",
]
