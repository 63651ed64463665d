"""Public starts for tests: one of numbers alone, with few features, and one with untrained networks of any kind."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.starts.architecture import Architecture
from fedgan_secure.starts.start import PublicStart

BLOCKS = ((0, 4), (4, 6), (6, 9), (9, 12))


def toy_start(classes: int = 3, digest: str = "5" * 64, name: str = "toy/1") -> PublicStart:
    """A start of twelve features whose networks nobody builds."""
    rng = np.random.default_rng(4)
    return PublicStart(
        name=name, digest=digest, image_size=64, channels=3, classes=classes, counts=0,
        label_names=tuple(f"grade {index}" for index in range(classes)), statement="Made up for a test.", weights={},
        feature_mean=np.zeros(12, np.float32), feature_std=np.ones(12, np.float32),
        public_means=rng.standard_normal((classes, 12)).astype(np.float32),
        public_covariance=np.eye(12, dtype=np.float32), blocks=BLOCKS,
    )  # fmt: skip


def spec_of(start: PublicStart, **changes: Any) -> AdaptedSpec:
    """The specification of a small model that adapts `start`."""
    fields: dict[str, Any] = {
        "start_sha256": start.digest, "image_size": start.image_size, "channels": start.channels,
        "classes": start.classes, "features": start.features, "pool": 60, "hidden": 8, "fit_steps": 2, "fit_batch": 6,
    }  # fmt: skip
    return AdaptedSpec(**{**fields, **changes})


@functools.lru_cache(maxsize=2)
def untrained_start(channels: int) -> PublicStart:
    """A start with random networks of two classes, for pictures of 64 pixels."""
    from fedgan_secure.networks.start_networks import feature_model, generator_model, weights_of

    architecture = Architecture(2, 0, channels)
    size = architecture.features
    weights = weights_of(generator_model(architecture, 1), feature_model(architecture, 2))
    return PublicStart(
        name="untrained/1", digest=f"{channels}" * 64, image_size=64, channels=channels, classes=2, counts=0,
        label_names=("no", "yes"), statement="Made up for a test.", weights=weights,
        feature_mean=np.zeros(size, np.float32), feature_std=np.ones(size, np.float32),
        public_means=np.random.default_rng(2).standard_normal((2, size)).astype(np.float32),
        public_covariance=np.eye(size, dtype=np.float32), blocks=architecture.blocks,
    )  # fmt: skip
