"""The figures of `fedgan-secure plan`, ready for JSON and for its tables and page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedgan_audits.accounting import DistributedMechanism
    from fedgan_secure.planning import HospitalPlan, Plan


_IMAGES = (1, 2, 4, 8)


def _finite(value: float) -> float | str:
    """A number for JSON, or "unbounded"."""
    return value if math.isfinite(value) else "unbounded"


def figures_of(schedule: Plan, known_to: int) -> dict[str, Any]:
    """Return what `plan --json` prints of one placement of noise; `known_to` hospitals know a patient, at most."""
    from fedgan_audits.accounting import DistributedMechanism, accountant

    mechanism, delta = schedule.mechanism, schedule.delta
    run = schedule.mechanisms
    figures: dict[str, Any] = {
        "solved_for": schedule.unknown,
        "sampling_probability": mechanism.sampling_probability,
        "steps": mechanism.steps,
        "delta": delta,
        "noise_multiplier": mechanism.noise_multiplier,
        "unit": mechanism.unit,
        "images_per_patient": mechanism.images_per_patient,
        "neighbouring_relation": "add_or_remove_one",
        "sampler": "poisson",
        "noise_placement": mechanism.noise_placement,
        "accountant": accountant.accountant_name(run),
        "epsilon": _finite(schedule.epsilon),
        "epsilon_rdp": _finite(schedule.epsilon_rdp),
        "epsilon_two_hospitals": _finite(schedule.known_to(2)),
        "mu": _finite(accountant.mu_gdp(run, delta)),
        "mu_smallest_delta": delta,
        "colluders": accountant.colluder_figures(run),
    }
    if known_to > 2:
        figures["epsilon_by_hospitals"] = {
            str(count): _finite(schedule.known_to(count)) for count in range(1, known_to + 1)
        }
    if schedule.release is not None:
        figures["release_noise_multiplier"] = schedule.release.noise_multiplier
        figures["epsilon_of_release"] = _finite(schedule.epsilon_of_release)
    if schedule.target is not None:
        figures["epsilon_target"] = schedule.target
    if mechanism.unit == "image":
        figures["epsilon_by_images"] = {str(images): _finite(schedule.with_images(images)) for images in _IMAGES}
    if isinstance(mechanism, DistributedMechanism):
        figures |= _shared_figures(mechanism, schedule)
    return figures


def _shared_figures(mechanism: DistributedMechanism, schedule: Plan) -> dict[str, Any]:
    """What is said of shared noise beside the proved figure; lengths in clip norms, the deviation in grid steps."""
    from fedgan_audits.accounting import accountant, colluders, integer_noise

    shares, run, delta = mechanism.shares, schedule.mechanisms, schedule.delta
    return {
        **shares.model_dump(mode="json"),
        "sensitivity": integer_noise.sensitivity(mechanism),
        "share_deviation": math.sqrt(integer_noise.share_variance(mechanism)),
        "epsilon_gaussian_approximation": _finite(accountant.epsilon_gaussian_approximation(run, delta)),
        "epsilon_two_hospitals_gaussian_approximation": _finite(
            accountant.epsilon_gaussian_approximation(run, delta, records=2)
        ),
        "epsilon_by_colluders": {str(row.colluders): _finite(row.epsilon) for row in colluders.table(run, delta)},
        "colluders": shares.colluders,
    }


def hospital_figures(rows: tuple[HospitalPlan, ...]) -> list[dict[str, Any]]:
    """Return a row for every hospital of a plan."""
    return [
        {
            "name": row.name,
            "patients": row.patients,
            "sampling_probability": row.plan.mechanism.sampling_probability,
            "expected_batch": row.expected_batch,
            "epsilon": _finite(row.plan.epsilon),
            "delta_advised": row.delta_advised,
        }
        for row in rows
    ]
