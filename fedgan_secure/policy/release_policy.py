"""What a policy says of a public start and of the release round that goes with one; the ring that sums live in."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord, NoiseShares
from fedgan_protocols.primitives import FixedPoint
from fedgan_secure.moments import AnyLayout, read_layout


class PublicFacts(BaseModel):
    """A part of a policy: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RingPolicy(PublicFacts):
    """Fixed-point encoding and the ring that sums live in: of updates, or with shared noise of sums of gradients.

    `update_bound` is the public box of every coordinate, and 2^-fraction_bits the grid step.
    """

    ring_bits: Literal[32, 64]
    update_bound: float = Field(gt=0)
    fraction_bits: int = Field(ge=1, le=60)


class StartPolicy(PublicFacts):
    """The public start that a run adapts: which file, by its digest, and what it is."""

    name: str = Field(min_length=1, max_length=80)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the start's file")
    statement: str = Field(min_length=1, max_length=2000, description="what it was trained on, what comes from it")


class ReleasePolicy(PublicFacts):
    """The first round: one noisy sum of a vector for every patient, in the accountant's terms and in the ring's.

    `layout` says what the vector is (`moments.releases.read_layout`); `shares` is there where noise is shared.
    """

    noise_multiplier: float = Field(ge=0)
    l2_clip_norm: float = Field(gt=0)
    unit: Literal["patient", "image"] = "patient"
    images_per_patient: int = Field(ge=1)
    dimension: int = Field(ge=1)
    layout: dict[str, Any]
    layout_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    ring: RingPolicy
    shares: NoiseShares | None = None
    headroom: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> ReleasePolicy:
        layout = read_layout(self.layout)
        if (layout.dimension, layout.digest()) != (self.dimension, self.layout_sha256):
            raise ValueError("the layout of the release is not the one that its dimension and digest name")
        if self.shares is not None and self.shares.dimension != self.dimension:
            raise ValueError(
                f"the release's shares of noise are for {self.shares.dimension} coordinates, it has {self.dimension}"
            )
        return self

    def record(self) -> MechanismRecord:
        """The release as the accountant takes it: one step in which every patient takes part."""
        fields: dict[str, Any] = {
            "sampling_probability": 1.0,
            "noise_multiplier": self.noise_multiplier,
            "steps": 1,
            "l2_clip_norm": self.l2_clip_norm,
            "unit": self.unit,
            "images_per_patient": self.images_per_patient,
        }
        return MechanismRecord(**fields) if self.shares is None else DistributedMechanism(**fields, shares=self.shares)

    def fixed_point(self) -> FixedPoint:
        """The encoder of the released vector."""
        return FixedPoint(self.ring.update_bound, self.ring.ring_bits, self.ring.fraction_bits)

    def release_layout(self) -> AnyLayout:
        """What the released vector is made of."""
        return read_layout(self.layout)
