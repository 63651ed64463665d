"""Train the public generator against two discriminators, without privacy: none of its pictures is a patient's.

Logistic loss (Goodfellow et al. 2014, the non-saturating form) with the gradient penalty R1 on every fourth step
(Mescheder et al., "Which Training Methods for GANs do actually Converge?", ICML 2018, section 4.1). Beside the
conditional discriminator stands one that sees neither class nor true colours, so that shapes are learned too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fedgan_secure.networks import FlatAdam, generator_model, to_unit
from fedgan_secure.pretraining.feature_training import grade_loss
from fedgan_secure.pretraining.judges import Judge, recolour
from fedgan_secure.pretraining.phases import Floats, assign, flat, load_optimiser, optimiser_state
from fedgan_secure.pretraining.public_set import PublicSet
from fedgan_secure.starts import LATENT

RATE = 1e-3
BETAS = (0.0, 0.99)
PENALTY = 0.05
PENALTY_EVERY = 4
AVERAGE = 0.9995
BLIND_WEIGHT = 0.5
GRADE_WEIGHT = 0.3
_STREAM = 2


class Players:
    """Hold the networks of the game: generator, its running average, and two discriminators."""

    def __init__(self, public: PublicSet, seed: int) -> None:
        """Build them untrained; equal seeds give equal weights."""
        architecture = public.architecture
        self.classes, self.outputs = architecture.classes, architecture.outputs
        self.generator: keras.Model = generator_model(architecture, seed)
        self.judge = Judge(architecture, conditional=True, seed=seed + 1)
        self.blind = Judge(architecture, conditional=False, seed=seed + 2)
        self.weights = self.generator.trainable_variables
        self.judges = [*self.judge.variables, *self.blind.variables]
        self.average = [tf.Variable(value, trainable=False) for value in self.weights]

    def use_average(self) -> None:
        """Give the generator its averaged weights."""
        for value, average in zip(self.weights, self.average, strict=True):
            value.assign(average)


class GeneratorPhase:
    """Train the generator for a number of steps; a `phases.Phase`.

    With `guide`, a trained feature network, the generator also gets .3 times the cross-entropy of the grade that the
    network sees in its pictures.
    """

    def __init__(
        self,
        part: int,
        players: Players,
        public: PublicSet,
        *,
        steps: int,
        batch: int,
        seed: int,
        guide: keras.Model | None = None,
    ) -> None:
        """Begin part `part` (1, 2) from the players as they are, with fresh optimisers."""
        self.name = f"generator-{part}"
        self.task = f"training the public generator, part {part}"
        self.steps, self._batch, self._seed, self._part = steps, batch, seed, part
        self._players, self._public, self._guide = players, public, guide
        self._generator_adam = FlatAdam(players.weights, *BETAS)
        self._judges_adam = FlatAdam(players.judges, *BETAS)
        self._compiled = {penalty: tf.function(self._judges_step(penalty)) for penalty in (False, True)}
        self._compiled_generator = tf.function(self._generator_step)

    def step(self, index: int) -> None:
        """Make one step of the discriminators and one of the generator; the rate falls after a third."""
        generator = np.random.default_rng([self._seed, _STREAM, self._part, index])
        rows = generator.choice(self._public.training, self._batch)
        rate = tf.constant(RATE * min(1.0, 1.3 - 1.2 * index / self.steps), tf.float32)
        seed = tf.constant([self._seed + 1000 * self._part, 16 * index], tf.int32)
        levels = self._public.images[rows]
        if self._public.flips:
            mirrored = generator.random(self._batch) < 0.5
            levels = np.where(mirrored[:, None, None, None], levels[:, :, ::-1], levels)
        labels = tf.constant(self._public.labels[rows])
        self._compiled[index % PENALTY_EVERY == 0](tf.constant(levels), labels, rate, seed)
        asked = generator.integers(0, self._players.classes, self._batch, dtype=np.int32)
        # the first steps weigh more, or a short training would hand on its random beginning
        keep = tf.constant(min(AVERAGE, (1.0 + index) / (10.0 + index)), tf.float32)
        self._compiled_generator(tf.constant(asked), rate, keep, seed + tf.constant([0, 8]))

    def _made(self, labels: Any, seed: Any) -> tf.Tensor:
        z = tf.random.stateless_normal((tf.shape(labels)[0], LATENT), seed)
        return self._players.generator([z, labels[:, None]], training=True)

    def _judges_step(self, penalty: bool) -> Any:
        players = self._players

        def step(levels: Any, labels: Any, rate: Any, seed: Any) -> None:
            x, fake = to_unit(levels), self._made(labels, seed)
            seen_seed, made_seed = seed + tf.constant([0, 2]), seed + tf.constant([0, 4])
            with tf.GradientTape() as tape:
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    seen = players.judge(x, labels), players.blind(recolour(x, seen_seed))
                    total = tf.reduce_sum(seen[0]) + tf.reduce_sum(seen[1])
                made = players.judge(fake, labels), players.blind(recolour(fake, made_seed))
                losses = [tf.nn.softplus(-score) for score in seen] + [tf.nn.softplus(score) for score in made]
                loss = tf.add_n([tf.reduce_mean(value) for value in losses])
                if penalty:  # on every fourth step, so four times as strong
                    slope = tf.reduce_sum(tf.square(inner.gradient(total, x)), axis=(1, 2, 3))
                    loss += PENALTY * PENALTY_EVERY * 0.5 * tf.reduce_mean(slope)
            self._judges_adam.apply(flat(tape.gradient(loss, players.judges)), rate)

        return step

    def _generator_step(self, labels: Any, rate: Any, keep: Any, seed: Any) -> None:
        players = self._players
        with tf.GradientTape() as tape:
            fake = self._made(labels, seed)
            blind = players.blind(recolour(fake, seed + tf.constant([0, 2])))
            loss = tf.reduce_mean(tf.nn.softplus(-players.judge(fake, labels)))
            loss += BLIND_WEIGHT * tf.reduce_mean(tf.nn.softplus(-blind))
            if self._guide is not None:
                grade = self._guide(fake, training=False)[:, -players.outputs :][:, : players.classes]
                loss += GRADE_WEIGHT * grade_loss(grade, labels)
        self._generator_adam.apply(flat(tape.gradient(loss, players.weights)), rate)
        for average, value in zip(players.average, players.weights, strict=True):
            average.assign_add((1.0 - keep) * (value - average))

    def state(self) -> dict[str, Floats]:
        """Return the players and both optimisers."""
        players = self._players
        return {
            "weights": flat(players.weights).numpy(),
            "judges": flat(players.judges).numpy(),
            "average": flat(players.average).numpy(),
            **optimiser_state("generator_adam", self._generator_adam),
            **optimiser_state("judges_adam", self._judges_adam),
        }

    def load(self, state: Mapping[str, Floats]) -> None:
        """Go on from a state."""
        players = self._players
        assign(players.weights, state["weights"])
        assign(players.judges, state["judges"])
        assign(players.average, state["average"])
        load_optimiser("generator_adam", self._generator_adam, state)
        load_optimiser("judges_adam", self._judges_adam, state)
