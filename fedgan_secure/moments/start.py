"""The start of a run that has no public start: a fixed basis of cosines, which knows nothing of any picture."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import rfc8785

from fedgan_secure.errors import InputError
from fedgan_secure.moments.basis import cosines
from fedgan_secure.moments.layout import SIZES, MomentsLayout, moments_layout
from fedgan_secure.starts import PublicStart

NAME = "moments/1"
STATEMENT = (
    "A fixed basis of cosines, the same for all pictures of one size; no picture and no training is in it. Every class "
    "is a Gaussian whose mean and covariance come from the patients alone, through one noisy sum; what is finer than "
    "the basis is in no picture."
)


@dataclass(frozen=True)
class MomentsStart:
    """Hold what such a run starts from; equal for equal kinds of pictures.

    Attributes:
        image_size, channels: of the pictures.
    """

    image_size: int
    channels: int

    name = NAME
    statement = STATEMENT
    label_names: tuple[str, ...] = ()

    def layout(self, classes: int) -> MomentsLayout:
        """Return what is released of so many classes. Raises InputError as `moments_layout`."""
        return moments_layout(self.image_size, self.channels, classes)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the basis that all orders are rows of, and of its name."""
        facts = {"name": NAME, "image_size": self.image_size, "channels": self.channels}
        basis = cosines(self.image_size, self.image_size).astype("<f8").tobytes()
        return hashlib.sha256(rfc8785.dumps(facts) + basis).hexdigest()


def moments_start(image_size: int, channels: int) -> MomentsStart:
    """Return the start for pictures of this kind.

    Raises:
        InputError: another size than `SIZES` allows.
    """
    least, most = SIZES
    if not least <= image_size <= most:
        raise InputError(
            f"--start moments: pictures of {image_size} pixels, expected {least} to {most}",
            hint="choose another --image-size, or train from a seed: --start none",
        )
    return MomentsStart(image_size, channels)


AnyStart = PublicStart | MomentsStart
