"""The first weights of the heads, the same to the bit on every machine.

Hospitals compare the digest of the first model with the one that the policy's seed gives, so nothing here may depend
on a library's order of additions or on its stream of random numbers. Random weights are read from SHAKE-256 of the
seed. The class head is not fitted step by step: it starts as a linear discriminant, a closed form, of statistics that
are public (or released). All arithmetic is IEEE 754 float64, element by element, with sums in a fixed order: no BLAS,
no LAPACK, no pairwise summation.

A linear function fits into the hidden layer exactly: with slope s below zero, ``leaky(a) - leaky(-a) = (1 + s) a``, so
each class takes two hidden units of opposite sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedgan_secure.heads.heads import SLOPE, HeadsLayout, HeadsSpec, check_centre, random_heads
from fedgan_secure.models import ModelError

RIDGE = 0.3
"""Added to the covariance within classes, in units of its mean variance."""


@dataclass(frozen=True, eq=False)
class Discriminant:
    """A linear classifier of features: ``logits = f @ weights + bias``.

    Attributes:
        weights: float64[d, classes].
        bias: float64[classes].
    """

    weights: np.ndarray
    bias: np.ndarray


def linear_discriminant(
    means: np.ndarray, covariance: np.ndarray, columns: slice = slice(None), ridge: float = RIDGE
) -> Discriminant:
    """Fit the linear discriminant of class means with a common covariance and equal priors.

    Args:
        means: float[classes, d], of standardised features; public, or released with noise.
        covariance: float[d, d], within classes, public.
        columns: the features it may look at, such as the network's own outputs.
        ridge: see `RIDGE`.

    Returns:
        The discriminant; weights of other columns are zero, and the mean logit over all classes is zero.

    Raises:
        ModelError: shapes that do not fit, a value that is not finite, or a covariance that is not positive definite.
    """
    means, covariance = np.asarray(means, np.float64), np.asarray(covariance, np.float64)
    if means.ndim != 2 or covariance.shape != (means.shape[1],) * 2:
        raise ModelError(
            f"class means are {list(means.shape)} and their covariance is {list(covariance.shape)}, expected "
            "[classes, d] and [d, d]"
        )
    if not (np.isfinite(means).all() and np.isfinite(covariance).all()):
        raise ModelError("the class means or their covariance hold NaN or infinity")
    own, matrix = means[:, columns], covariance[columns, columns].copy()
    count = len(matrix)
    if not count:
        raise ModelError("the linear discriminant has no feature to look at")
    diagonal = np.arange(count)
    matrix[diagonal, diagonal] += ridge * float(_sum(matrix[diagonal, diagonal])) / count
    found = _solve(matrix, own.T.copy())
    bias = -0.5 * _sum(own.T * found)
    weights = np.zeros((means.shape[1], len(means)), np.float64)
    weights[columns] = found - (_sum(found.T) / len(means))[:, None]
    return Discriminant(weights, bias - _sum(bias) / len(means))


def public_heads(
    spec: HeadsSpec, discriminant: Discriminant | None, seed: int, centre: np.ndarray | None = None
) -> np.ndarray:
    """Return the first weights of the heads: class logits from a discriminant, the rest from the seed.

    Args:
        spec: architecture.
        discriminant: of the (public or released) class means; None where the model has no classes.
        seed: of everything else.
        centre: float32[d] that the inputs are centred by at first; None for zero.

    Returns:
        float32[k], the same to the bit on every machine.

    Raises:
        ModelError: a discriminant of other features or classes, or too few hidden units for it.
    """
    vector = random_heads(spec, seed)
    if discriminant is None or not spec.conditional:
        return vector
    weights, bias = discriminant.weights, discriminant.bias
    if weights.shape != (spec.features, spec.classes) or bias.shape != (spec.classes,):
        raise ModelError(
            f"the discriminant is {list(weights.shape)}, expected [{spec.features}, {spec.classes}]",
            hint="take the class means of the same public start",
        )
    if 2 * spec.classes > spec.hidden:
        raise ModelError(
            f"{spec.hidden} hidden units cannot hold a discriminant of {spec.classes} classes, expected at least "
            f"{2 * spec.classes}",
            hint=f"set heads.hidden to {2 * spec.classes} or more",
        )
    if centre is not None:
        check_centre(spec, centre)
        bias = bias + _sum(weights * centre.astype(np.float64)[:, None])
    parts = HeadsLayout.of(spec).parts(vector)
    parts["h_classes/kernel"][...] = 0.0
    parts["h_classes/bias"][...] = bias
    for index in range(spec.classes):
        length = math.sqrt(float(_sum(weights[:, index] * weights[:, index])))
        gain = math.sqrt(math.sqrt(spec.features) * length / (1.0 + SLOPE))  # the same before and after the unit
        direction = weights[:, index] * (gain / length) if length > 0.0 else np.zeros(spec.features)
        for unit, sign in ((2 * index, 1.0), (2 * index + 1, -1.0)):
            parts["h_hidden/kernel"][:, unit] = sign * direction
            parts["h_classes/kernel"][unit, index] = sign * gain
    HeadsLayout.of(spec).check(vector)
    return vector


def _sum(values: np.ndarray) -> np.ndarray:
    """The sum over the first axis, one addition after the other: `np.sum` may choose another order elsewhere."""
    total = np.zeros(values.shape[1:], np.float64)
    for row in values:
        total = total + row
    return total


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Gaussian elimination without pivoting of a positive definite float64[n, n] with float64[n, k]; both are used up.

    Only elementwise products and differences: no matrix product, whose order of additions is the library's own.
    """
    count = len(matrix)
    for step in range(count):
        pivot = matrix[step, step]
        if not pivot > 0.0:
            raise ModelError("the covariance of the features is not positive definite", hint="use a larger ridge")
        factor = (matrix[step + 1 :, step] / pivot)[:, None]
        matrix[step + 1 :, step + 1 :] -= factor * matrix[step, step + 1 :]
        right[step + 1 :] -= factor * right[step]
    for step in range(count - 1, -1, -1):
        right[step] /= matrix[step, step]
        right[:step] -= matrix[:step, step][:, None] * right[step]
    return right
