"""Where a generated picture comes from: a pool of public pictures, how likely each is for a class, and colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedgan_secure.statistics import ColourBins


@dataclass(frozen=True, eq=False)
class Sources:
    """Pictures and colours for any class.

    Attributes:
        pool: uint8[m, H, W, C], public pictures.
        chances: float64[classes or 1, m], how likely each is drawn for a class; rows add up to 1.
        histogram: float64[cells], how likely a mean colour is.
        bins: what the cells are.
    """

    pool: np.ndarray
    chances: np.ndarray
    histogram: np.ndarray
    bins: ColourBins

    def draw(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a picture and a mean colour for each of `labels`, int[n].

        Returns:
            uint8[n, H, W, C], half of them mirrored on average, and float32[n, C].
        """
        rows = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            rows[places] = rng.choice(len(self.pool), len(places), p=self.chances[label])
        pictures = self.pool[rows]
        mirrored = rng.random(len(labels)) < 0.5
        pictures[mirrored] = pictures[mirrored, :, ::-1]
        return pictures, self.colours(len(labels), rng)

    def colours(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw float32[count, C] mean colours, uniform within a cell."""
        return self.bins.draw(self.histogram, count, rng)


def posterior_of(logits: np.ndarray) -> np.ndarray:
    """Turn logits, float64[n, classes], into probabilities."""
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(likely / likely.sum(axis=1, keepdims=True))


def chances_of(posterior: np.ndarray, purity: float, tilt: np.ndarray | None = None) -> np.ndarray:
    """Turn posteriors into chances.

    Args:
        posterior: float64[m, classes].
        purity: rows are in proportion to posterior^purity.
        tilt: float64[classes, m], by how much the logarithms of chances are raised; None for nothing.

    Returns:
        float64[classes, m], rows that add up to 1.
    """
    weights = np.power(posterior.T, purity) + 1e-9
    if tilt is not None:
        weights = weights * np.exp(tilt - tilt.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
