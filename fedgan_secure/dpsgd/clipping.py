"""The sum of clipped per-patient gradients, in one forward and one backward pass.

A patient's gradient is the mean over the images drawn for them in this step, then clipped as one: adding or removing
a patient changes the sum by at most the clip norm, however many images they have. The gradients of the loss by the
output of every trained layer are taken once; per-patient norms follow from them (`norms`); the same output
gradients, scaled by every patient's clip factor, give the summed weight gradients (book-keeping: Bu et al. 2022).

A step may have several batches (`Part`), such as generated images beside real ones. They go through the network one
after the other, so that one batch's features and gradients are in memory at a time; a batch without a bound is an
ordinary backward pass.

The clip is at ``clip_norm * (1 - MARGIN)``: with the care taken in every norm (`norms`) a patient's contribution, as
rounded to float32, is at most ``clip_norm``, whatever the weights are. What this does not cover: in float32 the
gradient of a patient can differ in its last digits with their place in the batch and with the size of the batch.

Defined cases: no patients gives zero; a zero gradient stays zero; a patient whose squared gradient norm is NaN,
negative or infinite (an overflow of float32 included) contributes zero, and so does the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.dpsgd.arithmetic import require_float32_arithmetic
from fedgan_secure.dpsgd.norms import Measured, by_patient, measure, measure_rows, row_forward, variable
from fedgan_secure.privacy import PrivacyRefused

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
    """A trained layer in one pass: what went in, and what came back to its output or to its weights' rows."""

    layer: Any
    inputs: tuple[Any, ...]
    output: Any = None
    rows: list[Any] | None = None
    came_back: Any = None
    measured: Measured | None = None


_Pass = Callable[[Any, tuple[Any, ...], Any], tuple[_Application, Any]]
"""``apply(layer, inputs, tape) -> application, output``: how a pass applies a layer whose weights all images share."""


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

    @tf.autograph.experimental.do_not_convert
    def summed(self, parts: Sequence[Part]) -> list[ClippedSum]:
        """Sum of the gradients of several batches, each patient of a bounded part clipped by itself.

        Args: parts: with labels for all of them or for none. A bound is applied as it stands: where it carries a
            guarantee, leave `MARGIN` of it free.

        Returns:
            For every part its norms, scales and losses, and in each the one joint gradient, float32[d].
        """
        found: list[ClippedSum] = []
        joint: Any = None
        for part in parts:
            if joint is not None:
                with tf.control_dependencies([joint]):
                    part = replace(part, images=tf.identity(part.images))
            somebody = _somebody(part)
            own = self._loose(somebody) if part.bound is None else self._bounded(somebody)
            if somebody is not part:
                own = _first(own, _size(part.weights))
            joint = own.gradient if joint is None else joint + own.gradient
            found.append(own)
        return [replace(own, gradient=joint) for own in found]

    @tf.autograph.experimental.do_not_convert
    def output_gradients(self, parts: Sequence[Part]) -> list[Any]:
        """What one forward and one backward pass of each part give before any norm.

        Returns:
            For every part and every trained layer the gradient by its output, or by its weights' rows.
        """
        found = []
        for part in parts:
            applied, tape, loss = self._forward(part, _watching_outputs)
            wanted = [entry.output if entry.rows is None else entry.rows for entry in applied]
            found += _gradients(tape, loss, wanted)
        return found

    def _loose(self, part: Part) -> ClippedSum:
        """A part without a bound: its gradient as any backward pass makes it."""
        applied, tape, loss = self._forward(part, _watching_weights)
        wanted = [_trained(entry.layer) if entry.rows is None else entry.rows for entry in applied]
        back = _gradients(tape, loss, wanted, part.factor)
        sums = [
            value if entry.rows is None else [tf.reduce_sum(row, axis=0) for row in value]
            for entry, value in zip(applied, back, strict=True)
        ]
        return ClippedSum(self._flat(applied, sums), None, None, loss)

    def _bounded(self, part: Part) -> ClippedSum:
        """A part whose patients are clipped."""
        patients = _size(part.weights)
        applied, tape, loss = self._forward(part, _measuring(patients))
        wanted = [entry.output if entry.rows is None else entry.rows for entry in applied]
        for entry, value in zip(applied, _gradients(tape, loss, wanted), strict=True):
            if entry.came_back is None:
                entry.came_back = value
            if entry.measured is None:
                _measure(entry, patients)
        norms, scales, usable = _clip(part.bound, patients, applied)
        _leave_out_unusable(applied, part, usable)
        shares = scales * part.factor
        rows = _each_image(part, shares)
        sums = [_layer_sum(entry, shares, rows) for entry in applied]
        return ClippedSum(self._flat(applied, sums), norms, scales, loss)

    def _forward(self, part: Part, apply: _Pass) -> tuple[list[_Application], Any, Any]:
        """A part through the network: the applications of trained layers, the tape, and the loss, float32[patients]."""
        applied: list[_Application] = []
        with tf.GradientTape(watch_accessed_variables=False) as tape:

            def call(name: str, *inputs: Any) -> Any:
                layer = self._layers[name]
                if not layer.trainable_weights:
                    return layer(*inputs)
                forward = row_forward(layer)
                if forward is not None:
                    output, rows = forward(layer, *inputs, watch=tape.watch)
                    entry = _Application(layer, inputs, output, rows)
                else:
                    entry, output = apply(layer, inputs, tape)
                applied.append(entry)
                return output

            outputs = self._graph(call, part.images, part.labels)
            per_image = part.loss(outputs, part.labels) * tf.reshape(part.weights, [-1])
            loss = tf.reduce_sum(by_patient(per_image, _size(part.weights)), axis=1)
        self._refuse_wrong_cover(applied)
        return applied, tape, loss

    def _flat(self, applied: list[_Application], sums: list[list[Any]]) -> Any:
        found: list[Any] = [None] * len(self._weights)
        for entry, own in zip(applied, sums, strict=True):
            for weight, value in zip(_trained(entry.layer), own, strict=True):
                found[self._order[id(weight)]] = tf.reshape(value, [-1])
        return tf.concat(found, axis=0)

    def _refuse_wrong_cover(self, applied: list[_Application]) -> None:
        seen = [id(weight) for entry in applied for weight in _trained(entry.layer)]
        if len(seen) != len(set(seen)):
            raise PrivacyRefused("a trained layer is applied twice: its per-patient norms would be wrong")
        if set(seen) != set(self._order):
            raise PrivacyRefused("the trained weights are not exactly those of the layers that were applied")


def _trained(layer: Any) -> list[Any]:
    return [variable(weight) for weight in layer.trainable_weights]


def _size(tensor: Any) -> Any:
    """Length of the first axis, a number where it is known."""
    return tf.shape(tensor)[0] if tensor.shape[0] is None else int(tensor.shape[0])


def _somebody(part: Part) -> Part:
    """The part; where it is (or may be) without patients, with one of weight zero instead, as kernels want a row."""
    patients = _size(part.weights)
    if isinstance(patients, int) and patients > 0:
        return part
    images = part.weights.shape[1] or tf.shape(part.weights)[1]

    def one_if_none(tensor: Any, rows: Any) -> Any:
        shape = tensor.shape[1:]
        row = tf.zeros([rows, *(shape if shape.is_fully_defined() else tf.shape(tensor)[1:])], tensor.dtype)
        return tf.ensure_shape(tf.cond(tf.equal(patients, 0), lambda: row, lambda: tensor), [None, *shape])

    labels = None if part.labels is None else one_if_none(part.labels, images)
    return replace(part, images=one_if_none(part.images, images), labels=labels, weights=one_if_none(part.weights, 1))


def _first(found: ClippedSum, patients: Any) -> ClippedSum:
    """What was found of the first patients; the sum is of all of them."""
    norms, scales = (None if of is None else of[:patients] for of in (found.norms, found.scales))
    return ClippedSum(found.gradient, norms, scales, found.loss[:patients])


def _gradients(tape: Any, loss: Any, wanted: Any, factor: Any = 1.0) -> list[Any]:
    """Of the sum of all losses times a factor, by everything that is wanted; zero where it does not depend on it."""
    back = factor * tf.ones_like(loss)
    found = tape.gradient(loss, wanted, output_gradients=back, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return list(tf.nest.map_structure(tf.convert_to_tensor, found))


def _watching_weights(layer: Any, inputs: tuple[Any, ...], tape: Any) -> tuple[_Application, Any]:
    tape.watch(_trained(layer))
    return _Application(layer, inputs), layer(*inputs)


def _watching_outputs(layer: Any, inputs: tuple[Any, ...], tape: Any) -> tuple[_Application, Any]:
    output = layer(*inputs)
    tape.watch(output)
    return _Application(layer, inputs, output), output


def _measuring(patients: Any) -> _Pass:
    """Measure every layer on the way back, before the layers below get their gradient.

    So of all layers' gradients, patches and products only one layer's are held at a time.
    """

    def apply(layer: Any, inputs: tuple[Any, ...], tape: Any) -> tuple[_Application, Any]:
        entry, output = _watching_outputs(layer, inputs, tape)

        @tf.custom_gradient
        def tap(output: Any) -> Any:
            def backward(came_back: Any) -> Any:
                entry.came_back = came_back
                measured = _measure(entry, patients)
                with tf.control_dependencies(tf.nest.flatten([measured.squares, measured.each or []])):
                    return tf.identity(came_back)

            return tf.identity(output), backward

        return entry, tap(output)

    return apply


def _measure(entry: _Application, patients: Any) -> Measured:
    if entry.rows is not None:
        entry.measured = measure_rows(entry.came_back, patients)
    else:
        entry.measured = measure(entry.layer, entry.inputs, entry.came_back, patients)
    return entry.measured


def _clip(bound: float | None, patients: Any, applied: list[_Application]) -> tuple[Any, Any, Any]:
    """Norms of all patients over all layers, the factors that bound them, and which norms are usable."""
    squares = tf.zeros([patients], tf.float64)
    for entry in applied:
        if entry.measured is None:
            raise PrivacyRefused(f"layer {entry.layer.name} was not measured: its share of the norms would be missing")
        squares += entry.measured.squares
    squares = tf.cast(squares, tf.float32)
    usable = tf.math.is_finite(squares) & (squares >= 0.0)
    norms = tf.sqrt(squares)
    scales = tf.where(usable, tf.minimum(1.0, bound / tf.maximum(norms, _TINY)), tf.zeros_like(norms))
    return norms, scales, usable


def _each_image(part: Part, of_patients: Any) -> Any:
    """A value per patient as a value per image."""
    images = part.weights.shape[1]
    if images == 1:
        return of_patients
    return tf.repeat(of_patients, tf.shape(part.weights)[1] if images is None else images)


def _leave_out_unusable(applied: list[_Application], part: Part, usable: Any) -> None:
    """Zero what patients without a usable norm gave to every layer, where there are any: a factor of zero does not."""
    made = [
        (chunks, position)
        for entry in applied
        if entry.measured is not None
        for chunks in entry.measured.each or ()
        for position in range(len(chunks))
    ]
    waiting = [entry for entry in applied if entry.measured is None or entry.measured.each is None]
    given = [chunks[position] for chunks, position in made] + [(one.inputs, one.came_back) for one in waiting]

    def zeroed() -> list[Any]:
        found: list[Any] = []
        for chunks, position in made:
            start = sum(_size(value) for value in chunks[:position])
            kept = usable[start : start + _size(chunks[position])]
            found.append(_zero_unless(kept, chunks[position]))
        rows = _each_image(part, usable)
        for one in waiting:
            found.append(tf.nest.map_structure(lambda x: _zero_unless(rows, x), (one.inputs, one.came_back)))
        return found

    flat = tf.cond(tf.reduce_all(usable), lambda: tf.nest.flatten(given), lambda: tf.nest.flatten(zeroed()))
    for new, old in zip(flat, tf.nest.flatten(given), strict=True):
        if not tf.executing_eagerly():
            new.set_shape(old.shape)
    kept = tf.nest.pack_sequence_as(given, flat)
    for (chunks, position), value in zip(made, kept, strict=False):
        chunks[position] = value
    for one, (inputs, came_back) in zip(waiting, kept[len(made) :], strict=True):
        one.inputs, one.came_back = inputs, came_back


def _layer_sum(entry: _Application, shares: Any, rows: Any) -> list[Any]:
    """Gradients of one layer's weights: of every patient (float32[patients]) or image (float32[n]) its share."""
    if entry.measured is not None and entry.measured.each is not None:
        return [_weighted(chunks, shares) for chunks in entry.measured.each]
    own = _trained(entry.layer)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(own)
        output = entry.layer(*entry.inputs)
    gradient = entry.came_back * _column(rows, entry.came_back)
    found = tape.gradient(output, own, output_gradients=gradient, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(value) for value in found]


def _weighted(parts: list[Any], shares: Any) -> Any:
    """Sum of explicit per-patient gradients, given in chunks, each times its patient's share."""
    sums, at = [], 0
    for value in parts:
        until = at + _size(value)
        count = int(np.prod(value.shape[1:]))
        own = shares if len(parts) == 1 else shares[at:until]
        sums.append(tf.linalg.matvec(tf.reshape(value, [-1, count]), own, transpose_a=True))
        at = until
    return tf.reshape(sums[0] if len(sums) == 1 else tf.add_n(sums), parts[0].shape[1:])


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
    return tf.reshape(vector, [-1, *[1] * (like.shape.rank - 1)])


def _zero_unless(keep: Any, value: Any) -> Any:
    return tf.where(_column(keep, value), value, tf.zeros_like(value))
