"""Where pictures and colours of a class come from: chances are kept, draws follow from the seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedgan_secure.adaptation.sources import Sources, chances_of, posterior_of
from fedgan_secure.statistics.colours import ColourBins

BINS = ColourBins((2, 2, 2))


def numbered(count: int) -> np.ndarray:
    """uint8[count, 4, 4, 3]: picture i is of value i, brighter on its left half."""
    pool = np.tile(np.arange(count, dtype=np.uint8)[:, None, None, None], (1, 4, 4, 3))
    pool[:, :, :2] += 100
    return pool


@given(
    chances=arrays.arrays(np.float64, (2, 7), elements=st.sampled_from([0.0, 0.0, 0.3, 1.0])),
    cells=arrays.arrays(np.float64, 8, elements=st.sampled_from([0.0, 1.0])),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40)
def test_nothing_without_a_chance_is_drawn(chances: np.ndarray, cells: np.ndarray, seed: int) -> None:
    chances[:, 3] += chances.sum(axis=1) == 0
    cells[5] += cells.sum() == 0
    sources = Sources(numbered(7), chances / chances.sum(axis=1, keepdims=True), cells / cells.sum(), BINS)
    labels = np.arange(60) % 2
    pictures, colours = sources.draw(labels, np.random.default_rng(seed))
    drawn = pictures.min(axis=(1, 2, 3))
    assert (chances[labels, drawn] > 0).all()
    assert pictures.dtype == np.uint8 and colours.dtype == np.float32 and colours.shape == (60, 3)
    again = sources.draw(labels, np.random.default_rng(seed))
    assert np.array_equal(again[0], pictures) and np.array_equal(again[1], colours)


def test_about_half_are_mirrored_and_the_pool_stays_as_it_is() -> None:
    pool = numbered(3)
    kept = pool.copy()
    sources = Sources(pool, np.full((1, 3), 1 / 3), np.full(8, 1 / 8), BINS)
    pictures, _ = sources.draw(np.zeros(2000, np.int64), np.random.default_rng(0))
    mirrored = pictures[:, 0, 0, 0] < pictures[:, 0, -1, 0]
    assert 0.4 < mirrored.mean() < 0.6 and np.array_equal(pool, kept)


@given(logits=arrays.arrays(np.float64, (5, 3), elements=st.floats(-1e4, 1e4)), purity=st.floats(0, 100))
def test_chances_are_probabilities_of_every_picture_for_a_class(logits: np.ndarray, purity: float) -> None:
    posterior = posterior_of(logits)
    np.testing.assert_allclose(posterior.sum(axis=1), 1.0)
    chances = chances_of(posterior, purity)
    assert chances.shape == (3, 5) and (chances > 0).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)


def test_purity_prefers_the_pictures_that_are_surest() -> None:
    posterior = np.array([[0.8, 0.2], [0.4, 0.6]])
    np.testing.assert_allclose(chances_of(posterior, 0.0), 0.5)
    np.testing.assert_allclose(chances_of(posterior, 1.0), [[2 / 3, 1 / 3], [0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(chances_of(posterior, 2.0), [[0.8, 0.2], [0.1, 0.9]], rtol=1e-6)
