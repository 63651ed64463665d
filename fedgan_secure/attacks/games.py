"""Games with one canary: what an adversary shows who guesses, game after game, whether it was in or out.

Each game has a fair coin and fresh noise. Games are independent, so that the two error rates have exact confidence
bounds (Clopper and Pearson 1934), and for any event A an (epsilon, delta)-DP mechanism has

    P[A | in] <= e^epsilon P[A | out] + delta,  and the same with in and out exchanged.

A single threshold is nearly the best attack on a Gaussian; several are fixed beforehand and all are paid for.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.privacy import Entropy

CONFIDENCE, CERTAINTY = 0.95, 0.999
"""Of the lower bound that is told, and of a refutation."""
THRESHOLDS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""From the middle between in and out, in standard deviations of the noise; fixed beforehand, and all are paid."""
LEAST_GAMES, MOST_GAMES = 20, 1_000_000
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
class GamesVerdict:
    """What the adversary shows about one mechanism beside what is proved.

    Attributes:
        epsilon, delta: proved for that mechanism alone.
        games, inside: how many, and in how many of them the canary was in.
        thresholds: one row each.
        sure_epsilon: the lower bound at `CERTAINTY`.
        ceiling: the lower bound had every guess been right; no attack with so many games can show more.
        control: whether the same attack without noise refutes the proof.
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


def toss(games: int, entropy: Entropy) -> np.ndarray:
    """Return fair coins, bool[games]. Raises InputError: fewer than `LEAST_GAMES` or more than `MOST_GAMES`."""
    if not LEAST_GAMES <= games <= MOST_GAMES:
        raise InputError(f"{games} games, expected {LEAST_GAMES} to {MOST_GAMES}")
    return np.unpackbits(np.frombuffer(entropy(-(-games // 8)), np.uint8))[:games].astype(bool)


@dataclass(frozen=True, eq=False)
class Played:
    """Games that were played.

    Attributes:
        scores: float64[n], how far what was seen lies in the canary's direction, in deviations of the noise.
        coins: bool[n], whether the canary was in.
    """

    scores: np.ndarray
    coins: np.ndarray


@dataclass(frozen=True)
class Bounds:
    """What is proved, and lower bounds on epsilon from counts.

    Attributes:
        epsilon, delta: proved.
        distance: how far in and out are apart, in deviations of the noise; it places the thresholds.
    """

    epsilon: float
    delta: float
    distance: float

    def verdict(self, played: Played, control: Played, seconds: float) -> GamesVerdict:
        """Return what games show. Args: control: games without noise; seconds: what all of them took."""
        scores, coins = played.scores, played.coins
        return GamesVerdict(
            epsilon=self.epsilon,
            delta=self.delta,
            games=len(coins),
            inside=int(coins.sum()),
            thresholds=self.rows(scores, coins, CONFIDENCE),
            sure_epsilon=_largest(self.rows(scores, coins, CERTAINTY)),
            ceiling=self.shown(int(coins.sum()), 0, coins, CONFIDENCE),
            control=_largest(self.rows(control.scores, control.coins, CERTAINTY)) > self.epsilon,
            area=_area(scores, coins),
            seconds=seconds,
        )

    def telling_games(self, least: int, most: int, chance: float = 1.0) -> int:
        """Return how many games would refute the proof if the noise were missing, `most` where even these would not.

        Args:
            least, most: the number is between the two.
            chance: of a canary that is in to be drawn.
        """
        games = least
        while games < most:
            half = games // 2
            hits = math.floor(chance * half - 4 * math.sqrt(chance * half)) if chance < 1 else half
            coins = np.arange(games) % 2 == 0
            if self.shown(max(hits, 0), 0, coins, CERTAINTY) > 1.02 * self.epsilon:
                break
            games = min(most, math.ceil(1.1 * games))
        return games

    def rows(self, scores: np.ndarray, coins: np.ndarray, confidence: float) -> tuple[Threshold, ...]:
        """Return one row for every threshold, all together at this confidence."""
        found = []
        for place in THRESHOLDS:
            above = scores > self.distance / 2 + place
            hits, alarms = int((above & coins).sum()), int((above & ~coins).sum())
            found.append(Threshold(place, hits, alarms, self.shown(hits, alarms, coins, confidence)))
        return tuple(found)

    def shown(self, hits: int, alarms: int, coins: np.ndarray, confidence: float) -> float:
        """Return the bound that one threshold shows, from both of its sides; never negative."""
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


def _largest(rows: tuple[Threshold, ...]) -> float:
    return max(row.least_epsilon for row in rows)
