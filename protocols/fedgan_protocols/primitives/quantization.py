"""Real vectors as integers modulo 2^32 or 2^64, and the proof that their sum does not wrap.

An input is clamped to the public box [-B, B], scaled by 2^f, rounded to the nearest integer, multiplied by its public
integer weight, and stored modulo 2^k in two's complement. Clamping is counted (for the confidential annex), never an
error: an error that depends on data leaks. With sum(weights) * round(B * 2^f) + noise tail <= 2^(k-1) - 1 the modular
sum is the integer sum (`prove_headroom`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedgan_protocols.errors import Code, ParameterError

_BLOCK = 1 << 16
"""Words that are encoded at a time: their float64 form stays in the processor's cache."""


@dataclass(frozen=True)
class FixedPoint:
    """Signed fixed point with `fraction_bits` binary places over a ring of 32 or 64 bits and a box [-bound, bound].

    | value   | encoded as                |
    |---------|---------------------------|
    | NaN     | 0, counted as clamped     |
    | +-inf   | +-bound, counted          |
    | |x| > B | +-bound, counted          |
    """

    bound: float
    ring_bits: int
    fraction_bits: int

    def __post_init__(self) -> None:
        if self.ring_bits not in (32, 64):
            raise ParameterError(Code.HEADROOM, f"the ring has 32 or 64 bits; found {self.ring_bits}")
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise ParameterError(Code.HEADROOM, f"the public bound is a positive number; found {self.bound}")
        if not 0 <= self.fraction_bits <= 52:
            raise ParameterError(Code.HEADROOM, f"fraction bits are 0 to 52; found {self.fraction_bits}")
        if not 1 <= self.bound * self.scale < 2.0**53:
            raise ParameterError(
                Code.HEADROOM,
                f"a bound of {self.bound} with {self.fraction_bits} fraction bits leaves no exact integers",
                hint="the scaled bound must lie between 1 and 2^53",
            )

    @property
    def scale(self) -> float:
        return float(2**self.fraction_bits)

    @property
    def resolution(self) -> float:
        """The step between neighbouring values; rounding errs by at most half of it."""
        return 1.0 / self.scale

    @property
    def largest(self) -> int:
        """The largest magnitude of one encoded input of weight 1."""
        return int(np.rint(self.bound * self.scale))

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype("<u4" if self.ring_bits == 32 else "<u8")

    def encode(self, vector: np.ndarray, weight: int = 1) -> np.ndarray:
        """float[d] -> uint32[d] or uint64[d]: weighted integers modulo 2^k. No value in `vector` raises or warns."""
        vector = np.asarray(vector)
        if vector.ndim != 1 or vector.dtype.kind not in "fiu":
            raise ParameterError(
                Code.BAD_INPUT, f"real numbers [d] were expected; found {vector.dtype}[{vector.ndim} axes]"
            )
        if type(weight) is not int or weight < 1 or weight * self.largest >= 1 << (self.ring_bits - 1):
            raise ParameterError(Code.HEADROOM, f"a weight of {weight} does not fit the ring")
        encoded = np.empty(vector.shape, dtype=self.dtype)
        signed = encoded.view(f"<i{self.ring_bits // 8}")
        real = np.empty(min(_BLOCK, vector.size), dtype=np.float64)
        for start in range(0, vector.size, _BLOCK):
            part = vector[start : start + _BLOCK]
            block = real[: part.size]
            with np.errstate(all="ignore"):  # a warning would depend on data
                np.copyto(block, part)
                np.clip(block, -self.bound, self.bound, out=block)
                if np.isnan(block.min()):  # the minimum of a block that holds a NaN is NaN
                    block[np.isnan(block)] = 0.0
            block *= self.scale
            np.rint(block, out=block)
            integers = signed[start : start + _BLOCK]
            np.copyto(integers, block, casting="unsafe")  # exact: integers below 2^53, and below 2^31 in a 32-bit ring
            if weight != 1:
                integers *= weight
        return encoded

    def count_clamped(self, vector: np.ndarray) -> int:
        """How many entries `encode` changes by clamping (confidential)."""
        return int(np.count_nonzero(~(np.abs(np.asarray(vector, dtype=np.float64)) <= self.bound)))

    def decode_sum(self, total: np.ndarray, total_weight: int = 1) -> np.ndarray:
        """uint[d] sum of encodings -> float64[d]: the real sum divided by the survivors' `total_weight`."""
        if total_weight < 1:
            raise ParameterError(Code.HEADROOM, "the survivors' total weight is positive")
        if total.dtype.kind != "u" or total.dtype.itemsize * 8 != self.ring_bits:
            raise ParameterError(Code.BAD_INPUT, f"a sum over this ring is uint{self.ring_bits}; found {total.dtype}")
        signed = total.astype(self.dtype, copy=False).view(f"<i{self.ring_bits // 8}")
        return signed.astype(np.float64) / (self.scale * total_weight)


def _needed(codec: FixedPoint, weights: Sequence[int], noise_tail: int) -> int:
    if not weights or any(not isinstance(weight, int) or weight < 1 for weight in weights) or noise_tail < 0:
        raise ParameterError(Code.HEADROOM, "weights are positive public integers and a noise tail is not negative")
    return sum(weights) * codec.largest + noise_tail


def prove_headroom(codec: FixedPoint, weights: Sequence[int], noise_tail: int = 0) -> str:
    """The proof, for people, that no sum over any subset of the roster wraps; raises ParameterError (headroom).

    `weights`: the public integer weight of every roster member; `noise_tail`: a bound on the magnitude of all added
    integer noise together (0 where noise is added before encoding).
    """
    needed, ceiling = _needed(codec, weights, noise_tail), (1 << (codec.ring_bits - 1)) - 1
    tail = f" + {noise_tail} (noise)" if noise_tail else ""
    claim = (
        f"each of {len(weights)} inputs is an integer of magnitude at most {codec.largest} "
        f"(= round({codec.bound:g} * 2^{codec.fraction_bits})) times its public weight; "
        f"{sum(weights)} * {codec.largest}{tail} = {needed}"
    )
    if needed > ceiling:
        raise ParameterError(
            Code.HEADROOM,
            f"the sum can wrap: {claim} > {ceiling} = 2^{codec.ring_bits - 1} - 1",
            hint="choose the 64-bit ring, fewer fraction bits, smaller weights or a smaller bound",
        )
    return f"{claim} <= {ceiling} = 2^{codec.ring_bits - 1} - 1, so no sum over any survivors wraps"


def widest_fraction_bits(bound: float, ring_bits: int, weights: Sequence[int], noise_tail: int = 0) -> int:
    """The largest number of fraction bits whose headroom can be proved; raises ParameterError when there is none."""
    for bits in range(52, -1, -1):
        try:
            prove_headroom(FixedPoint(bound, ring_bits, bits), weights, noise_tail)
        except ParameterError:
            continue
        return bits
    raise ParameterError(
        Code.HEADROOM,
        f"no fixed point fits: bound {bound:g}, {len(weights)} inputs of total weight {sum(weights)}, {ring_bits} bits",
        hint="choose the 64-bit ring, smaller weights or a smaller bound",
    )
