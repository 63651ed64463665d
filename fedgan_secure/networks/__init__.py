"""Keras networks: built from what a policy names, laid out as vectors, written as files. Loads TensorFlow."""

from fedgan_secure.networks.dcgan import (
    build_discriminator,
    build_generator,
    discriminator_graph,
    draw_images,
    draw_levels,
    generator_inputs,
)
from fedgan_secure.networks.features import oriented_bank
from fedgan_secure.networks.keras_file import KERAS_3, KerasForm, keras_bytes
from fedgan_secure.networks.keras_reading import HINT, read_file, shapes_in, weights_from
from fedgan_secure.networks.losses import fake_loss, generator_loss, lack_of_diversity, real_loss
from fedgan_secure.networks.moments_generator import (
    MEAN,
    ROOT,
    TABLES_GRID,
    TABLES_SLACK,
    build_moments_generator,
    parameters,
)
from fedgan_secure.networks.optimiser import AdamState, FlatAdam
from fedgan_secure.networks.start_networks import (
    BATCH,
    SLOPE,
    SPREAD_FLOOR,
    Features,
    build_start_generator,
    feature_model,
    generator_model,
    initialisers,
    to_unit,
    weights_of,
)
from fedgan_secure.networks.vectors import VectorLayout, named_weights

__all__ = [
    "BATCH",
    "HINT",
    "KERAS_3",
    "MEAN",
    "ROOT",
    "SLOPE",
    "SPREAD_FLOOR",
    "TABLES_GRID",
    "TABLES_SLACK",
    "AdamState",
    "Features",
    "FlatAdam",
    "KerasForm",
    "VectorLayout",
    "build_discriminator",
    "build_generator",
    "build_moments_generator",
    "build_start_generator",
    "discriminator_graph",
    "draw_images",
    "draw_levels",
    "fake_loss",
    "feature_model",
    "generator_inputs",
    "generator_loss",
    "generator_model",
    "initialisers",
    "keras_bytes",
    "lack_of_diversity",
    "named_weights",
    "oriented_bank",
    "parameters",
    "read_file",
    "real_loss",
    "shapes_in",
    "to_unit",
    "weights_from",
    "weights_of",
]
