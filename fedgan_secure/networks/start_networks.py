"""The networks of a public start in Keras, of built-in layers only, so that a saved generator opens anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedgan_secure.starts import (
    FEATURE_WIDTHS,
    GENERATOR_WIDTHS,
    GROUPS,
    HIDDEN_WIDTH,
    IMAGE_SIZE,
    LABEL_WIDTH,
    LATENT,
    MIX_WIDTH,
    NOISE_MAPS,
    NOISE_VECTOR,
    OUTPUTS_WEIGHT,
    SOFT_LIMIT,
    START_SIDE,
    Architecture,
    PublicStart,
)

SLOPE = 0.2
SPREAD_FLOOR = 1e-6
BATCH = 250
TASK = "computing public features"


def build_start_generator(start: PublicStart) -> keras.Model:
    """Build the start's generator with its weights, frozen.

    Returns:
        A Keras model from ``[z float32[n, 1408], label int32[n, 1]]`` to float32[n, 64, 64, channels] in [-1, 1].
        ``z`` is standard normal: the first 64 are the noise vector, then come the noise maps.
    """
    model = generator_model(start.architecture)
    load_weights(model, start.weights)
    model.trainable = False
    return model


def build_feature_network(start: PublicStart) -> keras.Model:
    """Build the start's feature network with its weights, frozen.

    Returns:
        A Keras model from float32[n, 64, 64, channels] in [-1, 1] to raw features float32[n, d], in the order of
        `PublicStart.blocks`.
    """
    model = feature_model(start.architecture)
    load_weights(model, start.weights)
    model.trainable = False
    return model


class Features:
    """Compute the start's features of pictures: standardised by public statistics, softly limited."""

    def __init__(self, start: PublicStart) -> None:
        """Build the frozen network of a start."""
        self.size = start.features
        self._network = build_feature_network(start)
        self._mean = tf.constant(start.feature_mean)
        self._scale = tf.constant(1.0 / start.feature_std)
        weight = np.ones(start.features, np.float32)
        weight[start.outputs] = OUTPUTS_WEIGHT
        self._weight = tf.constant(weight)
        picture = tf.TensorSpec((None, start.image_size, start.image_size, start.channels), tf.uint8)
        self._of_batch = tf.function(self._of_levels, input_signature=[picture])

    def of(self, x: tf.Tensor) -> tf.Tensor:
        """Return float32[n, d] for float32[n, 64, 64, channels] in [-1, 1]; differentiable in x.

        A standardised feature s becomes 6 tanh(s / 6), so every value lies within 6, or 12 for the outputs.
        """
        standardised = (self._network(x, training=False) - self._mean) * self._scale
        return SOFT_LIMIT * tf.tanh(standardised / SOFT_LIMIT) * self._weight

    def of_images(
        self, images: NDArray[np.uint8], progress: Callable[[str, int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Return float32[n, d] for uint8[n, 64, 64, channels], in batches; `progress` gets (task, done, total)."""
        features = np.zeros((len(images), self.size), np.float32)
        for first in range(0, len(images), BATCH):
            batch = images[first : first + BATCH]
            features[first : first + len(batch)] = self._of_batch(tf.constant(batch)).numpy()
            if progress is not None:
                progress(TASK, first + len(batch), len(images))
        return features

    def _of_levels(self, levels: tf.Tensor) -> tf.Tensor:
        return self.of(to_unit(levels))


def to_unit(levels: Any) -> tf.Tensor:
    """Map grey levels 0..255 to [-1, 1]: float32 of the same shape."""
    return tf.cast(levels, tf.float32) / 127.5 - 1.0


def load_weights(model: keras.Model, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Set every layer's weights that ``NAME/0`` and ``NAME/1`` give."""
    for layer in model.layers:
        mine = [weights[name] for name in (f"{layer.name}/0", f"{layer.name}/1") if name in weights]
        if mine:
            layer.set_weights(mine)


def weights_of(*models: keras.Model) -> dict[str, NDArray[np.float32]]:
    """Return the weights of layers whose name starts with ``g_`` or ``f_``, by ``NAME/i``."""
    return {
        f"{layer.name}/{index}": np.asarray(value, dtype=np.float32)
        for model in models
        for layer in model.layers
        if layer.name.startswith(("g_", "f_"))
        for index, value in enumerate(layer.get_weights())
    }


def generator_model(architecture: Architecture, seed: int = 0) -> keras.Model:
    """Build an untrained generator; `build_start_generator` tells inputs and output."""
    layers = keras.layers
    fresh = initialisers(seed)
    z = keras.Input((LATENT,), name="z")
    label = keras.Input((1,), dtype="int32", name="label")
    parts = _latent_parts(z)
    embedding = layers.Embedding(
        architecture.classes, LABEL_WIDTH, embeddings_initializer=fresh("normal", 1.0), name="g_label"
    )
    mixed = layers.Concatenate()([parts[0], layers.Flatten()(embedding(label))])
    condition = _active(layers.Dense(MIX_WIDTH, kernel_initializer=fresh("fan"), name="g_mix")(mixed))
    width = START_SIDE * START_SIDE * GENERATOR_WIDTHS[0]
    hidden = layers.Dense(width, kernel_initializer=fresh("fan"), name="g_dense")(condition)
    hidden = layers.Reshape((START_SIDE, START_SIDE, GENERATOR_WIDTHS[0]))(hidden)

    def modulation(kind: str, index: int, start: str) -> Any:
        name, width = f"g_{kind}{index}", GENERATOR_WIDTHS[index]
        dense = layers.Dense(width, kernel_initializer=fresh("normal", 0.05), bias_initializer=start, name=name)
        return layers.Reshape((1, 1, width))(dense(condition))

    for index, following in enumerate(GENERATOR_WIDTHS[1:]):
        hidden = layers.GroupNormalization(GROUPS, epsilon=1e-5, center=False, scale=False)(hidden)
        hidden = layers.Multiply()([hidden, modulation("scale", index, "ones")])
        hidden = layers.Add()([hidden, modulation("shift", index, "zeros")])
        up = layers.Conv2DTranspose(
            following, 4, strides=2, padding="same", kernel_initializer=fresh("fan"), name=f"g_up{index}"
        )
        hidden = up(_active(hidden))
        if index < len(NOISE_MAPS):
            gain = layers.Conv2D(
                following, 1, use_bias=False, kernel_initializer=fresh("normal", 0.1), name=f"g_noise{index}"
            )
            hidden = layers.Add()([hidden, gain(parts[index + 1])])
    hidden = layers.Multiply()([hidden, modulation("scale", len(GENERATOR_WIDTHS) - 1, "ones")])
    last = layers.Conv2D(architecture.channels, 3, padding="same", kernel_initializer=fresh("fan"), name="g_last")
    image = layers.Activation("tanh")(last(_active(hidden)))
    return keras.Model([z, label], image, name="generator")


def feature_model(architecture: Architecture, seed: int = 0) -> keras.Model:
    """Build an untrained feature network; `build_feature_network` tells input and output."""
    layers = keras.layers
    fresh = initialisers(seed)
    x = keras.Input((IMAGE_SIZE, IMAGE_SIZE, architecture.channels), name="image")
    hidden, responses = x, []
    for index, width in enumerate(FEATURE_WIDTHS):
        conv = layers.Conv2D(width, 5, strides=2, kernel_initializer=fresh("he"), name=f"f_conv{index}")
        norm = layers.GroupNormalization(GROUPS, epsilon=1e-5, name=f"f_norm{index}")
        hidden = layers.ReLU()(norm(conv(layers.ZeroPadding2D(2)(hidden))))
        responses.append(layers.GlobalAveragePooling2D()(hidden))
    responses.append(layers.GlobalMaxPooling2D()(hidden))
    pooled = layers.Concatenate()(responses[-2:])
    told = layers.Dense(HIDDEN_WIDTH, activation="relu", kernel_initializer=fresh("he"), name="f_hidden")(pooled)
    outputs = [layers.Dense(architecture.classes, kernel_initializer=fresh("fan"), name="f_grade")(told)]
    if architecture.counts:
        outputs.append(layers.Dense(architecture.counts, kernel_initializer=fresh("fan"), name="f_counts")(told))
    cells = layers.Permute((3, 1, 2))(layers.AveragePooling2D(IMAGE_SIZE // 4)(x))
    parts = [layers.Flatten()(cells), *_colour_shape(x, architecture.channels), *responses, *outputs]
    return keras.Model(x, layers.Concatenate(name="features")(parts), name="feature_network")


def _colour_shape(x: Any, channels: int) -> list[Any]:
    """Return, by channel: spread, mean absolute difference to the 3 x 3 average, products of means, means."""
    layers = keras.layers
    mean = layers.GlobalAveragePooling2D()(x)
    off = layers.Subtract()([x, layers.Reshape((1, 1, channels))(mean)])
    spread = layers.Activation(_root)(layers.GlobalAveragePooling2D()(layers.Multiply()([off, off])))
    kernel = np.einsum("ij,co->ijco", np.full((3, 3), 1 / 9), np.eye(channels)).astype(np.float32)
    smooth = _fixed(layers.Conv2D(channels, 3, padding="same", use_bias=False, name="box"), x, kernel)
    above, below = layers.ReLU()(layers.Subtract()([x, smooth])), layers.ReLU()(layers.Subtract()([smooth, x]))
    fine = layers.GlobalAveragePooling2D()(layers.Add()([above, below]))
    if channels == 1:
        return [spread, fine, mean]
    one, other = np.triu_indices(channels, 1)
    eye = np.eye(channels, dtype=np.float32)
    first = _fixed(layers.Dense(len(one), use_bias=False, name="pair_one"), mean, eye[:, one])
    second = _fixed(layers.Dense(len(other), use_bias=False, name="pair_other"), mean, eye[:, other])
    return [spread, fine, layers.Multiply()([first, second]), mean]


def _fixed(layer: keras.layers.Layer, x: Any, kernel: NDArray[np.float32]) -> Any:
    """Apply a layer whose only weight is a constant."""
    result = layer(x)
    layer.set_weights([kernel])
    layer.trainable = False
    return result


def _root(variance: Any) -> Any:
    return tf.sqrt(variance + SPREAD_FLOOR)


def _active(x: Any) -> Any:
    return keras.layers.ReLU(negative_slope=SLOPE)(x)


def _latent_parts(z: Any) -> list[Any]:
    """Return the noise vector [n, 64] and the noise maps [n, side, side, 1]."""
    layers = keras.layers
    column = layers.Reshape((LATENT, 1))(z)
    shapes: list[tuple[int, ...]] = [(NOISE_VECTOR,), *((side, side, 1) for side in NOISE_MAPS)]
    parts, first = [], 0
    for shape in shapes:
        end = first + int(np.prod(shape))
        parts.append(layers.Reshape(shape)(layers.Cropping1D((first, LATENT - end))(column)))
        first = end
    return parts


def initialisers(seed: int) -> Callable[..., keras.initializers.Initializer]:
    """Return a maker of initialisers with a seed each, so that equal seeds give equal weights.

    It takes ``"fan"`` (uniform, variance 1 / (3 fan-in)), ``"he"`` (normal, variance 2 / fan-in) or ``"normal"`` and a
    standard deviation.
    """
    state = np.random.SeedSequence(seed)

    def fresh(kind: str, deviation: float = 1.0) -> keras.initializers.Initializer:
        child = int(state.spawn(1)[0].generate_state(1)[0]) % (2**31)
        if kind == "normal":
            return keras.initializers.RandomNormal(stddev=deviation, seed=child)
        if kind == "he":
            return keras.initializers.HeNormal(seed=child)
        return keras.initializers.VarianceScaling(scale=1 / 3, mode="fan_in", distribution="uniform", seed=child)

    return fresh
