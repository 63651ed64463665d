"""From any three of sampling probability, noise multiplier, steps and epsilon the fourth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedgan_audits.accounting import (
    MechanismRecord,
    NoiseShares,
    Unit,
    accountant,
    is_release,
    mechanism_record,
    solving,
)
from fedgan_secure.errors import InputError

Unknown = Literal["sampling_probability", "noise_multiplier", "steps", "epsilon"]
UNKNOWNS: tuple[Unknown, ...] = ("sampling_probability", "noise_multiplier", "steps", "epsilon")


@dataclass(frozen=True)
class Plan:
    """A schedule and what it costs.

    Attributes:
        mechanism: all steps as the accountant takes them; `steps` are those of the run.
        delta: of every figure.
        unknown: which of the four was solved for.
        target: the epsilon that was asked for, or None where epsilon is the answer.
        release: the one noisy sum before the steps, if there is one; every figure counts it.
    """

    mechanism: MechanismRecord
    delta: float
    unknown: Unknown
    target: float | None = None
    release: MechanismRecord | None = None

    @property
    def mechanisms(self) -> tuple[MechanismRecord, ...]:
        """Everything that the schedule does to patients: the release, if there is one, and the steps."""
        return (self.mechanism,) if self.release is None else (self.release, self.mechanism)

    @property
    def epsilon(self) -> float:
        """The proved epsilon of one unit in one hospital; math.inf without noise."""
        return accountant.epsilon(self.mechanisms, self.delta)

    @property
    def epsilon_rdp(self) -> float:
        """The second opinion, by Rényi differential privacy."""
        return accountant.epsilon_rdp(self.mechanisms, self.delta)

    @property
    def epsilon_of_release(self) -> float:
        """The proved epsilon of the release alone; 0.0 where there is none."""
        return 0.0 if self.release is None else accountant.epsilon([self.release], self.delta)

    def known_to(self, hospitals: int) -> float:
        """Epsilon for a patient whom so many hospitals of the federation know (1 to 16)."""
        if isinstance(hospitals, bool) or not isinstance(hospitals, int) or not 1 <= hospitals <= 16:
            raise InputError(f"the patient is known to {hospitals} hospitals; expected 1 to 16")
        return accountant.epsilon_several_hospitals([self.mechanisms] * hospitals, self.delta)

    def with_images(self, images: int) -> float:
        """Epsilon for a patient with so many images: with unit "patient" the same for any number."""
        return accountant.epsilon_k_images(self.mechanisms, self.delta, images)


def plan(
    *,
    delta: float,
    sampling_probability: float | None = None,
    noise_multiplier: float | None = None,
    steps: int | None = None,
    epsilon: float | None = None,
    unit: Unit = "patient",
    images_per_patient: int = 1,
    shares: NoiseShares | None = None,
    release: MechanismRecord | None = None,
) -> Plan:
    """Solve for the one of `sampling_probability`, `noise_multiplier`, `steps` and `epsilon` that is left out.

    Args:
        delta: of the figures, at least 1e-12.
        sampling_probability: chance of a unit to be in a step, in (0, 1].
        noise_multiplier: noise over clip norm (over the sensitivity where noise is shared); 0 costs math.inf.
        steps: of the whole run, spare rounds included.
        epsilon: the target.
        unit: whose data one record is.
        images_per_patient: public bound; it does not change epsilon.
        shares: for noise that the hospitals share, else None.
        release: one noisy sum before the steps (fedgan_audits.accounting.releases.record), its noise given; it counts.

    Returns:
        A plan whose epsilon is at most the target: the noise is rounded up, steps and probability are rounded down.

    Raises:
        InputError: not exactly three of the four are given.
        UnreachableTarget: no value reaches the target; its `nearest_epsilon` is the nearest that can be reached.
        RecordInvalid, NotAccounted: a value out of range, or a mechanism that is not proved.
    """
    given = dict(zip(UNKNOWNS, (sampling_probability, noise_multiplier, steps, epsilon), strict=True))
    missing = [name for name in UNKNOWNS if given[name] is None]
    if len(missing) != 1:
        raise InputError(
            "exactly three of sampling_probability, noise_multiplier, steps and epsilon are expected, and "
            + (f"{', '.join(missing)} are missing" if missing else "all four are given"),
            hint="leave out the one to solve for",
        )
    unknown = missing[0]
    fields: dict[str, object] = {
        "sampling_probability": 0.5 if sampling_probability is None else sampling_probability,
        "noise_multiplier": 1.0 if noise_multiplier is None else noise_multiplier,
        "steps": 1 if steps is None else steps,
        "l2_clip_norm": 1.0,
        "unit": unit,
        "images_per_patient": 1 if unit == "image" else images_per_patient,
    }
    if shares is not None:
        fields |= {"noise_placement": "distributed", "shares": shares}
    mechanism = mechanism_record(**fields)
    before = () if release is None else (release,)
    if release is not None and not is_release(release):
        raise InputError(
            "the release has a sampling probability below 1 or several steps; expected one sum of all patients",
            hint="make it with fedgan_audits.accounting.releases.record",
        )
    if epsilon is None:
        accountant.check_delta(delta)
        return Plan(mechanism, delta, unknown, release=release)
    if unknown == "steps":
        found: float = solving.most_steps(mechanism, target=epsilon, delta=delta, before=before)
    elif unknown == "sampling_probability":
        found = solving.largest_probability(mechanism, target=epsilon, delta=delta, before=before)
    else:
        found = accountant.calibrate(mechanism, target=epsilon, delta=delta, before=before)
    return Plan(mechanism.model_copy(update={unknown: found}), delta, unknown, epsilon, release)


def curve(schedule: Plan, points: int = 12, *, from_one: bool = False) -> tuple[tuple[int, float], ...]:
    """(steps, epsilon) from few steps to all of the schedule's, evenly spaced; () where epsilon is unbounded.

    Every point counts the release, if there is one, as well.

    `from_one` adds points near the first step, where the curve bends: a line between two points lies below it.

    Every point is the proved figure of a schedule of so many steps that was fixed beforehand.
    """
    total = schedule.mechanism.steps
    if any(mechanism.noise_multiplier == 0 for mechanism in schedule.mechanisms):
        return ()
    before = () if schedule.release is None else (schedule.release,)
    even = {max(1, math.ceil(total * part / points)) for part in range(1, points + 1)}
    near = {1, *(max(1, math.ceil(total / points / 4**part)) for part in range(1, 4))} if from_one else set()
    wanted = sorted(even | near)
    return tuple(
        (steps, accountant.epsilon([*before, schedule.mechanism.model_copy(update={"steps": steps})], schedule.delta))
        for steps in wanted
    )
