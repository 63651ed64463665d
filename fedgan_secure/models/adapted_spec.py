"""The public description of a generator that adapts a public start: scalars only, no TensorFlow.

It is part of the federation's policy (key ``model``) in a run with a public start, where `ModelSpec` stands otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedgan_secure.models.errors import ModelError

FAMILY = "adapted-start/1"
DRAWS = 6
"""A noise vector: which picture of the pool, which colour cell, three places within the cell, mirrored or not."""


@dataclass(frozen=True)
class AdaptedSpec:
    """Everything of an adapted generator that is fixed before the run.

    Attributes:
        start_sha256: digest of the public start's file.
        image_size, channels: of the start and of the run.
        classes: of the run; 0 for an unconditional model.
        features: d, features of the start.
        pool: how many noise vectors of the start's generator are kept to choose from.
        purity: a picture of the pool is drawn for a class in proportion to the posterior to this power.
        hidden: units of the heads' hidden layer.
        transfer_width: channels of the transfer's local convolution; 0 for none.
        fit_steps, fit_batch: of the transfer's training.
        seed: of the pool and of the fit, public.
    """

    start_sha256: str
    image_size: int
    channels: int
    classes: int
    features: int
    pool: int = 3000
    purity: float = 2.0
    hidden: int = 32
    transfer_width: int = 16
    fit_steps: int = 300
    fit_batch: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.start_sha256) != 64 or set(self.start_sha256) - set("0123456789abcdef"):
            raise ModelError(f"model.start_sha256 is {self.start_sha256!r}, expected 64 hexadecimal digits")
        limits = {
            "image_size": (8, 1024), "channels": (1, 3), "classes": (0, 1000), "features": (1, 65_536),
            "pool": (50, 20_000), "hidden": (1, 4096), "transfer_width": (0, 256), "fit_steps": (0, 100_000),
            "fit_batch": (2, 4096), "seed": (0, 2**31 - 1),
        }  # fmt: skip
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ModelError(f"model.{name} is {value!r}, expected a whole number from {least} to {most}")
        number = isinstance(self.purity, int | float) and not isinstance(self.purity, bool)
        if not number or not (math.isfinite(self.purity) and 0 <= self.purity <= 100):
            raise ModelError(f"model.purity is {self.purity!r}, expected a number from 0 to 100")

    @property
    def conditional(self) -> bool:
        """Whether the model is told the class of an image."""
        return self.classes > 0

    @property
    def latent_dim(self) -> int:
        """Length of the generator's noise vector."""
        return DRAWS

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON-ready values, with the family's name."""
        return {"family": FAMILY, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AdaptedSpec:
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
        own = {name: values[name] for name in names}
        if isinstance(own["purity"], int) and not isinstance(own["purity"], bool):
            own["purity"] = float(own["purity"])  # canonical JSON writes 2.0 as 2
        return cls(**own)
