"""Federated averaging of updates (McMahan et al. 2017, algorithm 1) with public weights.

The weights are equal for all hospitals: counts of patients are private, and a weight taken from them would publish
them through the model. The average is over the hospitals whose update is in the sum.
"""

from __future__ import annotations

import hashlib

import numpy as np

from fedgan_protocols.primitives import FixedPoint


def apply_sum(global_vector: np.ndarray, total: np.ndarray, survivors: int, codec: FixedPoint) -> np.ndarray:
    """The next global model: the old one plus the mean of the survivors' updates.

    Args:
        global_vector: float32[d].
        total: uint32[d] or uint64[d], the modular sum of the survivors' encoded updates.
        survivors: how many updates `total` holds, at least 1.
        codec: the policy's fixed-point encoding.

    Returns:
        float32[d].
    """
    if survivors < 1:
        raise ValueError(f"a sum of {survivors} updates; expected at least one")
    mean = codec.decode_sum(total, survivors)
    return (global_vector.astype(np.float64) + mean).astype(np.float32)


def model_digest(layout_hash: str, vector: np.ndarray) -> bytes:
    """SHA-256 over the layout's hash and the weights as little-endian float32: 32 bytes that name a model."""
    digest = hashlib.sha256(b"fedgan-secure/model/0\x00")
    digest.update(bytes.fromhex(layout_hash))
    digest.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
    return digest.digest()
