"""An attack on the release round: was a made-up patient, the canary, in the noisy sum or not?

The game is that of `games`, with fresh noise by the code that hospitals run. The adversary knows every other patient
and the canary, takes the rest out of the noisy sum, projects what remains on the canary's direction, and looks on which
side of a threshold it falls. Where the noise is shared the adversary sees the sum of the t - c shares that the
accountant counts. No patient is looked at and no budget is spent; of a run's own noise this says nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord, accountant
from fedgan_protocols.primitives import FixedPoint
from fedgan_secure.attacks.games import Bounds, GamesVerdict, Played, toss
from fedgan_secure.errors import InputError
from fedgan_secure.federation.released import Draw, decode_release_sum, encode_release, noise_of, release_deviation
from fedgan_secure.moments import AnyLayout, MomentsLayout, release_sum
from fedgan_secure.privacy import Entropy
from fedgan_secure.statistics import ImageStatistics

GAMES, MANY_GAMES = 40_000, 200_000
"""How many where nobody says: more than the first where only they could refute a release without noise."""
ORDINARY = 10_000
"""Longer vectors are played fewer games with by default, so that an attack takes minutes: see `default_games`."""
LEAST_BY_DEFAULT = 1_000
_OTHERS, _TOLD_EVERY = 16, 500


def attack_release(
    layout: AnyLayout,
    record: MechanismRecord,
    codec: FixedPoint,
    *,
    delta: float,
    games: int | None = GAMES,
    draw: Draw | None = None,
    progress: Callable[[int, int], None] | None = None,
    entropy: Entropy = os.urandom,
) -> GamesVerdict:
    """Play the game and compare its lower bound on epsilon with the one that is proved.

    Args:
        layout: of the released vectors.
        record: the release, as the accountant and the adversary are told.
        codec: its ring.
        delta: of the policy.
        games: how many, `games.LEAST_GAMES` to `games.MOST_GAMES`; None for as many as would refute a release without
            noise, within `default_games`.
        draw: the noise that is really added; None for the recorded one. A test may give another.
        progress: called with (games played, games).
        entropy: of coins and noise.

    Raises:
        InputError: too few or too many games, or a release without noise.
    """
    if record.noise_multiplier <= 0:
        raise InputError("a release without noise: no epsilon is claimed that could be refuted")
    begun = time.monotonic()
    play = _Game(layout, record, codec)
    told = Bounds(accountant.epsilon([record], delta), delta, play.distance)
    coins = toss(told.telling_games(*default_games(layout.dimension)) if games is None else games, entropy)
    noise, scores = draw or noise_of(record, entropy), np.empty(len(coins))
    for number, coin in enumerate(coins):
        scores[number] = play.score(bool(coin), noise)
        if progress is not None and (number + 1) % _TOLD_EVERY == 0:
            progress(number + 1, len(coins))
    silent = np.where(coins, play.score(True, play.silence), play.score(False, play.silence))
    return told.verdict(Played(scores, coins), Played(silent, coins), time.monotonic() - begun)


def default_games(dimension: int) -> tuple[int, int]:
    """Return how many games are played at least and at most where nobody says; fewer with long vectors."""
    share = min(1.0, ORDINARY / dimension)
    return max(LEAST_BY_DEFAULT, round(share * GAMES)), max(LEAST_BY_DEFAULT, round(share * MANY_GAMES))


class _Game:
    """Two neighbouring hospitals, one with the canary, and the adversary's view of their releases."""

    def __init__(self, layout: AnyLayout, record: MechanismRecord, codec: FixedPoint) -> None:
        self._record, self._codec = record, codec
        everybody, known = _made_up(layout), slice(0, _OTHERS)
        others = ImageStatistics(
            everybody.features[known],
            everybody.codes[known],
            everybody.labels[known],
            everybody.patient[known],
            _OTHERS,
        )
        self._without = release_sum(layout, others, record.l2_clip_norm).total
        self._with = release_sum(layout, everybody, record.l2_clip_norm).total
        canary = self._with - self._without
        self._direction = canary / np.linalg.norm(canary)
        self._shares = record.shares.honest_shares if isinstance(record, DistributedMechanism) else 1
        self._deviation = release_deviation(record, self._shares)
        self.distance = record.l2_clip_norm / self._deviation
        """How far in and out are apart, in deviations of the noise, where the canary is clipped as recorded."""

    def score(self, inside: bool, draw: Draw) -> float:
        """One game: how far the noisy sum lies from one without the canary, in its direction and in deviations."""
        nobody = np.zeros(len(self._without))
        seen: Any = None
        for share in range(self._shares):
            own = nobody if share else self._with if inside else self._without
            values = encode_release(own, self._record, self._codec, draw).values
            seen = values if seen is None else seen + values
        noisy = decode_release_sum(seen, self._shares, self._codec)
        return float(np.vdot(noisy - self._without, self._direction)) / self._deviation

    def silence(self, size: int) -> np.ndarray:
        """No noise, for the control."""
        return np.zeros(size, np.int64 if isinstance(self._record, DistributedMechanism) else np.float32)


def _made_up(layout: AnyLayout) -> ImageStatistics:
    """`_OTHERS` ordinary patients and the canary, whose features are far above the bound; all of a fixed pattern."""
    rows = _OTHERS + 1
    row, column = np.arange(rows)[:, None], np.arange(layout.features)
    features = (((29 * column + 13 * row) % 31 - 15) / 15).astype(np.float32)
    features[-1] *= 1e4
    if isinstance(layout, MomentsLayout):
        cells = np.zeros((rows, 0), np.float32)
    else:
        cells = layout.colour_bins.centres[np.arange(rows) % layout.colour_bins.cells]
    return ImageStatistics(features, cells, np.arange(rows) % layout.blocks, np.arange(rows), rows)
