"""Variety: do generated images fill the room that real ones take, or are they the same few again and again?

Recall and coverage (Kynkäänniemi et al. 2019; Naeem et al. 2020) compare neighbourhoods in a feature space that never
saw a generated image; the spread within a class compares pixels; colour is compared by itself. Each is near zero, or
far off, for a generator that has collapsed, however well its few images look.

No measurement here is covered by a run's epsilon where the real images are patients'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.images import LabelledImages
from fedgan_secure.evaluation.intervals import Interval, bootstrap_interval

NEIGHBOURS = 5
MOST_IMAGES = 1500
"""Real and generated images at most whose distances are computed."""
COLOURS = ("brightness", "red_green", "blue_green")
_BLOCK = 32

Embedding = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Diversity:
    """How the variety of generated images compares with that of real ones.

    Attributes:
        coverage: share of real images, 0..1, with a generated one nearer than their fifth real neighbour; None where
            there are too few images.
        recall: share of real images, 0..1, that lie nearer to some generated image than its fifth generated neighbour.
        coverage_interval_95, recall_interval_95: over real test images (whole patients, where they are known).
        coverage_real, recall_real: the same with other real images in place of the generated ones: what can be reached.
        spread: mean difference between two generated images of one class, over that between two real ones, on averages
            of 8 x 8 cells; None where no class has two images on both sides, or real ones do not differ.
        spread_without_colour: the same after the mean colour of every image is taken away.
        spread_by_class: `spread` for every class.
        colour_distance: for every coordinate of `COLOURS`, the distance between the distributions of images' mean
            colours (Wasserstein-1, natural logarithms: .1 is about 10 %); grey images have brightness alone.
        colour_distance_real: the same between two halves of the real images.
        compared_images: real images in the comparison of neighbourhoods; at most as many generated ones.
    """

    coverage: float | None
    recall: float | None
    coverage_interval_95: Interval | None
    recall_interval_95: Interval | None
    coverage_real: float | None
    recall_real: float | None
    spread: float | None
    spread_without_colour: float | None
    spread_by_class: tuple[float | None, ...]
    colour_distance: dict[str, float]
    colour_distance_real: dict[str, float]
    compared_images: int

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values, by attribute."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def measure_diversity(
    real: LabelledImages, made: LabelledImages, classes: int, embedding: Embedding, seed: int
) -> Diversity:
    """Compare generated images with real ones.

    At most `MOST_IMAGES` real images, drawn at random, are compared with as many generated ones. What real images reach
    is measured between two halves of them, divided by patient where patients are known. Coverage by few distinct images
    falls with the number of real ones (m distinct images reach about m x 5 of them), so that a collapse shows the more
    clearly the more there are; between equal distributions the number hardly matters.

    Args:
        real: images that the embedding was not trained on.
        made: generated images with the labels they were asked for.
        classes: number of classes; 0 puts all images into one.
        embedding: uint8[n, H, W, C] -> float[n, d]; must not depend on `made`.
        seed: of the choice, the division and the bootstrap.

    Raises:
        InputError: a set is empty, the images differ in shape, or the embedding is not finite.
    """
    if not len(real) or not len(made):
        raise InputError(f"there are {len(real)} real and {len(made)} generated images, expected some of both")
    if real.images.shape[1:] != made.images.shape[1:]:
        raise InputError(
            f"generated images are {list(made.images.shape[1:])}, real ones {list(real.images.shape[1:])}",
            hint="both must have the same size and channels",
        )
    order = np.random.default_rng(seed).permutation(len(real))[:MOST_IMAGES]
    first = _first_half(real, order)
    colours = image_colours(made.images), image_colours(real.images[order])
    names = COLOURS[: colours[0].shape[1]]
    return Diversity(
        **_neighbourhoods(real, order, first, made, embedding, seed),
        **_spreads(real, made, classes),
        colour_distance=_by_name(names, colours[0], colours[1]),
        colour_distance_real=_by_name(names, colours[1][first], colours[1][~first]),
        compared_images=len(order),
    )


def covered(across: np.ndarray, within_real: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Return bool[n]: which real images have a generated one within the distance of their k-th real neighbour.

    Args:
        across: float[n, m], distances from real to generated images, m at least 1.
        within_real: float[n, n], distances among the real ones, n above `neighbours`.
        neighbours: k. An image is not its own neighbour.
    """
    return np.asarray(across.min(axis=1) <= _radii(within_real, neighbours))


def recalled(across: np.ndarray, within_made: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Return bool[n]: which real images lie within the distance of a generated one's k-th generated neighbour.

    Args:
        across: float[n, m], distances from real to generated images.
        within_made: float[m, m], distances among the generated ones, m above `neighbours`.
        neighbours: k. An image is not its own neighbour.
    """
    return np.asarray((across <= _radii(within_made, neighbours)[None]).any(axis=1))


def distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return float32[n, m], Euclidean distances of all pairs; equal vectors have distance 0 exactly.

    The difference is taken before the square, in blocks of rows: the product form would round equal vectors apart.

    Args:
        left, right: float[n, d] and float[m, d].
    """
    left, right = left.astype(np.float32), right.astype(np.float32)
    result = np.empty((len(left), len(right)), np.float32)
    for start in range(0, len(left), _BLOCK):
        difference = left[start : start + _BLOCK, None, :] - right[None]
        result[start : start + _BLOCK] = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
    return result


_SHARES = {"coverage": (covered, True), "recall": (recalled, False)}
"""How each share is computed, and whether the real images' neighbourhoods decide (or the generated ones')."""


def mean_difference(values: np.ndarray) -> float:
    """Return the mean absolute difference over all pairs of rows and all columns (Gini), 0 for fewer than two rows.

    Args:
        values: float[n, d].
    """
    count = len(values)
    if count < 2:
        return 0.0
    weights = 2.0 * np.arange(count) - count + 1.0
    return float((weights[:, None] * np.sort(values, axis=0)).sum(axis=0).mean() * 2.0 / (count * (count - 1)))


def image_colours(images: np.ndarray) -> np.ndarray:
    """Return float64[n, 3]: logarithms of brightness, red over green and blue over green of the mean colour.

    Grey images give float64[n, 1], brightness alone. Half a grey level is added, so that black is finite.

    Args:
        images: uint8[n, H, W, 3 or 1].
    """
    means = np.concatenate([part.mean(axis=(1, 2), dtype=np.float64) for part in _parts(images)]) + 0.5
    brightness = np.log(means.mean(axis=1))
    if means.shape[1] == 1:
        return brightness[:, None]
    red, green, blue = np.log(means).T
    return np.stack([brightness, red - green, blue - green], axis=1)


def wasserstein(left: np.ndarray, right: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of two samples on a line, float[n] and float[m]: the area between their
    distribution functions."""
    places = np.sort(np.concatenate([left, right]))
    shares = [
        np.searchsorted(np.sort(values), places[:-1], side="right") / len(values)
        for values in (np.asarray(left), np.asarray(right))
    ]
    return float((np.abs(shares[0] - shares[1]) * np.diff(places)).sum())


def cell_averages(images: np.ndarray) -> np.ndarray:
    """Return float32[n, 8, 8, C] in 0..1, averages over cells (7 x 7 of them at 28 pixels).

    Args:
        images: uint8[n, H, W, C] with H = W at least 8.
    """
    size, channels = images.shape[1], images.shape[3]
    window = -(-size // 8)
    grid = size // window
    parts = []
    for part in _parts(images):
        cells = part[:, : grid * window, : grid * window].reshape(-1, grid, window, grid, window, channels)
        parts.append(cells.mean(axis=(2, 4), dtype=np.float32) / np.float32(255))
    return np.concatenate(parts)


def _parts(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + 256] for start in range(0, len(images), 256)]


def _radii(within: np.ndarray, neighbours: int) -> np.ndarray:
    """Return the distance of every image's k-th neighbour; the zeroth is itself."""
    return np.asarray(np.partition(within, neighbours, axis=1)[:, neighbours])


def _first_half(real: LabelledImages, order: np.ndarray) -> np.ndarray:
    """Return bool[len(order)]: which of the chosen images are in the first half; no patient is in both."""
    if real.patient is None:
        return np.arange(len(order)) < len(order) // 2
    owner = real.patient[order]
    _, position = np.unique(owner, return_index=True)
    owners = owner[np.sort(position)]
    return np.isin(owner, owners[: len(owners) // 2])


def _neighbourhoods(
    real: LabelledImages, order: np.ndarray, first: np.ndarray, made: LabelledImages, embedding: Embedding, seed: int
) -> dict[str, Any]:
    """Return coverage and recall of the generated images, and those that real images reach of each other."""
    halves = np.flatnonzero(first), np.flatnonzero(~first)
    if min(len(halves[0]), len(halves[1]), len(made)) <= NEIGHBOURS:
        return {f"{name}{what}": None for name in _SHARES for what in ("", "_real", "_interval_95")}
    own, generated = _scaled(embedding(real.images[order]), embedding(made.images[: len(order)]))
    across, among_real, among_made = distances(own, generated), distances(own, own), distances(generated, generated)
    owners = None if real.patient is None else real.patient[order]
    result: dict[str, Any] = {}
    for name, (share, by_real) in _SHARES.items():
        hits = share(across, among_real if by_real else among_made).astype(np.float64)
        reached = []
        for one, other in (halves, halves[::-1]):
            within = one if by_real else other
            reached.append(share(among_real[np.ix_(one, other)], among_real[np.ix_(within, within)]))
        result[name] = float(hits.mean())
        result[f"{name}_interval_95"] = bootstrap_interval(hits, seed, groups=owners)
        result[f"{name}_real"] = float(np.concatenate(reached).mean())
    return result


def _scaled(real: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both over the deviation of every feature among real images; a nearly constant one is held down."""
    if not (np.isfinite(real).all() and np.isfinite(made).all()):
        raise InputError("the classifier's features are not finite numbers", hint="measure with fewer --steps")
    scale = real.std(axis=0) + 0.1 * real.std()
    scale = np.where(scale > 0, scale, 1.0)
    return real / scale, made / scale


def _spreads(real: LabelledImages, made: LabelledImages, classes: int) -> dict[str, Any]:
    """Return the spread within a class of generated images over that of real ones, with and without mean colour."""
    cells = cell_averages(real.images), cell_averages(made.images)
    labels = (real.labels, made.labels) if classes > 0 else (np.zeros(len(real)), np.zeros(len(made)))
    totals: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    by_class: list[float | None] = []
    for label in range(max(classes, 1)):
        chosen = [part[which == label] for part, which in zip(cells, labels, strict=True)]
        if min(len(part) for part in chosen) < 2:
            by_class.append(None)
            continue
        for bare, pairs in totals.items():
            of_real, of_made = (mean_difference(_flat(part, bare)) for part in chosen)
            pairs.append((of_real, of_made))
        by_class.append(_ratio([totals[False][-1]]))
    return {
        "spread": _ratio(totals[False]), "spread_without_colour": _ratio(totals[True]),
        "spread_by_class": tuple(by_class),
    }  # fmt: skip


def _flat(cells: np.ndarray, without_colour: bool) -> np.ndarray:
    kept = cells - cells.mean(axis=(1, 2), keepdims=True) if without_colour else cells
    return kept.reshape(len(kept), -1)


def _ratio(pairs: list[tuple[float, float]]) -> float | None:
    of_real = sum(real for real, _ in pairs)
    return sum(made for _, made in pairs) / of_real if of_real > 1e-6 else None


def _by_name(names: tuple[str, ...], left: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Return the distance of every coordinate; nothing where a side is empty."""
    if not len(left) or not len(right):
        return {}
    return {name: wasserstein(left[:, column], right[:, column]) for column, name in enumerate(names)}
