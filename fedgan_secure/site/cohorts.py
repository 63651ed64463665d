"""A declared cohort that is not near a hospital's own: delta and its warnings were then chosen for somebody else."""

from __future__ import annotations

from fedgan_secure.data import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.policy import FederationPolicy

COHORT_FACTOR = 2.0
"""How far a hospital's own cohort may be from the declared one, either way (ADR 30)."""


def foreign_cohort(policy: FederationPolicy, dataset: PatientDataset) -> str | None:
    """Return why a hospital spends nothing under a declared cohort that is not near its own, or None.

    Neither the own number nor by how much it differs is said. Nothing is asked of a run without privacy, of phantoms
    (nobody's cohort), or where the numbers were read off the data: nobody declared anything then, and delta follows the
    largest cohort. Whatever the policy says of these, a delta above 1/N of the own N patients is refused, unless every
    report of the run says STOP for it.
    """
    flags, mechanism = policy.flags, policy.mechanism
    own = len(dataset) if mechanism.unit == "image" else dataset.patients
    said = mechanism.delta > 1 / mechanism.declared_patients  # reports of such a run say STOP
    if not flags.no_privacy and not said and mechanism.delta * own > 1 + 1e-9:
        return f"delta is {mechanism.delta:g}, which promises nothing to a cohort of its own size"
    if flags.no_privacy or policy.data.phantoms or "declared patients" in flags.taken_from_data:
        return None
    if mechanism.declared_patients / COHORT_FACTOR <= own <= mechanism.declared_patients * COHORT_FACTOR:
        return None
    return (
        f"the declared cohort of {mechanism.declared_patients} {mechanism.unit}s is further than a factor of "
        f"{COHORT_FACTOR:g} from its own"
    )


def refuse_foreign_cohort(policy: FederationPolicy, dataset: PatientDataset, name: str) -> None:
    """Refuse, before anything is spent, to run a hospital under a cohort that is not near its own.

    Raises:
        InputError: as :func:`foreign_cohort`.
    """
    if (why := foreign_cohort(policy, dataset)) is not None:
        raise InputError(
            f"hospital {name}: {why}",
            hint="declare a number near every hospital's own (--declared-patients), or leave out the hospital whose "
            "cohort is of another size; nothing was spent",
        )
