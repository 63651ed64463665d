"""The sum of clipped per-patient gradients, in one forward and one backward pass.

A patient's gradient is the mean over the images drawn for them in this step, then clipped as one: adding or removing
a patient changes the sum by at most the clip norm, however many images they have. The gradients of the loss by the
output of every trained layer are taken once; per-patient norms follow from them (`norms`); the same output
gradients, scaled by every patient's clip factor, give the summed weight gradients.

The clip is at ``clip_norm * (1 - MARGIN)``: with the allowance in every norm (`norms`) a patient's contribution, as
rounded to float32, is at most ``clip_norm``, whatever the weights are. What this does not cover: in float32 the
gradient of a patient can differ in its last digits with their place in the batch and with the size of the batch.

Defined cases: no patients gives zero; a zero gradient stays zero; a patient whose squared gradient norm is NaN,
negative or infinite (an overflow of float32 included) contributes zero, and so does the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.privacy.norms import by_patient, measure, variable

Graph = Callable[[Callable[..., Any], Any, Any], Any]
"""``graph(call, images, labels) -> outputs``: a topology that applies layers by name through ``call``."""

ImageLoss = Callable[[Any, Any], Any]
"""``loss(outputs, labels) -> float32[n]``: one loss per image, no statistic over the batch."""

_MIXING = (keras.layers.BatchNormalization,)
_TINY = 1e-30

MARGIN = 0.005
"""Share of the clip norm kept free for rounding: norms are clipped to ``(1 - MARGIN) * clip_norm``, noise is scaled to
the whole ``clip_norm``. A contribution is off by k units of ``2**-24 B``, k small. With the floor ``f =
sqrt(norms.ALLOWANCE) B`` under its norm it is at most ``(1 - MARGIN) sqrt(1 + (k 2**-24 B / f)^2) clip_norm``, which
stays below ``clip_norm`` up to k = 370. What it adds to the rounding of the whole sum, over the other patients' terms,
is 2.7e-4 ``clip_norm`` for every ``2**-24 B`` of theirs."""


@dataclass(frozen=True)
class ClippedSum:
    """What one batch of patients gives.

    Attributes:
        gradient: float32[d], the sum of clipped per-patient gradients, flat, in the order of ``weights``.
        norms: float32[patients], before clipping, the allowance for rounding included (confidential).
        scales: float32[patients], the factor applied (confidential).
        loss: float32[patients], mean over a patient's images (confidential).
    """

    gradient: Any
    norms: Any
    scales: Any
    loss: Any


@dataclass
class _Application:
    layer: Any
    inputs: tuple[Any, ...]
    output: Any
    each: list[Any] | None = None


class PerPatientGradients:
    """Clipped gradient sums of one network.

    Raises:
        PrivacyRefused: a layer mixes the examples of a batch, is applied twice, or a trained weight is out of reach.
    """

    def __init__(self, graph: Graph, layers: Mapping[str, Any], weights: Sequence[Any]) -> None:
        """Args: graph: the topology; layers: by name, built; weights: all trained weights, in the flat order."""
        self._graph = graph
        self._layers = dict(layers)
        self._weights = [variable(weight) for weight in weights]
        self._order = {id(weight): index for index, weight in enumerate(self._weights)}
        refuse_mixing_layers(self._layers.values())

    def apply(self, images: Any, labels: Any) -> Any:
        """The network's outputs, as Keras would compute them."""
        return self._graph(lambda name, *inputs: self._layers[name](*inputs), images, labels)

    def clipped_sum(
        self, images: Any, labels: Any, weights: Any, clip_norm: float, loss: ImageLoss, margin: float = MARGIN
    ) -> ClippedSum:
        """Sum of clipped per-patient gradients.

        Args:
            images: float32[patients * m, H, W, C], a patient's m images in a row.
            labels: int32[patients * m].
            weights: float32[patients, m]: 1/(images given) where there is an image, 0 for padding.
            clip_norm: C, in L2 over all trained weights: no patient contributes more.
            loss: per image.
            margin: what to keep free for rounding; 0 where the bound carries no guarantee.
        """
        patients = tf.shape(weights)[0]
        applied: list[_Application] = []
        with tf.GradientTape(watch_accessed_variables=False) as tape:

            def call(name: str, *inputs: Any) -> Any:
                layer = self._layers[name]
                output = layer(*inputs)
                if layer.trainable_weights:
                    tape.watch(output)
                    applied.append(_Application(layer, inputs, output))
                return output

            per_image = loss(self._graph(call, images, labels), labels) * tf.reshape(weights, [-1])
            per_patient = tf.reduce_sum(by_patient(per_image, patients), axis=1)
            total = tf.reduce_sum(per_patient)
        self._refuse_wrong_cover(applied)
        backward = tape.gradient(
            total, [entry.output for entry in applied], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        squares = tf.zeros([patients], tf.float64)
        for entry, gradient in zip(applied, backward, strict=True):
            own, entry.each = measure(entry.layer, entry.inputs, gradient, patients)
            squares += own
        squares = tf.cast(squares, tf.float32)
        usable = tf.math.is_finite(squares) & (squares >= 0.0)
        norms = tf.sqrt(squares)
        bound = clip_norm * (1.0 - margin)
        scales = tf.where(usable, tf.minimum(1.0, bound / tf.maximum(norms, _TINY)), tf.zeros_like(norms))

        def summed(clean: bool) -> Any:
            return self._weight_gradients(applied, backward, scales, usable if clean else None, weights)

        gradient = tf.cond(tf.reduce_all(usable), lambda: summed(False), lambda: summed(True))
        return ClippedSum(gradient, norms, scales, per_patient)

    def _weight_gradients(
        self, applied: list[_Application], backward: list[Any], scales: Any, usable: Any, weights: Any
    ) -> Any:
        """Weight gradients of all layers from scaled output gradients, flat; unusable patients zeroed first."""
        images = tf.shape(weights)[1]
        image_scales = tf.repeat(scales, images)
        keep = None if usable is None else tf.repeat(usable, images)
        found: list[Any] = [None] * len(self._weights)
        for entry, came_back in zip(applied, backward, strict=True):
            own = [variable(weight) for weight in entry.layer.trainable_weights]
            if entry.each is not None:
                for weight, value in zip(own, entry.each, strict=True):
                    kept = value if usable is None else _zero_unless(usable, value)
                    found[self._order[id(weight)]] = tf.reduce_sum(kept * _column(scales, kept), axis=0)
                continue
            inputs = entry.inputs
            gradient = came_back
            if keep is not None:
                inputs = tuple(_zero_unless(keep, value) for value in inputs)
                gradient = _zero_unless(keep, gradient)
            gradient *= _column(image_scales, gradient)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(own)
                output = entry.layer(*inputs)
            for weight, value in zip(own, tape.gradient(output, own, output_gradients=gradient), strict=True):
                found[self._order[id(weight)]] = value
        return self._flat(found)

    def _flat(self, gradients: Sequence[Any]) -> Any:
        return tf.concat(
            [
                tf.zeros([int(np.prod(weight.shape))], tf.float32)
                if gradient is None
                else tf.reshape(tf.convert_to_tensor(gradient), [-1])
                for gradient, weight in zip(gradients, self._weights, strict=True)
            ],
            axis=0,
        )

    def _refuse_wrong_cover(self, applied: list[_Application]) -> None:
        seen = [id(variable(weight)) for entry in applied for weight in entry.layer.trainable_weights]
        if len(seen) != len(set(seen)):
            raise PrivacyRefused("a trained layer is applied twice: its per-patient norms would be wrong")
        if set(seen) != set(self._order):
            raise PrivacyRefused("the trained weights are not exactly those of the layers that were applied")


def refuse_mixing_layers(layers: Any) -> None:
    """Refuse layers under which one patient's output depends on another patient's images.

    Raises:
        PrivacyRefused: BatchNormalization, by class or by name.
    """
    for layer in layers:
        if isinstance(layer, _MIXING) or "batchnorm" in type(layer).__name__.lower():
            raise PrivacyRefused(
                f"the discriminator's layer {layer.name} is a {type(layer).__name__}, which mixes patients",
                hint="use group normalisation or none",
            )


def refuse_mixing(apply: Callable[[Any, Any], Any], image_shape: tuple[int, ...], conditional: bool) -> None:
    """Probe that an example's outputs do not depend on the rest of its batch, whatever the layers are called.

    Args: apply: (images, labels) -> outputs, run twice eagerly; image_shape: (H, W, C).

    Raises:
        PrivacyRefused: the first example's output changed when only the second example changed.
    """
    ramp = np.linspace(-1.0, 1.0, int(np.prod(image_shape)), dtype=np.float32).reshape(image_shape)
    labels = tf.zeros([2], tf.int32) if conditional else None
    probes = [apply(tf.constant(np.stack([ramp, other])), labels) for other in (-ramp, 3.0 * ramp[::-1])]
    first, second = (tf.nest.flatten(probe) for probe in probes)
    for left, right in zip(first, second, strict=True):
        if not np.allclose(left[0], right[0], rtol=1e-4, atol=1e-5):
            raise PrivacyRefused("the discriminator mixes the examples of a batch: no per-patient bound holds")


def _column(vector: Any, like: Any) -> Any:
    return tf.reshape(vector, tf.concat([[-1], tf.ones([tf.rank(like) - 1], tf.int32)], axis=0))


def _zero_unless(keep: Any, value: Any) -> Any:
    return tf.where(_column(keep, value), value, tf.zeros_like(value))
