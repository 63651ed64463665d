"""Mean colours, their codes and the cells of the histogram."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedgan_secure.errors import InputError
from fedgan_secure.statistics.colours import ColourBins, colour_codes, colour_of_codes, disc_mask, mean_colours


def pictures(count: int, channels: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def test_the_mask_is_a_disc_of_whole_256ths() -> None:
    mask = disc_mask(64)
    assert mask.shape == (64, 64) and mask.dtype == np.float32
    assert mask[32, 32] == 1 and mask[0, 0] == 0 and 0 < mask[32, 0] < 1
    assert (mask * 256 == np.rint(mask * 256)).all()
    assert mask.mean() == pytest.approx(math.pi / 4, rel=0.01)
    with pytest.raises(ValueError, match="read-only"):
        mask[0, 0] = 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mean_colour_is_that_of_the_disc_and_does_not_depend_on_other_pictures(channels: int) -> None:
    images = pictures(150, channels)
    found = mean_colours(images)
    mask = disc_mask(16).astype(np.float64)
    for row in (0, 77, 149):
        expected = (images[row] / 255 * mask[:, :, None]).sum(axis=(0, 1)) / mask.sum()
        assert found[row] == pytest.approx(expected, abs=1e-6)
        assert (mean_colours(images[row : row + 1])[0] == found[row]).all()
    order = np.random.default_rng(1).permutation(150)
    assert (mean_colours(images[order]) == found[order]).all()


def test_no_picture_has_no_colour_and_others_are_refused() -> None:
    assert mean_colours(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 3)
    for wrong in (np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 9, 3), np.uint8), np.zeros((2, 8, 8, 2), np.uint8)):
        with pytest.raises(InputError):
            mean_colours(wrong)
    with pytest.raises(InputError):
        disc_mask(0)
    with pytest.raises(InputError):
        colour_codes(np.zeros((2, 4)))


@pytest.mark.parametrize("channels", [1, 3])
def test_codes_and_colours_are_inverse(channels: int) -> None:
    colours = np.random.default_rng(0).uniform(0.01, 1, (200, channels)).astype(np.float32)
    assert colour_of_codes(colour_codes(colours)) == pytest.approx(colours, rel=1e-5)


def test_a_black_picture_has_a_finite_code() -> None:
    assert np.isfinite(colour_codes(np.zeros((1, 3)))).all() and np.isfinite(colour_codes(np.zeros((1, 1)))).all()


@given(codes=hnp.arrays(np.float32, (20, 3), elements=st.floats(width=32)))
def test_every_code_has_a_cell(codes: np.ndarray) -> None:
    cells = ColourBins().index(codes)
    assert ((cells >= 0) & (cells < ColourBins().cells)).all()


@pytest.mark.parametrize("bins", [ColourBins(), ColourBins.for_channels(1), ColourBins((2, 3, 4))])
def test_centres_lie_in_their_cells_and_rims_take_what_is_outside(bins: ColourBins) -> None:
    assert (bins.index(bins.centres) == np.arange(bins.cells)).all()
    low, high = np.array([bins.low]), np.array([bins.high])
    assert bins.index(low - 5).tolist() == [0] and bins.index(high + 5).tolist() == [bins.cells - 1]


@pytest.mark.parametrize("bins", [ColourBins(), ColourBins.for_channels(1)])
def test_drawn_colours_lie_in_the_cells_of_the_histogram(bins: ColourBins) -> None:
    histogram = np.zeros(bins.cells)
    histogram[[3, 11]] = 0.25, 0.75
    drawn = bins.draw(histogram, 2000, np.random.default_rng(0))
    cells = bins.index(colour_codes(drawn))
    inside = np.isin(cells, [3, 11])
    assert inside.mean() > 0.99  # a code at the rim of its cell may be rounded out of it
    assert (cells[inside] == 3).mean() == pytest.approx(0.25, abs=0.04)


def test_bins_that_are_none_are_refused() -> None:
    for wrong in ((), (3, 4), (0,), (3, 3, 3.5), (2, 2, 2, 2)):
        with pytest.raises(InputError):
            ColourBins(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        ColourBins((3,), (1.0,), (1.0,))
    with pytest.raises(InputError):
        ColourBins().index(np.zeros((3, 1)))
