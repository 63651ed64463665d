"""The heads: a small discriminator on frozen public features, its topology and its place in one flat vector.

A hidden layer, then realness with a class projection, and class logits. No TensorFlow is loaded before
:func:`build_heads` is called: policies and accountants ask for the size and the layout hash alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from fedgan_secure.models import ModelError

HIDDEN_SPREAD, REALNESS_SPREAD, CLASS_SPREAD = 1.4, 0.05, 0.2
"""Standard deviations of the random weights; the first over sqrt(d)."""


def random_heads(spec: HeadsSpec, seed: int) -> np.ndarray:
    """Return random first weights: uniform, biases and class projection zero.

    Args:
        spec: architecture.
        seed: equal seeds give equal weights, to the bit, everywhere.

    Returns:
        float32[k].
    """
    layout = HeadsLayout.of(spec)
    made = np.zeros(layout.size, np.float64)
    parts = layout.parts(made)
    spreads = {
        "h_hidden/kernel": HIDDEN_SPREAD / math.sqrt(spec.features),
        "h_realness/kernel": REALNESS_SPREAD,
        "h_classes/kernel": CLASS_SPREAD,
    }
    for name, spread in spreads.items():
        if name in parts:
            parts[name][...] = _uniform(seed, name, parts[name].shape) * (math.sqrt(3.0) * spread)
    return made.astype(np.float32)


def _uniform(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float64 in (-1, 1): multiples of 2**-31 that the seed and the weight's name give, exact on every machine."""
    count = math.prod(shape)
    raw = hashlib.shake_256(f"fedgan-secure/heads/1\0{seed}\0{name}".encode()).digest(4 * count)
    return ((np.frombuffer(raw, "<u4").astype(np.float64) + 0.5) * 2.0**-31 - 1.0).reshape(shape)


SLOPE = 0.2
"""Of the hidden layer's leaky rectifier below zero."""
_LIMITS = {"features": (1, 1 << 16), "classes": (0, 1000), "hidden": (1, 4096)}


@dataclass(frozen=True)
class HeadsSpec:
    """Architecture of the heads.

    Attributes:
        features: d, length of a feature vector.
        classes: number of classes; 0 for an unconditional model, which has the realness head alone.
        hidden: width of the hidden layer.
    """

    features: int = 271
    classes: int = 5
    hidden: int = 32

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ModelError(f"heads.{name} is {value!r}, expected a whole number from {least} to {most}")

    @property
    def conditional(self) -> bool:
        """Whether the heads know classes."""
        return self.classes > 0

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON-ready values, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HeadsSpec:
        """Read what `to_json` wrote.

        Raises:
            ModelError: a key is unknown or missing, or a value has the wrong type or range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ModelError(
                f"heads: unknown keys {sorted(set(values) - names)}, missing keys {sorted(names - set(values))}"
            )
        return cls(**dict(values))


@dataclass(frozen=True)
class HeadEntry:
    """One weight: its layer, its name in the layer, its shape and its place in the vector."""

    layer: str
    weight: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def name(self) -> str:
        """``heads/layer/weight``."""
        return f"heads/{self.layer}/{self.weight}"


@dataclass(frozen=True)
class HeadsLayout:
    """Where every weight of the heads lies in float32[k], the vector that travels."""

    spec: HeadsSpec
    entries: tuple[HeadEntry, ...]

    @classmethod
    def of(cls, spec: HeadsSpec) -> HeadsLayout:
        """Lay out the heads of a specification."""
        d, width, classes = spec.features, spec.hidden, spec.classes
        shapes: list[tuple[str, str, tuple[int, ...]]] = [
            ("h_hidden", "kernel", (d, width)),
            ("h_hidden", "bias", (width,)),
            ("h_realness", "kernel", (width, 1)),
            ("h_realness", "bias", (1,)),
        ]
        if spec.conditional:
            shapes += [
                ("h_label", "embeddings", (classes, width)),
                ("h_classes", "kernel", (width, classes)),
                ("h_classes", "bias", (classes,)),
            ]
        entries, start = [], 0
        for layer, weight, shape in shapes:
            stop = start + math.prod(shape)
            entries.append(HeadEntry(layer, weight, shape, start, stop))
            start = stop
        return cls(spec, tuple(entries))

    @property
    def size(self) -> int:
        """k, the length of the vector."""
        return self.entries[-1].stop

    @property
    def layout_hash(self) -> str:
        """SHA-256, 64 hexadecimal digits, over the names, shapes and dtypes in order (canonical JSON)."""
        rows = [[entry.name, list(entry.shape), "float32-le"] for entry in self.entries]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode("ascii")).hexdigest()

    def parts(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Split a vector into its weights.

        Args:
            vector: [k] of any dtype.

        Returns:
            ``layer/weight`` -> a view of the vector in the weight's shape.
        """
        return {
            f"{entry.layer}/{entry.weight}": vector[entry.start : entry.stop].reshape(entry.shape)
            for entry in self.entries
        }

    def variables(self, model: Any) -> list[Any]:
        """Return the trained weights of a Keras model of these heads, in the order of the vector.

        Raises:
            ModelError: the model does not have exactly these weights.
        """
        held = {
            (layer.name, weight.name.split("/")[-1].split(":")[0]): weight
            for layer in model.layers
            for weight in layer.trainable_weights
        }
        expected = {(entry.layer, entry.weight): entry.shape for entry in self.entries}
        if {key: tuple(weight.shape) for key, weight in held.items()} != expected:
            raise ModelError("the model does not have the layers of these heads")
        return [held[entry.layer, entry.weight] for entry in self.entries]

    def flatten(self, model: Any) -> np.ndarray:
        """Return a model's weights as float32[k]. Raises ModelError as `variables` does."""
        return np.concatenate([np.asarray(weight, np.float32).reshape(-1) for weight in self.variables(model)])

    def assign(self, vector: np.ndarray, model: Any) -> None:
        """Write float32[k] into a model's weights.

        Raises:
            ModelError: as `check` and `variables` do.
        """
        self.check(vector)
        for entry, weight in zip(self.entries, self.variables(model), strict=True):
            weight.assign(vector[entry.start : entry.stop].reshape(entry.shape))

    def check(self, vector: np.ndarray) -> None:
        """Refuse what is not a finite float32[k].

        Raises:
            ModelError: wrong dtype, wrong shape, or a value that is not finite.
        """
        if vector.dtype != np.float32 or vector.shape != (self.size,):
            raise ModelError(
                f"the heads' vector is {vector.dtype}{list(vector.shape)}, expected float32[{self.size}]",
                hint="use the vector of a run with the same features, classes and hidden width",
            )
        if not np.isfinite(vector).all():
            raise ModelError("the heads' vector holds NaN or infinity")


def check_centre(spec: HeadsSpec, centre: np.ndarray) -> None:
    """Refuse a centre that is not a finite float32[d].

    Raises:
        ModelError: wrong dtype, wrong shape, or a value that is not finite.
    """
    if centre.dtype != np.float32 or centre.shape != (spec.features,):
        raise ModelError(
            f"the centre of the features is {centre.dtype}{list(centre.shape)}, expected float32[{spec.features}]"
        )
    if not np.isfinite(centre).all():
        raise ModelError("the centre of the features holds NaN or infinity")


def standardised(features: Any, centre: Any, count: int) -> Any:
    """Turn public features into the heads' inputs, ``(f - centre) / sqrt(d)``.

    Args:
        features: float32[n, d], an array or a tensor.
        centre: float32[d], public.
        count: d.

    Returns:
        float32[n, d], rows of norm about 1.
    """
    return (features - centre) * np.float32(1.0 / math.sqrt(count))


def heads_graph(spec: HeadsSpec, call: Callable[..., Any], features: Any, labels: Any) -> Any:
    """Apply the heads' layers: the topology, written once for Keras and for per-patient gradients.

    Args:
        spec: architecture.
        call: ``call(layer_name, *inputs)`` applies a layer; lists of tensors are passed on as they are.
        features: float32[n, d], standardised (or a Keras input of that shape).
        labels: int32[n, 1], None when unconditional.

    Returns:
        ``[realness logit float32[n, 1], class logits float32[n, classes]]``; the former alone when unconditional.
    """
    hidden = call("h_hidden_act", call("h_hidden", features))
    realness = call("h_realness", hidden)
    if not spec.conditional:
        return realness
    row = call("h_label_flat", call("h_label", labels))
    realness = call("h_sum", [realness, call("h_projection", [row, hidden])])
    return [realness, call("h_classes", hidden)]


def build_heads(spec: HeadsSpec, seed: int) -> Any:
    """Build the heads as a Keras model of built-in layers.

    Args:
        spec: architecture.
        seed: of the initial weights, as `head_start.random_heads` makes them.

    Returns:
        A keras.Model from ``[features float32[n, d], label int32[n, 1]]`` (the features alone when unconditional) to
        what `heads_graph` returns.
    """
    import keras

    pass

    made = {layer.name: layer for layer in _layers(keras.layers, spec)}
    features = keras.Input((spec.features,), name="features")
    label = keras.Input((1,), dtype="int32", name="label") if spec.conditional else None

    def call(name: str, *inputs: Any) -> Any:
        return made[name](*inputs)

    outputs = heads_graph(spec, call, features, label)
    model = keras.Model([features, label] if spec.conditional else features, outputs, name="heads")
    HeadsLayout.of(spec).assign(random_heads(spec, seed), model)
    return model


def _layers(layers: Any, spec: HeadsSpec) -> list[Any]:
    made = [
        layers.Dense(spec.hidden, name="h_hidden"),
        layers.ReLU(negative_slope=SLOPE, name="h_hidden_act"),
        layers.Dense(1, name="h_realness"),
    ]
    if spec.conditional:
        made += [
            layers.Embedding(spec.classes, spec.hidden, name="h_label"),
            layers.Flatten(name="h_label_flat"),
            layers.Dot(axes=1, name="h_projection"),
            layers.Add(name="h_sum"),
            layers.Dense(spec.classes, name="h_classes"),
        ]
    return made
