"""The generator of a run with a public start is opened from its policy, with a shipped start or somebody's own."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from fedgan_secure.adaptation.generator import build_adapted_generator
from fedgan_secure.adaptation.pool import transfer_shape
from fedgan_secure.adaptation.transfer import build_transfer
from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.models.errors import ModelError
from fedgan_secure.networks.dcgan import draw_images
from fedgan_secure.networks.keras_file import keras_bytes
from fedgan_secure.networks.start_networks import build_start_generator
from fedgan_secure.starts.start import PublicStart, shipped_start
from fedgan_secure.statistics.colours import ColourBins
from fedgan_secure.statistics.layout import ReleaseLayout
from fedgan_secure.synthesis.loading import load_generator
from tests.fedgan_secure.adaptation.toy_start import spec_of, untrained_start

BINS = (3, 4, 5)


def generator(start: PublicStart, spec: AdaptedSpec) -> keras.Model:
    """An adapted generator with arbitrary tables."""
    rng = np.random.default_rng(4)
    latents = rng.standard_normal((spec.pool, 64)).astype(np.float32)
    chances = rng.random((max(spec.classes, 1), spec.pool))
    bins = ColourBins(BINS)
    return build_adapted_generator(
        spec, build_start_generator(start), build_transfer(transfer_shape(spec)),
        (latents, np.arange(spec.pool) % start.classes), chances / chances.sum(axis=1, keepdims=True),
        (np.full(bins.cells, 1 / bins.cells), bins),
    )  # fmt: skip


def place(folder: Path, data: bytes, spec: AdaptedSpec, **changes: Any) -> Path:
    layout = ReleaseLayout(classes=spec.classes, features=spec.features, bins=BINS)
    policy = {"model": spec.to_json() | changes, "release": {"layout": layout.to_json()}}
    (folder / "model").mkdir(parents=True)
    (folder / "policy.json").write_text(json.dumps(policy))
    path = folder / "model" / "generator.keras"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("start", ["shipped", "somebody's own"])
def test_a_generator_comes_back_with_all_its_weights(tmp_path: Path, start: str) -> None:
    public = shipped_start() if start == "shipped" else untrained_start(3)
    spec = spec_of(public)
    model = generator(public, spec)
    again = load_generator(place(tmp_path, keras_bytes(model), spec))
    for mine, read in zip(model.get_weights(), again.get_weights(), strict=True):
        assert np.array_equal(mine, read)
    labels = np.arange(4, dtype=np.int32) % spec.classes
    assert np.array_equal(draw_images(model, spec, labels, 4, 3), draw_images(again, spec, labels, 4, 3))


@pytest.mark.parametrize(
    "changes", [{"pool": 20_000, "classes": 1000}, {"pool": 61}, {"image_size": 32}, {"classes": 0}]
)
def test_a_policy_of_another_model_is_refused_before_its_tables_are_allocated(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    spec = spec_of(shipped_start())
    data = keras_bytes(generator(shipped_start(), spec))
    path = place(tmp_path, data, spec, **changes)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as caught:
            load_generator(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(data)
    finally:
        tracemalloc.stop()
    assert caught.value.hint
