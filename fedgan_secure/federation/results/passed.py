"""Remember judgements of published files, so that the hospitals of one process judge them once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

KEPT = 64
"""Judgements that a process keeps: hospitals of one process, which know the same, judge the same files once."""


class Passed:
    """Which files were found to be what a model leads to; for the hospitals of one process."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def key(self, what: str, average: np.ndarray, files: Mapping[str, bytes]) -> bytes:
        """Return the digest of a question: what it is asked about, the average and the files."""
        digest = hashlib.sha256(what.encode())
        digest.update(np.ascontiguousarray(average, "<f4").tobytes())
        for name in sorted(files):
            digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(files[name]).digest())
        return digest.digest()

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def add(self, key: bytes) -> None:
        """Keep that nothing was objected to."""
        self._keys[key] = None
        while len(self._keys) > KEPT:
            self._keys.popitem(last=False)
