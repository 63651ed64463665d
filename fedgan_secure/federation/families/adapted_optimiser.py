"""The coordinator's side of rounds of the heads with shared noise, on the whole model's vector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedgan_secure.federation.families.adapted_hospital import HeadsToGo
from fedgan_secure.head_training import HeadOptimiser
from fedgan_secure.heads import HeadSettings, HeadsSpec
from fedgan_secure.models import ModelError


class AdaptedOptimiser:
    """As `HeadOptimiser`, for vectors that hold the release as well: that part stays as it is."""

    def __init__(
        self, spec: HeadsSpec, settings: HeadSettings, heads: slice, heads_to_go: Callable[[np.ndarray], HeadsToGo]
    ) -> None:
        """Args: heads: where the heads lie in the vector; heads_to_go: what a round starts from."""
        self._own = HeadOptimiser(spec, settings)
        self._heads, self._heads_to_go = heads, heads_to_go
        self._vector: np.ndarray | None = None

    def begin(self, global_vector: np.ndarray) -> None:
        """Start a round from the global model, float32[d]."""
        to_go = self._heads_to_go(global_vector)
        self._own.give(to_go.fakes, to_go.centre)
        self._own.begin(to_go.heads)
        self._vector = global_vector.copy()

    def step(self, mean: np.ndarray) -> np.ndarray:
        """Make one step; returns the heads that the next one starts from, float32[k]."""
        return self._own.step(mean)

    def finish(self) -> np.ndarray:
        """End a whole round and return the global model, float32[d]."""
        if self._vector is None:
            raise ModelError("a round of the heads ended before it began")
        vector = self._vector.copy()
        vector[self._heads] = self._own.finish()
        return vector

    def save(self, path: Path) -> None:
        """Keep the state of the last whole round; whole or absent."""
        self._own.save(path)

    def restore(self, path: Path) -> None:
        """Continue from what `save` kept; raises TrainingStateError where it cannot be read or does not fit."""
        self._own.restore(path)
