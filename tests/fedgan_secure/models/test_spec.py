"""The model's description: what is refused, and that JSON keeps it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from fedgan_secure.models.errors import ModelError
from fedgan_secure.models.spec import ModelSpec


@pytest.mark.parametrize("image_size", [28, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [0, 5])
def test_json_keeps_a_specification(image_size: int, channels: int, classes: int) -> None:
    spec = ModelSpec.default(image_size, channels, classes)
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert hash(spec) == hash(ModelSpec.from_json(spec.to_json()))


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 32},
        {"channels": 2},
        {"classes": -1},
        {"latent_dim": 0},
        {"generator_widths": [8]},
        {"discriminator_widths": []},
        {"discriminator_dense": 0},
        {"features": "learned"},
        {"normalization": "batch"},
        {"image_size": True},
        {"latent_dim": 2.5},
        {"generator_widths": "8888"},
        {"extra": 1},
    ],
    ids=str,
)
def test_nonsense_is_refused_with_its_key(change: dict[str, Any]) -> None:
    values = {**ModelSpec.default().to_json(), **change}
    with pytest.raises(ModelError):
        ModelSpec.from_json(values)


def test_a_missing_key_is_named() -> None:
    values = ModelSpec.default().to_json()
    del values["features"]
    with pytest.raises(ModelError, match="features"):
        ModelSpec.from_json(values)


def test_batch_normalisation_cannot_be_asked_for() -> None:
    with pytest.raises(ModelError, match="expected one of none, group"):
        ModelSpec(normalization="batch")


def test_the_description_loads_no_tensorflow() -> None:
    code = "import sys, fedgan_secure.models.spec, fedgan_secure.policy.training; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
