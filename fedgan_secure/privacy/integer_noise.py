"""Exact discrete Gaussian noise on the integers, for sums that are rounded to a grid.

P[X = x] is proportional to exp(-x^2 / (2 s^2)) over all integers x, for a rational s^2 (Canonne, Kamath and Steinke,
NeurIPS 2020, Definition 1). Floating-point attacks on noise (Mironov, CCS 2012) have nothing to hold on to: every
integer is reachable, and each with its own probability.

How it is drawn (Karney, ACM TOMS 42, 2016, Algorithm D, for integers and without his bit-by-bit subroutines):

1. A block k >= 0 with probability proportional to exp(-k^2 / 2), and a sign.
2. X = L_k + j, where L_k = ceil(k s) and j is uniform below ceil(s); again from 1 unless X < L_(k+1). Now X is
   in [k s, (k + 1) s), every integer of a block being equally likely in every block.
3. X is kept with probability exp(-x (2k + x) / 2), where x = X/s - k; the product of the probabilities in 1 and 3 is
   exp(-(X/s)^2 / 2). Else, and for X = 0 with the sign minus, again from 1.

Exactness. A decision of probability p compares a uniform real number with p, and of the number only as many bits are
drawn as the decision needs. Nearly always 64 (31 for the block) bits and p in double precision decide, with `GUARD` as
a bound on what double precision may be off: thousands of times more than it is. Where they do not, further bits are
drawn, and p is computed in decimal arithmetic whose functions are correctly rounded, with as many digits as it takes.
So the distribution is the stated one, with no statistical distance to be added to delta. Bits come from AES-256 in
counter mode under a fresh key of the injected entropy (told from random bits with advantage 2^-69 per key).

Not covered: how long a draw takes depends on what is drawn.
"""

from __future__ import annotations

import math
import os
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedgan_secure.privacy.entropy import Entropy
from fedgan_secure.privacy.errors import PrivacyRefused

GUARD = 2.0**-38
"""Decisions closer than this to their probability in double precision are made exactly instead."""
LARGEST_DEVIATION = 2**31
"""The largest standard deviation that is drawn, in grid steps."""

_CANDIDATES = 1 << 15
_REKEY_BYTES = 1 << 34
_BLOCKS = 12
"""Blocks that the quick comparison knows; farther ones, of probability exp(-72), are found exactly."""
_QUICK_BITS = 31
_SHARE_KEPT = 0.71
"""About so many candidates are kept; it decides how many are drawn at a time, nothing else."""


class BitStream:
    """Uniform random bytes: AES-256 in counter mode (NIST SP 800-38A) under keys from the injected entropy."""

    def __init__(self, entropy: Entropy = os.urandom) -> None:
        """Take 32 bytes of entropy as the key."""
        self._entropy = entropy
        self._rekey()

    def _rekey(self) -> None:
        key = self._entropy(32)
        if len(key) != 32:
            raise PrivacyRefused(f"the entropy source gave {len(key)} bytes, expected 32")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(b"\0" * 16)).encryptor()
        self._used = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if self._used + size > _REKEY_BYTES:
            self._rekey()
        self._used += size
        return self._encryptor.update(bytes(size))

    def bits(self, count: int) -> int:
        """A uniform integer of `count` bits, a multiple of 8."""
        return int.from_bytes(self.take(count // 8), "big")


class DiscreteGaussian:
    """Independent draws of the discrete Gaussian with parameter `variance` (s^2); its mean is 0.

    The variance of the draws is at most s^2 (Canonne, Kamath and Steinke 2020, section 2), and equal to it to
    1e-7 for s >= 1.
    """

    def __init__(self, variance: Fraction, entropy: Entropy = os.urandom) -> None:
        """Args: variance: s^2, rational, above 0, s at most `LARGEST_DEVIATION`; entropy: source of random bytes.

        Raises:
            PrivacyRefused: a variance out of range.
        """
        if not 0 < variance <= LARGEST_DEVIATION**2:
            raise PrivacyRefused(
                f"the variance of integer noise is {float(variance):g} grid steps squared, expected above 0 and "
                f"at most {float(LARGEST_DEVIATION**2):g}",
                hint="choose a coarser grid (fewer fraction bits)",
            )
        self.variance = Fraction(variance)
        self._stream = BitStream(entropy)
        self._starts = np.array([self._start(k) for k in range(_BLOCKS + 1)], np.int64)
        self._width = self._start(1)
        """ceil(s), from which j is drawn."""
        self._deviation = float(_root(self.variance, 40))
        with localcontext(prec=60):
            root = _root(self.variance, 60)
            self._gaps = np.array([float(int(self._starts[k]) - k * root) for k in range(_BLOCKS)])
        bounds = _block_bounds(60)
        self._quick = [int(bound * 2**_QUICK_BITS) for bound in bounds[:_BLOCKS]]

    def draw(self, size: int) -> np.ndarray:
        """int64[size], independent draws."""
        out = np.empty(size, np.int64)
        done = 0
        while done < size:
            wanted = int((size - done) / _SHARE_KEPT * 1.02) + 64
            kept = self._kept(min(wanted, _CANDIDATES))[: size - done]
            out[done : done + len(kept)] = kept
            done += len(kept)
        return out

    def _kept(self, count: int) -> np.ndarray:
        """What is kept of `count` candidates, in their order."""
        raw = self._stream.take(16 * count)
        chances = np.frombuffer(raw, "<u8", count)
        picks = np.frombuffer(raw, "<u4", count, offset=8 * count)
        places = np.frombuffer(raw, "<u4", count, offset=12 * count).astype(np.uint64) * np.uint64(self._width)
        signs = picks & np.uint32(1)
        picks = picks >> np.uint32(1)

        blocks = np.zeros(count, np.int64)
        unsure = np.zeros(count, bool)
        for quick in self._quick:
            blocks += picks > quick
            unsure |= picks == quick
        # Lemire's multiplication: the upper half is uniform below the width once these lower halves are left out
        usable = (places & np.uint64(0xFFFFFFFF)) >= np.uint64(2**32 % self._width)
        offsets = (places >> np.uint64(32)).astype(np.int64)
        far: dict[int, int] = {}
        for place in map(int, np.flatnonzero(unsure & usable)):
            far[place] = self._block_of(int(picks[place]))
        for place, block in far.items():
            blocks[place] = min(block, _BLOCKS - 1)

        values = self._starts[blocks] + offsets
        usable &= values < self._starts[blocks + 1]
        margins = self._quick_chance(blocks, offsets) - chances * 2.0**-64
        accepted = margins > GUARD
        for place in map(int, np.flatnonzero((np.abs(margins) <= GUARD) & usable)):
            accepted[place] = self._below(int(chances[place]), int(values[place]), int(blocks[place]))
        for place, block in far.items():
            if block >= _BLOCKS:
                start = self._start(block)
                values[place] = start + int(offsets[place])
                usable[place] = values[place] < self._start(block + 1)
                accepted[place] = self._below(int(chances[place]), int(values[place]), block)
        negative = signs == 1
        kept = usable & accepted & ~(negative & (values == 0))
        return np.where(negative, -values, values)[kept]

    def _quick_chance(self, blocks: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """The probability of step 3 in double precision, float64[n]; off by less than a thousandth of `GUARD`."""
        inside = (offsets + self._gaps[blocks]) / self._deviation
        return np.asarray(np.exp(-inside * (blocks + 0.5 * inside)))

    def _start(self, block: int) -> int:
        """L_k = ceil(k s), exactly: the least integer whose square is at least k^2 s^2."""
        square = self.variance * block * block
        whole = math.isqrt(square.numerator // square.denominator)
        return whole if whole * whole >= square else whole + 1

    def _block_of(self, picked: int) -> int:
        """The block of a uniform number that starts with the `_QUICK_BITS` bits of `picked`, by further bits."""
        bits = _QUICK_BITS
        while True:
            picked, bits = (picked << 64) | self._stream.bits(64), bits + 64
            digits = _digits(bits)
            bounds = _block_bounds(digits)
            with localcontext(prec=digits):
                low, high, slack = Decimal(picked), Decimal(picked + 1), Decimal(10) ** (6 - digits)
                scale = Decimal(2) ** bits
                if all(high / scale < bound - slack or low / scale > bound + slack for bound in bounds):
                    return sum(low / scale > bound for bound in bounds)

    def _below(self, chance: int, value: int, block: int) -> bool:
        """Whether a uniform number that starts with the 64 bits of `chance` lies below exp(-(X^2/s^2 - k^2) / 2)."""
        exponent = (value * value / self.variance - block * block) / 2
        bits = 64
        while True:
            digits = _digits(bits)
            with localcontext(prec=digits):
                chosen = (-Decimal(exponent.numerator) / Decimal(exponent.denominator)).exp()
                slack = Decimal(10) ** (6 - digits) * (1 + Decimal(math.ceil(exponent)))
                scale = Decimal(2) ** bits
                if Decimal(chance + 1) / scale < chosen - slack:
                    return True
                if Decimal(chance) / scale > chosen + slack:
                    return False
            chance, bits = (chance << 64) | self._stream.bits(64), bits + 64


def _digits(bits: int) -> int:
    """Decimal digits that hold `bits` bits and 20 more digits."""
    return math.ceil(bits * 0.30103) + 20


def _root(variance: Fraction, digits: int) -> Decimal:
    with localcontext(prec=digits):
        return (Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt()


def _block_bounds(digits: int) -> list[Decimal]:
    """P[K <= 0], P[K <= 1], ... for P[K = k] proportional to exp(-k^2 / 2), to 6 places less than `digits`.

    Blocks whose probabilities are below that are one with the last.
    """
    with localcontext(prec=digits + 4):
        weights: list[Decimal] = []
        while not weights or weights[-1] > Decimal(10) ** -(digits + 2):
            weights.append((Decimal(-(len(weights) ** 2)) / 2).exp())
        total = sum(weights, Decimal(0))
        bounds, so_far = [], Decimal(0)
        for weight in weights[:-1]:
            so_far += weight
            bounds.append(so_far / total)
        return bounds
