"""Open a model file that may be hostile: the network is built from the policy, and the weights alone are read.

What the file says of layers, functions and shapes is not looked at, so nothing of it runs. A policy may be hostile,
too: a network is built only where the file is as long as its weights need, so no more memory is asked for than a small
multiple of the file.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.models import AdaptedSpec, AnySpec, ModelError, ModelSpec, MomentsSpec, read_spec
from fedgan_secure.networks import (
    HINT,
    KERAS_3,
    KerasForm,
    build_discriminator,
    build_generator,
    read_file,
    shapes_in,
    weights_from,
)


def load_generator(path: Path, spec: AnySpec | None = None) -> keras.Model:
    """Open a ``generator.keras`` file: the weights alone, into the network that the policy describes.

    Args:
        path: the file, as it lies in ``public/model/`` of a run.
        spec: of the generator; None for what the run's ``policy.json`` says.

    Raises:
        ModelError: the file or the policy is missing or cannot be read, or the file is not that network's.
    """
    pass

    return read_network(path, spec)


MOST_POLICY = 4 * 2**20


def read_network(path: Path, spec: AnySpec | None = None, which: str = "generator") -> keras.Model:
    """Build the network of a policy and give it the weights of a file.

    Args:
        path: the ``.keras`` file, as it lies in ``public/model/`` of a run.
        spec: of the network; None for what ``policy.json`` of that run says.
        which: ``generator``, or ``discriminator`` of a run without a public start.

    Raises:
        ModelError: the file or the policy is missing, cannot be read, or they do not fit each other.
    """
    data = read_file(path)
    policy = _policy_of(path, needed=spec is None)
    found = spec if spec is not None else _spec_in(policy, path)
    if isinstance(found, AdaptedSpec):
        model = _adapted(found, policy, data, path)
    elif isinstance(found, MomentsSpec):
        model = _of_moments(found, data, path)
    else:
        _check_length(_parameters(found, which), data, path)
        model = (build_generator if which == "generator" else build_discriminator)(found, 0)
    if not KERAS_3:
        return _by_keras_2(path)
    model.set_weights(weights_from(data, KerasForm.of(model)))
    return model


def _by_keras_2(path: Path) -> keras.Model:
    """Open a file of Keras 2 by its own means, after its size was checked; for TensorFlow below 2.16 alone."""
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read as a Keras model ({type(error).__name__})") from error


def _spec_in(policy: dict[str, Any], path: Path) -> AnySpec:
    described = policy.get("model")
    if not isinstance(described, dict):
        raise ModelError(f"the policy beside {path} describes no model", hint="name the folder of a finished run")
    return read_spec(described)


def _policy_of(path: Path, *, needed: bool) -> dict[str, Any]:
    """The policy of the run that a model file lies in; an empty one where there is none and none is needed."""
    place = path.parent.parent / "policy.json"
    if not place.is_file():
        if not needed:
            return {}
        raise ModelError(
            f"{path} has no policy: {place} does not exist, and what the file says of itself is not believed",
            hint="leave the file where the run wrote it, or name the folder of a finished run",
        )
    try:
        policy = json.loads(read_file(place, MOST_POLICY))
    except (ValueError, RecursionError):
        policy = None
    if not isinstance(policy, dict):
        raise ModelError(f"{place} is not the policy of a run", hint="restore it from a backup")
    return policy


def _check_length(parameters: int, data: bytes, path: Path) -> None:
    """Refuse a file that cannot hold so many float32 weights, or that is far longer than they need."""
    least = 4 * parameters
    most = 2 * least + 4 * 2**20
    if not least <= len(data) <= most:
        raise ModelError(
            f"{path} has {len(data)} bytes, expected {least} to {most} for the {parameters} weights of its policy's "
            "network",
            hint=HINT,
        )


def _parameters(spec: ModelSpec, which: str) -> int:
    """A lower bound on the weights of a network: those of its dense layers and convolutions, biases left out."""
    if which == "discriminator":
        widths = spec.discriminator_widths
        return sum(9 * one * other for one, other in itertools.pairwise(widths)) + widths[-1] * spec.discriminator_dense
    given = spec.latent_dim * (2 if spec.conditional else 1)
    widths = (*spec.generator_widths, spec.channels)
    dense = given * (spec.start_size**2 * widths[0] + 2 * sum(spec.generator_widths))
    return dense + spec.classes * spec.latent_dim + sum(16 * one * other for one, other in itertools.pairwise(widths))


def _adapted(spec: AdaptedSpec, policy: dict[str, Any], data: bytes, path: Path) -> keras.Model:
    """The generator of a run with a public start; the start's weights are in the file, too."""
    from fedgan_secure.adaptation import build_adapted_generator, build_transfer, transfer_shape
    from fedgan_secure.networks import generator_model
    from fedgan_secure.starts import IMAGE_SIZE, NOISE_VECTOR, Architecture
    from fedgan_secure.statistics import ColourBins, ReleaseLayout

    release = policy.get("release")
    try:
        told = release.get("layout") if isinstance(release, dict) else None
        bins = ColourBins.for_channels(spec.channels) if told is None else ReleaseLayout.from_json(told).colour_bins
        architecture = Architecture(_start_classes(spec, data), 0, spec.channels)
    except (InputError, ValueError) as error:
        raise ModelError(f"the policy of {path} describes no adapted generator: {error}", hint=HINT) from None
    if spec.image_size != IMAGE_SIZE:
        raise ModelError(f"model.image_size is {spec.image_size}, expected {IMAGE_SIZE} with a public start", hint=HINT)
    tables = spec.pool * (NOISE_VECTOR + 1 + max(spec.classes, 1)) + bins.cells * (1 + len(bins.bins))
    _check_length(tables + 9 * spec.transfer_width**2, data, path)
    transfer = build_transfer(transfer_shape(spec))
    pool = np.zeros((spec.pool, NOISE_VECTOR), np.float32), np.zeros(spec.pool, np.int32)
    chances = np.full((max(spec.classes, 1), spec.pool), 1.0 / spec.pool)
    histogram = np.full(bins.cells, 1.0 / bins.cells)
    return build_adapted_generator(spec, generator_model(architecture), transfer, pool, chances, (histogram, bins))


def _of_moments(spec: MomentsSpec, data: bytes, path: Path) -> keras.Model:
    """The generator of a run that starts from moments; its tables, and the scaled basis, are in the file."""
    from fedgan_secure.networks import build_moments_generator, parameters

    _check_length(parameters(spec), data, path)
    rows, size = max(spec.classes, 1), spec.latent_dim
    return build_moments_generator(spec, 1.0, np.zeros((rows, size)), np.zeros((rows, size, size)))


def _start_classes(spec: AdaptedSpec, data: bytes) -> int:
    """How many classes the public start has: known where it is a shipped one, else the rows of its label's table."""
    from fedgan_secure.starts import LABEL_WIDTH, MOST_CLASSES, SHIPPED, shipped_start

    for name, (_, digest) in SHIPPED.items():
        if digest == spec.start_sha256:
            return shipped_start(name).classes
    found = {
        shape[0]
        for shape in shapes_in(data).values()
        if len(shape) == 2 and shape[1] == LABEL_WIDTH and 2 <= shape[0] <= MOST_CLASSES
    }
    if len(found) != 1:
        raise ModelError(
            f"the model file has {len(found)} tables that could be the labels of a public start, expected one",
            hint=HINT,
        )
    return found.pop()
