"""The sum of clipped per-patient gradients, in one forward and one backward pass.

A patient's gradient is the mean over the images drawn for them in this step, then clipped as one: adding or removing
a patient changes the sum by at most the clip norm, however many images they have. The gradients of the loss by the
output of every trained layer are taken once; per-patient norms follow from them (`norms`); the same output
gradients, scaled by every patient's clip factor, give the summed weight gradients (book-keeping: Bu et al. 2022).

Batches that need no per-patient bound, such as generated images, go through the same passes (`Part`): their rows are
scaled by one, and one product per layer makes the weight gradient of all rows together.

The clip is at ``clip_norm * (1 - MARGIN)``: with the care taken in every norm (`norms`) a patient's contribution, as
rounded to float32, is at most ``clip_norm``, whatever the weights are. What this does not cover: in float32 the
gradient of a patient can differ in its last digits with their place in the batch and with the size of the batch.

Defined cases: no patients gives zero; a zero gradient stays zero; a patient whose squared gradient norm is NaN,
negative or infinite (an overflow of float32 included) contributes zero, and so does the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.privacy.arithmetic import require_float32_arithmetic
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.privacy.norms import Measured, by_patient, measure, measure_rows, row_forward, variable

Graph = Callable[[Callable[..., Any], Any, Any], Any]
"""``graph(call, images, labels) -> outputs``: a topology that applies layers by name through ``call``."""

ImageLoss = Callable[[Any, Any], Any]
"""``loss(outputs, labels) -> float32[n]``: one loss per image, no statistic over the batch."""

_MIXING = (keras.layers.BatchNormalization,)
_TINY = 1e-30

MARGIN = 0.005
"""Share of the clip norm kept free for rounding: norms are clipped to ``(1 - MARGIN) * clip_norm``, noise is scaled to
the whole ``clip_norm``. A contribution is off by k units of ``2**-24 B``, k small. With the floor ``f =
sqrt(products.ALLOWANCE) B`` under its norm it is at most ``(1 - MARGIN) sqrt(1 + (k 2**-24 B / f)^2) clip_norm``, which
stays below ``clip_norm`` up to k = 370 (k = 660 where the norm itself is from float32: `products.CONFIDENT`). What it
adds to the rounding of the whole sum, over the other patients' terms, is 2.7e-4 ``clip_norm`` for every ``2**-24 B``
of theirs."""


@dataclass(frozen=True)
class Part:
    """One batch of a step.

    Attributes:
        images: float32[patients * m, H, W, C], a patient's m images in a row.
        labels: int32[patients * m, 1], or None where the network takes none.
        weights: float32[patients, m]: of every image's loss; 1/(images given) and 0 for padding.
        loss: per image.
        bound: no patient contributes more than this, in L2 over all trained weights; None for no bound.
        factor: the part's share of the sum, applied after the bound.
    """

    images: Any
    labels: Any
    weights: Any
    loss: ImageLoss
    bound: float | None = None
    factor: Any = 1.0


@dataclass(frozen=True)
class ClippedSum:
    """What one batch of patients gives.

    Attributes:
        gradient: float32[d], the sum of clipped per-patient gradients, flat, in the order of ``weights``; of several
            parts, the sum over all of them.
        norms: float32[patients], before clipping, the allowance for rounding included (confidential); None without a
            bound.
        scales: float32[patients], the factor applied (confidential); None without a bound.
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
    rows: list[Any] | None = None
    came_back: Any = None
    measured: dict[int, Measured] = field(default_factory=dict)
    free: list[Any] | None = None


@dataclass
class _Rows:
    """Where a part lies in the joint batch, and what its patients are scaled by."""

    part: Part
    start: Any
    stop: Any
    patients: Any
    loss: Any = None
    norms: Any = None
    scales: Any = None
    usable: Any = None

    def of(self, tensor: Any) -> Any:
        return tensor[self.start : self.stop]


class PerPatientGradients:
    """Clipped gradient sums of one network.

    Raises:
        PrivacyRefused: a layer mixes the examples of a batch, is applied twice, or a trained weight is out of reach.
    """

    def __init__(self, graph: Graph, layers: Mapping[str, Any], weights: Sequence[Any]) -> None:
        """Args: graph: the topology; layers: by name, built; weights: all trained weights, in the flat order."""
        require_float32_arithmetic()
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
        return self.summed([Part(images, labels, weights, loss, clip_norm * (1.0 - margin))])[0]

    def summed(self, parts: Sequence[Part]) -> list[ClippedSum]:
        """Sum of the gradients of several batches, each patient of a bounded part clipped by itself.

        Args: parts: with labels for all of them or for none. A bound is applied as it stands: where it carries a
            guarantee, leave `MARGIN` of it free.

        Returns:
            For every part its norms, scales and losses, and in each the one joint gradient, float32[d].
        """
        places = _place(parts)
        applied, (tape, total) = self._forward(places)
        self._refuse_wrong_cover(applied)
        self._backward(applied, tape, total)
        for entry in applied:
            if not entry.measured:
                _measure(entry, places)
        for index, place in enumerate(places):
            if place.part.bound is not None:
                _clip(index, place, applied)
        bounded = [place for place in places if place.part.bound is not None]

        def gradient(clean: bool) -> Any:
            found: list[Any] = [None] * len(self._weights)
            for entry in applied:
                for weight, value in zip(_trained(entry.layer), _layer_sum(entry, places, clean), strict=True):
                    found[self._order[id(weight)]] = value
            return self._flat(found)

        if bounded:
            all_usable = tf.reduce_all(tf.concat([place.usable for place in bounded], axis=0))
            joint = tf.cond(all_usable, lambda: gradient(False), lambda: gradient(True))
        else:
            joint = gradient(False)
        return [ClippedSum(joint, place.norms, place.scales, place.loss) for place in places]

    def output_gradients(self, parts: Sequence[Part]) -> list[Any]:
        """What one forward and one backward pass give before any norm: for every trained layer the gradient by its
        output, or by its weights' rows."""
        applied, (tape, total) = self._forward(_place(parts))
        self._backward(applied, tape, total)
        return [entry.came_back for entry in applied]

    def _forward(self, places: list[_Rows]) -> tuple[list[_Application], tuple[Any, Any]]:
        """All parts through the network at once; the applications of trained layers, and (tape, total loss)."""
        applied: list[_Application] = []
        with tf.GradientTape(watch_accessed_variables=False) as tape:

            def call(name: str, *inputs: Any) -> Any:
                layer = self._layers[name]
                if not layer.trainable_weights:
                    return layer(*inputs)
                forward = row_forward(layer)
                if forward is not None:
                    output, rows = forward(layer, *inputs, watch=tape.watch)
                    applied.append(_Application(layer, inputs, output, rows))
                    return output
                entry = _Application(layer, inputs, layer(*inputs))
                applied.append(entry)
                tape.watch(entry.output)
                return _tapped(entry, places)

            labels = None
            if places[0].part.labels is not None:
                labels = _joined([place.part.labels for place in places])
            outputs = self._graph(call, _joined([place.part.images for place in places]), labels)
            total = 0.0
            for place in places:
                own = tf.nest.map_structure(place.of, outputs)
                per_image = place.part.loss(own, place.part.labels) * tf.reshape(place.part.weights, [-1])
                place.loss = tf.reduce_sum(by_patient(per_image, place.patients), axis=1)
                share = place.part.factor if place.part.bound is None else 1.0
                total += share * tf.reduce_sum(place.loss)
        return applied, (tape, total)

    @staticmethod
    def _backward(applied: list[_Application], tape: Any, total: Any) -> None:
        wanted = [entry.output if entry.rows is None else entry.rows for entry in applied]
        found = tape.gradient(total, wanted, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        for entry, value in zip(applied, found, strict=True):
            if entry.came_back is None:
                entry.came_back = value

    def _flat(self, gradients: Sequence[Any]) -> Any:
        return tf.concat(
            [
                tf.zeros([int(np.prod(weight.shape))], tf.float32) if gradient is None else tf.reshape(gradient, [-1])
                for gradient, weight in zip(gradients, self._weights, strict=True)
            ],
            axis=0,
        )

    def _refuse_wrong_cover(self, applied: list[_Application]) -> None:
        seen = [id(weight) for entry in applied for weight in _trained(entry.layer)]
        if len(seen) != len(set(seen)):
            raise PrivacyRefused("a trained layer is applied twice: its per-patient norms would be wrong")
        if set(seen) != set(self._order):
            raise PrivacyRefused("the trained weights are not exactly those of the layers that were applied")


def _trained(layer: Any) -> list[Any]:
    return [variable(weight) for weight in layer.trainable_weights]


def _joined(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tf.concat(values, axis=0)


def _size(tensor: Any) -> Any:
    """Length of the first axis, a number where it is known."""
    return tf.shape(tensor)[0] if tensor.shape[0] is None else int(tensor.shape[0])


def _place(parts: Sequence[Part]) -> list[_Rows]:
    places, start = [], 0
    for part in parts:
        stop = start + _size(part.images)
        places.append(_Rows(part, start, stop, _size(part.weights)))
        start = stop
    return places


def _tapped(entry: _Application, places: list[_Rows]) -> Any:
    """The layer's output; on the way back, its gradient is measured before the layers below get theirs.

    So of all layers' gradients, patches and products only one layer's are held at a time.
    """

    @tf.custom_gradient
    def tap(output: Any) -> Any:
        def backward(came_back: Any) -> Any:
            entry.came_back = came_back
            _measure(entry, places)
            made = [[measured.squares, measured.each or []] for measured in entry.measured.values()]
            with tf.control_dependencies(tf.nest.flatten([made, entry.free or []])):
                return tf.identity(came_back)

        return tf.identity(output), backward

    return tap(entry.output)


def _measure(entry: _Application, places: list[_Rows]) -> None:
    """Measure the layer for every bounded part; sum the others at once where they need not wait for clip factors."""
    for index, place in enumerate(places):
        if place.part.bound is None:
            continue
        if entry.rows is not None:
            measured = measure_rows([place.of(value) for value in entry.came_back], place.patients)
        else:
            inputs = tuple(tf.nest.map_structure(place.of, value) for value in entry.inputs)
            measured = measure(entry.layer, inputs, place.of(entry.came_back), place.patients)
        entry.measured[index] = measured
    loose = [place for place in places if place.part.bound is None]
    explicit = all(measured.each is not None for measured in entry.measured.values())
    if entry.rows is None and entry.measured and explicit and loose:
        entry.free = _weight_gradients(entry, [(place, None) for place in loose], False)


def _clip(index: int, place: _Rows, applied: list[_Application]) -> None:
    """Norms of a part's patients over all layers, and the factors that bound them."""
    squares = tf.zeros([place.patients], tf.float64)
    for entry in applied:
        squares += entry.measured[index].squares
    squares = tf.cast(squares, tf.float32)
    place.usable = tf.math.is_finite(squares) & (squares >= 0.0)
    place.norms = tf.sqrt(squares)
    place.scales = tf.where(
        place.usable,
        tf.minimum(1.0, place.part.bound / tf.maximum(place.norms, _TINY)),
        tf.zeros_like(place.norms),
    )


def _layer_sum(entry: _Application, places: list[_Rows], clean: bool) -> list[Any]:
    """Gradients of one layer's weights over all parts; where asked, unusable patients are zeroed first."""
    sums: list[list[Any]] = [] if entry.free is None else [entry.free]
    rest: list[tuple[_Rows, Any]] = []
    for index, place in enumerate(places):
        measured = entry.measured.get(index)
        if place.part.bound is not None and measured is not None and measured.each is not None:
            sums.append([_weighted(chunks, place, clean) for chunks in measured.each])
        elif entry.rows is not None:
            sums.append([tf.reduce_sum(place.of(value), axis=0) for value in entry.came_back])
        elif place.part.bound is not None:
            rest.append((place, place.scales * place.part.factor))
        elif entry.free is None:
            rest.append((place, None))
    if rest:
        sums.append(_weight_gradients(entry, rest, clean))
    return [tf.add_n([tf.convert_to_tensor(value) for value in of_weight]) for of_weight in zip(*sums, strict=True)]


def _weighted(parts: list[Any], place: _Rows, clean: bool) -> Any:
    """Sum of explicit per-patient gradients, given in chunks, each times its patient's clip factor."""
    sums, at = [], 0
    for value in parts:
        until = at + _size(value)
        scales = place.scales[at:until] * place.part.factor
        kept = _zero_unless(place.usable[at:until], value) if clean else value
        count = int(np.prod(value.shape[1:]))
        sums.append(tf.linalg.matvec(tf.reshape(kept, [-1, count]), scales, transpose_a=True))
        at = until
    return tf.reshape(tf.add_n(sums), parts[0].shape[1:])


def _weight_gradients(entry: _Application, rest: list[tuple[_Rows, Any]], clean: bool) -> list[Any]:
    """Weight gradients from output gradients, the rows of every part scaled by its patients' factors (None: by one)."""
    inputs, gradient = entry.inputs, entry.came_back
    adjacent = all(left.stop is right.start for (left, _), (right, _) in pairwise(rest))
    first, last = rest[0][0], rest[-1][0]
    whole = adjacent and first.start == 0 and entry.output.shape[0] is not None and last.stop == entry.output.shape[0]
    if not whole:

        def chosen(tensor: Any) -> Any:
            if adjacent:
                return tensor[first.start : last.stop]
            return tf.concat([place.of(tensor) for place, _ in rest], axis=0)

        inputs = tuple(tf.nest.map_structure(chosen, value) for value in inputs)
        gradient = chosen(gradient)
    if any(scales is not None for _, scales in rest):
        rows, keep = [], []
        for place, scales in rest:
            count = place.stop - place.start
            if scales is None:
                rows.append(tf.ones([count]))
                keep.append(tf.ones([count], tf.bool))
            else:
                images = tf.shape(place.part.weights)[1]
                rows.append(tf.repeat(scales, images))
                keep.append(tf.repeat(place.usable, images))
        if clean:
            flags = _joined(keep)
            inputs = tuple(tf.nest.map_structure(lambda value: _zero_unless(flags, value), value) for value in inputs)
            gradient = _zero_unless(flags, gradient)
        gradient *= _column(_joined(rows), gradient)
    own = _trained(entry.layer)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(own)
        output = entry.layer(*inputs)
    found = tape.gradient(output, own, output_gradients=gradient, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(value) for value in found]


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
