"""What the bounds on rounding rest on: whole blocks of images, oneDNN, a clip norm that float32 holds."""

from __future__ import annotations

import dataclasses

import pytest
from tests.fedgan_secure.privacy.test_training import BASE, SPEC, Stream, dataset

from fedgan_secure.dpsgd.arithmetic import require_float32_arithmetic
from fedgan_secure.dpsgd.clipping import _Application, _clip
from fedgan_secure.dpsgd.step import LEAST_CLIP_NORM, check_mechanism
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.training.batches import PAD, PatientBatches


@pytest.mark.parametrize("images", [1, 2, 3, 5, 7, 12, 16, 48])
def test_a_batch_is_whole_blocks_of_images_and_of_patients(images: int) -> None:
    made = PatientBatches(SPEC, dataclasses.replace(BASE, images_per_patient=images), dataset(40), Stream(3))
    for _ in range(5):
        batch = made._batch()
        assert len(batch.pixels) % PAD == 0 and len(batch.pixels) == len(batch.weights) * images
        assert len(batch.weights) >= batch.size and not batch.weights[batch.size :].any()


@pytest.mark.parametrize("value", ["0", "false"])
def test_an_environment_without_onednn_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", value)
    with pytest.raises(PrivacyRefused, match="TF_ENABLE_ONEDNN_OPTS") as caught:
        require_float32_arithmetic()
    assert caught.value.hint
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    require_float32_arithmetic()


def test_a_clip_norm_whose_squares_underflow_is_refused() -> None:
    good = {"sampling_probability": 0.1, "noise_multiplier": 1.0, "expected_batch_size": 4.0}
    check_mechanism(clip_norm=LEAST_CLIP_NORM, **good)
    with pytest.raises(PrivacyRefused, match="clip norm"):
        check_mechanism(clip_norm=LEAST_CLIP_NORM / 2, **good)


def test_a_layer_that_was_not_measured_is_refused_and_not_taken_for_zero() -> None:
    layer = type("Layer", (), {"name": "forgotten"})()
    with pytest.raises(PrivacyRefused, match="forgotten"):
        _clip(1.0, 2, [_Application(layer, ())])
