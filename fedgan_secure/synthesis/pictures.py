"""What a person sees of a model: the sample sheet of a round, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from fedgan_secure.models import AnySpec, ModelSpec
from fedgan_secure.networks import (
    KERAS_3,
    KerasForm,
    VectorLayout,
    build_discriminator,
    build_generator,
    draw_levels,
    keras_bytes,
)
from fedgan_secure.synthesis.generate import contact_sheet_png

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


@lru_cache(maxsize=2)
def _forms(spec: ModelSpec) -> tuple[KerasForm, ...]:
    """The forms of both networks' files: making one takes as long as building the network."""
    return tuple(KerasForm.of(network) for network in _networks(spec))


def _with_weights(vector: np.ndarray, spec: ModelSpec) -> tuple[Any, Any]:
    networks = _networks(spec)
    VectorLayout.of(spec).assign(vector, *networks)
    return networks


def sample_sheet(vector: np.ndarray, spec: ModelSpec, label_names: Sequence[str], seed: int) -> bytes:
    """A PNG of eight samples for every class (or 5 x 8 without classes), the same noise in every round."""
    levels = sheet_levels(vector, spec, seed)
    images = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return contact_sheet_png(images, COLUMNS, sheet_names(spec, label_names))


def sheet_levels(vector: np.ndarray, spec: ModelSpec, seed: int) -> np.ndarray:
    """Return the pictures of a sample sheet before rounding: float32[n, H, W, C], grey levels from 0 to 255."""
    return levels_of(_with_weights(vector, spec)[0], spec, seed)


def levels_of(generator: Any, spec: AnySpec, seed: int) -> np.ndarray:
    """Return the pictures of a generator's sample sheet, as `sheet_levels`."""
    rows = spec.classes or 5
    labels = np.repeat(np.arange(rows, dtype=np.int32), COLUMNS) if spec.classes else None
    return draw_levels(generator, spec, labels, rows * COLUMNS, seed)


def sheet_names(spec: AnySpec, label_names: Sequence[str]) -> list[str] | None:
    """Return what a sample sheet writes beside its pictures, None without classes."""
    return [label_names[row] for row in range(spec.classes) for _ in range(COLUMNS)] if spec.classes else None


def model_files(vector: np.ndarray, spec: ModelSpec) -> dict[str, bytes]:
    """The Keras files of both networks, as they stand below ``public/``."""
    if not KERAS_3:
        return {f"model/{network.name}.keras": keras_bytes(network) for network in _with_weights(vector, spec)}
    return {
        f"model/{network.name}.keras": form.file(network.get_weights())
        for network, form in zip(_with_weights(vector, spec), _forms(spec), strict=True)
    }
