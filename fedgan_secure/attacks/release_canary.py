"""An attack on the release round: was a made-up patient, the canary, in the noisy sum or not?

The game is played many times, each time with a fair coin and with fresh noise by the code that hospitals run. The
adversary knows every other patient and the canary, takes the rest out of the noisy sum, projects what remains on the
canary's direction, and looks on which side of a threshold it falls. Games are independent, so that the two error rates
have exact confidence bounds (Clopper and Pearson 1934), and for any event A an (epsilon, delta)-DP mechanism has

    P[A | in] <= e^epsilon P[A | out] + delta,  and the same with in and out exchanged.

A single threshold is nearly the best attack on a Gaussian; several are fixed beforehand and all are paid for. Where the
noise is shared the adversary sees the sum of the t - c shares that the accountant counts. No patient is looked at and
no budget is spent; of a run's own noise this says nothing.
"""

from __future__ import annotations

import importlib
import math
import os
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedgan_audits import accountant
from fedgan_audits.mechanism import DistributedMechanism, MechanismRecord
from fedgan_protocols.quantization import FixedPoint
from fedgan_secure.adaptation.layout import ReleaseLayout
from fedgan_secure.adaptation.statistics import ImageStatistics
from fedgan_secure.errors import InputError
from fedgan_secure.federation.release_ring import Draw, decode_release_sum, encode_release, noise_of, release_deviation
from fedgan_secure.privacy import Entropy

CONFIDENCE, CERTAINTY = 0.95, 0.999
"""Of the lower bound that is told, and of a refutation."""
THRESHOLDS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""From the middle between in and out, in standard deviations of the noise; fixed beforehand, and all are paid."""
LEAST_GAMES, GAMES, MOST_GAMES = 20, 40_000, 1_000_000
_OTHERS = 16
Outcome = Literal["refuted", "doubtful", "not refuted", "not testable"]
"""Sure at 99.9 %; above the proof at 95 % alone; neither; not even the control, without noise, was refuted."""


@dataclass(frozen=True)
class Threshold:
    """What was seen at one threshold.

    Attributes:
        place: from the middle, in deviations of the noise.
        hits: games with the canary in and the score above.
        false_alarms: games with the canary out and the score above.
        least_epsilon: the bound that this threshold shows, all thresholds taken together at `CONFIDENCE`.
    """

    place: float
    hits: int
    false_alarms: int
    least_epsilon: float


@dataclass(frozen=True)
class ReleaseVerdict:
    """What the adversary shows about a release beside what is proved.

    Attributes:
        epsilon, delta: proved for the release alone.
        games, inside: how many, and in how many of them the canary was in.
        thresholds: one row each.
        sure_epsilon: the lower bound at `CERTAINTY`.
        ceiling: the lower bound had every guess been right; no attack with so many games can show more.
        control: whether the same attack on a release without noise refutes the proof.
        area: how often a score of a canary that is in is above one that is out.
        seconds: wall time.
    """

    epsilon: float
    delta: float
    games: int
    inside: int
    thresholds: tuple[Threshold, ...]
    sure_epsilon: float
    ceiling: float
    control: bool
    area: float
    seconds: float

    @property
    def least_epsilon(self) -> float:
        """The lower bound on epsilon, at 95 % confidence."""
        return max(row.least_epsilon for row in self.thresholds)

    @property
    def contradicted(self) -> bool:
        """Whether the games refute the proved epsilon at 99.9 %."""
        return self.sure_epsilon > self.epsilon

    @property
    def outcome(self) -> Outcome:
        """What follows from the games."""
        if self.contradicted:
            return "refuted"
        if self.least_epsilon > self.epsilon:
            return "doubtful"
        return "not refuted" if self.control else "not testable"

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "proved": {"epsilon": self.epsilon, "delta": self.delta},
            "least_epsilon": self.least_epsilon,
            "confidence": CONFIDENCE,
            "ceiling": self.ceiling,
            "control_refuted": self.control,
            "outcome": self.outcome,
            "games": self.games,
            "inside": self.inside,
            "thresholds": [dict(vars(row)) for row in self.thresholds],
            "area_under_curve": self.area,
            "seconds": round(self.seconds, 1),
        }


def attack_release(
    layout: ReleaseLayout,
    record: MechanismRecord,
    codec: FixedPoint,
    *,
    delta: float,
    games: int = GAMES,
    draw: Draw | None = None,
    entropy: Entropy = os.urandom,
) -> ReleaseVerdict:
    """Play the game and compare its lower bound on epsilon with the one that is proved.

    Args:
        layout: of the released vectors.
        record: the release, as the accountant and the adversary are told.
        codec: its ring.
        delta: of the policy.
        games: how many, `LEAST_GAMES` to `MOST_GAMES`.
        draw: the noise that is really added; None for the recorded one. A test may give another.
        entropy: of coins and noise.

    Raises:
        InputError: too few or too many games, or a release without noise.
    """
    if not LEAST_GAMES <= games <= MOST_GAMES:
        raise InputError(f"{games} games, expected {LEAST_GAMES} to {MOST_GAMES}")
    if record.noise_multiplier <= 0:
        raise InputError("a release without noise: no epsilon is claimed that could be refuted")
    begun = time.monotonic()
    play = _Game(layout, record, codec)
    coins = np.unpackbits(np.frombuffer(entropy(-(-games // 8)), np.uint8))[:games].astype(bool)
    noise = draw or noise_of(record, entropy)
    scores = np.array([play.score(bool(coin), noise) for coin in coins])
    silent = (play.score(False, play.silence), play.score(True, play.silence))
    told = _Bounds(accountant.epsilon([record], delta), delta, play.distance)
    rows = told.rows(scores, coins, CONFIDENCE)
    return ReleaseVerdict(
        epsilon=told.epsilon,
        delta=delta,
        games=games,
        inside=int(coins.sum()),
        thresholds=rows,
        sure_epsilon=max(row.least_epsilon for row in told.rows(scores, coins, CERTAINTY)),
        ceiling=told.shown(int(coins.sum()), 0, coins, CONFIDENCE),
        control=max(row.least_epsilon for row in told.rows(np.where(coins, silent[1], silent[0]), coins, CERTAINTY))
        > told.epsilon,
        area=_area(scores, coins),
        seconds=time.monotonic() - begun,
    )


class _Game:
    """Two neighbouring hospitals, one with the canary, and the adversary's view of their releases."""

    def __init__(self, layout: ReleaseLayout, record: MechanismRecord, codec: FixedPoint) -> None:
        self._record, self._codec = record, codec
        everybody, known = _made_up(layout), slice(0, _OTHERS)
        others = ImageStatistics(
            everybody.features[known],
            everybody.codes[known],
            everybody.labels[known],
            everybody.patient[known],
            _OTHERS,
        )
        self._without = others.clipped_sum(layout, record.l2_clip_norm).total
        self._with = everybody.clipped_sum(layout, record.l2_clip_norm).total
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


def _made_up(layout: ReleaseLayout) -> ImageStatistics:
    """`_OTHERS` ordinary patients and the canary, whose features are far above the bound; all of a fixed pattern."""
    rows = _OTHERS + 1
    row, column = np.arange(rows)[:, None], np.arange(layout.features)
    features = (((29 * column + 13 * row) % 31 - 15) / 15).astype(np.float32)
    features[-1] *= 1e4
    cells = layout.colour_bins.centres[np.arange(rows) % layout.colour_bins.cells]
    return ImageStatistics(features, cells, np.arange(rows) % layout.blocks, np.arange(rows), rows)


@dataclass(frozen=True)
class _Bounds:
    """Lower bounds on epsilon from counts, at this delta; `distance` places the thresholds."""

    epsilon: float
    delta: float
    distance: float

    def rows(self, scores: np.ndarray, coins: np.ndarray, confidence: float) -> tuple[Threshold, ...]:
        """One row for every threshold, all together at this confidence."""
        found = []
        for place in THRESHOLDS:
            above = scores > self.distance / 2 + place
            hits, alarms = int((above & coins).sum()), int((above & ~coins).sum())
            found.append(Threshold(place, hits, alarms, self.shown(hits, alarms, coins, confidence)))
        return tuple(found)

    def shown(self, hits: int, alarms: int, coins: np.ndarray, confidence: float) -> float:
        """The bound that one threshold shows, from both of its sides; never negative."""
        inside, outside = int(coins.sum()), int((~coins).sum())
        level = (1 - confidence) / (4 * len(THRESHOLDS))  # two sides, two rates each
        return max(
            0.0,
            self._side(hits, inside, alarms, outside, level),
            self._side(outside - alarms, outside, inside - hits, inside, level),
        )

    def _side(self, likely: int, of_likely: int, unlikely: int, of_unlikely: int, level: float) -> float:
        least = clopper_pearson(likely, of_likely, level)[0] - self.delta
        most = clopper_pearson(unlikely, of_unlikely, level)[1]
        return math.log(least / most) if least > 0 else 0.0


def clopper_pearson(successes: int, trials: int, level: float) -> tuple[float, float]:
    """Return bounds on the probability of success, each wrong with probability at most `level`.

    Args:
        successes, trials: counts of independent trials.
        level: of one bound, in (0, 1).

    Returns:
        (lower, upper); (0, 1) without trials.
    """
    beta: Any = importlib.import_module("scipy.stats").beta
    lower = float(beta.ppf(level, successes, trials - successes + 1)) if successes else 0.0
    upper = float(beta.ppf(1 - level, successes + 1, trials - successes)) if successes < trials else 1.0
    return lower, upper


def _area(scores: np.ndarray, coins: np.ndarray) -> float:
    """The area under the curve of all thresholds; 1/2 where one side is empty."""
    inside, outside = scores[coins], np.sort(scores[~coins])
    if not len(inside) or not len(outside):
        return 0.5
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    return float(below.mean() / (2 * len(outside)))
