"""A start from another run's model: what belongs to a class follows its name, whatever its place in the list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedgan_secure.federation.class_weights import classes_taken
from fedgan_secure.federation.transfer import Initial, initial_vector
from fedgan_secure.models import ModelSpec
from fedgan_secure.networks import VectorLayout

SPEC = ModelSpec(
    image_size=28, channels=1, classes=3, latent_dim=8, generator_widths=(16, 8), discriminator_widths=(8, 8)
)
THEIRS = ("0 none", "1 mild", "2 moderate")


def _weights(spec: ModelSpec, vector: np.ndarray) -> dict[str, np.ndarray]:
    layout = VectorLayout.of(spec)
    return {entry.name: vector[entry.start : entry.stop].reshape(entry.shape) for entry in layout.entries}


@pytest.fixture(scope="module")
def initial() -> Initial:
    """A model in which no weight equals another."""
    size = VectorLayout.of(SPEC).size
    return Initial("run", "0" * 64, "said", SPEC, _weights(SPEC, np.arange(1, size + 1, dtype=np.float32)), THEIRS)


def _row(weights: dict[str, np.ndarray], place: int, latent_dim: int = 8) -> list[np.ndarray]:
    generator = [weights[name][latent_dim + place] for name in sorted(weights) if _reads_label(name, weights)]
    return [
        *generator,
        weights["discriminator/d_label/embeddings"][place],
        weights["discriminator/d_classes/kernel"][:, place],
        weights["discriminator/d_classes/bias"][place : place + 1],
    ]


def _reads_label(name: str, weights: dict[str, np.ndarray]) -> bool:
    return name.startswith(("generator/g_dense/", "generator/g_scale", "generator/g_shift")) and weights[name].ndim == 2


@pytest.mark.parametrize(
    "mine",
    [
        ("2 moderate", "0 none", "1 mild"),
        ("1 mild", "2 moderate", "3 severe"),
        ("0 none", "1 mild", "2 moderate", "4 worst"),
    ],
    ids=["another order", "another class", "one more"],
)
def test_a_class_is_taken_over_by_its_name(initial: Initial, mine: tuple[str, ...]) -> None:
    spec = replace(SPEC, classes=len(mine))
    made = _weights(spec, initial_vector(VectorLayout.of(spec), 7, initial, spec, mine))
    old = initial.weights
    for place, name in enumerate(mine):
        if name in THEIRS:
            for found, expected in zip(_row(made, place), _row(old, THEIRS.index(name)), strict=True):
                assert np.array_equal(found, expected), name
    for name, weight in made.items():
        if _reads_label(name, made):
            assert np.array_equal(weight[:8], old[name][:8]), "the rows that read the noise"


def test_a_class_that_is_new_starts_like_no_other(initial: Initial) -> None:
    """Whatever its place: rows of one seeded draw at equal places were equal, so an unknown class showed another's."""
    spec, layout = SPEC, VectorLayout.of(SPEC)
    first = _weights(spec, initial_vector(layout, 7, initial, spec, ("a", "b", "0 none")))
    turned = _weights(spec, initial_vector(layout, 7, initial, spec, ("b", "0 none", "a")))
    for name, place, other in (("a", 0, 2), ("b", 1, 0)):
        for one, two in zip(_row(first, place), _row(turned, other), strict=True):
            assert np.array_equal(one, two), name
    assert not np.array_equal(_row(first, 0)[0], _row(first, 1)[0])
    again = _weights(spec, initial_vector(layout, 8, initial, spec, ("a", "b", "0 none")))
    assert not np.array_equal(_row(first, 0)[0], _row(again, 0)[0]), "another seed, another draw"
    seeded = _weights(spec, layout.initial_vector(7))
    for name in first:
        if _reads_label(name, first):
            assert np.abs(first[name][8:10]).max() <= np.abs(seeded[name][8:]).max()


def test_without_labels_only_the_noise_is_taken_over(initial: Initial) -> None:
    spec = replace(SPEC, classes=0)
    made = _weights(spec, initial_vector(VectorLayout.of(spec), 7, initial, spec))
    assert np.array_equal(made["generator/g_dense/kernel"], initial.weights["generator/g_dense/kernel"][:8])
    theirs = Initial("run", "0" * 64, "said", spec, made)
    back = _weights(SPEC, initial_vector(VectorLayout.of(SPEC), 7, theirs, SPEC, THEIRS))
    assert np.array_equal(back["generator/g_dense/kernel"][:8], made["generator/g_dense/kernel"])


def test_what_was_taken_over_is_said() -> None:
    assert classes_taken(THEIRS, ("1 mild", "3 severe")) == (("1 mild",), ("3 severe",))
    assert classes_taken((), ("a",)) == ((), ("a",))
