"""What a released vector is made of: public, fixed before the run, named by a digest.

An image with features f (float32[d]), label k and colour cell j gives to class k the block

    [a,  b f,  c (f^2 - 1)]     a = count_weight, b = first_weight / sqrt(d), c = second_weight / sqrt(d)

and to the histogram h = colour_weight in cell j, zeros elsewhere. Without classes there is one block, which every image
gives to.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import rfc8785

from fedgan_secure.errors import InputError
from fedgan_secure.statistics.colours import ColourBins

MOST_COORDINATES = 1 << 20
_VERSION = "fedgan-secure/release-layout/1"


@dataclass(frozen=True)
class ReleaseLayout:
    """What a released vector is made of; public, fixed before the run.

    Attributes:
        classes: k; 0 for pictures without classes, which have one block.
        features: d.
        bins: cells of the colour histogram along each axis (`ColourBins`).
        count_weight: a.
        first_weight: b sqrt(d).
        second_weight: c sqrt(d).
        colour_weight: h.

    Raises:
        InputError: numbers out of range, or more than `MOST_COORDINATES` coordinates.
    """

    classes: int
    features: int
    bins: tuple[int, ...]
    count_weight: float = 0.25
    first_weight: float = 1 / 1.6
    second_weight: float = 0.5 / 3
    colour_weight: float = 0.35

    def __post_init__(self) -> None:
        whole = type(self.classes) is int and type(self.features) is int
        if not whole or self.classes < 0 or self.features < 1:
            raise InputError(
                f"a release of {self.classes} classes and {self.features} features; expected whole numbers from 0 and 1"
            )
        for weight in (self.count_weight, self.first_weight, self.second_weight, self.colour_weight):
            if not (isinstance(weight, float) and 0 < weight <= 1):
                raise InputError(f"a weight of the release is {weight!r}, expected a number above 0, at most 1")
        if not isinstance(self.bins, tuple):
            raise InputError(f"colour bins are {self.bins!r}, expected a tuple of numbers")
        if self.dimension > MOST_COORDINATES:
            raise InputError(f"a release of {self.dimension} coordinates, expected at most {MOST_COORDINATES}")

    @property
    def blocks(self) -> int:
        """How many blocks of moments there are: a block for every class, one without classes."""
        return max(self.classes, 1)

    @property
    def width(self) -> int:
        """Coordinates of one block: 1 + 2 d."""
        return 1 + 2 * self.features

    @property
    def colour_bins(self) -> ColourBins:
        """The cells of the histogram."""
        return ColourBins(self.bins)

    @property
    def dimension(self) -> int:
        """D, coordinates of the released vector."""
        return self.blocks * self.width + self.colour_bins.cells

    @property
    def scales(self) -> tuple[float, float, float, float]:
        """(a, b, c, h): what one image's count, features, squared features and cell are multiplied by."""
        root = math.sqrt(self.features)
        return self.count_weight, self.first_weight / root, self.second_weight / root, self.colour_weight

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values, the public ranges of the colours among them."""
        colours = self.colour_bins
        own = {**asdict(self), "bins": list(self.bins)}
        return {"version": _VERSION, **own, "colours": {"low": list(colours.low), "high": list(colours.high)}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ReleaseLayout:
        """Read what `to_json` gave.

        Raises:
            InputError: missing, unknown or wrong values, or colour ranges that this software does not use.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping) or set(values) != {"version", "colours", *names}:
            raise InputError(
                "the layout of a release has missing or unknown fields", hint=f"expected {', '.join(names)}"
            )
        own = {name: values[name] for name in names}
        bins = own["bins"]
        if not isinstance(bins, list | tuple):
            raise InputError(f"colour bins are {bins!r}, expected a list of numbers")
        for name in names[3:]:
            own[name] = float(own[name]) if type(own[name]) is int else own[name]
        layout = cls(**{**own, "bins": tuple(bins)})
        told = {name: values[name] for name in ("version", "colours")}
        expected = {name: layout.to_json()[name] for name in told}
        if told != expected:
            raise InputError(
                f"a release has {told}, expected {expected}", hint="use the software that wrote the layout"
            )
        return layout

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON form, 64 hexadecimal digits."""
        return hashlib.sha256(rfc8785.dumps(self.to_json())).hexdigest()
