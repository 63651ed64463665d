"""Plan the release round: one noisy sum of one vector from every patient, reserved before any step of training.

To the accountant a release is one step with sampling probability 1. Its noise is chosen first, as a multiple of the
noise at which it alone would cost the whole target; `budget.plan_run` then calibrates the steps to what is left.
"""

from __future__ import annotations

from fedgan_audits.accounting import accountant, budget
from fedgan_audits.accounting.mechanism import MechanismRecord, NoiseShares, Unit
from fedgan_audits.accounting.rounding import up_to_six_digits
from fedgan_audits.errors import RecordInvalid

MOST_FACTOR = 1000.0


def record(**fields: object) -> MechanismRecord:
    """A release's MechanismRecord from its fields but probability and steps; raises RecordInvalid as mechanism_record.

    `noise_multiplier`, `l2_clip_norm` and `unit` are needed; `shares` (with the release's own grid and dimension)
    make its noise shared.
    """
    if fields.get("shares") is not None:
        fields = {**fields, "noise_placement": "distributed"}
    given = {name: value for name, value in fields.items() if name != "shares" or value is not None}
    return budget.mechanism_record(**{**given, "sampling_probability": 1.0, "steps": 1})


def noise(
    epsilon: float, delta: float, factor: float = 1.0, *, shares: NoiseShares | None = None, l2_clip_norm: float = 1.0
) -> float:
    """Choose a release's noise multiplier: `factor` times the noise at which it alone would cost `epsilon`.

    Args:
        epsilon: the target of the whole schedule.
        delta: of the target.
        factor: 1 for a release and nothing else; the more above it, the more is left for the steps.
        shares: of the noise of the release's sum, with its own grid and dimension; None where every hospital adds all.
        l2_clip_norm: of a patient's vector; it counts for shared noise alone, whose grid adds to the sensitivity.

    Returns:
        A noise multiplier, rounded up: alone it costs at most `epsilon`.

    Raises:
        UnreachableTarget, RecordInvalid: as accountant.calibrate; a factor below 1 or above 1000.
    """
    if not (isinstance(factor, int | float) and 1 <= factor <= 1000):
        raise RecordInvalid(
            f"the factor of the release's noise is {factor}, but a number from 1 to 1000 is expected",
            hint="1 spends the whole target on the release; larger factors leave more of it to the steps.",
        )
    probe = record(noise_multiplier=1.0, l2_clip_norm=l2_clip_norm, unit="patient", shares=shares)
    alone = accountant.calibrate(probe, target=epsilon, delta=delta)
    return alone if factor == 1 else up_to_six_digits(alone * factor)


def plan(
    *,
    delta: float,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    l2_clip_norm: float = 1.0,
    unit: Unit = "patient",
    images_per_patient: int = 1,
    shares: NoiseShares | None = None,
) -> budget.RunBudget:
    """Plan a run that is one release and nothing else, from its noise multiplier or from a target epsilon.

    Returns:
        A schedule of one round whose `mechanism` and `release` are the same record.

    Raises:
        RecordInvalid, UnreachableTarget: as plan_run.
    """
    budget.one_of(noise_multiplier, epsilon)
    if epsilon is not None:
        noise_multiplier = noise(epsilon, delta, shares=shares, l2_clip_norm=l2_clip_norm)
    release = record(
        noise_multiplier=noise_multiplier,
        l2_clip_norm=l2_clip_norm,
        unit=unit,
        images_per_patient=images_per_patient,
        shares=shares,
    )
    return budget.RunBudget(mechanism=release, rounds=1, delta=delta, release=release)
