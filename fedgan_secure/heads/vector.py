"""The model of a run with a public start as one flat float32 vector: what the release told, then the heads.

The vector is what rounds start from and lead to, and what reports name by its digest. The release round fills its
first part and starts the heads from what was released; every later round moves the heads. Everything else of the
published generator follows from the vector and the policy.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from fedgan_secure.heads.head_start import linear_discriminant, public_heads
from fedgan_secure.heads.heads import HeadsLayout, HeadsSpec
from fedgan_secure.models import AdaptedSpec, ModelError
from fedgan_secure.starts import PublicStart
from fedgan_secure.statistics import Moments, Noise, ReleaseLayout, decode

CENTRE_GRID = 2.0**-8
HEADS_GRID = 2.0**-12
"""First weights of the heads are rounded to this grid: every machine then finds the same ones."""


@dataclass(frozen=True, eq=False)
class AdaptedLayout:
    """Where everything lies in the vector.

    Attributes:
        spec: of the model.
        start: the public start; its digest is the one that `spec` names.
        release: of the released vector, or None where there is no release.
    """

    spec: AdaptedSpec
    start: PublicStart
    release: ReleaseLayout | None

    def __post_init__(self) -> None:
        spec, start = self.spec, self.start
        found = (start.digest, start.image_size, start.channels, start.features)
        if found != (spec.start_sha256, spec.image_size, spec.channels, spec.features):
            raise ModelError(
                f"the public start {start.name} ({start.digest[:16]}...) is not the one that the model names "
                f"({spec.start_sha256[:16]}...)",
                hint="give the start that the run was prepared with (--start)",
            )

    @property
    def heads(self) -> HeadsLayout:
        """The layout of the heads alone."""
        return HeadsLayout.of(heads_spec(self.spec))

    @property
    def release_size(self) -> int:
        """Coordinates that the release fills: its sum and the number of hospitals in it; 0 without a release."""
        return 0 if self.release is None else self.release.dimension + 1

    @property
    def heads_slice(self) -> slice:
        """The heads' part of the vector."""
        return slice(self.release_size, self.size)

    @property
    def size(self) -> int:
        """d, the length of the vector."""
        return self.release_size + self.heads.size

    @property
    def layout_hash(self) -> str:
        """SHA-256, 64 hexadecimal digits, over the parts in order (canonical JSON)."""
        rows = [
            ["release", None if self.release is None else self.release.digest(), "float32-le"],
            ["heads", self.heads.layout_hash, "float32-le"],
            ["start", self.start.digest],
        ]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode("ascii")).hexdigest()

    def initial_vector(self, seed: int) -> np.ndarray:
        """Return the vector that a run begins with, float32[d]: nothing released, heads from public pictures."""
        vector = np.zeros(self.size, np.float32)
        spec = heads_spec(self.spec)
        own = self.spec.classes == self.start.classes
        found = linear_discriminant(self.start.public_means, self.start.public_covariance, self.start.outputs)
        vector[self.heads_slice] = _on_grid(public_heads(spec, found if own and spec.conditional else None, seed))
        return vector

    def check(self, vector: np.ndarray) -> None:
        """Refuse what is not a finite float32[d].

        Raises:
            ModelError: wrong dtype, shape, or a value that is not finite.
        """
        if vector.dtype != np.float32 or vector.shape != (self.size,):
            raise ModelError(f"model vector is {vector.dtype}{list(vector.shape)}, expected float32[{self.size}]")
        if not np.isfinite(vector).all():
            raise ModelError("model vector holds NaN or infinity")

    def with_release(
        self, vector: np.ndarray, total: np.ndarray, survivors: int, noise: Noise, seed: int
    ) -> np.ndarray:
        """Return the vector after the release round.

        Args:
            vector: float32[d], before it.
            total: float64[D], the decoded sum over the survivors.
            survivors: how many hospitals are in it.
            noise: what noise the sum holds.
            seed: of the policy.

        Returns:
            float32[d]; the heads start from a linear discriminant of the released class means.
        """
        if self.release is None:
            raise ModelError("a release was applied to a model that has none")
        after = vector.copy()
        after[: self.release_size - 1] = total.astype(np.float32)
        after[self.release_size - 1] = np.float32(survivors)
        spec = heads_spec(self.spec)
        if spec.conditional:
            moments = self.moments(after, noise)
            assert moments is not None  # noqa: S101 - the sum was just written
            found = linear_discriminant(moments.mean, self.start.public_covariance, self.start.outputs)
            after[self.heads_slice] = _on_grid(public_heads(spec, found, seed, self.centre(moments)))
        self.check(after)
        return after

    def centre(self, moments: Moments | None) -> np.ndarray:
        """Return what the heads' inputs are centred by, float32[d]: the released mean, on a grid; zero without one."""
        if moments is None:
            return np.zeros(self.spec.features, np.float32)
        return (np.rint(_pooled(moments) / CENTRE_GRID) * CENTRE_GRID).astype(np.float32)

    def moments(self, vector: np.ndarray, noise: Noise) -> Moments | None:
        """Return what the vector's release says, or None where nothing was released (yet)."""
        if self.release is None:
            return None
        survivors = round(float(vector[self.release_size - 1]))
        if survivors < 1:
            return None
        total = vector[: self.release_size - 1].astype(np.float64)
        return decode(self.release, total, noise.deviation(survivors), self.start.blocks)


def _pooled(moments: Moments) -> np.ndarray:
    """float64[d], the mean over all classes; added up in a fixed order, the same on every machine."""
    total, count = np.zeros(moments.mean.shape[1]), 0.0
    for mean, weight in zip(moments.mean, moments.count, strict=True):
        total, count = total + float(weight) * mean, count + float(weight)
    return np.asarray(total / count)


def heads_spec(spec: AdaptedSpec) -> HeadsSpec:
    """Return the architecture of a model's heads; at least two hidden units for every class."""
    return HeadsSpec(features=spec.features, classes=spec.classes, hidden=max(spec.hidden, 2 * spec.classes))


def _on_grid(vector: np.ndarray) -> np.ndarray:
    return (np.rint(vector.astype(np.float64) / HEADS_GRID) * HEADS_GRID).astype(np.float32)
