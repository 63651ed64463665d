"""What a run will do, round by round, in a line for people and in values for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedgan_secure.federation import HospitalSpent
    from fedgan_secure.policy import FederationPolicy


def schedule_line(policy: FederationPolicy) -> str:
    """Return the schedule in a line."""
    hospitals, mechanism = f"{len(policy.hospitals)} hospitals", policy.mechanism
    end = f"delta {mechanism.delta:g}; threshold {policy.threshold}"
    steps = f"{mechanism.steps_per_round} steps, sampling probability {mechanism.sampling_probability:g}"
    if policy.start is None:
        return f"{hospitals}, {policy.rounds} rounds of {steps}, {_noise(policy, mechanism.noise_multiplier)}, {end}"
    from fedgan_secure.models import FAMILY

    moments = policy.model.get("family") == FAMILY
    does = "release moments of their images" if moments else f"adapt the public start {policy.start.name}"
    parts, first = [f"{hospitals} {does}"], 1
    if policy.release is not None:
        which = "the only round" if policy.rounds == 1 else "round 1"
        noise = _noise(policy, policy.release.noise_multiplier)
        parts.append(f"{which} is the release: one vector of each patient, summed once, {noise}")
        first = 2
    if policy.rounds >= first:
        which = f"round {first}" if policy.rounds == first else f"rounds {first} to {policy.rounds}, each"
        parts.append(f"{which}: {steps}, {_noise(policy, mechanism.noise_multiplier)}, on small heads")
    return "; ".join([*parts, end])


def start_values(policy: FederationPolicy) -> dict[str, Any]:
    """Return what programs are told of the start and the release; nothing without a start."""
    if policy.start is None:
        return {}
    release = policy.release
    return {
        "public_start": {"name": policy.start.name, "digest": policy.start.digest},
        "release": None
        if release is None
        else {
            "round": 1,
            "noise_multiplier": release.noise_multiplier,
            "l2_clip_norm": release.l2_clip_norm,
            "dimension": release.dimension,
            "layout_sha256": release.layout_sha256,
            "images_per_patient": release.images_per_patient,
        },
        "rounds_of_heads": policy.rounds - (release is not None),
        "steps_per_round": policy.mechanism.steps_per_round if policy.rounds > (release is not None) else 0,
    }


def spent_lines(spent: Mapping[str, HospitalSpent], target: float | None) -> list[str]:
    """Return what each hospital's patients have been exposed to over all runs, with this run's part beside it.

    Args:
        spent: hospital -> its figures.
        target: what the run's policy promises of the run alone, or None.
    """
    lines, history = [], any(one.has_history for one in spent.values())
    for name, one in spent.items():
        limit = "no cap set" if one.cap is None else f"cap {one.cap:g}, left {one.left_of_cap}"
        counted = f", {one.held} counts against a cap" if one.has_history else ""
        run = f"this run {one.this_run}" + ("" if target is None else f" of {target:g}, left {one.left_of_target}")
        lines.append(f"hospital {name:<12} epsilon {one.ledger}  ({limit}{counted}; {run})")
    if history:
        lines += [
            "Earlier runs count. The first figure holds if every run was planned before any result was seen; what",
            "counts against a cap holds whether or not a later run was chosen after seeing what an earlier one gave.",
        ]
    return lines


def _noise(policy: FederationPolicy, multiplier: float) -> str:
    return "no noise: epsilon is unbounded" if policy.flags.no_privacy else f"noise {multiplier:.4g}"
