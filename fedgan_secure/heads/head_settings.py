"""How the heads are trained: public constants of the federation's policy. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedgan_secure.errors import InputError
from fedgan_secure.policy import BETA, RATE, UNITS, WEIGHT, refuse_out_of_range

_WHOLE = {"images_per_patient": 1, "decay_steps": 0, "fake_batch_size": 1}


_RANGES = {"learning_rate": RATE, "adam_beta1": BETA, "adam_beta2": BETA, "class_weight": WEIGHT}


@dataclass(frozen=True)
class HeadSettings:
    """Public training constants: the same for every hospital, none of them taken from private data.

    Attributes:
        sampling_probability: q, each patient's chance to take part in a step.
        expected_batch_size: the public divisor, q times the declared number of patients.
        noise_multiplier: sigma, in units of the clip norm; 0 trains without privacy.
        l2_clip_norm: C, the bound on one patient's gradient.
        images_per_patient: how many of a sampled patient's images are used in a step, at most.
        unit: "patient", or "image": every image counts as a patient of its own.
        learning_rate: Adam's rate at the start.
        adam_beta1, adam_beta2: Adam's constants.
        decay_steps: after so many steps the rate has fallen linearly to a tenth; 0: it stays.
        class_weight: weight of the class loss on real images.
        fake_batch_size: generated images in a step.
    """

    sampling_probability: float
    expected_batch_size: float
    noise_multiplier: float
    l2_clip_norm: float = 1.0
    images_per_patient: int = 1
    unit: str = "patient"
    learning_rate: float = 3e-3
    adam_beta1: float = 0.5
    adam_beta2: float = 0.99
    decay_steps: int = 0
    class_weight: float = 0.5
    fake_batch_size: int = 96

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"heads.unit is {self.unit!r}, expected patient or image")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "unit":
                continue
            allowed = int if field.name in _WHOLE else int | float
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise InputError(f"heads.{field.name} is {value!r}, expected a number")
        for name, least in _WHOLE.items():
            if getattr(self, name) < least:
                raise InputError(f"heads.{name} is {getattr(self, name)}, expected {least} or more")
        if self.unit == "image" and self.images_per_patient != 1:
            raise InputError("heads.images_per_patient must be 1 when the unit is one image")
        refuse_out_of_range(self, "heads", _RANGES)

    def rate(self, steps_done: int) -> float:
        """Return Adam's rate for the step after `steps_done` others."""
        share = 1.0 if self.decay_steps == 0 else max(0.1, 1.0 - 0.9 * steps_done / self.decay_steps)
        return self.learning_rate * share

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HeadSettings:
        """Read what `to_json` wrote.

        Raises:
            InputError: an unknown or missing key, or a value out of range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise InputError(
                f"heads: unknown keys {sorted(set(values) - names)}, missing keys {sorted(names - set(values))}"
            )
        return cls(**dict(values))
