"""Statistics of patients as clipped vectors, and what a noisy sum of them says. Needs no TensorFlow."""

from fedgan_secure.statistics import sums
from fedgan_secure.statistics.colours import ColourBins, colour_codes, disc_mask, mean_colours
from fedgan_secure.statistics.decoding import LEAST_COUNT, Moments, decode, shrink
from fedgan_secure.statistics.grids import CHANCES_GRID, CHANCES_SLACK, TRANSFER_GRID, TRANSFER_SLACK, on_grid, strays
from fedgan_secure.statistics.layout import MOST_COORDINATES, ReleaseLayout
from fedgan_secure.statistics.sums import (
    CHUNK_VALUES,
    ImageStatistics,
    Noise,
    ReleasedSum,
    check_images,
    contributions,
    grid_of,
)

__all__ = [
    "CHANCES_GRID",
    "CHANCES_SLACK",
    "CHUNK_VALUES",
    "LEAST_COUNT",
    "MOST_COORDINATES",
    "TRANSFER_GRID",
    "TRANSFER_SLACK",
    "ColourBins",
    "ImageStatistics",
    "Moments",
    "Noise",
    "ReleaseLayout",
    "ReleasedSum",
    "check_images",
    "colour_codes",
    "contributions",
    "decode",
    "disc_mask",
    "grid_of",
    "mean_colours",
    "on_grid",
    "shrink",
    "strays",
    "sums",
]
