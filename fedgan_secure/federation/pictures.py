"""What a person sees of a model: the sample sheet of a round, and its files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_secure.generate import contact_sheet_png
from fedgan_secure.models.dcgan import build_discriminator, build_generator, draw_images
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.models.vectors import VectorLayout, save_networks

COLUMNS = 8


def generator_of(vector: np.ndarray, spec: ModelSpec) -> Any:
    """A Keras generator with the weights of `vector`, float32[d]."""
    generator, discriminator = build_generator(spec, 0), build_discriminator(spec, 0)
    VectorLayout.of(spec).assign(vector, generator, discriminator)
    return generator


@lru_cache(maxsize=2)
def _networks(spec: ModelSpec) -> tuple[Any, Any]:
    """Both networks, built once: building takes longer than drawing a sheet. They stay in this module."""
    return build_generator(spec, 0), build_discriminator(spec, 0)


def _with_weights(vector: np.ndarray, spec: ModelSpec) -> tuple[Any, Any]:
    networks = _networks(spec)
    VectorLayout.of(spec).assign(vector, *networks)
    return networks


def sample_sheet(vector: np.ndarray, spec: ModelSpec, label_names: Sequence[str], seed: int) -> bytes:
    """A PNG of eight samples for every class (or 5 x 8 without classes), the same noise in every round."""
    rows = spec.classes or 5
    labels = np.repeat(np.arange(rows, dtype=np.int32), COLUMNS) if spec.classes else None
    images = draw_images(_with_weights(vector, spec)[0], spec, labels, rows * COLUMNS, seed)
    names = None if labels is None else [label_names[int(label)] for label in labels]
    return contact_sheet_png(images, COLUMNS, names)


def model_files(vector: np.ndarray, spec: ModelSpec) -> dict[str, bytes]:
    """The Keras files of both networks, as they stand below ``public/``."""
    with tempfile.TemporaryDirectory(prefix="fedgan-secure-") as folder:
        save_networks(_with_weights(vector, spec), Path(folder))
        return {
            f"model/{name}.keras": (Path(folder) / f"{name}.keras").read_bytes()
            for name in ("generator", "discriminator")
        }
