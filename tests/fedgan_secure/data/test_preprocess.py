from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedgan_secure.data.pixels.preprocess import (
    BY_MODALITY,
    CT_ABDOMEN,
    FUNDUS,
    IMAGE_SIZES,
    PLAIN,
    PREPROCESSING,
    disc_of_the_eye,
    preprocess,
    to_levels,
)

# SHA-256 of the prepared phantom (tests/fedgan_secure/data/golden/phantom.png). Every hospital of a federation must
# prepare alike: a change here needs a new name in the policy ("fundus-crop/2").
GOLDEN = {
    (FUNDUS, 28, 1): "77dea419a26a4d0a",
    (FUNDUS, 28, 3): "b70b98cb237cabf2",
    (FUNDUS, 64, 1): "e0b130bdf655a4c0",
    (FUNDUS, 64, 3): "3aeed92b310738c3",
    (FUNDUS, 128, 1): "0edb86381453f7f9",
    (FUNDUS, 128, 3): "442615f035a62f0f",
    (PLAIN, 28, 1): "e1b174a33391311a",
    (PLAIN, 28, 3): "2f213f072e35c7ac",
    (PLAIN, 64, 1): "a1851a05cb61ca6d",
    (PLAIN, 64, 3): "278b7a30364c1574",
    (PLAIN, 128, 1): "78a33f42fa2ab3b3",
    (PLAIN, 128, 3): "b66b9d463bc38921",
}


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    with Image.open(Path(__file__).parent / "golden" / "phantom.png") as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", IMAGE_SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PREPROCESSING)
def test_the_output_is_the_golden_one(phantom: np.ndarray, name: str, size: int, channels: int) -> None:
    prepared = preprocess(phantom, name, size, channels)
    assert prepared.shape == (size, size, channels)
    assert prepared.dtype == np.uint8
    if name != CT_ABDOMEN:
        plain = PLAIN if name == BY_MODALITY else name  # a picture has no modality
        assert hashlib.sha256(prepared.tobytes()).hexdigest()[:16] == GOLDEN[plain, size, channels]
    else:
        assert np.array_equal(prepared, preprocess(phantom, PLAIN, size, channels))


def test_the_fundus_is_cropped_to_the_disc(phantom: np.ndarray) -> None:
    left, top, right, bottom = disc_of_the_eye(phantom) or (0, 0, 0, 0)
    assert abs((left + right) / 2 - 57) <= 2
    assert abs((top + bottom) / 2 - 45) <= 2
    assert 66 <= right - left <= 80
    prepared = preprocess(phantom, FUNDUS, 64, 3)
    lit = prepared.max(axis=2) > 30
    assert lit[32, 1:-1].all()
    assert lit[1:-1, 32].all()
    assert not lit[0, 0]


def test_a_picture_without_a_disc_is_kept_whole() -> None:
    black = np.zeros((40, 60, 3), np.uint8)
    assert disc_of_the_eye(black) is None
    assert preprocess(black, FUNDUS, 28, 3).max() == 0


def test_plain_keeps_the_whole_picture_and_its_proportions() -> None:
    wide = np.full((20, 80), 200, np.uint8)
    prepared = preprocess(wide, PLAIN, 64, 1)[:, :, 0]
    assert (prepared[:20] == 0).all()
    assert (prepared[-20:] == 0).all()
    assert (prepared[28:36] == 200).all()


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    middle = preprocess(stripes, PLAIN, 64, 1)[8:-8, 8:-8]
    assert middle.min() > 100
    assert middle.max() < 155


def test_a_picture_of_the_wanted_size_is_untouched() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    assert np.array_equal(preprocess(picture, PLAIN, 28, 1)[:, :, 0], picture)
    assert np.array_equal(preprocess(picture, PLAIN, 28, 3)[:, :, 2], picture)


def test_levels_clip_and_round() -> None:
    assert to_levels(np.array([-500.0, -160.0, 40.0, 240.0, 900.0]), -160, 240).tolist() == [0, 0, 128, 255, 255]


def test_what_cannot_be_prepared_is_refused() -> None:
    with pytest.raises(ValueError, match="known"):
        preprocess(np.zeros((4, 4), np.uint8), "fundus-crop/9", 64, 3)
    with pytest.raises(ValueError, match="uint8"):
        preprocess(np.zeros((4, 4), np.float32), PLAIN, 64, 3)
