"""A start from released moments alone, for pictures that no public start draws."""

from fedgan_secure.moments.basis import coefficients, cosines
from fedgan_secure.moments.layout import MomentsLayout
from fedgan_secure.moments.releases import AnyLayout, patients_at_a_time, read_layout, release_sum
from fedgan_secure.moments.start import AnyStart, MomentsStart, moments_start
from fedgan_secure.moments.vector import MomentsVector

__all__ = [
    "AnyLayout",
    "AnyStart",
    "MomentsLayout",
    "MomentsStart",
    "MomentsVector",
    "coefficients",
    "cosines",
    "moments_start",
    "patients_at_a_time",
    "read_layout",
    "release_sum",
]
