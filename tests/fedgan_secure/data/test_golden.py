"""The golden digest of preprocessing: fixed, sensitive to one level of one pixel, and refused where it differs."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from fedgan_secure.data.pixels import golden
from fedgan_secure.data.pixels.golden import golden_digest, pictures, refuse_other_preprocessing
from fedgan_secure.data.pixels.preprocess import BY_MODALITY, CT_ABDOMEN, FUNDUS, PLAIN
from fedgan_secure.errors import InputError

KNOWN = {
    (FUNDUS, 64, 3): "b61041d7b9e1bba1a33d0597a4aa4ff4e4cbff31ec65607aee7ed65b8578c7c4",
    (FUNDUS, 28, 3): "26b7b8310e323af78b9a31a7748c40711cb587ccef752e91b5c47d73138ccfdb",
    (CT_ABDOMEN, 64, 1): "691f4da29874a270da905ca05fbdfd9f2fc78e5bca21bccc14f08533d3ddfb93",
    (PLAIN, 128, 1): "5f99f274f65b9d1de6af7984554906f2a45dfc211c4d3adac8132cc3eb86893e",
    (BY_MODALITY, 64, 3): "88660a2c898fdfb0722460287665c3afad99753acf11e32af3c98468cd79a0f7",
}
"""Under Pillow 13.0. A version that prepares images otherwise must change the number after the slash."""


@pytest.fixture(autouse=True)
def fresh() -> None:
    golden_digest.cache_clear()


def test_the_pictures_never_change() -> None:
    digest = hashlib.sha256(b"".join(picture.tobytes() for picture in pictures())).hexdigest()
    assert digest == "542dc5de73f43c78b0479bb0184d43e4fec366a842b5e179a4eea89879476ade"


@pytest.mark.parametrize("which", KNOWN, ids=str)
def test_preprocessing_gives_what_it_always_gave(which: tuple[str, int, int]) -> None:
    assert golden_digest(*which) == KNOWN[which]


def test_another_filter_or_one_other_level_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    agreed = golden_digest(FUNDUS, 64, 3)
    refuse_other_preprocessing(agreed, FUNDUS, 64, 3)
    refuse_other_preprocessing("", FUNDUS, 64, 3)
    real = golden.preprocess

    def one_level(*words: object) -> np.ndarray:
        made = real(*words).copy()  # type: ignore[arg-type]
        made[3, 3, 0] ^= 1
        return made

    def refused() -> InputError:
        golden_digest.cache_clear()
        with pytest.raises(InputError, match="not the one that the federation agreed on") as caught:
            refuse_other_preprocessing(agreed, FUNDUS, 64, 3)
        return caught.value

    with monkeypatch.context() as patch:
        patch.setattr(golden, "preprocess", one_level)
        assert "Pillow" in refused().hint
    resize = Image.Image.resize
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "resize", lambda self, size, _: resize(self, size, Image.Resampling.BILINEAR))
        refused()
