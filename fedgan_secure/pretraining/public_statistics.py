"""Statistics of the features of public pictures: they standardise features and give a first class head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedgan_secure.starts import OUTPUTS_WEIGHT, SOFT_LIMIT, Architecture

STD_SHARE = 0.02
"""Part of the median standard deviation that is added to each, so that a nearly constant feature is not blown up."""

Floats = NDArray[np.float32]


def public_statistics(raw: Floats, labels: NDArray[np.integer], architecture: Architecture) -> dict[str, Floats]:
    """Compute the statistics of a start file from raw features of public pictures.

    Args:
        raw: float32[n, d], raw features.
        labels: int[n] in 0..classes-1; every class must occur.
        architecture: of the start.

    Returns:
        feature_mean and feature_std float32[d] of `raw`; public_means float32[classes, d] and public_covariance
        float32[d, d] (within classes, divided by n) of the standardised features.

    Raises:
        ValueError: when a class has no picture.
    """
    values = raw.astype(np.float64)
    mean = values.mean(axis=0)
    std = values.std(axis=0, ddof=1)
    std = std + STD_SHARE * np.median(std)
    features = standardise(raw, mean.astype(np.float32), std.astype(np.float32), architecture).astype(np.float64)
    means = np.zeros((architecture.classes, features.shape[1]))
    for label in range(architecture.classes):
        mine = labels == label
        if not mine.any():
            raise ValueError(f"no public picture has the label {label}")
        means[label] = features[mine].mean(axis=0)
    centred = features - means[labels]
    covariance = centred.T @ centred / len(centred)
    named = {"feature_mean": mean, "feature_std": std, "public_means": means, "public_covariance": covariance}
    return {name: value.astype(np.float32) for name, value in named.items()}


def standardise(raw: Floats, mean: Floats, std: Floats, architecture: Architecture) -> Floats:
    """Return the features that `networks.Features` computes from raw ones: float32[n, d]."""
    weight = np.ones(architecture.features, np.float32)
    weight[slice(*architecture.blocks[-1])] = OUTPUTS_WEIGHT
    limit = np.float32(SOFT_LIMIT)
    standardised = (raw - mean) / std
    return np.asarray(limit * np.tanh(standardised / limit) * weight, dtype=np.float32)
