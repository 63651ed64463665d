"""The deep convolutional GAN: Keras models built from a `ModelSpec`, saved as ``.keras``.

Only built-in Keras layers are used, so that a saved generator opens anywhere Keras does. The discriminator's
topology is written once, in `discriminator_graph`: Keras runs it to build the model, and the DP engine runs it with
its own ``call`` to see the input and output of every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.models import AnySpec, ModelError, ModelSpec
from fedgan_secure.networks.centring import PublicCentre
from fedgan_secure.networks.features import (
    binomial_kernel,
    feature_grid,
    feature_scales,
    oriented_bank,
    surround_bank,
    surround_scales,
)

LayerCall = Callable[..., Any]
SLOPE = 0.2
FEATURE_GAIN = 4.0
MANY = 4
"""From so many batches on, pictures are drawn by a compiled graph."""


def _seeds(seed: int) -> Callable[[], keras.initializers.Initializer]:
    """A maker of He-style initialisers, each with its own seed, so that equal seeds give equal weights."""
    state = np.random.SeedSequence(seed)

    def fresh() -> keras.initializers.Initializer:
        child = int(state.spawn(1)[0].generate_state(1)[0]) % (2**31)
        return keras.initializers.VarianceScaling(scale=1.5, mode="fan_in", distribution="truncated_normal", seed=child)

    return fresh


def build_generator(spec: ModelSpec, seed: int) -> keras.Model:
    """The generator.

    Args:
        spec: architecture.
        seed: of the initial weights; equal seeds give equal weights.

    Returns:
        A Keras model from ``[z float32[n, latent_dim], label int32[n, 1]]`` (``z`` alone when unconditional) to
        float32[n, H, W, C] in [-1, 1].
    """
    fresh = _seeds(seed)
    layers = keras.layers
    z = keras.Input((spec.latent_dim,), name="z")
    inputs: Any = z
    hidden = z
    if spec.conditional:
        label = keras.Input((1,), dtype="int32", name="label")
        inputs = [z, label]
        embedded = layers.Embedding(
            spec.classes,
            spec.latent_dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=seed % (2**31)),
            name="g_label",
        )(label)
        hidden = layers.Concatenate(name="g_input")([z, layers.Flatten(name="g_label_flat")(embedded)])
    condition = hidden
    first = spec.generator_widths[0]
    size = spec.start_size
    hidden = layers.Dense(size * size * first, kernel_initializer=fresh(), name="g_dense")(condition)
    hidden = layers.Reshape((size, size, first), name="g_reshape")(hidden)
    for index in range(spec.doublings):
        hidden = layers.GroupNormalization(
            groups=_groups(hidden.shape[-1]), center=False, scale=False, name=f"g_norm{index}"
        )(hidden)
        hidden = _modulated(hidden, condition, fresh, index)
        hidden = layers.ReLU(negative_slope=SLOPE, name=f"g_act{index}")(hidden)
        last = index == spec.doublings - 1
        width = spec.channels if last else spec.generator_widths[index + 1]
        hidden = layers.Conv2DTranspose(
            width, 4, strides=2, padding="same", kernel_initializer=fresh(), name=f"g_up{index}"
        )(hidden)
    smooth = layers.Conv2D(spec.channels, 3, padding="same", use_bias=False, trainable=False, name="g_smooth")
    image = layers.Activation("tanh", name="g_image")(smooth(hidden))
    smooth.set_weights([binomial_kernel(spec.channels)])
    return keras.Model(inputs, image, name="generator")


def _modulated(hidden: Any, condition: Any, fresh: Callable[[], Any], index: int) -> Any:
    """Scale and shift every channel by noise vector and class: both stay visible at every resolution."""
    layers = keras.layers
    width = hidden.shape[-1]
    scale = layers.Dense(width, kernel_initializer=fresh(), bias_initializer="ones", name=f"g_scale{index}")(condition)
    shift = layers.Dense(width, kernel_initializer=fresh(), name=f"g_shift{index}")(condition)
    scale = layers.Reshape((1, 1, width), name=f"g_scale{index}_shape")(scale)
    shift = layers.Reshape((1, 1, width), name=f"g_shift{index}_shape")(shift)
    scaled = layers.Multiply(name=f"g_scaled{index}")([hidden, scale])
    return layers.Add(name=f"g_shifted{index}")([scaled, shift])


def build_discriminator(spec: ModelSpec, seed: int) -> keras.Model:
    """The discriminator.

    Args:
        spec: architecture.
        seed: of the initial weights; equal seeds give equal weights.

    Returns:
        A Keras model from ``[image float32[n, H, W, C], label int32[n, 1]]`` to ``[realness logit float32[n, 1],
        class logits float32[n, classes]]``; from the image to the realness logit alone when unconditional.
    """
    made = _discriminator_layers(spec, seed)
    image = keras.Input((spec.image_size, spec.image_size, spec.channels), name="image")
    label = keras.Input((1,), dtype="int32", name="label") if spec.conditional else None

    def call(name: str, *inputs: Any) -> Any:
        return made[name](*inputs)

    outputs = discriminator_graph(spec, call, image, label)
    model = keras.Model([image, label] if spec.conditional else image, outputs, name="discriminator")
    for name, layer in made.items():
        if name.startswith("f_bank"):
            layer.set_weights([oriented_bank() * np.float32(FEATURE_GAIN)])
        elif name.startswith("f_spots") and name.removeprefix("f_spots").isdigit():
            layer.set_weights([surround_bank(spec.channels) * np.float32(FEATURE_GAIN)])
        elif name == "f_grey":
            layer.set_weights([np.full((1, 1, spec.channels, 1), 1.0 / spec.channels, np.float32)])
    return model


def discriminator_graph(spec: ModelSpec, call: LayerCall, image: Any, label: Any) -> Any:
    """The discriminator's topology, written once.

    Args:
        spec: architecture.
        call: ``call(layer_name, *inputs)`` applies a layer; lists of tensors are passed on as they are.
        image: float32[n, H, W, C] in [-1, 1] (or a Keras input of that shape).
        label: int32[n, 1], None when unconditional.

    Returns:
        What `build_discriminator` returns for these inputs.
    """
    hidden = image
    if spec.features == "oriented":
        grey = image if spec.channels == 1 else call("f_grey", image)
        parts = [call("f_colour", image)]
        for scale in feature_scales(spec.image_size):
            reduced = grey if scale == 1 else call(f"f_reduce{scale}", grey)
            response = call(f"f_rectify{scale}", call(f"f_bank{scale}", reduced))
            pooled = _pooling(spec.image_size, scale) > 1
            parts.append(call(f"f_pool{scale}", response) if pooled else response)
        for scale in surround_scales(spec.image_size):
            reduced = image if scale == 1 else call(f"f_shrink{scale}", image)
            response = call(f"f_spots_rectify{scale}", call(f"f_spots{scale}", reduced))
            pooled = spec.image_size // scale > feature_grid(spec.image_size)
            parts.append(call(f"f_spots_pool{scale}", response) if pooled else response)
        hidden = call("f_centre", call("f_stack", parts))
    for index in range(len(spec.discriminator_widths)):
        hidden = call(f"d_conv{index}", hidden)
        if spec.normalization == "group" and index > 0:
            hidden = call(f"d_norm{index}", hidden)
        hidden = call(f"d_act{index}", hidden)
    embedding = call("d_dense_act", call("d_dense", call("d_flat", hidden)))
    realness = call("d_realness", embedding)
    if not spec.conditional:
        return realness
    row = call("d_label_flat", call("d_label", label))
    realness = call("d_sum", [realness, call("d_projection", [row, embedding])])
    return [realness, call("d_classes", embedding)]


def _feature_layers(spec: ModelSpec) -> list[keras.layers.Layer]:
    """The public filters that the trained layers look through; none of them is trained."""
    layers = keras.layers
    made: list[keras.layers.Layer] = []
    grid = feature_grid(spec.image_size)
    made.append(layers.AveragePooling2D(spec.image_size // grid, name="f_colour"))
    if spec.channels > 1:
        made.append(layers.Conv2D(1, 1, use_bias=False, trainable=False, name="f_grey"))
    for scale in feature_scales(spec.image_size):
        if scale > 1:
            made.append(layers.AveragePooling2D(scale, name=f"f_reduce{scale}"))
        bank = oriented_bank()
        made.append(
            layers.Conv2D(
                bank.shape[-1],
                bank.shape[0],
                strides=_bank_stride(spec.image_size, scale),
                padding="same",
                use_bias=False,
                trainable=False,
                name=f"f_bank{scale}",
            )
        )
        made.append(layers.ReLU(name=f"f_rectify{scale}"))
        pooling = _pooling(spec.image_size, scale)
        if pooling > 1:
            made.append(layers.AveragePooling2D(pooling, name=f"f_pool{scale}"))
    for scale in surround_scales(spec.image_size):
        if scale > 1:
            made.append(layers.AveragePooling2D(scale, name=f"f_shrink{scale}"))
        made.append(
            layers.Conv2D(
                2 * spec.channels,
                5,
                padding="same",
                use_bias=False,
                trainable=False,
                name=f"f_spots{scale}",
            )
        )
        made.append(layers.ReLU(name=f"f_spots_rectify{scale}"))
        pooling = spec.image_size // scale // grid
        if pooling > 1:
            made.append(layers.AveragePooling2D(pooling, name=f"f_spots_pool{scale}"))
    made.append(layers.Concatenate(name="f_stack"))
    made.append(PublicCentre(name="f_centre"))
    return made


def _discriminator_layers(spec: ModelSpec, seed: int) -> dict[str, keras.layers.Layer]:
    fresh = _seeds(seed)
    layers = keras.layers
    made = _feature_layers(spec) if spec.features == "oriented" else []
    for index, width in enumerate(spec.discriminator_widths):
        made.append(
            layers.Conv2D(width, 3, strides=2, padding="same", kernel_initializer=fresh(), name=f"d_conv{index}")
        )
        if spec.normalization == "group" and index > 0:
            made.append(layers.GroupNormalization(groups=_groups(width), name=f"d_norm{index}"))
        made.append(layers.ReLU(negative_slope=SLOPE, name=f"d_act{index}"))
    made += [
        layers.Flatten(name="d_flat"),
        layers.Dense(spec.discriminator_dense, kernel_initializer=fresh(), name="d_dense"),
        layers.ReLU(negative_slope=SLOPE, name="d_dense_act"),
        layers.Dense(1, kernel_initializer=fresh(), name="d_realness"),
    ]
    if spec.conditional:
        zeros = keras.initializers.Zeros()
        made += [
            layers.Embedding(spec.classes, spec.discriminator_dense, embeddings_initializer=zeros, name="d_label"),
            layers.Flatten(name="d_label_flat"),
            layers.Dot(axes=1, name="d_projection"),
            layers.Add(name="d_sum"),
            layers.Dense(spec.classes, kernel_initializer=fresh(), name="d_classes"),
        ]
    return {layer.name: layer for layer in made}


def _bank_stride(image_size: int, scale: int) -> int:
    """2 where the grid is coarser than the (reduced) image, 1 where it is as fine. The centre-surround detectors look
    at every pixel: with a stride there, the generator hides a checkerboard from them."""
    return 2 if image_size // scale // feature_grid(image_size) >= 2 else 1


def _pooling(image_size: int, scale: int) -> int:
    """How many responses, per side, are averaged into one cell of the grid."""
    return image_size // scale // feature_grid(image_size) // _bank_stride(image_size, scale)


def _groups(width: int) -> int:
    return next(groups for groups in (8, 4, 2, 1) if width % groups == 0)


def generator_inputs(spec: AnySpec, z: Any, labels: Any) -> Any:
    """The list (or single tensor) a generator of this specification is called with."""
    return [z, tf.reshape(tf.cast(labels, tf.int32), (-1, 1))] if spec.conditional else z


def draw_images(
    generator: keras.Model, spec: AnySpec, labels: np.ndarray | None, count: int, seed: int, batch: int = 64
) -> np.ndarray:
    """Draw synthetic images.

    Args:
        generator: as built by `build_generator` for this specification.
        spec: architecture.
        labels: int[count], the class of every image; None when unconditional.
        count: how many.
        seed: of the noise vectors; equal seeds give equal images.
        batch: images per call, bounds the memory.

    Returns:
        uint8[count, H, W, C].

    Raises:
        ModelError: labels are missing, too many, or out of range.
    """
    images = np.empty((count, spec.image_size, spec.image_size, spec.channels), np.uint8)
    for rows, levels in _drawn(generator, spec, labels, count, seed, batch):
        images[rows] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return images


def draw_levels(generator: keras.Model, spec: AnySpec, labels: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """Draw the same images as `draw_images`, grey levels from 0 to 255 before rounding: float32[count, H, W, C]."""
    return np.concatenate([levels for _, levels in _drawn(generator, spec, labels, count, seed, 64)])


def _drawn(
    generator: keras.Model, spec: AnySpec, labels: np.ndarray | None, count: int, seed: int, batch: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Draw images a batch at a time: which they are, and float32[n, H, W, C] grey levels."""
    if spec.conditional:
        if labels is None or len(labels) != count:
            raise ModelError(f"a conditional model needs {count} labels")
        labels = np.asarray(labels, np.int32)
        if count and not (labels.min() >= 0 and labels.max() < spec.classes):
            raise ModelError(f"labels must be 0 to {spec.classes - 1}")
    z = np.random.default_rng(seed).standard_normal((count, spec.latent_dim), dtype=np.float32)
    call = _compiled(generator) if count > MANY * batch else generator
    for start in range(0, count, batch):
        rows = slice(start, min(start + batch, count))
        chosen = labels[rows] if labels is not None else None
        drawn = call(generator_inputs(spec, tf.constant(z[rows]), chosen), training=False)
        yield rows, (np.asarray(drawn) + 1.0) * 127.5


def _compiled(generator: keras.Model) -> Any:
    """The generator as one graph: worth its compilation where many pictures are drawn."""
    return tf.function(generator, reduce_retracing=True)
