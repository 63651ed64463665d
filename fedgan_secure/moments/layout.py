"""What a released vector of first and second moments is made of: public, fixed before the run, named by a digest.

An image has d = channels x order^2 cosine coefficients f, float32[d], divided by `scale` (`basis`). To the block of its
class it gives

    [a,  b f,  c f_i f_i,  sqrt(2) c f_i f_j]      i < j; a, b, c: count_weight, first_weight, second_weight

so that the norm of the last two parts together is c |f|^2. Without classes there is one block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import rfc8785

from fedgan_secure.errors import InputError
from fedgan_secure.statistics import MOST_COORDINATES

VERSION = "fedgan-secure/release-layout/moments/1"
SIZES = (8, 256)
"""Images have from so many to so many pixels along a side: their coefficients are exact then (`basis`)."""


@dataclass(frozen=True)
class MomentsLayout:
    """What a released vector of moments is made of; public, fixed before the run.

    Attributes:
        classes: k; 0 for pictures without classes, which have one block.
        image_size, channels: of the pictures.
        order: cosines along each axis.
        scale: what coefficients of pictures in [0, 1] are divided by.
        count_weight, first_weight, second_weight: a, b, c.

    Raises:
        InputError: numbers out of range, or more than `MOST_COORDINATES` coordinates.
    """

    classes: int
    image_size: int
    channels: int
    order: int
    scale: float
    count_weight: float = 0.25
    first_weight: float = 0.5
    second_weight: float = 0.8

    def __post_init__(self) -> None:
        limits = {"classes": (0, 1000), "image_size": SIZES, "channels": (1, 3), "order": (1, self.image_size)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise InputError(
                    f"the {name} of a release of moments is {value!r}, expected a whole number from {least} to {most}"
                )
        for weight in (self.count_weight, self.first_weight, self.second_weight):
            if not (isinstance(weight, float) and 0 < weight <= 1):
                raise InputError(f"a weight of the release is {weight!r}, expected a number above 0, at most 1")
        if not (isinstance(self.scale, float) and 1e-3 <= self.scale <= 1e4):
            raise InputError(f"the scale of a release is {self.scale!r}, expected a number from 0.001 to 10000")
        if self.dimension > MOST_COORDINATES:
            raise InputError(
                f"a release of {self.dimension} coordinates, expected at most {MOST_COORDINATES}",
                hint="train fewer classes, or grey pictures",
            )

    @property
    def blocks(self) -> int:
        """How many blocks of moments there are: a block for every class, one without classes."""
        return max(self.classes, 1)

    @property
    def features(self) -> int:
        """d, coefficients of an image."""
        return self.channels * self.order**2

    @property
    def width(self) -> int:
        """Coordinates of one block: 1 + d + d (d + 1) / 2."""
        return 1 + self.features + self.features * (self.features + 1) // 2

    @property
    def dimension(self) -> int:
        """D, coordinates of the released vector."""
        return self.blocks * self.width

    @property
    def scales(self) -> tuple[float, float, float]:
        """(a, b, c)."""
        return self.count_weight, self.first_weight, self.second_weight

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MomentsLayout:
        """Read what `to_json` gave.

        Raises:
            InputError: missing, unknown or wrong values.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping) or set(values) != {"version", *names} or values["version"] != VERSION:
            raise InputError(
                "the layout of a release of moments has missing or unknown fields",
                hint=f"expected {', '.join(names)}; use the software that wrote the layout",
            )
        own = {name: values[name] for name in names}
        for name in names[4:]:
            own[name] = float(own[name]) if type(own[name]) is int else own[name]  # canonical JSON writes 12.0 as 12
        return cls(**own)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON form, 64 hexadecimal digits."""
        return hashlib.sha256(rfc8785.dumps(self.to_json())).hexdigest()


MOST_ORDER = 14
"""Cosines along an axis at most: details finer than an image's side over 14 are in no picture."""
_SCALE, _SIDE = 8.0, 28


def moments_layout(image_size: int, channels: int, classes: int) -> MomentsLayout:
    """Return the layout for pictures of this kind: the finest order whose moments fit, up to `MOST_ORDER`.

    Args:
        image_size: pixels along a side.
        channels: 1 or 3.
        classes: 0 for none.

    Raises:
        InputError: pictures of another size, or too many classes for one cosine each.
    """
    scale = float(_SCALE * image_size / _SIDE * channels**0.5)
    for order in range(min(MOST_ORDER, image_size), 1, -1):
        count = channels * order**2
        if max(classes, 1) * (1 + count + count * (count + 1) // 2) <= MOST_COORDINATES:
            return MomentsLayout(classes, image_size, channels, order, scale)
    return MomentsLayout(classes, image_size, channels, 1, scale)
