"""Weights that belong to a class, taken over by the class's declared name and never by its place in the list.

In the generator they are the rows that read the label, after those that read the noise; in the discriminator the
label's embedding and the outputs that guess the class. A class that the other run did not have is drawn from its name,
so that it starts like no other one: rows of one seed at equal places would be equal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

CONDITIONED = ("generator/g_dense/", "generator/g_scale", "generator/g_shift")
"""The generator's layers that read the noise vector, followed by the label's where there is one."""
_AXES = {"discriminator/d_label/embeddings": 0, "discriminator/d_classes/kernel": 1, "discriminator/d_classes/bias": 0}


def classes_taken(theirs: Sequence[str], mine: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of a run that another run's weights have by name, and those that are drawn anew."""
    known = set(theirs)
    return tuple(name for name in mine if name in known), tuple(name for name in mine if name not in known)


def with_classes(
    entry: str,
    fresh: np.ndarray,
    weight: np.ndarray,
    *,
    latent_dim: int,
    mine: Sequence[str],
    theirs: Sequence[str],
    seed: int,
) -> np.ndarray | None:
    """Return a weight of the new model where it depends on classes or on whether there are any; None where it does not.

    Args:
        entry: the weight's name.
        fresh: float32, as the seed makes it.
        weight: float32, the other run's.
        latent_dim: how many rows of the generator's first layers read the noise.
        mine: names of the new run's classes in order, empty without labels.
        theirs: of the other run's.
        seed: of the new run, for classes that the other run does not have.
    """
    if entry.startswith(CONDITIONED) and weight.ndim == 2:
        if weight.shape[1] != fresh.shape[1]:
            return fresh
        joined: np.ndarray = fresh.copy()
        joined[:latent_dim] = weight[:latent_dim]
        joined[latent_dim:] = _rows(entry, fresh[latent_dim:], weight[latent_dim:], mine, theirs, seed)
        return joined
    axis = _AXES.get(entry)
    if axis is None:
        return None
    made, old = np.moveaxis(fresh, axis, 0), np.moveaxis(weight, axis, 0)
    if made.shape[1:] != old.shape[1:]:
        return fresh
    return np.ascontiguousarray(np.moveaxis(_rows(entry, made, old, mine, theirs, seed), 0, axis))


def _rows(
    entry: str, fresh: np.ndarray, weight: np.ndarray, mine: Sequence[str], theirs: Sequence[str], seed: int
) -> np.ndarray:
    """A row for every class of `mine`, float32[classes, ...]."""
    places: Mapping[str, int] = {name: place for place, name in enumerate(theirs)}
    scale = float(np.abs(fresh).max(initial=0.0))
    made: np.ndarray = fresh.copy()
    for row, name in enumerate(mine):
        place = places.get(name)
        made[row] = weight[place] if place is not None else _drawn(seed, entry, name, fresh.shape[1:]) * scale
    return made


def _drawn(seed: int, entry: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float64 in (-1, 1): multiples of 2**-31 that seed, weight and class give, exact on every machine."""
    key = "\0".join(("fedgan-secure/classes/1", str(seed), entry, name)).encode()
    raw = hashlib.shake_256(key).digest(4 * math.prod(shape))
    return ((np.frombuffer(raw, "<u4").astype(np.float64) + 0.5) * 2.0**-31 - 1.0).reshape(shape)
