"""Training of the transfer: the pictures of every class come to have the moments that the release tells of.

Everything here is post-processing of released sums and public pictures. It is deterministic up to floating point: rows,
flips and colours follow from a public seed, so that a hospital can make the same transfer from the sums it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.adaptation.sources import Sources
from fedgan_secure.errors import InputError
from fedgan_secure.statistics import Moments

Progress = Callable[[int, int], None]
CLASSES_A_STEP = 12
"""At most so many classes are drawn in one step of the fit."""


@dataclass(frozen=True)
class FitSettings:
    """Public constants of the fit, found on phantoms; part of a policy.

    Attributes:
        steps: of Adam.
        batch: pictures in a step, divided evenly among the classes.
        rate: Adam's rate at the start; it falls linearly to a tenth.
        moment_weight: of the distance between the classes' moments and the released ones.
        change_weight: of the mean absolute change by the local convolution.
        keep: of the running moments of the generated pictures.
        trust: a mean whose noise has this deviation counts half, in units of a feature's public deviation.
    """

    steps: int = 300
    batch: int = 40
    rate: float = 2e-3
    moment_weight: float = 10.0
    change_weight: float = 1.0
    keep: float = 0.9
    trust: float = 0.5

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON takes them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> FitSettings:
        """Read what `to_json` wrote.

        Raises:
            InputError: an unknown or missing key.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise InputError(f"fit: found the keys {sorted(values)}, expected {sorted(names)}")
        return cls(**values)


class Fit:
    """One training of a transfer; `run` makes all steps."""

    def __init__(
        self, transfer: keras.Model, features: Any, moments: Moments, sources: Sources, settings: FitSettings, seed: int
    ) -> None:
        """Prepare the fit.

        Args:
            transfer: as `build_transfer` gives it; trained in place.
            features: `starts.networks.Features`, frozen.
            moments: the released moments, one row a class.
            sources: where pictures and colours of a class come from.
            settings: public constants.
            seed: of the draws, public.
        """
        self._transfer, self._features, self._sources, self._settings = transfer, features, sources, settings
        self._rng = np.random.default_rng([seed, 2])
        classes, size = moments.mean.shape
        self._classes = classes
        self._each = max(2, settings.batch // min(classes, CLASSES_A_STEP))
        self._mean = tf.constant(moments.mean, tf.float32)
        self._std = tf.constant(moments.std, tf.float32)
        deviation = np.minimum(moments.deviation, 5.0)
        self._trust = tf.constant(1.0 / (1.0 + np.square(deviation / settings.trust)), tf.float32)
        self._first = tf.Variable(tf.zeros((classes, size)), trainable=False)
        self._second = tf.Variable(tf.zeros((classes, size)), trainable=False)
        self._adam = keras.optimizers.Adam(settings.rate, beta_1=0.5, beta_2=0.99)
        self._adam.build(transfer.trainable_variables)
        self._step = tf.function(self._descend, reduce_retracing=True)

    def run(self, progress: Progress | None = None) -> list[float]:
        """Make all steps; returns the distance of the moments after each."""
        settings = self._settings
        self._begin()
        distances = []
        for done in range(settings.steps):
            self._adam.learning_rate = settings.rate * (1.0 - 0.9 * done / settings.steps)
            chosen, pictures, colours = self._draw()
            distances.append(self._step(pictures, colours, chosen))
            if progress is not None:
                progress(done + 1, settings.steps)
        return [float(value) for value in distances]

    def _draw(self) -> tuple[Any, Any, Any]:
        count = min(self._classes, CLASSES_A_STEP)
        every = np.arange(self._classes)
        chosen = every if count == self._classes else np.sort(self._rng.choice(every, count, replace=False))
        pictures, colours = self._sources.draw(np.repeat(chosen, self._each), self._rng)
        return tf.constant(chosen, tf.int32), tf.constant(pictures), tf.constant(colours, tf.float32)

    def _begin(self) -> None:
        """Set the running moments from the pictures as they are at the start."""
        rounds = max(1, -(-self._classes // CLASSES_A_STEP)) * 10
        sums = np.zeros((3, self._classes, int(self._mean.shape[1])))
        for _ in range(rounds):
            chosen, pictures, colours = self._draw()
            drawn, _ = self._transfer([_floats(pictures), colours], training=False)
            found = np.asarray(self._features.of(drawn)).reshape(len(chosen), self._each, -1)
            rows = np.asarray(chosen)
            sums[0][rows] += found.sum(axis=1)
            sums[1][rows] += np.square(found).sum(axis=1)
            sums[2][rows] += self._each
        counts = np.maximum(sums[2], 1.0)
        self._first.assign((sums[0] / counts).astype(np.float32))
        self._second.assign((sums[1] / counts).astype(np.float32))

    def _descend(self, pictures: Any, colours: Any, chosen: Any) -> Any:
        settings, keep = self._settings, self._settings.keep
        with tf.GradientTape() as tape:
            drawn, change = self._transfer([_floats(pictures), colours], training=True)
            found = tf.reshape(self._features.of(drawn), (tf.shape(chosen)[0], self._each, -1))
            first = keep * tf.gather(self._first, chosen) + (1.0 - keep) * tf.reduce_mean(found, axis=1)
            second = keep * tf.gather(self._second, chosen) + (1.0 - keep) * tf.reduce_mean(found**2, axis=1)
            spread = tf.sqrt(tf.maximum(second - first**2, 0.02))
            off = _huber(first - tf.gather(self._mean, chosen)) + 0.5 * _huber(spread - tf.gather(self._std, chosen))
            distance = tf.reduce_mean(tf.reduce_mean(off, axis=1) * tf.gather(self._trust, chosen))
            size = tf.reduce_mean(tf.abs(change))
            # the running moments move by (1 - keep) of a batch: the gradient is scaled back to that of the batch
            loss = settings.moment_weight * distance + settings.change_weight * size
        variables = self._transfer.trainable_variables
        self._adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        rows = tf.expand_dims(chosen, 1)
        self._first.scatter_nd_update(rows, first)
        self._second.scatter_nd_update(rows, second)
        return distance


def _floats(pictures: Any) -> Any:
    """uint8 pictures as float32 in [-1, 1]."""
    return tf.cast(pictures, tf.float32) / 127.5 - 1.0


def _huber(values: Any, limit: float = 2.0) -> Any:
    size = tf.abs(values)
    return tf.where(size <= limit, 0.5 * size**2, limit * (size - 0.5 * limit))
