"""Fixed public image features: a bank of oriented filters at several scales, and colour averages.

Nothing here is trained and nothing depends on data, so these layers cost no privacy. Under DP-SGD a small trained
network on such features learns faster than a convolutional network that must find its first layers through noise
(Tramer and Boneh, "Differentially Private Learning Needs Better Features", ICLR 2021, for scattering features).
"""

from __future__ import annotations

import numpy as np

ORIENTATIONS = 4
KERNEL = 7


def oriented_bank() -> np.ndarray:
    """Edge and line detectors (first and second Gaussian derivatives) and their negatives.

    Returns:
        float32[7, 7, 1, 16] convolution kernels, each of zero mean and unit absolute sum.
    """
    radius = KERNEL // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    kernels = []
    for turn in range(ORIENTATIONS):
        angle = np.pi * turn / ORIENTATIONS
        along = x * np.cos(angle) + y * np.sin(angle)
        across = -x * np.sin(angle) + y * np.cos(angle)
        window = np.exp(-(across**2) / (2 * 1.0**2) - along**2 / (2 * 1.8**2))
        edge = across * window
        line = (1.0 - across**2) * window
        for kernel in (edge, line):
            centred = kernel - kernel.mean()
            unit = centred / np.abs(centred).sum()
            kernels += [unit, -unit]
    return np.stack(kernels, axis=-1)[:, :, None, :].astype(np.float32)


def feature_grid(image_size: int) -> int:
    """Height and width, in cells, of the grid the features are averaged on (14 at 28 px, 16 above)."""
    return 14 if image_size == 28 else 16


def feature_scales(image_size: int) -> tuple[int, ...]:
    """Factors by which the image is reduced before the bank is applied (1, 2, 4, ... down to the grid)."""
    grid = feature_grid(image_size)
    return tuple(2**k for k in range(8) if image_size // 2**k >= grid and image_size % 2**k == 0)


def surround_bank(channels: int) -> np.ndarray:
    """Centre-surround detectors (bright and dark spots) for every colour channel by itself.

    Returns:
        float32[5, 5, channels, 2 * channels] convolution kernels: two for every channel, of zero mean and unit
        absolute sum, the second the negative of the first.
    """
    y, x = np.mgrid[-2:3, -2:3].astype(np.float64)
    radius2 = x**2 + y**2
    kernel = np.exp(-radius2 / (2 * 0.7**2)) / 0.7**2 - np.exp(-radius2 / (2 * 1.4**2)) / 1.4**2
    kernel -= kernel.mean()
    kernel /= np.abs(kernel).sum()
    bank = np.zeros((5, 5, channels, 2 * channels), np.float32)
    for channel in range(channels):
        bank[:, :, channel, 2 * channel] = kernel
        bank[:, :, channel, 2 * channel + 1] = -kernel
    return bank


def binomial_kernel(channels: int) -> np.ndarray:
    """A 3 x 3 binomial average of every channel by itself, float32[3, 3, channels, channels]: no response at all at
    the highest frequency, where transposed convolutions leave their checkerboard."""
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16.0
    return (kernel[:, :, None, None] * np.eye(channels)).astype(np.float32)


def surround_scales(image_size: int) -> tuple[int, ...]:
    """Factors by which the image is reduced before the centre-surround detectors: 1 and 2."""
    return feature_scales(image_size)[:2]
