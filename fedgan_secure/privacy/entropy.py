"""Where random bytes come from: the operating system, always, unless a test asks for bytes that repeat.

`deterministic` exists for test vectors. A run that uses it protects nobody, and every report of it says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Entropy = Callable[[int], bytes]
"""From a number of bytes to that many fresh random bytes: `os.urandom` outside tests."""


def entropy_for(label: str, *, insecure_seed: int | None) -> Entropy:
    """The source of random bytes for one party: the operating system's, or a repeatable stream where
    `insecure_seed` is given (``--insecure-deterministic``), distinct for every `label`."""
    return os.urandom if insecure_seed is None else _repeatable(label, insecure_seed)


def _repeatable(label: str, seed: int) -> Entropy:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"fedgan-secure/insecure/{label}".encode()).derive(
        seed.to_bytes(8, "big")
    )
    stream = Cipher(algorithms.ChaCha20(key, b"\x00" * 16), mode=None).encryptor()

    def draw(count: int) -> bytes:
        return stream.update(b"\x00" * count)

    return draw
