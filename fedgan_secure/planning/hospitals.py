"""A plan for hospitals of different sizes, each a public bound, and for rounds in which some of them are missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedgan_audits.accounting import DistributedMechanism, advised_delta
from fedgan_secure.errors import InputError
from fedgan_secure.planning.schedule import Plan


@dataclass(frozen=True)
class HospitalPlan:
    """One hospital's part of a plan.

    Attributes:
        name: of the hospital.
        patients: the public bound on its patients; never a count read off the data.
        plan: with its own sampling probability.
        delta_advised: 1 / (10 x patients): a delta of 1/patients or more would allow publishing one record outright.
    """

    name: str
    patients: int
    plan: Plan
    delta_advised: float

    @property
    def expected_batch(self) -> float:
        """Sampling probability times patients: the public divisor."""
        return self.plan.mechanism.sampling_probability * self.patients


@dataclass(frozen=True)
class DropOut:
    """What a round is worth where `missing` hospitals do not finish it.

    `noise` is the noise in the sum over that of one central DP-SGD on all patients; None where the round is aborted
    (fewer than the threshold are left). Epsilon does not change in either case: an aborted round is spent as well.
    """

    missing: int
    left: int
    noise: float | None


def for_hospitals(schedule: Plan, patients: Mapping[str, int], *, same_batch: bool = False) -> tuple[HospitalPlan, ...]:
    """`schedule` at every hospital.

    Args:
        schedule: of the hospital with the fewest patients, if `same_batch`: it has the largest probability.
        patients: name -> public bound on the number of patients, at least 1.
        same_batch: give every hospital the same expected batch, so that the probability falls with the cohort; else
            the same probability, as in one federation of `fedgan-secure run`.

    Raises:
        InputError: no hospital, or a bound below 1.
    """
    if not patients:
        raise InputError("no hospital is given; expected NAME -> patients")
    for name, count in patients.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 10**9:
            raise InputError(f"hospital {name} has {count} patients; expected a whole number of at least 1")
    smallest = min(patients.values())
    q = schedule.mechanism.sampling_probability
    return tuple(
        HospitalPlan(
            name=name,
            patients=count,
            plan=replace(
                schedule,
                mechanism=schedule.mechanism.model_copy(
                    update={"sampling_probability": q * smallest / count if same_batch else q}
                ),
            ),
            delta_advised=advised_delta(count),
        )
        for name, count in patients.items()
    )


def drop_outs(schedule: Plan, hospitals: int, most: int, threshold: int | None = None) -> tuple[DropOut, ...]:
    """What 0 to `most` missing hospitals do to the noise of the sum.

    Args:
        schedule: with noise of either placement.
        hospitals: of the federation, at least `most` + 1.
        most: missing at once.
        threshold: hospitals that must finish a round; with shared noise it is the shares' own.

    With every hospital's own noise the sum of s hospitals has sqrt(s) times central noise; with shared noise
    sqrt(s / (t - c)). Raises InputError.
    """
    if not 1 <= hospitals <= 2**20 or not 0 <= most < hospitals:
        raise InputError(f"{most} of {hospitals} hospitals are missing; expected fewer than there are")
    mechanism = schedule.mechanism
    shares = mechanism.shares if isinstance(mechanism, DistributedMechanism) else None
    least = shares.threshold if shares is not None else threshold or 1
    if least > hospitals:
        raise InputError(f"the threshold is {least} and there are {hospitals} hospitals; expected no more than that")
    honest = 1 if shares is None else shares.honest_shares
    return tuple(
        DropOut(missing, left, math.sqrt(left / honest) if left >= least else None)
        for missing in range(most + 1)
        for left in (hospitals - missing,)
    )
