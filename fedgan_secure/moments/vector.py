"""The model of a run that starts from moments, as one flat float32 vector: the released sum and who is in it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from fedgan_secure.models import ModelError
from fedgan_secure.moments.decoding import JointMoments, decode_moments
from fedgan_secure.moments.layout import MomentsLayout
from fedgan_secure.statistics import Noise


@dataclass(frozen=True)
class MomentsVector:
    """Where everything lies in the vector: the sum, then the number of hospitals in it, 0 before the release.

    Attributes:
        release: of the released vectors.
        start: SHA-256 (hex) of the start that the policy names.
    """

    release: MomentsLayout
    start: str

    @property
    def size(self) -> int:
        """d, the length of the vector."""
        return self.release.dimension + 1

    @property
    def layout_hash(self) -> str:
        """SHA-256, 64 hexadecimal digits, over the parts in order (canonical JSON)."""
        rows = [["release", self.release.digest(), "float32-le"], ["start", self.start]]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode("ascii")).hexdigest()

    def initial_vector(self, seed: int) -> np.ndarray:
        """Return the vector that a run begins with, float32[d]: nothing released; `seed` changes nothing."""
        return np.zeros(self.size, np.float32)

    def check(self, vector: np.ndarray) -> None:
        """Refuse what is not a finite float32[d].

        Raises:
            ModelError: wrong dtype, shape, or a value that is not finite.
        """
        if vector.dtype != np.float32 or vector.shape != (self.size,):
            raise ModelError(f"model vector is {vector.dtype}{list(vector.shape)}, expected float32[{self.size}]")
        if not np.isfinite(vector).all():
            raise ModelError("model vector holds NaN or infinity")

    def with_release(self, total: np.ndarray, survivors: int) -> np.ndarray:
        """Return the vector after the release, float32[d].

        Args:
            total: float64[D], the decoded sum over the survivors.
            survivors: how many hospitals are in it.
        """
        after = np.append(total, survivors).astype(np.float32)
        self.check(after)
        return after

    def moments(self, vector: np.ndarray, noise: Noise) -> JointMoments:
        """Return what the release says; before it, Gaussians that are all zero: black pictures."""
        survivors = round(float(vector[-1]))
        deviation = noise.deviation(survivors) if survivors >= 1 else 0.0
        return decode_moments(self.release, vector[:-1].astype(np.float64), deviation)
