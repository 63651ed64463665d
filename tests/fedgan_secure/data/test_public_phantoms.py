"""The public simulator draws what the shipped start was trained on, and nothing that the private one draws."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fedgan_secure.data.phantoms import public_phantoms
from fedgan_secure.data.phantoms.drawing import draw_anatomy, draw_camera
from fedgan_secure.data.phantoms.public_phantoms import (
    CASTS,
    CLASSES,
    draw_public,
    draw_public_anatomy,
    draw_public_camera,
)
from fedgan_secure.errors import InputError

# Pictures 0 to 5 of seed 1, from the scripts that trained the shipped start (not from this port).
PICTURES = (
    "de363672ac5295a1",
    "01104e4d49352d78",
    "ff2785da08780961",
    "a2c3587a467fc4ea",
    "da88644b38fe1ace",
    "17a04aaf6d6e6077",
)
LABELS = [2, 0, 3, 1, 1, 3]
LESIONS = [
    [14, 5, 6, 0, 0, 0],
    [0] * 6,
    [10, 7, 9, 5, 0, 0],
    [6, 0, 0, 0, 0, 0],
    [4, 0, 0, 0, 0, 0],
    [8, 13, 10, 1, 0, 0],
]


def test_the_pictures_are_those_that_the_shipped_start_was_trained_on() -> None:
    drawn = draw_public(6, workers=1)
    assert public_phantoms.VERSION == "public-fundus/1"
    assert tuple(hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in drawn.images) == PICTURES
    assert drawn.labels.tolist() == LABELS
    assert drawn.lesions.tolist() == LESIONS


def test_a_picture_depends_on_its_seed_and_index_alone() -> None:
    whole = draw_public(60, size=28, seed=3, workers=2)
    part = draw_public(2, first=55, size=28, seed=3, workers=1)
    assert np.array_equal(whole.images[55:57], part.images)
    assert whole.images.shape == (60, 28, 28, 3) and whole.images.dtype == np.uint8
    assert set(whole.labels) == set(range(CLASSES))
    assert not np.array_equal(draw_public(2, first=55, size=28, seed=4, workers=1).images, part.images)


def test_no_public_camera_and_no_public_eye_is_a_private_one() -> None:
    generator = np.random.default_rng(0)
    private = [draw_camera(generator, index) for index in range(200)]
    public = [draw_public_camera(generator, index) for index in range(200)]
    gains = np.array([camera.gain for camera in private]), np.array([camera.gain for camera in public])
    assert np.abs(gains[0][:, None] - gains[1][None]).max(axis=2).min() > 0.08
    assert min(camera.noise for camera in public) >= max(camera.noise for camera in private)
    eyes = [draw_anatomy(generator) for _ in range(200)], [draw_public_anatomy(generator) for _ in range(200)]
    assert max(eye.disc_radius for eye in eyes[1]) < min(eye.disc_radius for eye in eyes[0])
    assert max(eye.vessel_width for eye in eyes[1]) <= min(eye.vessel_width for eye in eyes[0])
    assert min(eye.tortuosity for eye in eyes[1]) > max(eye.tortuosity for eye in eyes[0])
    assert len(CASTS) == 6


def test_the_disease_has_other_counts_than_the_private_one() -> None:
    private = {"DOTS": (0, 9, 16, 22, 18), "BLOTS": (0, 0, 6, 16, 12), "EXUDATES": (0, 0, 10, 26, 20)}
    private["WOOL"] = (0, 0, 0, 5, 4)
    for name, counts in private.items():
        means = getattr(public_phantoms, name)
        assert len(means) == CLASSES and means[0] == 0
        assert all(mean < count for mean, count in zip(means, counts, strict=True) if count)


@pytest.mark.parametrize(("count", "first", "seed"), [(0, 0, 1), (1, -1, 1), (1, 0, -1)])
def test_what_cannot_be_drawn_is_refused(count: int, first: int, seed: int) -> None:
    with pytest.raises(InputError, match="expected at least 1"):
        draw_public(count, first=first, seed=seed)
