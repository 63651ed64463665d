"""tensorflow-privacy's private step against the plain one of the same TensorFlow.

It runs in the environment of `requirements/crosscheck.txt`.

As the product's step: per-example gradients (`VectorizedDPKerasAdamOptimizer`) for the real half alone, the generated
half plain, noise and Adam included, in one compiled function. Arguments: image size, batch, rounds. Prints one JSON
line.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import tensorflow as tf
import tensorflow_privacy

from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.dcgan import build_discriminator

WIDTHS = (64, 128, 256, 512)
GENERATOR_WIDTHS = {28: (64, 32), 64: (96, 64, 32, 16), 128: (96, 64, 32, 16, 12)}


def main(image_size: int, batch: int, rounds: int) -> None:
    spec = ModelSpec(
        image_size,
        3,
        0,
        generator_widths=GENERATOR_WIDTHS[image_size],
        discriminator_widths=WIDTHS,
        features="none",
        normalization="group",
    )
    real, fake = (tf.random.uniform((batch, image_size, image_size, 3), -1, 1) for _ in range(2))
    plain_model, private_model = build_discriminator(spec, 1), build_discriminator(spec, 1)
    plain_adam = tf.keras.optimizers.legacy.Adam(1e-4, 0.5, 0.9)
    dp_adam = tensorflow_privacy.VectorizedDPKerasAdamOptimizer(
        1.0, 1.0, num_microbatches=batch, learning_rate=1e-4, beta_1=0.5, beta_2=0.9
    )

    @tf.function
    def plain() -> Any:
        with tf.GradientTape() as tape:
            outputs = plain_model(tf.concat([real, fake], axis=0))
            loss = tf.reduce_mean(tf.nn.softplus(-outputs[:batch])) + tf.reduce_mean(tf.nn.softplus(outputs[batch:]))
        weights = plain_model.trainable_variables
        plain_adam.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    @tf.function
    def private() -> Any:
        weights = private_model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softplus(private_model(fake)))
        generated = tape.gradient(loss, weights)
        with tf.GradientTape(persistent=True) as tape:  # entered again by the optimiser
            losses = tf.nn.softplus(-private_model(real))[:, 0]
        pairs = dp_adam._compute_gradients(losses, weights, tape=tape)
        dp_adam.apply_gradients([(noisy + own, w) for (noisy, w), own in zip(pairs, generated, strict=True)])
        return loss

    times: dict[str, list[float]] = {"plain": [], "private": []}
    for index in range(rounds + 1):
        for name, step in (("plain", plain), ("private", private)):
            started = time.perf_counter()
            step().numpy()
            if index >= 1:
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        json.dumps(
            {
                "ratio": medians["private"] / medians["plain"],
                "plain_seconds": medians["plain"],
                "private_seconds": medians["private"],
                "rounds": rounds,
                "versions": {"tensorflow-privacy": version("tensorflow-privacy"), "tensorflow": tf.__version__},
            }
        )
    )


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:4]))
