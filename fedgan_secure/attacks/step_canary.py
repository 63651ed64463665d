"""An attack on one step of a run that adapts a public start: was a made-up patient among those that may be drawn?

The game is that of `games`. In each of them a hospital's trainer makes one step on the heads, by the code that
hospitals run (without its self-tests), from the same first heads. Patients, generated pictures and the canary are rows
of made-up features: the guarantee holds for any features, so neither the start nor a generator is needed. The adversary
knows every other patient and when they were drawn, takes them out of the noisy gradient, and projects what remains on
the canary's own gradient; it does not know whether a canary that is in was drawn. Where the noise is shared it sees the
sum of the t - c shares that the accountant counts. More steps are composed by the accountant.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord, accountant, share_variance
from fedgan_protocols.primitives import FixedPoint
from fedgan_secure.attacks.games import Bounds, GamesVerdict, Played, toss
from fedgan_secure.errors import InputError
from fedgan_secure.federation.released import Draw
from fedgan_secure.head_training import (
    CompiledHeads,
    FakeBatches,
    FakeFeatures,
    FeatureBatch,
    FeatureSet,
    HeadSumTrainer,
    HeadTrainer,
    compiled_heads,
)
from fedgan_secure.heads import HeadSettings, HeadsSpec, random_heads
from fedgan_secure.privacy import DiscreteGaussian, Entropy, GaussianStream, ShareEncoder

GAMES, MANY_GAMES = 1_000, 20_000
"""How many where nobody says: more than the first where only they could refute a step without noise."""
OTHERS = 64
"""Made-up patients beside the canary."""
FAR = 5.0
"""The canary's features, up or down; those of images are within 6."""
_TOLD_EVERY = 50


@dataclass(frozen=True, eq=False)
class HeadsAtWork:
    """What the steps train, and on whom.

    Attributes:
        spec, settings: as in the policy.
        others, everybody: the made-up patients, without and with the canary, who is the last one.
        fakes: features that stand for generated pictures.
        start: float32[k], the heads before the step.
    """

    spec: HeadsSpec
    settings: HeadSettings
    others: FeatureSet
    everybody: FeatureSet
    fakes: FakeFeatures
    start: np.ndarray

    @classmethod
    def made_up(cls, spec: HeadsSpec, settings: HeadSettings, entropy: Entropy = os.urandom) -> HeadsAtWork:
        """Draw features of ordinary size, standard normal, and a canary far out; a patient has one image."""
        fakes = settings.fake_batch_size
        rows = GaussianStream(entropy).normal((OTHERS + 1 + fakes) * spec.features).reshape(-1, spec.features)
        rows[OTHERS] = np.where(rows[OTHERS] > 0, FAR, -FAR)
        labels = np.arange(len(rows), dtype=np.int32) % max(spec.classes, 1)

        def first(count: int) -> FeatureSet:
            patients = np.arange(count, dtype=np.int32)
            return FeatureSet(rows[:count].copy(), labels[:count], patients, count, settings.unit)

        made = FakeFeatures(rows[OTHERS + 1 :].copy(), labels[OTHERS + 1 :])
        return cls(spec, settings, first(OTHERS), first(OTHERS + 1), made, random_heads(spec, 0))

    @property
    def centre(self) -> np.ndarray:
        """float32[d], the mean of made-up features."""
        return np.zeros(self.spec.features, np.float32)

    def compiled(self) -> CompiledHeads:
        """Return the networks that hospitals' trainers share, with the first heads."""
        found = compiled_heads(self.spec, self.settings)
        found.place(self.start)
        return found

    def contributions(self) -> np.ndarray:
        """Return what each made-up patient gives to a step that draws them, float32[65, k], clipped."""
        compiled, m = self.compiled(), self.settings.images_per_patient
        rows, labels = np.zeros((m, self.spec.features), np.float32), np.zeros((m, 1), np.int32)
        weights = np.eye(1, m, dtype=np.float32)
        found = []
        for features, label in zip(self.everybody.features, self.everybody.labels, strict=True):
            rows[0], labels[0, 0] = features, label
            found.append(np.asarray(compiled.real_sum(rows, labels, weights, self.centre)[0]))
        return np.stack(found)


class Step(Protocol):
    """Something that makes a step as a hospital does, with the canary in or out."""

    def __call__(self, inside: bool, /) -> np.ndarray:
        """Return the noisy sum less what everybody but the canary gave to it, float[k]."""


def attack_step(
    heads: HeadsAtWork,
    record: MechanismRecord,
    codec: FixedPoint,
    *,
    delta: float,
    games: int | None = None,
    draw: Draw | None = None,
    progress: Callable[[int, int], None] | None = None,
    entropy: Entropy = os.urandom,
) -> GamesVerdict:
    """Play the game with steps, and once more with steps without noise as a control.

    Args:
        heads: what is trained, with the settings of what is done; a test may let them differ from `record`.
        record: the steps, as the accountant and the adversary are told; one step of them is attacked.
        codec: of the sums where the noise is shared; not looked at otherwise.
        delta: of the policy.
        games: how many, `games.LEAST_GAMES` to `games.MOST_GAMES`; None for as many as would refute a step without
            noise, from `GAMES` to `MANY_GAMES`.
        draw: shares of noise that are really added; None for the recorded ones. A test may give another.
        progress: called with (games played, all games), the control's included.
        entropy: of coins, samples and noise.

    Raises:
        InputError: too few or too many games, or steps without noise.
    """
    if record.noise_multiplier <= 0:
        raise InputError("steps without noise: no epsilon is claimed that could be refuted")
    begun = time.monotonic()
    one = record.model_copy(update={"steps": 1})
    deviation = _deviation(one)
    told = Bounds(accountant.epsilon([one], delta), delta, record.l2_clip_norm / deviation)
    count = told.telling_games(GAMES, MANY_GAMES, record.sampling_probability) if games is None else games
    own = heads.contributions()
    direction, played = own[-1] / np.linalg.norm(own[-1]), []
    for silent in (False, True):
        step, coins = _step_of(heads, own, one, codec, Noise(entropy, draw, silent)), toss(count, entropy)
        scores = np.empty(count)
        for number, coin in enumerate(coins):
            scores[number] = np.vdot(step(bool(coin)), direction) / deviation
            if progress is not None and (number + 1) % _TOLD_EVERY == 0:
                progress(silent * count + number + 1, 2 * count)
        played.append(Played(scores, coins))
    return told.verdict(played[0], played[1], time.monotonic() - begun)


def _deviation(record: MechanismRecord) -> float:
    """Of the noise in one coordinate of the sum that the accountant counts."""
    if isinstance(record, DistributedMechanism):
        return record.shares.grid_step * math.sqrt(share_variance(record) * record.shares.honest_shares)
    return record.noise_multiplier * record.l2_clip_norm


def _step_of(
    heads: HeadsAtWork, contributions: np.ndarray, record: MechanismRecord, codec: FixedPoint, noise: Noise
) -> Step:
    if isinstance(record, DistributedMechanism):
        return _SharedStep(heads, contributions, record, codec, noise)
    return _OwnStep(heads, contributions, noise)


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise of the games.

    Attributes:
        entropy: of samples and noise.
        draw: shares that are really added; None for the recorded ones.
        silent: whether there is none, for the control.
    """

    entropy: Entropy
    draw: Draw | None = None
    silent: bool = False


class _HeadTrainer(HeadTrainer):
    """The hospital's own trainer, whose step is heard and not followed: the heads stay as they are."""

    def release(self, compiled: CompiledHeads, fakes: FakeBatches, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a step's noisy gradient, float32[k], and which rows of the data were drawn, int64[size]."""
        heard = _Heard(compiled)
        self._step(heard, fakes, centre, 0)  # type: ignore[arg-type]
        return heard.gradients[0], self.drawn

    def _batch(self) -> FeatureBatch:
        batch = super()._batch()
        self.drawn: np.ndarray = batch.images[:, 0]
        return batch


class _Heard:
    """Compiled heads that keep the gradient which a step gives to the optimiser, and do not follow it."""

    def __init__(self, compiled: CompiledHeads) -> None:
        self._compiled = compiled
        self.gradients: list[np.ndarray] = []
        self.gradient = compiled.gradient

    def descend(self, gradient: Any, rate: Any) -> None:
        self.gradients.append(np.asarray(gradient))


class _OwnStep:
    """Steps of a hospital that adds all of its noise."""

    def __init__(self, heads: HeadsAtWork, contributions: np.ndarray, noise: Noise) -> None:
        settings = replace(heads.settings, noise_multiplier=0.0) if noise.silent else heads.settings
        self._heads, self._own, self._batch_size = heads, contributions, settings.expected_batch_size
        self._compiled = compiled_heads(heads.spec, settings)
        self._compiled.place(heads.start)
        self._fakes = heads.fakes.batches(settings.fake_batch_size)
        self._trainers = {
            inside: _HeadTrainer(heads.spec, settings, data, noise.entropy)
            for inside, data in ((True, heads.everybody), (False, heads.others))
        }
        self._public = self._fake_term()

    def __call__(self, inside: bool, /) -> np.ndarray:
        gradient, drawn = self._trainers[inside].release(self._compiled, self._fakes, self._heads.centre)
        known = self._own[drawn[drawn < OTHERS]].sum(axis=0)
        return np.asarray((gradient - self._public) * np.float32(self._batch_size) - known)

    def _fake_term(self) -> np.ndarray:
        """What generated pictures give to the gradient, float32[k]; public."""
        heads, m = self._heads, self._heads.settings.images_per_patient
        nobody = (
            np.zeros((m, heads.spec.features), np.float32), np.zeros((m, 1), np.int32), np.zeros((1, m), np.float32),
            np.zeros(len(heads.start), np.float32),
        )  # fmt: skip
        return np.asarray(self._compiled.gradient(*nobody, *self._fakes.of(0), heads.centre)[0])


class _SumTrainer(HeadSumTrainer):
    """The hospital's own trainer of sums, with the rows that its last step drew."""

    def use(self, encoder: ShareEncoder) -> None:
        """Add other noise than the recorded one."""
        self._encoder = encoder

    def _batch(self) -> FeatureBatch:
        batch = super()._batch()
        self.drawn: np.ndarray = batch.images[:, 0]
        return batch


class _SharedStep:
    """Steps of a hospital that adds a share of the noise, beside hospitals without patients that add theirs."""

    def __init__(
        self,
        heads: HeadsAtWork,
        contributions: np.ndarray,
        record: DistributedMechanism,
        codec: FixedPoint,
        noise: Noise,
    ) -> None:
        self._codec, self._own = codec, contributions
        self._size, self._shares = record.shares.dimension, record.shares.honest_shares
        draw = _silence if noise.silent else noise.draw
        drawn = draw or DiscreteGaussian(Fraction(share_variance(record)), noise.entropy).draw
        self._encoder = ShareEncoder(record, codec, drawn)
        self._trainers = {}
        for inside, data in ((True, heads.everybody), (False, heads.others)):
            trainer = _SumTrainer(heads.spec, heads.settings, data, record, codec, noise.entropy)
            if draw is not None:
                trainer.use(self._encoder)
            trainer.begin(heads.start, heads.centre)
            self._trainers[inside] = trainer

    def __call__(self, inside: bool, /) -> np.ndarray:
        trainer = self._trainers[inside]
        seen: Any = trainer.step(None)
        for _ in range(self._shares - 1):
            seen = seen + self._encoder.encode(np.zeros(self._size))[0]
        known = self._own[trainer.drawn[trainer.drawn < OTHERS]].sum(axis=0)
        return np.asarray(self._codec.decode_sum(seen) - known)


def _silence(size: int) -> np.ndarray:
    return np.zeros(size, np.int64)
