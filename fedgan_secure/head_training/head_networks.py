"""The heads' compiled steps and the optimiser's state: shared by both places where noise may be added."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fedgan_secure.dpsgd import PerPatientGradients, discriminator_gradient, refuse_mixing, variable
from fedgan_secure.heads import HeadSettings, HeadsLayout, HeadsSpec, build_heads, heads_graph, standardised
from fedgan_secure.networks import AdamState, FlatAdam, fake_loss, real_loss
from fedgan_secure.training import TrainingStateError


class CompiledHeads:
    """Heads, optimiser and compiled steps of one (specification, settings); weights are written before use."""

    def __init__(self, spec: HeadsSpec, settings: HeadSettings) -> None:
        """Build the network and declare its steps; each is traced once, when it is first called."""
        self.spec, self.settings, self.layout = spec, settings, HeadsLayout.of(spec)
        model = build_heads(spec, 0)
        layers = {layer.name: layer for layer in model.layers}
        self.weights = [variable(weight) for weight in self.layout.variables(model)]

        def graph(call: Callable[..., Any], features: Any, labels: Any) -> Any:
            return heads_graph(spec, call, features, labels)

        self.engine = PerPatientGradients(graph, layers, self.weights)
        refuse_mixing(
            lambda features, labels: self.engine.apply(features, None if labels is None else labels[:, None]),
            (spec.features,),
            spec.conditional,
        )
        self.adam = FlatAdam(self.weights, settings.adam_beta1, settings.adam_beta2)
        features = tf.TensorSpec((None, spec.features), tf.float32)
        column = tf.TensorSpec((None, 1), tf.int32)
        rows = tf.TensorSpec((None, settings.images_per_patient), tf.float32)
        flat = tf.TensorSpec((self.layout.size,), tf.float32)
        centre = tf.TensorSpec((spec.features,), tf.float32)
        scalar = tf.TensorSpec((), tf.float32)
        self.gradient = tf.function(
            self._gradient, input_signature=[features, column, rows, flat, features, column, centre]
        )
        self.descend = tf.function(self.adam.apply, input_signature=[flat, scalar])
        self.real_sum = tf.function(self._real_sum, input_signature=[features, column, rows, centre])
        self.shared_step = tf.function(self._shared_step, input_signature=[flat, features, column, centre, scalar])
        self._write = tf.function(self._assign, input_signature=[flat])
        self._read = tf.function(self._flat, input_signature=[])

    def place(self, vector: np.ndarray) -> None:
        """Start from weights, float32[k]. Raises ModelError where they do not fit the layout."""
        self.layout.check(vector)
        self._write(vector)

    def read(self) -> np.ndarray:
        """Return the weights, float32[k]. Raises ModelError where one of them is no longer finite."""
        vector = np.array(self._read())
        self.layout.check(vector)
        return vector

    def _assign(self, flat: Any) -> None:
        for weight, part in zip(self.weights, tf.split(flat, self.adam.sizes), strict=True):
            weight.assign(tf.reshape(part, weight.shape))

    def _flat(self) -> Any:
        return tf.concat([tf.reshape(tf.convert_to_tensor(weight), [-1]) for weight in self.weights], axis=0)

    def _labels(self, labels: Any) -> Any:
        return labels if self.spec.conditional else None

    def _real_loss(self, outputs: Any, labels: Any) -> Any:
        return real_loss(outputs, labels, self.settings.class_weight)

    def _inputs(self, features: Any, centre: Any) -> Any:
        return standardised(features, centre, self.spec.features)

    def _gradient(
        self, features: Any, labels: Any, weights: Any, noise: Any, fakes: Any, fake_labels: Any, centre: Any
    ) -> tuple[Any, ...]:
        """(gradient float32[k]; norms, scales, losses per patient; mean fake loss; what the watch looks at).

        The last is float32[3]: sum and sum of squares of the gradient less the clipped sum, and the norm of the latter.
        """
        settings = self.settings
        gradient, clipped, mean_fake = discriminator_gradient(
            self.engine,
            (self._inputs(features, centre), self._labels(labels), weights),
            (self._inputs(fakes, centre), self._labels(fake_labels)),
            noise,
            clip_norm=settings.l2_clip_norm,
            noise_multiplier=settings.noise_multiplier,
            expected_batch_size=settings.expected_batch_size,
            real_loss=self._real_loss,
            fake_loss=fake_loss,
        )
        added = gradient - clipped.gradient
        watched = tf.stack([tf.reduce_sum(added), tf.reduce_sum(tf.square(added)), tf.norm(clipped.gradient)])
        return gradient, clipped.norms, clipped.scales, clipped.loss, mean_fake, watched

    def _real_sum(self, features: Any, labels: Any, weights: Any, centre: Any) -> tuple[Any, ...]:
        """(sum of clipped per-patient gradients float32[k]; norms, scales, losses per patient)."""
        clipped = self.engine.clipped_sum(
            self._inputs(features, centre),
            self._labels(labels),
            weights,
            self.settings.l2_clip_norm,
            self._real_loss,
        )
        return clipped.gradient, clipped.norms, clipped.scales, clipped.loss

    def _shared_step(self, mean: Any, fakes: Any, fake_labels: Any, centre: Any, rate: Any) -> Any:
        """Adam on a noisy mean gradient, float32[k], plus the fake term; returns the weights, float32[k]."""
        count = tf.shape(fakes)[0]
        made = self.engine.clipped_sum(
            self._inputs(fakes, centre),
            self._labels(fake_labels),
            tf.ones([count, 1]),
            self.settings.l2_clip_norm,
            lambda outputs, labels: fake_loss(outputs),
            margin=0.0,
        )
        self.adam.apply(mean + made.gradient / tf.cast(count, tf.float32), rate)
        return self._flat()


@lru_cache(maxsize=4)
def compiled_heads(spec: HeadsSpec, settings: HeadSettings) -> CompiledHeads:
    """Return the heads that all hospitals of this process share; the caller sets weights and optimiser first."""
    return CompiledHeads(spec, settings)


@dataclass(frozen=True)
class HeadState:
    """Adam's state and the steps made so far: what a party keeps between rounds. Post-processing of noisy sums."""

    adam: AdamState
    steps_done: int

    @classmethod
    def fresh(cls, layout: HeadsLayout) -> HeadState:
        """Return the state before the first step."""
        return cls(AdamState.fresh(layout.size), 0)

    def save(self, path: Path, layout: HeadsLayout) -> None:
        """Keep the state in a file; whole or absent."""
        aside = path.with_name(f".{path.name}.partial")
        with aside.open("wb") as file:
            np.savez(
                file,
                layout_hash=np.array(layout.layout_hash),
                steps_done=np.array(self.steps_done),
                first=self.adam.first,
                second=self.adam.second,
                count=np.array(self.adam.count),
            )
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)

    @classmethod
    def read(cls, path: Path, layout: HeadsLayout) -> HeadState:
        """Read what `save` kept.

        Raises:
            TrainingStateError: the file is missing, damaged, or of other heads.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                values = {name: kept[name] for name in kept.files}
            if str(values["layout_hash"]) != layout.layout_hash:
                raise TrainingStateError(f"the optimiser state in {path} belongs to other heads")
            found = cls(AdamState(values["first"], values["second"], int(values["count"])), int(values["steps_done"]))
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TrainingStateError(
                f"the optimiser state in {path} cannot be read", hint="restore it from a backup"
            ) from error
        for values_of in (found.adam.first, found.adam.second):
            if values_of.shape != (layout.size,) or values_of.dtype != np.float32 or not np.isfinite(values_of).all():
                raise TrainingStateError(f"the optimiser state in {path} is not finite float32[{layout.size}]")
        return found
