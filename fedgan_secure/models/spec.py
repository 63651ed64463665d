"""The public description of a generator and its discriminator: scalars and tuples only, no TensorFlow.

It is part of the federation's policy (key ``model``): every hospital builds exactly the same layers from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.models.errors import ModelError
from fedgan_secure.models.moments_spec import FAMILY as MOMENTS
from fedgan_secure.models.moments_spec import MomentsSpec

IMAGE_SIZES = (28, 64, 128)
CHANNELS = (1, 3)
FEATURES = ("oriented", "none")
NORMALIZATIONS = ("none", "group")


@dataclass(frozen=True)
class ModelSpec:
    """Architecture of a DCGAN.

    Attributes:
        image_size: height and width in pixels: 28, 64 or 128.
        channels: 1 (grey) or 3 (RGB).
        classes: number of classes; 0 for an unconditional model.
        latent_dim: length of the generator's noise vector.
        generator_widths: channels after the first dense layer, then after every doubling but the last (which gives
            the image): the number of entries is the number of doublings (4 at 64 px, 5 at 128 px, 2 at 28 px).
        discriminator_widths: channels of the trained convolutions, each of stride 2.
        discriminator_dense: width of the last hidden layer, the embedding the heads look at.
        features: "oriented" puts a fixed, public bank of oriented filters before the trained layers; "none" trains
            on pixels.
        normalization: "group" puts GroupNormalization after every convolution of the discriminator but the first.
            There is no batch normalisation: it would mix patients.
    """

    image_size: int = 64
    channels: int = 3
    classes: int = 5
    latent_dim: int = 64
    generator_widths: tuple[int, ...] = (128, 96, 64, 32)
    discriminator_widths: tuple[int, ...] = (32, 48)
    discriminator_dense: int = 48
    features: str = "oriented"
    normalization: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "generator_widths", tuple(int(w) for w in self.generator_widths))
        object.__setattr__(self, "discriminator_widths", tuple(int(w) for w in self.discriminator_widths))
        _one_of("image_size", self.image_size, IMAGE_SIZES)
        _one_of("channels", self.channels, CHANNELS)
        _one_of("features", self.features, FEATURES)
        _one_of("normalization", self.normalization, NORMALIZATIONS)
        if not 0 <= self.classes <= 1000:
            raise ModelError(f"model.classes is {self.classes}, expected 0 (unconditional) to 1000")
        if not 1 <= self.latent_dim <= 4096:
            raise ModelError(f"model.latent_dim is {self.latent_dim}, expected 1 to 4096")
        if len(self.generator_widths) != self.doublings:
            raise ModelError(
                f"model.generator_widths has {len(self.generator_widths)} entries, expected {self.doublings} "
                f"for {self.image_size} pixels"
            )
        if not 1 <= len(self.discriminator_widths) <= 6:
            raise ModelError("model.discriminator_widths must have 1 to 6 entries")
        for width in (*self.generator_widths, *self.discriminator_widths, self.discriminator_dense):
            if not 1 <= width <= 4096:
                raise ModelError(f"a layer of {width} channels was asked for, expected 1 to 4096")

    @property
    def doublings(self) -> int:
        """How often the generator doubles its resolution (28 = 7 x 2^2, 64 = 4 x 2^4, 128 = 4 x 2^5)."""
        return {28: 2, 64: 4, 128: 5}[self.image_size]

    @property
    def start_size(self) -> int:
        """Height and width, in pixels, of the generator's first feature map."""
        return self.image_size >> self.doublings

    @property
    def conditional(self) -> bool:
        """Whether the model is told the class of an image."""
        return self.classes > 0

    @classmethod
    def default(cls, image_size: int = 64, channels: int = 3, classes: int = 5) -> ModelSpec:
        """The architecture used unless a policy says otherwise, found on phantoms (public images) only."""
        widths = {28: (64, 32), 64: (96, 64, 32, 16), 128: (96, 64, 32, 16, 12)}
        if image_size not in widths:
            raise ModelError(f"image size {image_size} is not supported, expected one of {IMAGE_SIZES}")
        return cls(image_size=image_size, channels=channels, classes=classes, generator_widths=widths[image_size])

    def to_json(self) -> dict[str, Any]:
        """The specification as JSON-ready values, in the order of the fields."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Read what `to_json` wrote.

        Raises:
            ModelError: a key is unknown or missing, or a value has the wrong type or range.
        """
        expected = {field.name: field for field in fields(cls)}
        unknown = sorted(set(values) - set(expected))
        missing = sorted(set(expected) - set(values))
        if unknown or missing:
            raise ModelError(f"model: unknown keys {unknown}, missing keys {missing}")
        checked: dict[str, Any] = {}
        for name in expected:
            value = values[name]
            if name.endswith("_widths"):
                if not isinstance(value, list | tuple) or not all(_is_int(item) for item in value):
                    raise ModelError(f"model.{name} is {value!r}, expected a list of whole numbers")
                checked[name] = tuple(value)
            elif name in ("features", "normalization"):
                checked[name] = value
            elif not _is_int(value):
                raise ModelError(f"model.{name} is {value!r}, expected a whole number")
            else:
                checked[name] = value
        return cls(**checked)


AnySpec = ModelSpec | AdaptedSpec | MomentsSpec
"""What `draw_images` needs to know of a generator, of whichever family it is."""


def read_spec(values: Mapping[str, Any]) -> AnySpec:
    """Read the `model` table of a policy, of whichever family it is.

    Raises:
        ModelError: as the families' own `from_json`.
    """
    if "family" not in values:
        return ModelSpec.from_json(values)
    return MomentsSpec.from_json(values) if values["family"] == MOMENTS else AdaptedSpec.from_json(values)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ModelError(f"model.{name} is {value!r}, expected one of {', '.join(map(str, allowed))}")
