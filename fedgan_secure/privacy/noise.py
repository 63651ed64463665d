"""Gaussian noise from a cryptographically keyed stream.

The stream is ChaCha20 (RFC 8439) under a fresh 256-bit key; Box and Muller's transform turns pairs of 64-bit
uniforms into normals. What floating point leaves over an ideal Gaussian, stated plainly:

* the radius uses u = (k + 1/2) / 2**64, so that no value exceeds sqrt(2 ln 2**65) = 9.49 standard deviations. An ideal
  radius would with probability 2**-65 per pair: for 10**6 weights and 1000 steps 1.4e-11 in total variation;
* values are computed in float64 and rounded once to float32: gaps in the set of reachable values remain, and the
  attacks of Mironov (CCS 2012) and Jin et al. (2021) on floating-point noise apply in principle to an adversary who
  sees single noisy gradients. Here they enter an optimiser and an average before anything is released.
* The guarantee computed by the accountant is for the ideal Gaussian. Integer noise on a grid has no such gap.
"""

from __future__ import annotations

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fedgan_secure.privacy import Entropy
from fedgan_secure.privacy.errors import PrivacyRefused

_BLOCK = 1 << 16
_REKEY_BYTES = 1 << 34


class GaussianStream:
    """Independent standard normal values."""

    def __init__(self, entropy: Entropy = os.urandom) -> None:
        """Take 32 bytes of entropy as the key."""
        self._entropy = entropy
        self._rekey()

    def _rekey(self) -> None:
        key = self._entropy(32)
        if len(key) != 32:
            raise PrivacyRefused(f"the entropy source gave {len(key)} bytes, expected 32")
        self._encryptor = Cipher(algorithms.ChaCha20(key, b"\0" * 16), mode=None).encryptor()
        self._used = 0

    def _stream(self, words: int) -> np.ndarray:
        size = 8 * words
        if self._used + size > _REKEY_BYTES:  # far below the 256 GiB after which ChaCha20's counter repeats
            self._rekey()
        self._used += size
        return np.frombuffer(self._encryptor.update(bytes(size)), dtype="<u8")

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
            words = self._stream(2 * count)
            uniform = (words[:count].astype(np.float64) + 0.5) * 2.0**-64
            angle = words[count:].astype(np.float64) * (2.0 * np.pi * 2.0**-64)
            radius = np.sqrt(-2.0 * np.log(uniform))
            out[start : start + count] = radius * np.cos(angle)
            out[half + start : half + start + count] = radius * np.sin(angle)
        return out[:size]
