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

from fedgan_audits import accountant
from fedgan_audits.integer_noise import share_variance
from fedgan_audits.mechanism import DistributedMechanism, MechanismRecord
from fedgan_protocols.quantization import FixedPoint
from fedgan_secure.adaptation.head_data import FakeFeatures, FeatureBatch, FeatureSet
from fedgan_secure.adaptation.head_networks import CompiledHeads, compiled_heads
from fedgan_secure.adaptation.head_settings import HeadSettings
from fedgan_secure.adaptation.head_start import random_heads
from fedgan_secure.adaptation.head_sums import HeadSumTrainer
from fedgan_secure.adaptation.head_training import HeadTrainer
from fedgan_secure.adaptation.heads import HeadsSpec
from fedgan_secure.attacks.games import Bounds, GamesVerdict, Played, toss
from fedgan_secure.attacks.watching import Watching
from fedgan_secure.errors import InputError
from fedgan_secure.federation.distributed import ShareEncoder
from fedgan_secure.federation.release_ring import Draw
from fedgan_secure.privacy import Entropy
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.noise import GaussianStream

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

    def direction(self) -> np.ndarray:
        """Return the canary's own gradient, float64[k], of norm 1."""
        compiled, last = compiled_heads(self.spec, self.settings), self.everybody
        compiled.place(self.start)
        weights = np.zeros((1, self.settings.images_per_patient), np.float32)
        weights[0, 0] = 1.0
        rows = np.zeros((weights.size, self.spec.features), np.float32)
        rows[0] = last.features[-1]
        labels = np.full((weights.size, 1), last.labels[-1], np.int32)
        found = np.asarray(compiled.real_sum(rows, labels, weights, self.centre)[0], np.float64)
        return found / np.linalg.norm(found)


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
    direction, played = heads.direction(), []
    for silent in (False, True):
        step, coins = _step_of(heads, one, codec, entropy, draw, silent=silent), toss(count, entropy)
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
    heads: HeadsAtWork, record: MechanismRecord, codec: FixedPoint, entropy: Entropy, draw: Draw | None, *, silent: bool
) -> Step:
    if isinstance(record, DistributedMechanism):
        return _SharedStep(heads, record, codec, entropy, _silence if silent else draw)
    settings = replace(heads.settings, noise_multiplier=0.0) if silent else heads.settings
    return _OwnStep(heads, settings, entropy)


def _silence(size: int) -> np.ndarray:
    return np.zeros(size, np.int64)


class _Heard:
    """Keeps what the last step released."""

    def __init__(self) -> None:
        self.last = np.zeros(0, np.float32)

    def see(self, released: np.ndarray) -> None:
        self.last = released


class _WatchedHeadTrainer(Watching, HeadTrainer):
    gradient_function = "gradient"


class _OwnStep:
    """Steps of a hospital that adds all of its noise."""

    def __init__(self, heads: HeadsAtWork, settings: HeadSettings, entropy: Entropy) -> None:
        self._heads, self._heard = heads, _Heard()
        self._trainers = {}
        for inside, data in ((True, heads.everybody), (False, heads.others)):
            trainer = _WatchedHeadTrainer(heads.spec, settings, data, entropy)
            trainer.watch(len(heads.others), lambda compiled: self._heard)
            self._trainers[inside] = trainer

    def __call__(self, inside: bool, /) -> np.ndarray:
        heads = self._heads
        self._trainers[inside].train(heads.start, heads.fakes, heads.centre, 1)
        return self._heard.last


class _WatchedSumTrainer(HeadSumTrainer):
    """Keeps what the adversary knows of a step: the clipped sum of everybody but the canary."""

    drawn: FeatureBatch
    networks: CompiledHeads

    def use(self, encoder: ShareEncoder) -> None:
        """Add other noise than the recorded one."""
        self._encoder = encoder

    def known(self, first_canary: int) -> np.ndarray:
        """Return that sum of the last step, float32[k]."""
        batch, weights = self.drawn, self.drawn.weights.copy()
        weights[: batch.size][(batch.images >= first_canary).any(axis=1)] = 0.0
        return np.asarray(self._compiled.real_sum(batch.features, batch.labels, weights, self._centre)[0].numpy())

    def _batch(self) -> FeatureBatch:
        self.drawn = super()._batch()
        return self.drawn


class _SharedStep:
    """Steps of a hospital that adds a share of the noise, beside hospitals without patients that add theirs."""

    def __init__(
        self, heads: HeadsAtWork, record: DistributedMechanism, codec: FixedPoint, entropy: Entropy, draw: Draw | None
    ) -> None:
        self._codec, self._first = codec, len(heads.others)
        self._size, self._shares = record.shares.dimension, record.shares.honest_shares
        drawn = draw or DiscreteGaussian(Fraction(share_variance(record)), entropy).draw
        self._encoder = ShareEncoder(record, codec, drawn)
        self._trainers = {}
        for inside, data in ((True, heads.everybody), (False, heads.others)):
            trainer = _WatchedSumTrainer(heads.spec, heads.settings, data, record, codec, entropy)
            if draw is not None:
                trainer.use(self._encoder)
            trainer.begin(heads.start, heads.centre)
            self._trainers[inside] = trainer

    def __call__(self, inside: bool, /) -> np.ndarray:
        trainer = self._trainers[inside]
        seen: Any = trainer.step(None)
        for _ in range(self._shares - 1):
            seen = seen + self._encoder.encode(np.zeros(self._size))[0]
        return np.asarray(self._codec.decode_sum(seen) - trainer.known(self._first))
