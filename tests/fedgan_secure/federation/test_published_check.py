"""Every way to hide pictures in a published generator that we could think of, and what little gets through."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import keras
import numpy as np
import pytest

from fedgan_secure.adaptation.adapting import Adaptation, adaptation_of
from fedgan_secure.adaptation.generator import cumulated
from fedgan_secure.federation.results.published_check import objections_to_generator
from fedgan_secure.heads.vector import AdaptedLayout
from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.networks.keras_file import CONFIG, WEIGHTS, KerasForm, keras_bytes
from fedgan_secure.networks.keras_reading import entries_of
from fedgan_secure.starts.start import shipped_start
from fedgan_secure.statistics.grids import (
    CHANCES_GRID,
    CHANCES_SLACK,
    TRANSFER_GRID,
    TRANSFER_SLACK,
    free_bits,
    on_grid,
    strays,
)
from fedgan_secure.statistics.layout import ReleaseLayout
from fedgan_secure.statistics.sums import Noise
from tests.fedgan_secure.federation.adapted_world import SMALL

PHOTOGRAPH = np.random.default_rng(8).integers(0, 256, (64, 64, 3), np.uint8)
"""What somebody would like to hide: 12,288 bytes that nothing can compress."""


@dataclass(frozen=True, eq=False)
class World:
    """An adaptation, its vector, and the honest file."""

    adaptation: Adaptation
    vector: np.ndarray
    model: keras.Model
    form: KerasForm
    file: bytes

    def objections(self, data: bytes) -> list[str]:
        found, model = objections_to_generator(data, self.adaptation, self.vector)
        assert (model is None) == bool(found)
        return found

    def with_weights(self, change: Callable[[str, np.ndarray], np.ndarray]) -> bytes:
        """The file with other weights: `change` gets the name of a layer and each of its weights."""
        weights = [
            change(variable.path, value)
            for variable, value in zip(self.model.weights, self.model.get_weights(), strict=True)
        ]
        return self.form.file(weights)


@lru_cache(maxsize=1)
def world() -> World:
    """Made once: it takes some seconds."""
    start = shipped_start()
    spec = AdaptedSpec(
        start_sha256=start.digest, image_size=64, channels=3, classes=5, features=start.features, **SMALL
    )  # type: ignore[arg-type]
    layout = AdaptedLayout(spec, start, ReleaseLayout(classes=5, features=start.features, bins=(4, 4, 4)))
    assert layout.release is not None
    total = np.random.default_rng(3).normal(0, 2, layout.release.dimension)
    count, first, _, _ = layout.release.scales
    for number, mean in enumerate(start.public_means):
        block = total[number * layout.release.width :]
        block[0] += 400 * count
        block[1 : 1 + start.features] += 400 * first * mean
    total[-64:] += 20
    vector = layout.with_release(layout.initial_vector(0), total, 3, Noise(1.0), 0)
    adaptation = adaptation_of(layout, vector, Noise(1.0))
    model = adaptation.generator(vector)
    return World(adaptation, vector, model, KerasForm.of(model), keras_bytes(model))


def test_the_honest_file_passes_and_is_the_one_that_a_second_build_gives() -> None:
    made = world()
    assert made.objections(made.file) == []
    assert keras_bytes(made.adaptation.generator(made.vector)) == made.file


def test_a_machine_with_other_last_digits_publishes_what_the_others_accept() -> None:
    """Its transfer differs before rounding by half the slack; features and chances follow from its own transfer."""
    made = world()
    rng = np.random.default_rng(1)
    theirs = [
        on_grid(weight + rng.uniform(-0.5, 0.5, weight.shape) * TRANSFER_SLACK, TRANSFER_GRID)
        for weight in made.adaptation.fitted
    ]
    other = made.adaptation.with_transfer(theirs).generator(made.vector)
    data = keras_bytes(other)
    assert data != made.file
    found, published = objections_to_generator(data, made.adaptation, made.vector)
    assert found == [] and published is not None
    for mine, read in zip(other.get_weights(), published.get_weights(), strict=True):
        assert np.array_equal(mine, read)


@pytest.mark.parametrize(
    "table",
    ["a_latents", "a_labels", "a_colours", "a_cells", "a_maps", "a_chances", "g_dense", "g_label", "g_last", "t_gain"],
)
def test_a_photograph_in_a_table_is_seen(table: str) -> None:
    def change(path: str, value: np.ndarray) -> np.ndarray:
        if table not in path:
            return value
        pixels = np.resize(PHOTOGRAPH, value.size).reshape(value.shape)
        return (value + pixels * np.float32(1e-3)).astype(np.float32)

    assert any("released sums" in text for text in world().objections(world().with_weights(change)))


@pytest.mark.parametrize("table", ["a_latents", "a_maps", "g_dense", "a_chances", "a_colours", "t_conv1"])
def test_a_photograph_in_the_last_digits_is_seen(table: str) -> None:
    """One bit of each float32 value: the pictures do not change by a grey level."""

    def change(path: str, value: np.ndarray) -> np.ndarray:
        if table not in path:
            return value
        bits = np.resize(np.unpackbits(PHOTOGRAPH), value.size).reshape(value.shape).astype(np.uint32)
        return (value.view(np.uint32) ^ bits).view(np.float32)

    assert world().objections(world().with_weights(change))


def test_minus_zero_and_numbers_that_are_none_are_seen() -> None:
    made = world()
    for number in (np.nan, np.inf, -np.inf):
        data = made.with_weights(lambda path, value, n=number: np.where("t_conv2" in path, n, value))  # type: ignore[misc]
        assert "NaN" in made.objections(data)[0]
    assert strays(np.array([-0.0], np.float32), np.zeros(1), TRANSFER_GRID, TRANSFER_SLACK) == 1


def test_another_layer_is_seen_whatever_it_does() -> None:
    """A table that nothing depends on, and a function of Python."""
    made = world()
    inputs = made.model.inputs
    hidden = keras.layers.Embedding(64, 192, trainable=False, name="photograph")
    looked_up = keras.ops.sum(hidden(keras.ops.zeros_like(inputs[1])), axis=(1, 2)) * 0.0
    picture = made.model.outputs[0] + keras.ops.reshape(looked_up, (-1, 1, 1, 1))
    hidden.set_weights([PHOTOGRAPH.reshape(64, 192).astype(np.float32)])
    assert made.objections(keras_bytes(keras.Model(inputs, picture, name="generator")))
    ours = keras.layers.Lambda(lambda value: value)(made.model.outputs[0])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries_of(made.file).items():
            config = keras.Model(inputs, ours, name="generator").to_json().encode()
            archive.writestr(name, config if name == CONFIG else data)
    assert made.objections(buffer.getvalue())


def test_no_byte_beside_the_weights_is_free() -> None:
    made = world()
    first = made.file.index(entries_of(made.file)[WEIGHTS])
    inside = np.zeros(len(made.file), bool)
    for gap in made.form.gaps:
        inside[first + gap.start : first + gap.start + gap.size] = True
    free = np.flatnonzero(~inside)
    assert len(made.file) - len(free) == 4 * made.form.parameters
    for place in np.random.default_rng(2).choice(free, 200, replace=False):
        data = bytearray(made.file)
        data[place] ^= 1 << int(place % 8)
        weights = made.form.weights_of(bytes(data))
        assert weights is not None and made.form.file(weights) != data, int(place)
    assert "more than its weights" in made.objections(bytes(data))[0]
    for longer in (made.file + b"x", made.file[:-1], b"PK" + made.file, b""):
        assert "bytes, expected" in made.objections(longer)[0]


def test_what_gets_through_is_less_than_a_twentieth_of_a_photograph() -> None:
    """A publisher that knows the own weights of the others to the last digit takes every choice there is.

    The choices are bits of the transfer, at most two points a weight, and of the few chances that lie near the middle
    of two points. Whether the pictures then still pass is another question: here they need not.
    """
    made = world()
    bits = np.unpackbits(PHOTOGRAPH)
    used = 0

    def choose(own: np.ndarray, grid: float, slack: float) -> np.ndarray:
        nonlocal used
        exact = own.astype(np.float64) / grid
        low, high = np.ceil(exact - 0.5 - slack / grid), np.floor(exact + 0.5 + slack / grid)
        free = high > low
        taken = np.resize(bits[used:], low.shape)
        used += int(free.sum())
        return ((low + taken * free) * grid + 0.0).astype(np.float32)

    transfer = [choose(weight, TRANSFER_GRID, TRANSFER_SLACK) for weight in made.adaptation.fitted]
    published = made.adaptation.with_transfer(transfer)
    chances = choose(cumulated(published.chances(made.vector)), CHANCES_GRID, CHANCES_SLACK)
    assert all(
        strays(values, own, TRANSFER_GRID, TRANSFER_SLACK) == 0
        for values, own in zip(transfer, made.adaptation.fitted, strict=True)
    )
    model = published.generator(made.vector)
    model.get_layer("a_chances").set_weights([chances])
    found = made.objections(keras_bytes(model))
    assert all("grey levels" in text for text in found), found
    bound = sum(free_bits(weight, TRANSFER_GRID, TRANSFER_SLACK) for weight in made.adaptation.fitted)
    bound += free_bits(cumulated(published.chances(made.vector)), CHANCES_GRID, CHANCES_SLACK)
    assert used <= bound + 1e-6
    assert bound / 8 < PHOTOGRAPH.nbytes / 20, bound


def test_two_points_of_the_grid_are_free_and_no_third() -> None:
    own = np.array([0.0, 0.49, 0.51, 10.25]) * TRANSFER_GRID
    for steps, expected in ((0, [0, 0, 1, 1]), (1, [1, 1, 0, 1]), (10, [1, 1, 1, 0])):
        values = np.full(4, steps * TRANSFER_GRID, np.float32)
        found = [strays(values[i : i + 1], own[i : i + 1], TRANSFER_GRID, 0.02 * TRANSFER_GRID) for i in range(4)]
        assert found == [int(bool(e) and not (i in (1, 2) and steps in (0, 1))) for i, e in enumerate(expected)]
