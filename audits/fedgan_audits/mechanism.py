"""The description of one mechanism: what was done to the patients, from which every privacy figure is recomputed.

A ledger stores these, a report signs these; an epsilon is always derived and never stored as the truth.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Unit = Literal["patient", "image"]
NoisePlacement = Literal["per_hospital", "distributed"]
NeighbouringRelation = Literal["add_or_remove_one"]
Sampler = Literal["poisson"]


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")
    return value


_Real = Annotated[float, BeforeValidator(_no_bool)]
_Whole = Annotated[int, BeforeValidator(_no_bool)]


class MechanismRecord(BaseModel):
    """`steps` releases of a Poisson-sampled, clipped sum with Gaussian noise, by one hospital on its own patients.

    In each step every unit (patient, or image where no patient is named) is drawn by an independent coin of
    probability `sampling_probability`; each drawn unit contributes a vector of Euclidean norm at most
    `l2_clip_norm`; noise N(0, (noise_multiplier * l2_clip_norm)^2) is added to every coordinate of the sum (Abadi et
    al. 2016, "Deep Learning with Differential Privacy", Algorithm 1, with a public divisor).

    Fields (dimensionless but for `l2_clip_norm`, which is in units of the gradient):
        sampling_probability: in (0, 1], public policy.
        noise_multiplier: in [0, 1e9]; 0 means no noise: epsilon is unbounded.
        steps: number of releases, 1 to 2**40.
        l2_clip_norm: greater than 0.
        unit: whose data one record of the data set is.
        neighbouring_relation: data sets differ by adding or removing one unit; nothing else is accounted.
        sampler: independent coins; shuffling is not Poisson sampling and cannot be recorded (Chua et al. 2024).
        noise_placement: who adds the noise; the accountant proves `per_hospital` alone.
        images_per_patient: public bound on the images of one patient used in one step (unit "patient").

    Raises pydantic.ValidationError on anything else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sampling_probability: _Real = Field(gt=0.0, le=1.0)
    noise_multiplier: _Real = Field(ge=0.0, le=1e9)
    steps: _Whole = Field(ge=1, le=2**40)
    l2_clip_norm: _Real = Field(gt=0.0, le=1e12)
    unit: Unit
    neighbouring_relation: NeighbouringRelation = "add_or_remove_one"
    sampler: Sampler = "poisson"
    noise_placement: NoisePlacement = "per_hospital"
    images_per_patient: _Whole = Field(default=1, ge=1, le=2**31)
