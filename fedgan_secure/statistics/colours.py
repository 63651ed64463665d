"""Mean colours of pictures over the disc of an eye, as codes and as cells of a public histogram.

A code is (log brightness, log R/G, log B/G); of a grey picture it is log brightness alone. The mask holds multiples of
1/256 and pictures are whole numbers, so that a picture's mean colour comes from exact sums: it does not depend on the
pictures beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedgan_secure.errors import InputError

COLOUR_BINS = (8, 10, 10)
"""Cells along brightness, log R/G and log B/G."""
GREY_BINS = (24,)
"""Cells along brightness."""
_COLOUR_RANGE = ((math.log(0.12), 0.0, -1.8), (math.log(0.62), 1.5, 0.3))
"""What photographs of the eye can have: public, chosen from no private picture."""
_GREY_RANGE = ((math.log(0.03),), (math.log(0.9),))
_LEAST = 1e-3
"""Colours are at least so large before their logarithm is taken."""
_BATCH = 128
"""Pictures that are summed at a time, to bound memory."""


@lru_cache(maxsize=8)
def disc_mask(size: int) -> np.ndarray:
    """Return the soft mask of the disc that fills a picture after the crop.

    Args:
        size: H = W, at least 1.

    Returns:
        float32[H, W], read-only, 1 inside, 0 outside, multiples of 1/256.

    Raises:
        InputError: a size below 1.
    """
    if size < 1:
        raise InputError(f"a picture's size is {size}, expected at least 1")
    axis = (np.arange(size) + 0.5) / (size / 2) - 1
    radius = np.sqrt(axis[None] ** 2 + axis[:, None] ** 2)
    soft = np.clip((1 - radius) * size / 2 + 0.5, 0, 1)
    mask = (np.rint(soft * 256) / 256).astype(np.float32)
    mask.setflags(write=False)
    return mask


def mean_colours(images: np.ndarray) -> np.ndarray:
    """Return every picture's mean colour over the disc.

    Args:
        images: uint8[n, H, H, C], C = 1 or 3.

    Returns:
        float32[n, C] in [0, 1].

    Raises:
        InputError: another dtype or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise InputError(f"pictures are {images.dtype}{list(images.shape)}, expected uint8[n, H, H, C]")
    count, size, _, channels = images.shape
    if channels not in (1, 3):
        raise InputError(f"pictures have {channels} channels, expected 1 (grey) or 3 (colour)")
    weights = (disc_mask(size).reshape(-1) * 256).astype(np.float64)
    colours = np.empty((count, channels), np.float32)
    for start in range(0, count, _BATCH):
        batch = images[start : start + _BATCH].reshape(-1, size * size, channels).astype(np.float64)
        # whole numbers below 2^53: exact in whatever order they are added
        colours[start : start + _BATCH] = np.einsum("npc,p->nc", batch, weights) / (255 * weights.sum())
    return colours


def colour_codes(colours: np.ndarray) -> np.ndarray:
    """Return the codes of mean colours.

    Args:
        colours: float[n, 3] or float[n, 1] in [0, 1].

    Returns:
        float32[n, 3], log brightness, log R/G, log B/G; or float32[n, 1], log brightness.

    Raises:
        InputError: another shape.
    """
    if colours.ndim != 2 or colours.shape[1] not in (1, 3):
        raise InputError(f"colours have the shape {list(colours.shape)}, expected [n, 3] or [n, 1]")
    safe = np.maximum(colours.astype(np.float64), _LEAST)  # NaN stays NaN
    brightness = np.log(safe.mean(axis=1))
    if safe.shape[1] == 1:
        return brightness[:, None].astype(np.float32)
    return np.stack([brightness, np.log(safe[:, 0] / safe[:, 1]), np.log(safe[:, 2] / safe[:, 1])], axis=1).astype(
        np.float32
    )


def colour_of_codes(codes: np.ndarray) -> np.ndarray:
    """Return the colours whose codes are given: the inverse of `colour_codes`.

    Args:
        codes: float[n, 3] or float[n, 1].

    Returns:
        float32 of the same shape.
    """
    exact = np.exp(codes.astype(np.float64))
    if codes.shape[1] == 1:
        return exact.astype(np.float32)
    brightness, red, blue = exact.T
    green = 3 * brightness / (red + blue + 1)
    return np.stack([red * green, green, blue * green], axis=1).astype(np.float32)


@dataclass(frozen=True)
class ColourBins:
    """The cells of the public histogram of colour codes.

    Attributes:
        bins: cells along each axis of a code; three of them for colour, one for grey.
        low, high: range of each axis; codes outside belong to the cell at the rim. None: the public range for pictures
            with so many axes.

    Raises:
        InputError: a number of axes other than 1 or 3, no cells, or an empty range.
    """

    bins: tuple[int, ...] = COLOUR_BINS
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.bins) not in (1, 3) or any(type(count) is not int or count < 1 for count in self.bins):
            raise InputError(f"colour bins are {self.bins}, expected one (grey) or three (colour) positive numbers")
        if not self.low and not self.high:
            low, high = _COLOUR_RANGE if len(self.bins) == 3 else _GREY_RANGE
            object.__setattr__(self, "low", low)
            object.__setattr__(self, "high", high)
        fits = len(self.low) == len(self.high) == len(self.bins)
        if not fits or not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise InputError(f"colour ranges run from {self.low} to {self.high}, expected {len(self.bins)} rising ones")

    @classmethod
    def for_channels(cls, channels: int) -> ColourBins:
        """Return the public bins of pictures with 1 or 3 channels."""
        return cls(GREY_BINS if channels == 1 else COLOUR_BINS)

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return math.prod(self.bins)

    @property
    def centres(self) -> np.ndarray:
        """float32[cells, axes], the code in the middle of every cell."""
        return self._codes(np.arange(self.cells), np.full((self.cells, len(self.bins)), 0.5))

    def index(self, codes: np.ndarray) -> np.ndarray:
        """Return the cell of every code.

        Args:
            codes: float[n, axes]; one that is not finite belongs to cell 0 and is the caller's to leave out.

        Returns:
            int64[n], 0 to cells - 1.

        Raises:
            InputError: another number of axes.
        """
        if codes.ndim != 2 or codes.shape[1] != len(self.bins):
            raise InputError(f"colour codes have the shape {list(codes.shape)}, expected [n, {len(self.bins)}]")
        low, high, bins = np.array(self.low), np.array(self.high), np.array(self.bins)
        finite = np.where(np.isfinite(codes).all(axis=1, keepdims=True), codes, low)
        along = np.clip(np.floor((finite - low) / (high - low) * bins), 0, bins - 1).astype(np.int64)
        return np.asarray(np.ravel_multi_index(tuple(along.T), self.bins), dtype=np.int64)

    def draw(self, histogram: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
        """Draw colours from a histogram, uniformly within a cell.

        Args:
            histogram: float[cells], shares that add up to 1.
            count: how many.
            random: of pictures, never of noise: what it decides is public.

        Returns:
            float32[count, 3] or float32[count, 1], colours.
        """
        cells = random.choice(self.cells, size=count, p=np.asarray(histogram, np.float64) / np.sum(histogram))
        return colour_of_codes(self._codes(cells, random.random((count, len(self.bins)))))

    def _codes(self, cells: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Codes at the places `inside` (0 to 1 along each axis) of the cells."""
        along = np.stack(np.unravel_index(cells, self.bins), axis=1) + inside
        low, high = np.array(self.low), np.array(self.high)
        return np.asarray(low + along / np.array(self.bins) * (high - low), dtype=np.float32)
