"""Named weights of generator and discriminator <-> one flat float32 vector.

The vector is what travels: hospitals add to it, secure aggregation sums it. Its layout (names, shapes, order) is
bound into every message by `VectorLayout.layout_hash`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fedgan_secure.models import ModelError, ModelSpec
from fedgan_secure.networks.dcgan import build_discriminator, build_generator
from fedgan_secure.networks.keras_file import keras_bytes


@dataclass(frozen=True)
class Entry:
    """One weight: its name, shape and place in the vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


def named_weights(model: keras.Model) -> list[tuple[str, Any]]:
    """The trainable weights of a model as (``model/layer/weight``, variable), in the model's layer order."""
    named = []
    for layer in model.layers:
        for weight in layer.trainable_weights:
            short = weight.name.split("/")[-1].split(":")[0]
            named.append((f"{model.name}/{layer.name}/{short}", weight))
    return named


@dataclass(frozen=True)
class VectorLayout:
    """Where every trainable weight lies in the vector: the generator's first, then the discriminator's.

    The fixed public filters of the discriminator are constants of the specification and are not in the vector.
    """

    spec: ModelSpec
    entries: tuple[Entry, ...]
    generator_size: int

    @classmethod
    def of(cls, spec: ModelSpec) -> VectorLayout:
        """The layout of a specification (cached)."""
        return _layout(spec)

    @property
    def size(self) -> int:
        """d, the length of the vector."""
        return self.entries[-1].stop

    @property
    def generator_slice(self) -> slice:
        """The generator's part of the vector."""
        return slice(0, self.generator_size)

    @property
    def discriminator_slice(self) -> slice:
        """The discriminator's part of the vector."""
        return slice(self.generator_size, self.size)

    @property
    def layout_hash(self) -> str:
        """SHA-256, 64 hexadecimal digits, over the names, shapes and dtypes in order (canonical JSON)."""
        rows = [[entry.name, list(entry.shape), "float32-le"] for entry in self.entries]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode("ascii")).hexdigest()

    def initial_vector(self, seed: int) -> np.ndarray:
        """The public start, float32[d]; equal seeds give equal vectors."""
        return self.flatten(build_generator(self.spec, seed), build_discriminator(self.spec, seed + 1))

    def flatten(self, generator: keras.Model, discriminator: keras.Model) -> np.ndarray:
        """The models' trainable weights as float32[d]."""
        named = named_weights(generator) + named_weights(discriminator)
        self._same(named)
        return np.concatenate([np.asarray(weight, np.float32).reshape(-1) for _, weight in named])

    def assign(self, vector: np.ndarray, generator: keras.Model, discriminator: keras.Model) -> None:
        """Write a vector into the models' weights.

        Raises:
            ModelError: the vector is not float32[d], or holds NaN or infinity.
        """
        self.check(vector)
        named = named_weights(generator) + named_weights(discriminator)
        self._same(named)
        for entry, (_, weight) in zip(self.entries, named, strict=True):
            weight.assign(vector[entry.start : entry.stop].reshape(entry.shape))

    def check(self, vector: np.ndarray) -> None:
        """Refuse what is not a finite float32[d].

        Raises:
            ModelError: wrong dtype, shape or a value that is not finite.
        """
        if vector.dtype != np.float32 or vector.shape != (self.size,):
            raise ModelError(f"model vector is {vector.dtype}{list(vector.shape)}, expected float32[{self.size}]")
        if not np.isfinite(vector).all():
            raise ModelError("model vector holds NaN or infinity")

    def _same(self, named: list[tuple[str, Any]]) -> None:
        found = [(name, tuple(weight.shape)) for name, weight in named]
        expected = [(entry.name, entry.shape) for entry in self.entries]
        if found != expected:
            raise ModelError("the models do not have the layers of this layout")


@lru_cache(maxsize=16)
def _layout(spec: ModelSpec) -> VectorLayout:
    entries: list[Entry] = []
    generator_size = 0
    start = 0
    for model in (build_generator(spec, 0), build_discriminator(spec, 0)):
        for name, weight in named_weights(model):
            shape = tuple(int(side) for side in weight.shape)
            stop = start + int(np.prod(shape, dtype=np.int64))
            entries.append(Entry(name, shape, start, stop))
            start = stop
        generator_size = generator_size or start
    return VectorLayout(spec, tuple(entries), generator_size)


def save_models(vector: np.ndarray, spec: ModelSpec, folder: Path) -> None:
    """Write ``generator.keras`` and ``discriminator.keras`` (whole or absent: written aside, then renamed)."""
    generator, discriminator = build_generator(spec, 0), build_discriminator(spec, 0)
    VectorLayout.of(spec).assign(vector, generator, discriminator)
    save_networks((generator, discriminator), folder)


def save_networks(networks: Iterable[keras.Model], folder: Path) -> None:
    """Write ``NAME.keras`` for every network (whole or absent: written aside, then renamed)."""
    folder.mkdir(parents=True, exist_ok=True)
    for model in networks:
        aside = folder / f".{model.name}.partial.keras"
        aside.write_bytes(keras_bytes(model))
        aside.replace(folder / f"{model.name}.keras")
