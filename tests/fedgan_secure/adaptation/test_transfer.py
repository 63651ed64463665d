"""The transfer starts as a change of colour and nothing else, and its fit leads to the moments that were released."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from fedgan_secure.adaptation.fitting import CLASSES_A_STEP, Fit, FitSettings
from fedgan_secure.adaptation.sources import Sources
from fedgan_secure.adaptation.transfer import TransferShape, build_transfer
from fedgan_secure.errors import InputError
from fedgan_secure.statistics.colours import ColourBins, disc_mask, mean_colours
from fedgan_secure.statistics.decoding import Moments

SIZE = 16


def discs(count: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8[count, SIZE, SIZE, channels]: smooth discs on black, neither black nor white inside."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(SIZE)[None, :, None, None] / 3 + rng.uniform(0, 6, (count, 1, 1, 1)))
    level = rng.uniform(90, 130, (count, 1, 1, channels)) + 20 * wave * np.ones((1, SIZE, SIZE, 1))
    return np.rint(level * (disc_mask(SIZE)[None, :, :, None] > 0)).astype(np.uint8)


def floats(pictures: np.ndarray) -> np.ndarray:
    return (pictures / 127.5 - 1.0).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("local", [True, False])
def test_with_its_own_mean_colour_a_picture_stays_as_it_is(channels: int, local: bool) -> None:
    transfer = build_transfer(TransferShape(SIZE, channels, 8, local))
    pictures = discs(6, channels)
    own, mask = floats(pictures), disc_mask(SIZE)[None, :, :, None]
    # the mean colour as the transfer sees it: over the disc without its soft rim on black
    u, bright = (own + 1) / 2, np.clip((own + 1) / 2 * 8, 0, 1).max(axis=-1, keepdims=True)
    soft = tf.nn.avg_pool2d(bright, 3, 1, "SAME").numpy() * mask
    colour = (u * soft).sum(axis=(1, 2)) / soft.sum(axis=(1, 2))
    drawn, change = (np.asarray(part) for part in transfer([own, colour.astype(np.float32)]))
    assert not change.any()
    inside = (soft > 0.999).repeat(channels, axis=-1)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(drawn[inside], own[inside], atol=2e-6)
    np.testing.assert_allclose(drawn, u * soft * 2 - 1, atol=2e-6)


def test_at_the_start_only_the_colour_changes() -> None:
    """Every colour of a picture is multiplied by one number, so that its mean is the wanted one."""
    transfer = build_transfer(TransferShape(SIZE))
    own, wanted = floats(discs(5)), np.tile(np.array([[0.6, 0.35, 0.2]], np.float32), (5, 1))
    drawn, change = (np.asarray(part) for part in transfer([own, wanted]))
    assert not change.any()
    covered = tf.nn.avg_pool2d((disc_mask(SIZE) > 0).astype(np.float32)[None, :, :, None], 3, 1, "SAME").numpy()
    inside = (disc_mask(SIZE) >= 1.0) & (covered[0, :, :, 0] > 0.999)
    ratio = (drawn + 1)[:, inside] / (own + 1)[:, inside]
    assert (ratio.std(axis=1) < 1e-4).all() and np.abs(ratio - 1).max() > 0.1
    levels = np.clip(np.rint((drawn + 1) * 127.5), 0, 255).astype(np.uint8)
    assert np.abs(mean_colours(levels) / mean_colours(levels).sum(axis=1, keepdims=True) - wanted / 1.15).max() < 0.02


def test_no_colour_is_raised_without_bound_and_none_leaves_the_range() -> None:
    transfer = build_transfer(TransferShape(SIZE, most_gain=2.0))
    dark = floats(discs(3) // 10)
    drawn, _ = transfer([dark, np.ones((3, 3), np.float32)])
    drawn = np.asarray(drawn)
    assert (drawn >= -1).all() and (drawn <= 1).all()
    assert ((drawn + 1) <= 2 * (dark + 1) + 1e-5).all()
    bright, _ = transfer([floats(discs(3)), np.array([[3.0, 1.0, 1.0]] * 3, np.float32)])
    peak = (np.asarray(bright) + 1) / 2
    assert peak.max() <= 1.0 and np.isfinite(peak).all()


def test_the_black_around_the_disc_stays_black() -> None:
    transfer = build_transfer(TransferShape(SIZE))
    for weight in transfer.trainable_variables:
        weight.assign(tf.random.stateless_normal(weight.shape, (1, 2)))
    drawn, change = transfer([floats(discs(4)), np.full((4, 3), 0.5, np.float32)])
    outside = disc_mask(SIZE) == 0
    assert outside.any() and (np.asarray(drawn)[:, outside] == -1).all() and not np.asarray(change)[:, outside].any()


def test_equal_shapes_give_equal_first_weights() -> None:
    """They come from public seeds, so that everybody trains the same transfer."""
    one, other = (build_transfer(TransferShape(SIZE)).get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert 3000 < sum(weight.size for weight in build_transfer(TransferShape()).get_weights()) < 4000


# the fit --------------------------------------------------------------------------------------------------------


class Cells:
    """A toy of the start's features: means and spreads of 4 x 4 cells, differentiable."""

    def of(self, x: Any) -> Any:
        cells = tf.nn.avg_pool2d(x, 4, 4, "VALID")
        flat = tf.reshape(cells, (tf.shape(x)[0], 4 * 4 * 3))
        return 3.0 * tf.concat([flat, tf.math.reduce_std(x, axis=(1, 2))], axis=1)


def moments_of(pictures: np.ndarray, classes: int, deviation: float = 0.0) -> Moments:
    """What an exact release of `pictures` says, the same of every class."""
    found = np.asarray(Cells().of(tf.constant(floats(pictures)))).astype(np.float64)
    mean, std = found.mean(axis=0), np.sqrt(np.maximum(found.var(axis=0), 0.02))
    return Moments(
        np.tile(mean, (classes, 1)), np.tile(std, (classes, 1)), np.full(classes, deviation), np.full(classes, 100.0),
        np.full(8, 1 / 8),
    )  # fmt: skip


def fit(classes: int, moments: Moments, steps: int = 60) -> tuple[list[float], list[np.ndarray]]:
    transfer = build_transfer(TransferShape(SIZE, width=4))
    sources = Sources(discs(20), np.full((classes, 20), 1 / 20), np.full(8, 1 / 8), ColourBins((2, 2, 2)))
    settings = FitSettings(steps=steps, batch=12, rate=5e-3)
    told: list[tuple[int, int]] = []
    distances = Fit(transfer, Cells(), moments, sources, settings, 3).run(
        lambda done, total: told.append((done, total))
    )
    assert told == [(done, steps) for done in range(1, steps + 1)]
    return distances, transfer.get_weights()


def target(seed: int = 9) -> np.ndarray:
    """Discs that are brighter above than below, which no change of the mean colour gives."""
    slope = np.linspace(1.6, 0.5, SIZE)[None, :, None, None]
    return np.clip(discs(40, seed=seed) * slope, 0, 255).astype(np.uint8)


def test_the_fit_leads_to_the_released_moments() -> None:
    distances, weights = fit(2, moments_of(target(), 2))
    assert len(distances) == 60 and np.isfinite(distances).all()
    assert np.mean(distances[-10:]) < 0.5 * np.mean(distances[:3])
    again, same = fit(2, moments_of(target(), 2))
    np.testing.assert_allclose(distances, again, rtol=1e-3)
    for one, other in zip(weights, same, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_means_that_are_noise_alone_are_hardly_followed() -> None:
    """Of a class whose mean has the noise of many deviations, the fit takes next to nothing."""
    trusted, doubted = (fit(1, moments_of(target(), 1, deviation), 1)[0][0] for deviation in (0.0, 1e9))
    assert 0 < doubted < 0.02 * trusted


def test_of_many_classes_some_are_drawn_in_a_step() -> None:
    classes = CLASSES_A_STEP + 3
    distances, _ = fit(classes, moments_of(target(), classes), 4)
    assert len(distances) == 4 and np.isfinite(distances).all()


def test_the_constants_survive_their_table() -> None:
    made = FitSettings(steps=5)
    assert FitSettings.from_json(made.to_json()) == made
    with pytest.raises(InputError, match="fit: found the keys"):
        FitSettings.from_json({"steps": 5})
