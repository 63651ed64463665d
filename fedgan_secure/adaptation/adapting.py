"""From a model vector to the generator that it stands for. Free of privacy cost: it sees released sums alone.

Drawing the pool and training the transfer takes a minute and depends on the release alone, so it is done once a process
for each release; the heads, which move in every later round, then decide which pictures of the pool a class is drawn
from. Everybody who holds the vector, the policy and the start finds the same generator, up to floating point.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from fedgan_secure.adaptation.fitting import Fit, FitSettings
from fedgan_secure.adaptation.generator import build_adapted_generator
from fedgan_secure.adaptation.pool import BATCH, Pool, draw_pool, floats, transfer_shape
from fedgan_secure.adaptation.sources import Sources, chances_of, posterior_of
from fedgan_secure.adaptation.tilting import tilts
from fedgan_secure.adaptation.transfer import build_transfer
from fedgan_secure.head_training import FakeFeatures
from fedgan_secure.heads import AdaptedLayout, HeadsLayout, heads_spec, linear_discriminant
from fedgan_secure.networks import Features, build_start_generator
from fedgan_secure.statistics import TRANSFER_GRID, ColourBins, Moments, Noise, colour_codes, mean_colours, on_grid

Progress = Callable[[int, int], None]
FAKES = 300
"""Generated pictures that a round of the heads is trained against."""
KEPT = 2
"""Adaptations that a process keeps."""


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What one release leads to.

    Attributes:
        layout: of the vector.
        start_generator: the public generator.
        transfer: trained.
        pool: public pictures to choose from.
        features: float32[m, d], of the pool's pictures after the transfer.
        judge: from features, float32[n, d], to the posterior by the discriminant of the released means,
            float64[n, classes]; ones where there are no classes.
        posterior: of the pool, float64[m, classes].
        tilt: float64[classes or 1, m], by how much the logarithms of chances are raised (`tilting`); zeros without a
            release. It follows from the judge's chances, whatever heads judge later.
        histogram: float64[cells] of mean colours; bins: what the cells are.
        centre: float32[d], what the heads' inputs are centred by.
        fitted: the transfer's weights before they were rounded to their grid, as `get_weights` gives them.
        colours: float32[m, C], the mean colours that `features` are of.
        distance: of the moments before and after the fit (the mean of the last steps), or None without a release.
        moments: the released ones, or None.
    """

    layout: AdaptedLayout
    start_generator: Any
    transfer: Any
    pool: Pool
    features: np.ndarray
    judge: Callable[[np.ndarray], np.ndarray]
    posterior: np.ndarray
    tilt: np.ndarray
    histogram: np.ndarray
    bins: ColourBins
    centre: np.ndarray
    fitted: tuple[np.ndarray, ...]
    colours: np.ndarray
    distance: tuple[float, float] | None
    moments: Moments | None

    def chances(self, vector: np.ndarray | None) -> np.ndarray:
        """Return how likely each picture of the pool is for each class, float64[classes or 1, m].

        Args:
            vector: float32[d], whose heads judge: they start as the discriminant of the released means and are
                trained from there; None for that discriminant.
        """
        judged = self.posterior
        if vector is not None and self.layout.spec.conditional:
            judged = class_posterior(self.layout, vector, self.features, self.centre)
        return chances_of(judged, self.layout.spec.purity, self.tilt)

    def sources(self, vector: np.ndarray | None) -> Sources:
        """Return where pictures and colours of a class come from."""
        return Sources(self.pool.pictures, self.chances(vector), self.histogram, self.bins)

    def generator(self, vector: np.ndarray | None) -> keras.Model:
        """Return the generator that is published for a vector, as `build_adapted_generator`."""
        return build_adapted_generator(
            self.layout.spec,
            self.start_generator,
            self.transfer,
            (self.pool.latents, self.pool.labels),
            self.chances(vector),
            (self.histogram, self.bins),
        )

    def with_transfer(self, weights: Sequence[np.ndarray]) -> Adaptation:
        """Return this adaptation with other weights of the transfer: what follows from them is computed again."""
        transfer = build_transfer(transfer_shape(self.layout.spec))
        transfer.set_weights(list(weights))
        features = _features_after(transfer, feature_network(self.layout), self.pool.pictures, self.colours)
        posterior = self.judge(features)
        tilt = _tilt_of(features, posterior, self.layout.spec.purity, self.moments)
        return replace(self, transfer=transfer, features=features, posterior=posterior, tilt=tilt)

    def fakes(self, vector: np.ndarray | None, seed: int) -> FakeFeatures:
        """Return features of generated pictures for a round of the heads; equal seeds give the same pictures."""
        rng = np.random.default_rng([seed, 3])
        labels = np.arange(FAKES, dtype=np.int32) % max(self.layout.spec.classes, 1)
        pictures, colours = self.sources(vector).draw(labels, rng)
        return FakeFeatures(_features_after(self.transfer, feature_network(self.layout), pictures, colours), labels)


def adaptation_of(
    layout: AdaptedLayout, vector: np.ndarray, noise: Noise, progress: Progress | None = None
) -> Adaptation:
    """Return the adaptation that a vector's release leads to; made on first use, then kept.

    Args:
        layout: of the vector.
        vector: float32[d].
        noise: of the released sum.
        progress: called with (done, total) steps of the fit.

    Raises:
        ModelError: the vector does not fit.
    """
    layout.check(vector)
    release = vector[: layout.release_size].tobytes()
    key = hashlib.sha256(f"{layout.layout_hash}{layout.spec.to_json()}{noise.each!r}".encode() + release).digest()
    with _LOCK:
        if key not in _KEPT:
            _KEPT[key] = _adapt(layout, layout.moments(vector, noise), progress)
        _KEPT.move_to_end(key)
        while len(_KEPT) > KEPT:
            _KEPT.popitem(last=False)
        return _KEPT[key]


_KEPT: OrderedDict[bytes, Adaptation] = OrderedDict()
_NETWORKS: dict[str, Features] = {}
_LOCK = threading.RLock()


def feature_network(layout: AdaptedLayout) -> Features:
    """Return the start's frozen features, built once a process."""
    if layout.start.digest not in _NETWORKS:
        _NETWORKS[layout.start.digest] = Features(layout.start)
    return _NETWORKS[layout.start.digest]


def class_posterior(layout: AdaptedLayout, vector: np.ndarray, features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return what the heads of a vector say of features: float64[n, classes], how likely each class is."""
    parts = HeadsLayout.of(heads_spec(layout.spec)).parts(vector[layout.heads_slice].astype(np.float64))
    inputs = (features.astype(np.float64) - centre) / np.sqrt(features.shape[1])
    hidden = inputs @ parts["h_hidden/kernel"] + parts["h_hidden/bias"]
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    return posterior_of(hidden @ parts["h_classes/kernel"] + parts["h_classes/bias"])


def _adapt(layout: AdaptedLayout, moments: Moments | None, progress: Progress | None) -> Adaptation:
    spec, start, network = layout.spec, layout.start, feature_network(layout)
    start_generator = build_start_generator(start)
    pool = draw_pool(spec, start, start_generator)
    bins = ColourBins.for_channels(spec.channels) if layout.release is None else layout.release.colour_bins
    transfer = build_transfer(transfer_shape(spec))
    means = start.public_means if moments is None else moments.mean
    judged = spec.conditional and (moments is not None or spec.classes == start.classes)
    judge = linear_discriminant(means, start.public_covariance, start.outputs) if judged else None

    def posterior(found: np.ndarray) -> np.ndarray:
        if judge is None:
            return np.ones((len(found), max(spec.classes, 1)))
        return posterior_of(found.astype(np.float64) @ judge.weights + judge.bias)

    if moments is None:
        own = np.bincount(bins.index(colour_codes(mean_colours(pool.pictures))), minlength=bins.cells)
        histogram = own / own.sum()
    else:
        histogram = moments.histogram
    rng = np.random.default_rng([spec.seed, 1])
    even = Sources(pool.pictures, np.full((1, spec.pool), 1.0 / spec.pool), histogram, bins)

    def features_now(colours: np.ndarray) -> np.ndarray:
        return _features_after(transfer, network, pool.pictures, colours)

    colours, distance = even.colours(spec.pool, rng), None
    features = features_now(colours)
    if moments is not None and spec.fit_steps:
        sources = Sources(pool.pictures, chances_of(posterior(features), spec.purity), histogram, bins)
        settings = FitSettings(steps=spec.fit_steps, batch=spec.fit_batch)
        seen = Fit(transfer, network, moments, sources, settings, spec.seed).run(progress)
        distance = (seen[0], float(np.mean(seen[-10:])))
    fitted = tuple(transfer.get_weights())
    transfer.set_weights([on_grid(weight, TRANSFER_GRID) for weight in fitted])
    if distance is not None:
        colours = even.colours(spec.pool, rng)
        features = features_now(colours)
    judged_now = posterior(features)
    tilt = _tilt_of(features, judged_now, spec.purity, moments)
    return Adaptation(
        layout, start_generator, transfer, pool, features, posterior, judged_now, tilt, histogram, bins,
        layout.centre(moments), fitted, colours, distance, moments,
    )  # fmt: skip


def _tilt_of(features: np.ndarray, posterior: np.ndarray, purity: float, moments: Moments | None) -> np.ndarray:
    if moments is None:
        return np.zeros(posterior.T.shape)
    return tilts(features, chances_of(posterior, purity), moments)


def _features_after(transfer: Any, network: Features, pictures: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """float32[n, d]: features of uint8 pictures after the transfer to float32[n, C] mean colours."""
    found = []
    for first in range(0, len(pictures), BATCH):
        rows = slice(first, first + BATCH)
        drawn, _ = transfer([floats(pictures[rows]), colours[rows]], training=False)
        found.append(np.asarray(network.of(drawn)))
    return np.concatenate(found)
