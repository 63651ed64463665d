"""Gaussian noise from a cryptographically keyed stream.

The stream is AES-256 in counter mode (NIST SP 800-38A) under a fresh key; Box and Muller's transform turns 64 bits and
32 more into a pair of normals. What floating point leaves over an ideal Gaussian, stated plainly:

* the radius uses u = (k + 1/2) / 2**64, so that no value exceeds sqrt(2 ln 2**65) = 9.49 standard deviations. An ideal
  radius would with probability 2**-65 per pair: for 10**6 weights and 1000 steps 1.4e-11 in total variation;
* the angle is one of 2**32, rounded to float32; its sine and cosine are float32, off by less than 2e-7. The radius is
  computed in float64. So a value is off by less than 3e-7 of its radius from one that an exact transform of the same
  bits would give;
* gaps in the set of reachable values remain, and the attacks of Mironov (CCS 2012) and Jin et al. (2021) on
  floating-point noise apply in principle to an adversary who sees single noisy gradients. Here they enter an optimiser
  and an average before anything is released.
* The guarantee computed by the accountant is for the ideal Gaussian. Integer noise on a grid has no such gap.
"""

from __future__ import annotations

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedgan_secure.privacy import Entropy
from fedgan_secure.privacy.errors import PrivacyRefused

_BLOCK = 1 << 14
_REKEY_BYTES = 1 << 34


class GaussianStream:
    """Independent standard normal values."""

    def __init__(self, entropy: Entropy = os.urandom) -> None:
        """Take 32 bytes of entropy as the key."""
        self._entropy = entropy
        self._zeros = bytes(12 * _BLOCK)
        self._buffer = bytearray(12 * _BLOCK + 16)
        self._rekey()

    def _rekey(self) -> None:
        key = self._entropy(32)
        if len(key) != 32:
            raise PrivacyRefused(f"the entropy source gave {len(key)} bytes, expected 32")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(b"\0" * 16)).encryptor()
        self._used = 0

    def _stream(self, size: int) -> memoryview:
        """The next ``size`` bytes, at most 12 * _BLOCK of them; valid until the next call."""
        if self._used + size > _REKEY_BYTES:  # 2**30 blocks: told from random with advantage 2**-69
            self._rekey()
        self._used += size
        written = self._encryptor.update_into(memoryview(self._zeros)[:size], self._buffer)
        return memoryview(self._buffer)[:written]

    def normal(self, size: int) -> np.ndarray:
        """Draw standard normal values.

        Args:
            size: how many.

        Returns:
            float32[size].
        """
        half = (size + 1) // 2
        out = np.empty(2 * half, np.float32)
        for start in range(0, half, _BLOCK):
            count = min(_BLOCK, half - start)
            raw = self._stream(12 * count)
            radius = np.frombuffer(raw, "<u8", count).astype(np.float64)
            radius += 0.5
            radius *= 2.0**-64
            np.log(radius, out=radius)
            radius *= -2.0
            length = np.sqrt(radius, out=radius).astype(np.float32)
            angle = np.frombuffer(raw, "<i4", count, offset=8 * count).astype(np.float32)
            angle *= np.float32(np.pi * 2.0**-31)
            np.multiply(length, np.cos(angle), out=out[start : start + count])
            np.multiply(length, np.sin(angle), out=out[half + start : half + start + count])
        return out[:size]
