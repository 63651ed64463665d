"""Chances are tilted towards pictures whose features have the released moments, and no further than noise allows."""

from __future__ import annotations

import numpy as np

from fedgan_secure.adaptation.sources import chances_of
from fedgan_secure.adaptation.tilting import tilts
from fedgan_secure.statistics.decoding import Moments
from fedgan_secure.statistics.grids import CHANCES_SLACK

PICTURES, FEATURES = 400, 6
EVEN = np.full((2, PICTURES), 1.0 / PICTURES)
POOL = np.random.default_rng(1).standard_normal((PICTURES, FEATURES)).astype(np.float32)


def moments(mean: float, std: float, noise: float = 0.0) -> Moments:
    """Two classes on either side of zero."""
    means = np.outer([mean, -mean], np.ones(FEATURES))
    return Moments(means, np.full(means.shape, std), np.full(2, noise), np.full(2, 100.0), np.ones(1))


def tilted(asked: Moments, pool: np.ndarray = POOL) -> np.ndarray:
    return chances_of(np.full((PICTURES, 2), 0.5), 2.0, tilts(pool, EVEN, asked))


def spread(chances: np.ndarray) -> np.ndarray:
    """Of one class over the pool."""
    exact = POOL.astype(np.float64)
    return np.asarray(np.sqrt(chances @ exact**2 - (chances @ exact) ** 2))


def test_means_and_spreads_come_nearer_to_the_released_ones() -> None:
    mean, std = 0.3, 0.6
    found = tilted(moments(mean, std))
    assert np.allclose(found.sum(axis=1), 1.0) and (found > 0).all()
    for row, wanted in zip(found, (mean, -mean), strict=True):
        before, after = EVEN[0] @ POOL - wanted, row @ POOL - wanted
        assert np.abs(after).mean() < 0.95 * np.abs(before).mean()
        assert np.abs(spread(row) - std).mean() < np.abs(spread(EVEN[0]) - std).mean()


def test_the_nearest_chances_are_taken_so_little_is_changed_where_little_is_asked() -> None:
    exact = POOL.astype(np.float64)
    own = Moments(
        np.stack([exact.mean(axis=0)] * 2), np.stack([exact.std(axis=0)] * 2), np.zeros(2), np.ones(2), np.ones(1)
    )
    assert np.abs(tilts(POOL, EVEN, own)).max() < 1e-4


def test_the_noisier_the_release_the_less_it_is_followed() -> None:
    apart = [float(np.abs(tilted(moments(0.5, 0.6, noise)) - EVEN).sum()) for noise in (0.0, 1.0, 10.0, np.inf)]
    assert apart == sorted(apart, reverse=True) and apart[0] > 10 * apart[2] and apart[3] < 1e-6


def test_last_digits_of_the_features_do_not_reach_the_published_grid() -> None:
    """Two machines find the same cumulated chances up to the slack of the check."""
    asked = moments(0.5, 0.6)
    other = POOL * (1 + 1e-6 * np.random.default_rng(2).standard_normal(POOL.shape)).astype(np.float32)
    apart = np.cumsum(tilted(asked, other), axis=1) - np.cumsum(tilted(asked), axis=1)
    assert 0 < np.abs(apart).max() < CHANCES_SLACK
