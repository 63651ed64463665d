"""The published generator: its tables are kept to, it opens anywhere Keras does, z and label decide on everything."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from fedgan_secure.adaptation.generator import build_adapted_generator, maps_kernel
from fedgan_secure.adaptation.transfer import TransferShape, build_transfer
from fedgan_secure.models.adapted_spec import DRAWS, AdaptedSpec
from fedgan_secure.networks.dcgan import draw_images
from fedgan_secure.networks.start_networks import build_start_generator
from fedgan_secure.starts.architecture import LATENT
from fedgan_secure.starts.start import shipped_start
from fedgan_secure.statistics.colours import ColourBins, colour_codes
from tests.fedgan_secure.adaptation.toy_start import spec_of, untrained_start

SIDE = 8
EXTREMES = np.array([-40.0, -9.0, -6.0, -5.4, -1e-8, 0.0, 1e-8, 5.2, 5.4, 5.6, 6.0, 9.0, 40.0], np.float32)


def tell_tale() -> keras.Model:
    """A generator whose picture says what it was asked for: first latent, label, first map, and which side is left."""
    ops = keras.ops
    z, label = keras.Input((LATENT,)), keras.Input((1,), dtype="int32")
    blank = ops.zeros_like(ops.reshape(z[:, : SIDE * SIDE], (-1, SIDE, SIDE, 1)))
    parts = [z[:, :1], ops.cast(label, "float32"), z[:, 64:65]]
    planes = [blank + ops.reshape(part, (-1, 1, 1, 1)) for part in parts]
    side = np.zeros((1, SIDE, SIDE, 3), np.float32)
    side[:, 0, 0] = 0.25
    return keras.Model([z, label], ops.concatenate(planes, axis=-1) + side)


def pass_on(show: str, channels: int = 3) -> keras.Model:
    """A transfer that gives back the picture, or the colour that it was asked for."""
    ops = keras.ops
    picture, colour = keras.Input((SIDE, SIDE, 3)), keras.Input((channels,))
    plain = picture * 0.0 + ops.reshape(colour, (-1, 1, 1, channels))
    shown = picture + 0.0 * plain if show == "picture" else plain
    return keras.Model([picture, colour], [shown, picture * 0.0])


def told(chances: np.ndarray, z: np.ndarray, labels: np.ndarray | None, seed: int = 0) -> np.ndarray:
    """float32[n, 8, 8, 3] of the tell-tale generator with these chances."""
    count = chances.shape[1]
    latents = np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)
    latents[:, 0] = np.arange(count)
    spec = spec_of(shipped_start(), classes=0 if labels is None else len(chances))
    model = build_adapted_generator(
        spec, tell_tale(), pass_on("picture"), (latents, np.arange(count) % 5), chances,
        (np.ones(8) / 8, ColourBins((2, 2, 2))),
    )  # fmt: skip
    return np.asarray(model(z if labels is None else [z, labels[:, None].astype(np.int32)]))


def tables() -> Iterator[Any]:
    rng = np.random.default_rng(1)
    thirds = np.array([[1 / 3, 0, 1 / 3, 1 / 3, 0, 0], [0, 0, 0, 0, 1, 0]])
    yield pytest.param(thirds, id="thirds, and one alone")
    yield pytest.param(np.array([[0, 0, 0.1, 0.2, 0.7, 0.0], [0.5, 0, 0, 0, 0, 0.5]]), id="none at the rims")
    many = rng.random((2, 20_000)) * (rng.random((2, 20_000)) < 0.3)
    many[:, -50:] = 0
    yield pytest.param(many / many.sum(axis=1, keepdims=True), id="a full pool")


@pytest.mark.parametrize("chances", list(tables()))
def test_a_picture_without_a_chance_is_never_drawn(chances: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    z = rng.standard_normal((400, DRAWS)).astype(np.float32)
    z[: 2 * len(EXTREMES), 0] = np.repeat(EXTREMES, 2)
    labels = np.arange(len(z)) % 2
    drawn = np.rint(told(chances, z, labels)[:, 3, 3, 0]).astype(int)
    assert (chances[labels, drawn] > 0).all()


def test_pictures_are_drawn_as_often_as_their_chances_say_and_with_their_own_label_and_maps() -> None:
    chances = np.array([[0.1, 0.2, 0.0, 0.7], [0.0, 0.5, 0.5, 0.0]])
    z = np.random.default_rng(5).standard_normal((8000, DRAWS)).astype(np.float32)
    labels = np.arange(len(z)) % 2
    pictures = told(chances, z, labels)
    drawn = np.rint(pictures[:, 3, 3, 0]).astype(int)
    for label in (0, 1):
        share = np.bincount(drawn[labels == label], minlength=4) / 4000
        assert np.abs(share - chances[label]).max() < 0.03
    assert np.array_equal(np.rint(pictures[:, 3, 3, 1]).astype(int), drawn % 5)
    latents = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    latents[:, 0] = np.arange(4)
    np.testing.assert_allclose(pictures[:, 3, 3, 2], (latents @ maps_kernel())[drawn, 0], atol=1e-4)
    left = pictures[:, 0, 0, 0] - pictures[:, 3, 3, 0] > 0.1
    right = pictures[:, 0, -1, 0] - pictures[:, 3, 3, 0] > 0.1
    assert (left ^ right).all() and 0.45 < left.mean() < 0.55
    for number in range(DRAWS):  # what decides on the picture is one number of z alone
        other = z.copy()
        other[:, number] = -other[:, number]
        changed = (np.rint(told(chances, other, labels)[:, 3, 3, 0]).astype(int) != drawn).mean()
        assert changed > 0.3 if number == 0 else changed == 0


def test_the_noise_maps_of_a_picture_are_standard_normal() -> None:
    kernel = maps_kernel()
    assert kernel.shape == (64, LATENT - 64) and kernel.dtype == np.float32
    np.testing.assert_allclose(np.square(kernel).sum(axis=0), 1.0, rtol=1e-5)


@pytest.mark.parametrize("bins", [(3, 2, 2), (6,)], ids=["colour", "grey"])
def test_colours_come_from_the_cells_of_the_histogram_alone(bins: tuple[int, ...]) -> None:
    cells = ColourBins(bins)
    histogram = np.zeros(cells.cells)
    histogram[[0, 2, cells.cells - 3]] = 0.2, 0.5, 0.3
    channels = 3 if len(bins) == 3 else 1
    z = np.random.default_rng(3).standard_normal((4000, DRAWS)).astype(np.float32)
    z[: len(EXTREMES), 1] = EXTREMES
    spec = spec_of(shipped_start(), classes=0)
    pool = np.zeros((2, 64), np.float32), np.zeros(2, int)
    model = build_adapted_generator(
        spec, tell_tale(), pass_on("colour", channels), pool, np.full((1, 2), 0.5), (histogram, cells)
    )
    colours = np.asarray(model(z))[:, 3, 3, :channels]
    codes = colour_codes(colours)
    # a hair inside of the cells: a code at the very rim may round to its neighbour
    width = (np.array(cells.high) - cells.low) / bins
    centre = np.asarray(cells.centres)[np.flatnonzero(histogram)]
    apart = np.abs(codes[:, None] - centre[None]) / width
    assert (apart.max(axis=2).min(axis=1) < 0.5 + 1e-3).all()
    share = np.bincount(apart.max(axis=2).argmin(axis=1), minlength=3) / len(codes)
    assert np.abs(share - histogram[histogram > 0]).max() < 0.03
    assert apart.max(axis=2).min(axis=1).max() > 0.45


# whole ----------------------------------------------------------------------------------------------------------


def published(channels: int, classes: int) -> tuple[AdaptedSpec, keras.Model]:
    start = shipped_start() if channels == 3 else untrained_start(channels)
    spec = spec_of(start, classes=classes)
    rng = np.random.default_rng(8)
    latents, labels = rng.standard_normal((6, 64)).astype(np.float32), np.arange(6) % start.classes
    chances = np.eye(6)[: max(classes, 1)] * 0.9 + 0.1 / 6
    bins = ColourBins.for_channels(channels)
    histogram = np.ones(bins.cells) / bins.cells
    transfer = build_transfer(TransferShape(64, channels, 4))
    return spec, build_adapted_generator(
        spec, build_start_generator(start), transfer, (latents, labels), chances, (histogram, bins)
    )


@pytest.fixture(scope="module")
def colour() -> tuple[AdaptedSpec, keras.Model]:
    return published(3, 5)


def own_words(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a Keras configuration that names a class."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for item in value.values():
            yield from own_words(item)
    elif isinstance(value, list):
        for item in value:
            yield from own_words(item)


def test_the_file_opens_without_this_package_and_draws_the_same_pictures(
    colour: tuple[AdaptedSpec, keras.Model], tmp_path: Path
) -> None:
    spec, model = colour
    model.save(tmp_path / "generator.keras")
    with zipfile.ZipFile(tmp_path / "generator.keras") as file:
        config = json.loads(file.read("config.json"))
    named = list(own_words(config))
    assert len(named) > 50
    for word in named:
        assert word.get("registered_name") in (None, word["class_name"]), word
        assert str(word.get("module")).split(".")[0] in ("keras", "builtins", "None"), word
        assert word["class_name"] != "Lambda" and "fedgan" not in json.dumps(word)
    loaded = keras.models.load_model(tmp_path / "generator.keras", compile=False, safe_mode=True)
    labels = np.arange(10, dtype=np.int32) % 5
    assert np.array_equal(draw_images(model, spec, labels, 10, 4), draw_images(loaded, spec, labels, 10, 4))
    assert not loaded.trainable_variables and loaded.output_shape == (None, 64, 64, 3)


def test_noise_and_label_decide_on_a_picture_whatever_is_drawn_beside_it(
    colour: tuple[AdaptedSpec, keras.Model],
) -> None:
    spec, model = colour
    z = np.random.default_rng(1).standard_normal((4, DRAWS)).astype(np.float32)
    labels = np.array([[0], [1], [2], [3]], np.int32)
    whole = np.asarray(model([z, labels]))
    assert whole.shape == (4, 64, 64, 3) and np.abs(whole).max() <= 1.0 and np.isfinite(whole).all()
    assert np.array_equal(whole, np.asarray(model([z, labels])))
    single = np.concatenate([np.asarray(model([z[i : i + 1], labels[i : i + 1]])) for i in range(4)])
    np.testing.assert_allclose(single, whole, atol=1e-5)
    others = np.asarray(model([z, (labels + 1) % 5]))
    moved = np.asarray(model([z[:, ::-1].copy(), labels]))
    assert (np.abs(others - whole).mean(axis=(1, 2, 3)) > 1e-3).all()
    assert (np.abs(moved - whole).mean(axis=(1, 2, 3)) > 1e-3).all()
    assert draw_images(model, spec, labels[:, 0], 4, 1).std() > 5


@pytest.mark.parametrize(("channels", "classes"), [(3, 0), (1, 2)], ids=["unconditional", "grey"])
def test_without_classes_or_in_grey_it_works_the_same(channels: int, classes: int, tmp_path: Path) -> None:
    spec, model = published(channels, classes)
    model.save(tmp_path / "generator.keras")
    loaded = keras.models.load_model(tmp_path / "generator.keras", compile=False, safe_mode=True)
    labels = None if classes == 0 else np.arange(6, dtype=np.int32) % classes
    drawn = draw_images(loaded, spec, labels, 6, 2)
    assert drawn.shape == (6, 64, 64, channels) and np.array_equal(drawn, draw_images(model, spec, labels, 6, 2))
    assert len(loaded.inputs) == (1 if classes == 0 else 2)
