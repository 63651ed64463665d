"""The pool of public pictures that a model chooses from, and what the public start gives without any patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedgan_secure.adaptation.generator import maps_kernel
from fedgan_secure.adaptation.sources import Sources
from fedgan_secure.adaptation.transfer import TransferShape, build_transfer
from fedgan_secure.models import AdaptedSpec
from fedgan_secure.networks import build_start_generator
from fedgan_secure.starts import PublicStart
from fedgan_secure.statistics import ColourBins

BATCH = 250


@dataclass(frozen=True, eq=False)
class Pool:
    """Noise vectors of the start's generator and the pictures they give.

    Attributes:
        latents: float32[m, n], without noise maps.
        labels: int32[m], what the start was asked for.
        pictures: uint8[m, H, W, C].
    """

    latents: np.ndarray
    labels: np.ndarray
    pictures: np.ndarray


def draw_pool(spec: AdaptedSpec, start: PublicStart, generator: Any) -> Pool:
    """Draw a model's pool from its seed.

    Args:
        spec: of the model.
        start: the public start.
        generator: the start's, as `build_start_generator` gives it.
    """
    rng = np.random.default_rng([spec.seed, 0])
    kernel = maps_kernel()
    latents = rng.standard_normal((spec.pool, len(kernel)), dtype=np.float32)
    labels = (np.arange(spec.pool) % start.classes).astype(np.int32)
    pictures = np.empty((spec.pool, spec.image_size, spec.image_size, spec.channels), np.uint8)
    for first in range(0, spec.pool, BATCH):
        rows = slice(first, min(first + BATCH, spec.pool))
        z = np.concatenate([latents[rows], latents[rows] @ kernel], axis=1)
        pictures[rows] = levels(generator([z, labels[rows, None]], training=False))
    return Pool(latents, labels, pictures)


def transfer_shape(spec: AdaptedSpec) -> TransferShape:
    """Return the architecture of a model's transfer."""
    return TransferShape(spec.image_size, spec.channels, max(spec.transfer_width, 1), spec.transfer_width > 0)


class StartAlone:
    """Draws what a public start gives without any patient: its own classes, colours from the whole public range."""

    def __init__(self, spec: AdaptedSpec, start: PublicStart, pool: Pool | None = None) -> None:
        """Args: pool: the model's, where it was drawn already."""
        self._pool = pool or draw_pool(spec, start, build_start_generator(start))
        self._transfer = build_transfer(transfer_shape(spec))
        bins = ColourBins.for_channels(spec.channels)
        chances = np.ones((max(spec.classes, 1), spec.pool))
        if spec.classes == start.classes:
            chances = (self._pool.labels[None] == np.arange(start.classes)[:, None]).astype(np.float64)
        chances /= chances.sum(axis=1, keepdims=True)
        self._sources = Sources(self._pool.pictures, chances, np.full(bins.cells, 1.0 / bins.cells), bins)

    def __call__(self, labels: np.ndarray, seed: int) -> np.ndarray:
        """Draw pictures.

        Args:
            labels: int[n]; zeros where the model has no classes.
            seed: equal seeds give equal pictures.

        Returns:
            uint8[n, H, W, C].
        """
        pictures, colours = self._sources.draw(labels, np.random.default_rng([seed, 4]))
        made = np.empty_like(pictures)
        for first in range(0, len(pictures), BATCH):
            rows = slice(first, first + BATCH)
            made[rows] = levels(self._transfer([floats(pictures[rows]), colours[rows]], training=False)[0])
        return made


def floats(pictures: np.ndarray) -> np.ndarray:
    """Return uint8 pictures as float32 in [-1, 1]."""
    return pictures / np.float32(127.5) - np.float32(1.0)


def levels(pictures: Any) -> np.ndarray:
    """Return pictures in [-1, 1] as uint8."""
    return np.clip(np.rint((np.asarray(pictures) + 1.0) * 127.5), 0, 255).astype(np.uint8)
