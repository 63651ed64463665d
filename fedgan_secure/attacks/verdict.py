"""What guesses about canaries show, beside what is proved for as many steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedgan_secure.attacks.games import CONFIDENCE, Outcome

CONTRADICTION = 1e-3


@dataclass(frozen=True)
class Guesses:
    """What the adversary made of one number of guesses.

    Attributes:
        ins, outs: how many canaries were guessed to be in, and to be out.
        right: how many of these guesses were right.
        least_epsilon: the bound that this shows, the four numbers of guesses taken together at `CONFIDENCE`.
        ceiling: what it would have been had every guess been right.
        p_value: at most the probability of so many right guesses if the proved epsilon held; not corrected for four.
    """

    ins: int
    outs: int
    right: int
    least_epsilon: float
    ceiling: float
    p_value: float

    @property
    def guesses(self) -> int:
        """All of them."""
        return self.ins + self.outs


@dataclass(frozen=True)
class Verdict:
    """What the adversary shows beside what is proved.

    Attributes:
        epsilon, delta: proved for the steps that were attacked, one patient in one hospital; at the attack's delta.
        claimed: the same pair at the policy's delta, which is larger.
        control: whether the same attack, made on the same training without its noise, refutes the proof. Where it does
            not, the attack tests nothing.
        steps, canaries, others: of the rehearsal.
        rows: one for each number of guesses.
        roc: (false positive rate, true positive rate) of every threshold.
        area: under that curve: how often a canary that is in is believed more than one that is out.
        seconds: wall time.
    """

    epsilon: float
    delta: float
    claimed: tuple[float, float]
    control: bool
    steps: int
    canaries: int
    others: int
    rows: tuple[Guesses, ...]
    roc: tuple[tuple[float, float], ...]
    area: float
    seconds: float

    @property
    def least_epsilon(self) -> float:
        """The lower bound on epsilon, at 95 % confidence."""
        return max(row.least_epsilon for row in self.rows)

    @property
    def ceiling(self) -> float:
        """No attack with so many canaries can show more."""
        return max(row.ceiling for row in self.rows)

    @property
    def contradicted(self) -> bool:
        """Whether the guesses refute the proved epsilon at 99.9 %."""
        return refutes(self.rows)

    @property
    def outcome(self) -> Outcome:
        """What follows from the guesses."""
        if self.contradicted:
            return "refuted"
        if self.least_epsilon > self.epsilon:
            return "doubtful"
        return "not refuted" if self.control else "not testable"

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "steps": self.steps,
            "proved": {"epsilon": self.epsilon, "delta": self.delta},
            "claimed": {"epsilon": self.claimed[0], "delta": self.claimed[1]},
            "least_epsilon": self.least_epsilon,
            "confidence": CONFIDENCE,
            "ceiling": self.ceiling,
            "control_refuted": self.control,
            "outcome": self.outcome,
            "canaries": self.canaries,
            "others": self.others,
            "guesses": [{"guesses": row.guesses, **vars(row)} for row in self.rows],
            "area_under_curve": self.area,
            "seconds": round(self.seconds, 1),
        }


def refutes(rows: tuple[Guesses, ...]) -> bool:
    """Return whether guesses refute the proved epsilon at 99.9 %, all numbers of guesses taken together."""
    return min(row.p_value for row in rows) * len(rows) < CONTRADICTION
