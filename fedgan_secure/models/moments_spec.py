"""The public description of a generator that is made of released moments alone: scalars only, no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedgan_secure.models.errors import ModelError

FAMILY = "moments/1"


@dataclass(frozen=True)
class MomentsSpec:
    """Everything of such a generator that is fixed before the run.

    Attributes:
        image_size, channels: of the pictures.
        classes: 0 for an unconditional model.
        order: cosines along each axis.
    """

    image_size: int
    channels: int
    classes: int
    order: int

    def __post_init__(self) -> None:
        limits = {"image_size": (8, 256), "channels": (1, 3), "classes": (0, 1000), "order": (1, 256)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ModelError(f"model.{name} is {value!r}, expected a whole number from {least} to {most}")
        if self.order > self.image_size:
            raise ModelError(f"model.order is {self.order}, expected at most image_size, {self.image_size}")

    @property
    def conditional(self) -> bool:
        """Whether the model is told the class of an image."""
        return self.classes > 0

    @property
    def latent_dim(self) -> int:
        """Length of the generator's noise vector: one number for each coefficient."""
        return self.channels * self.order**2

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON-ready values, with the family's name."""
        return {"family": FAMILY, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MomentsSpec:
        """Read what `to_json` wrote.

        Raises:
            ModelError: a key is unknown or missing, or a value has the wrong type or range.
        """
        names = {field.name for field in fields(cls)}
        found = set(values) - {"family"}
        if values.get("family") != FAMILY or found != names:
            raise ModelError(
                f"model: family {values.get('family')!r}, unknown keys {sorted(found - names)}, missing keys "
                f"{sorted(names - found)}; expected the family {FAMILY}",
                hint="use the version of fedgan-secure that made this run",
            )
        return cls(**{name: values[name] for name in names})
