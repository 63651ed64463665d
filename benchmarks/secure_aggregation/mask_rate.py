"""The mask engine against its limit: the key stream alone plus the addition alone, over segments that stay in cache.

The limit is what no engine that computes these streams one by one can beat on one core: for every stream and segment
one call of AES-256-GCM over zeros into the same buffer, and one in-place addition of that buffer to one segment. The
engine (`masking.add_streams`, one thread) does both over the whole vector. All three alternate in one process.
"""

from __future__ import annotations

import os
from statistics import median
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedgan_protocols import masking

from . import machine
from .timing import alternate, cpu_seconds, medians

WORD_BYTES = 4
OPENSSL_CIPHERS = ("aes-256-gcm", "aes-256-ctr")


def _segment_sizes(words: int) -> list[int]:
    total = words * WORD_BYTES
    whole, rest = divmod(total, masking.SEGMENT_BYTES)
    return [masking.SEGMENT_BYTES] * whole + ([rest] if rest else [])


def measure(words: int, neighbours: int, repeats: int, openssl_seconds: int) -> dict[str, Any]:
    """Masks of `neighbours` pairs and one self-mask over uint32[words], on one thread.

    `mask_share_of_limit` is limit / engine (1 is the limit itself). `keystream_share_of_openssl` sets the key stream
    beside the faster of the two modes that the installed `openssl` command offers; None, with the reason, without one.
    """
    keys = [os.urandom(masking.KEY_BYTES) for _ in range(neighbours + 1)]
    terms = [(key, 1 if place % 2 else -1) for place, key in enumerate(keys)]
    ciphers = [AESGCM(key) for key in keys]
    sizes = _segment_sizes(words)
    nonces = [index.to_bytes(12, "big") for index in range(len(sizes))]
    zeros = bytes(masking.SEGMENT_BYTES)
    buffer = np.empty(masking.SEGMENT_BYTES + masking.TAG_BYTES, dtype=np.uint8)
    cached = np.zeros(masking.SEGMENT_BYTES // WORD_BYTES, dtype="<u4")
    vector = np.zeros(words, dtype="<u4")

    def keystream() -> None:
        for nonce, size in zip(nonces, sizes, strict=True):
            source, target = memoryview(zeros)[:size], buffer[: size + masking.TAG_BYTES].data
            for cipher in ciphers:
                cipher.encrypt_into(nonce, source, None, target)

    def addition() -> None:
        for size in sizes:
            part, stream = cached[: size // WORD_BYTES], buffer[:size].view("<u4")
            for _, sign in terms:
                if sign > 0:
                    np.add(part, stream, out=part)
                else:
                    np.subtract(part, stream, out=part)

    def engine() -> None:
        masking.add_streams(vector, terms)

    works = {
        "keystream": lambda: cpu_seconds(keystream),
        "add": lambda: cpu_seconds(addition),
        "engine": lambda: cpu_seconds(engine),
    }
    alternate(works, 1)  # first touch of the memory, frequency of the core
    speeds: dict[str, list[float]] = {cipher: [] for cipher in OPENSSL_CIPHERS}
    samples: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(3):
        share = repeats // 3 + (turn < repeats % 3)
        for name, values in alternate(works, share).items():
            samples[name] += values
        for cipher in OPENSSL_CIPHERS:
            speed = machine.openssl_speed(cipher, masking.SEGMENT_BYTES, openssl_seconds) if openssl_seconds else None
            if speed is not None:
                speeds[cipher].append(speed)
    typical = medians(samples)
    limit = median(k + a for k, a in zip(samples["keystream"], samples["add"], strict=True))
    streamed = words * WORD_BYTES * len(keys)
    found = {cipher: median(values) if values else None for cipher, values in speeds.items()}
    fastest = max((value for value in found.values() if value is not None), default=None)
    rate = streamed / typical["keystream"]
    return {
        "words": words,
        "neighbours": neighbours,
        "streams": len(keys),
        "repeats": repeats,
        "keystream_bytes_per_second": rate,
        "add_bytes_per_second": streamed / typical["add"],
        "limit_seconds": limit,
        "mask_seconds": typical["engine"],
        "mask_parameter_streams_per_second": words * len(keys) / typical["engine"],
        "mask_share_of_limit": limit / typical["engine"],
        "openssl_version": machine.openssl_version(),
        "openssl_block_bytes": masking.SEGMENT_BYTES,
        "openssl_bytes_per_second": found,
        "keystream_share_of_openssl": None if fastest is None else rate / fastest,
        "openssl_skipped": _why_skipped(fastest, openssl_seconds),
    }


def _why_skipped(fastest: float | None, openssl_seconds: int) -> str | None:
    if fastest is not None:
        return None
    return "no openssl command was found on this machine" if openssl_seconds else "left out on request"
