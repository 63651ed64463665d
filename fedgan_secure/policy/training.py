"""How a hospital trains: public constants of the federation's policy. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedgan_secure.errors import InputError
from fedgan_secure.privacy import TRUNCATION_PROBABILITY

UNITS = ("patient", "image")


Ranges = Mapping[str, tuple[str, Callable[[float], bool]]]
"""Setting -> (its range in words, whether a value is in it)."""
RATE = ("in (0, 1]", lambda value: 0.0 < value <= 1.0)
BETA = ("in [0, 1)", lambda value: 0.0 <= value < 1.0)
WEIGHT = ("0 to 100", lambda value: 0.0 <= value <= 100.0)
_RANGES: Ranges = {
    "discriminator_learning_rate": RATE,
    "generator_learning_rate": RATE,
    "adam_beta1": BETA,
    "adam_beta2": BETA,
    "class_weight_discriminator": WEIGHT,
    "class_weight_generator": WEIGHT,
    "discriminator_weight_decay": WEIGHT,
    "diversity_weight": WEIGHT,
    "diversity_target": ("in (0, 2]", lambda value: 0.0 < value <= 2.0),
}


def refuse_out_of_range(settings: object, section: str, ranges: Ranges) -> None:
    """Refuse the first setting, in the order of `ranges`, that is not a number in its range.

    Raises:
        InputError: naming section, setting, value and range.
    """
    for name, (words, fits) in ranges.items():
        if not fits(value := getattr(settings, name)):
            raise InputError(f"{section}.{name} is {value}, expected {words}")


@dataclass(frozen=True)
class TrainingSettings:
    """Public training constants: the same for every hospital, none of them taken from private data.

    Attributes:
        sampling_probability: q, each patient's chance to take part in a step.
        expected_batch_size: the public divisor, q times the declared number of patients.
        noise_multiplier: sigma, in units of the clip norm; 0 trains without privacy.
        l2_clip_norm: C, the bound on one patient's gradient.
        images_per_patient: how many of a sampled patient's images are used in a step, at most.
        unit: "patient", or "image": every image counts as a patient of its own.
        discriminator_learning_rate, generator_learning_rate: Adam's rates at the start.
        adam_beta1, adam_beta2: Adam's constants.
        decay_steps: after so many discriminator steps the rates have fallen linearly to a tenth; 0: they stay.
        steps_per_generator_step: discriminator steps per generator step.
        fake_batch_size: generated images in a discriminator step.
        generator_batch_size: generated images in a generator step.
        class_weight_discriminator, class_weight_generator: weights of the auxiliary class loss.
        discriminator_weight_decay: decoupled weight decay of the discriminator, per step and unit of rate.
        diversity_weight, diversity_target: generated images of one class are pushed apart until they differ by the
            target on average (pixels from -1 to 1); a term of the generator's loss, no real image enters it.
    """

    sampling_probability: float
    expected_batch_size: float
    noise_multiplier: float
    l2_clip_norm: float = 4.0
    images_per_patient: int = 2
    unit: str = "patient"
    discriminator_learning_rate: float = 5e-4
    generator_learning_rate: float = 1e-3
    adam_beta1: float = 0.5
    adam_beta2: float = 0.99
    decay_steps: int = 0
    steps_per_generator_step: int = 1
    fake_batch_size: int = 48
    generator_batch_size: int = 48
    class_weight_discriminator: float = 0.5
    class_weight_generator: float = 0.5
    discriminator_weight_decay: float = 0.0
    diversity_weight: float = 2.0
    diversity_target: float = 0.2

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"training.unit is {self.unit!r}, expected patient or image")
        for name, least in (
            ("images_per_patient", 1),
            ("steps_per_generator_step", 1),
            ("fake_batch_size", 1),
            ("generator_batch_size", 1),
            ("decay_steps", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"training.{name} is {getattr(self, name)}, expected {least} or more")
        if self.unit == "image" and self.images_per_patient != 1:
            raise InputError("training.images_per_patient must be 1 when the unit is one image")
        refuse_out_of_range(self, "training", _RANGES)

    @property
    def truncation_probability(self) -> float:
        """Probability that a batch is cut short, to be charged to delta: 0, batches are never cut."""
        return TRUNCATION_PROBABILITY

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingSettings:
        """Read what `to_json` wrote.

        Raises:
            InputError: an unknown or missing key, or a value out of range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise InputError(
                f"training: unknown keys {sorted(set(values) - names)}, missing keys {sorted(names - set(values))}"
            )
        return cls(**dict(values))
