"""The release round: a noisy sum of clipped statistics, its terms, its numbers in the ring, its probes."""

from fedgan_secure.federation.released.release_ring import (
    Draw,
    decode_release_sum,
    encode_release,
    noise_of,
    release_deviation,
)

__all__ = [
    "Draw",
    "decode_release_sum",
    "encode_release",
    "noise_of",
    "release_deviation",
]
