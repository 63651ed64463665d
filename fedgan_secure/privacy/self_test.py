"""The mechanism watches itself: what is really done in each step is held against what the accountant was told.

The watch knows the recorded mechanism and nothing of the code that carries it out. It sees which patients were drawn,
what came out of a step beside the clipped sum (that is, the noise as it was added), and how made-up patients fared
(`probe`). What it counts is confidential; `outcomes` is what a report may say, with `self_tests.FALSE_ALARM` as the
false-alarm rate. A test that could not see its fault in a cohort of the declared size reads NOT ASSESSED, so that the
outcome does not tell how many patients there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedgan_audits.accounting import MechanismRecord
from fedgan_audits.facts import FALSE_ALARM, NAMES, SelfTest, TestName
from fedgan_secure.privacy.errors import MechanismContradicted
from fedgan_secure.privacy.evidence import (
    IMPOSSIBLE,
    CountEvidence,
    Moments,
    SizeEvidence,
    constant_size_evidence,
    rate_evidence,
    sees_double_rate,
    sees_half_noise,
    shuffled_count_evidence,
)

LIMIT = -math.log(FALSE_ALARM)
MISS = 1e-6
"""Probability that a test which reads PASS or FAIL misses its stated fault: half the noise, or a rate that is twice or
half the recorded one. Batches of constant size and shuffled passes are seen without fail where they are assessed."""
TOLERANCE = 0.05
"""Share by which rounding may move a norm, many times what it does: the test looks for a clip that is missing."""


@dataclass(frozen=True)
class Recorded:
    """What the accountant was told, and the two public constants beside it."""

    mechanism: MechanismRecord
    declared_patients: int
    expected_batch_size: float


class MechanismWatch:
    """One hospital's self-tests over one run."""

    def __init__(self, recorded: Recorded, patient_of_image: np.ndarray, patients: int) -> None:
        """Args: patient_of_image: int[N], whose each image is (of unit "image": its own); patients: their number."""
        self.recorded = recorded
        self._patient_of_image = patient_of_image
        self._patients = patients
        self._failed: dict[str, str] = {}
        self._coins, self._drawn, self._rounds, self._steps = 0, 0, 0, 0
        self._sizes, self._counts = SizeEvidence(), CountEvidence()
        self.begin_round()

    def begin_round(self) -> None:
        """Forget what belongs to one round: who was drawn, its noise, which tests were made."""
        self._seen: set[str] = set()
        self._round_counts = np.zeros(self._patients, np.int64)
        self._round_steps = 0
        self._round_noise = Moments()
        self._least_noise = 0.0
        self._largest_sum = 0.0

    @property
    def failed(self) -> tuple[str, ...]:
        """The tests that failed in this run so far, in the order of `NAMES`."""
        return tuple(name for name in NAMES if name in self._failed)

    # what is observed -----------------------------------------------------------------------------------------

    def batch(self, images: np.ndarray, weights: np.ndarray) -> None:
        """One step's draw: int[k, m] images and float32[k, m] their weights, a row for each drawn patient."""
        k = len(images)
        whose = self._patient_of_image[images]
        own = whose[:, 0] if k else np.zeros(0, np.int64)
        shares = np.asarray(weights, np.float64).sum(axis=1)
        bounded = bool((np.asarray(weights) >= 0).all() and (shares <= 1 + 1e-6).all())
        pure = bool((whose == own[:, None]).all()) and len(np.unique(own)) == k
        self._note("rows", pure and bounded, f"{k} rows, one patient each: {pure}, weights at most one: {bounded}")
        q = self.recorded.mechanism.sampling_probability
        self._steps += 1
        self._round_steps += 1
        self._coins += self._patients
        self._drawn += k
        np.add.at(self._round_counts, own, 1)
        if q == 1.0:
            self._note("sampling_rate", k == self._patients, f"{k} of {self._patients} drawn at probability 1")
        else:
            self._note("sampling_rate", self._rate() < LIMIT, f"{self._drawn} of {self._coins} coins")
            self._sizes.add(k, self._patients, q)
            self._note("batch_sizes", self._sizes.log < LIMIT, f"log evidence {self._sizes.log:.4g}")

    def noise(self, added: Moments) -> None:
        """The noise of one step as it was added, in units of the recorded standard deviation."""
        self._round_noise = self._round_noise.plus(added)
        self._least_noise = min(self._least_noise or added.count, added.count)
        for moments in (added, self._round_noise):
            figures = f"{moments.count:.0f} values, mean {moments.total / max(moments.count, 1):.3g}, "
            figures += f"mean square {moments.squares / max(moments.count, 1):.6g}"
            self._note("noise_mean", moments.mean_fits(FALSE_ALARM), figures)
            self._note("noise_variance", moments.variance_fits(FALSE_ALARM), figures)

    def summed(self, norm: float, bound: float) -> None:
        """The norm of one step's clipped sum, and what it cannot exceed; NaN fails."""
        self._largest_sum = max(self._largest_sum, norm / bound)
        self._note("sum_bound", norm <= bound * (1 + TOLERANCE), f"norm {norm:.6g}, at most {bound:.6g}")

    def probed(self, found: Mapping[TestName, bool | None], figures: str) -> None:
        """Outcomes of the probes; None where a probe could not tell."""
        for name, fits in found.items():
            if fits is not None:
                self._note(name, fits, figures)

    def check(self) -> None:
        """To be called before anything of a step is handed on.

        Raises:
            MechanismContradicted: a test has failed in this run.
        """
        if self._failed:
            raise MechanismContradicted(self.failed)

    def end_round(self) -> None:
        """Take in how often each patient was drawn in this round."""
        q = self.recorded.mechanism.sampling_probability
        if self._round_steps:
            self._rounds += 1
            if 0.0 < q < 1.0:
                self._counts.add(self._round_counts, self._round_steps, q)
                self._note("patient_counts", self._counts.log < LIMIT, f"log evidence {self._counts.log:.4g}")

    def _note(self, name: TestName, fits: bool, figures: str) -> None:
        self._seen.add(name)
        if not fits:
            self._failed.setdefault(name, figures)

    # what is said of it ---------------------------------------------------------------------------------------

    def outcomes(self) -> dict[TestName, SelfTest]:
        """PASS, FAIL or NOT ASSESSED for each test: what a report may say. Depends on patients through FAIL alone."""

        def said(name: TestName) -> SelfTest:
            if name in self._failed:
                return "FAIL"
            return "PASS" if name in self._seen and self._could_see(name) else "NOT ASSESSED"

        return {name: said(name) for name in NAMES if self._applies(name)}

    def _applies(self, name: TestName) -> bool:
        """No test of noise where there is none; shared noise is added outside the network, where no probe passes."""
        told = self.recorded.mechanism
        if name == "noise_probe":
            return told.noise_multiplier > 0 and told.noise_placement == "per_hospital"
        return told.noise_multiplier > 0 or name not in ("noise_mean", "noise_variance")

    def _could_see(self, name: TestName) -> bool:
        """Whether the test would have found its fault by now, from public constants alone."""
        told, declared = self.recorded.mechanism, self.recorded.declared_patients
        q = told.sampling_probability
        if name == "sampling_rate":
            return q < 1.0 and sees_double_rate(declared * self._steps, q, LIMIT, MISS)
        if name == "batch_sizes":
            return q < 1.0 and constant_size_evidence(self._steps, declared, q) > LIMIT
        if name == "patient_counts":
            steps = self._steps // max(self._rounds, 1)
            return q < 1.0 and steps > 0 and shuffled_count_evidence(self._rounds, steps, declared, q) > LIMIT
        if name in ("noise_mean", "noise_variance"):
            return told.noise_multiplier > 0 and sees_half_noise(int(self._least_noise), FALSE_ALARM, MISS)
        return True

    def figures(self) -> dict[str, Any]:
        """What the tests saw (confidential), for the annex."""
        return {
            "outcomes": self.outcomes(),
            "failures": dict(self._failed),
            "coins": self._coins,
            "drawn": self._drawn,
            "rate_log_evidence": self._rate(),
            "sizes_log_evidence": self._sizes.log,
            "counts_log_evidence": self._counts.log,
            "log_evidence_limit": LIMIT,
            "noise_values": self._round_noise.count,
            "noise_mean": self._round_noise.total / max(self._round_noise.count, 1.0),
            "noise_mean_square": self._round_noise.squares / max(self._round_noise.count, 1.0),
            "largest_sum_over_bound": self._largest_sum,
        }

    def _rate(self) -> float:
        q = self.recorded.mechanism.sampling_probability
        if q == 1.0:
            return 0.0
        return rate_evidence(self._drawn, self._coins, q) if self._drawn <= self._coins else IMPOSSIBLE

    # from round to round --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on with (confidential, JSON)."""
        return {
            "failed": self._failed,
            "coins": self._coins,
            "drawn": self._drawn,
            "rounds": self._rounds,
            "steps": self._steps,
            "sizes": asdict(self._sizes),
            "counts": asdict(self._counts),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; KeyError, TypeError or ValueError where it is not such a state."""
        self._failed = {str(name): str(text) for name, text in state["failed"].items()}
        self._coins, self._drawn = int(state["coins"]), int(state["drawn"])
        self._rounds, self._steps = int(state["rounds"]), int(state["steps"])
        self._sizes, self._counts = SizeEvidence(**state["sizes"]), CountEvidence(**state["counts"])
