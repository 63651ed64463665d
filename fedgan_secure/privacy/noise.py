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
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedgan_secure.privacy.entropy import Entropy
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.processors import processors

_BLOCK = 1 << 14
_REKEY_BYTES = 1 << 34
_THREADS = 2
"""At most so many draw one vector; more gain little beside the training step."""


class GaussianStream:
    """Independent standard normal values, the same ones however many threads draw them."""

    def __init__(self, entropy: Entropy = os.urandom) -> None:
        """Take 32 bytes of entropy as the key."""
        self._entropy = entropy
        self._zeros = bytes(12 * _BLOCK)
        self._threads = min(_THREADS, processors())
        self._rekey()

    def _rekey(self) -> None:
        key = self._entropy(32)
        if len(key) != 32:
            raise PrivacyRefused(f"the entropy source gave {len(key)} bytes, expected 32")
        self._cipher = algorithms.AES(key)
        self._used = 0

    def _take(self, size: int) -> int:
        """Where the next ``size`` bytes of the stream begin, in blocks of 16 bytes; nobody else gets them."""
        if size > _REKEY_BYTES:
            raise PrivacyRefused(f"{size} bytes of noise at once, expected at most {_REKEY_BYTES}")
        if self._used + size > _REKEY_BYTES:  # 2**30 blocks: told from random with advantage 2**-69
            self._rekey()
        first = self._used // 16
        self._used += -(-size // 16) * 16
        return first

    def _fill(self, out: np.ndarray, start: int, end: int, first: int) -> None:
        """Pairs ``start`` to ``end`` of ``out`` (its two halves), of a vector whose stream begins at block ``first``.

        ``start`` is a multiple of ``_BLOCK``, which is 12 * _BLOCK / 16 of the cipher's blocks.
        """
        half = len(out) // 2
        counter = first + 12 * start // 16
        encryptor = Cipher(self._cipher, modes.CTR(counter.to_bytes(16, "big"))).encryptor()
        buffer = bytearray(12 * _BLOCK + 16)
        for begin in range(start, end, _BLOCK):
            count = min(_BLOCK, end - begin)
            written = encryptor.update_into(memoryview(self._zeros)[: 12 * count], buffer)
            raw = memoryview(buffer)[:written]
            radius = np.frombuffer(raw, "<u8", count).astype(np.float64)
            radius += 0.5
            radius *= 2.0**-64
            np.log(radius, out=radius)
            radius *= -2.0
            length = np.sqrt(radius, out=radius).astype(np.float32)
            angle = np.frombuffer(raw, "<i4", count, offset=8 * count).astype(np.float32)
            angle *= np.float32(np.pi * 2.0**-31)
            np.multiply(length, np.cos(angle), out=out[begin : begin + count])
            np.multiply(length, np.sin(angle), out=out[half + begin : half + begin + count])

    def normal(self, size: int) -> np.ndarray:
        """Draw standard normal values.

        Args:
            size: how many.

        Returns:
            float32[size].

        Raises:
            PrivacyRefused: more than 2**34 bytes of the stream at once (2.8e9 values).
        """
        half = (size + 1) // 2
        out = np.empty(2 * half, np.float32)
        first = self._take(12 * half)
        blocks = -(-half // _BLOCK)
        threads = min(self._threads, blocks // 4)
        if threads < 2:
            self._fill(out, 0, half, first)
            return out[:size]
        begins = [blocks * part // threads * _BLOCK for part in range(threads)]
        ends = [*begins[1:], half]
        with ThreadPoolExecutor(threads - 1) as pool:
            others = [
                pool.submit(self._fill, out, begin, end, first) for begin, end in zip(begins[1:], ends[1:], strict=True)
            ]
            self._fill(out, 0, ends[0], first)
            for other in others:
                other.result()
        return out[:size]
