"""Delta against the declared cohort: what stops a run, and what whoever reads of one must not miss."""

from __future__ import annotations

from collections.abc import Iterable

from fedgan_audits.accounting import Unit, advised_delta

SMALL = 50
"""Declared cohorts below this are warned of."""
LARGE_DELTA = 1e-3
"""Deltas above this are warned of, whatever the cohort."""
_SLACK = 1 + 1e-9


def exposes_records(delta: float, declared: int) -> bool:
    """Tell whether delta is above 1/N of a declared cohort of N: it then allows publishing somebody's whole record."""
    return delta > _SLACK / declared


def stops(delta: float, declared: Iterable[int]) -> tuple[str, ...]:
    """Return why nothing is promised at this delta: a sentence for each declared cohort that it is too large for."""
    return tuple(
        f"Delta is {delta:g}, above 1/{count} = {1 / count:.2g}: it allows publishing somebody's record outright, "
        "whatever epsilon says."
        for count in sorted(set(declared))
        if exposes_records(delta, count)
    )


def warnings(delta: float, declared: Iterable[int], unit: Unit) -> tuple[str, ...]:
    """Return what whoever starts a run, or reads its report, must hear of its delta and its declared cohorts.

    Args:
        delta: the run's.
        declared: the declared cohorts, in units.
        unit: what epsilon protects, a patient or an image.

    Raises:
        RecordInvalid: a cohort below 1.
    """
    units, found = f"{unit}s", []
    counts = sorted(set(declared))
    for count in counts:
        if count < SMALL:
            found.append(
                f"The declared cohort is of {count} {units}: below {SMALL}, neither noise nor delta leaves a promise "
                "of much worth."
            )
    if delta > LARGE_DELTA:
        found.append(f"Delta is {delta:g}, above {LARGE_DELTA:g}: with that probability epsilon may not hold at all.")
    for count in counts:
        if (advised := advised_delta(count)) * _SLACK < delta:
            found.append(
                f"Delta is {delta:g}, above {advised:.2g} = 1/(10 x {count}): of so many {units}, {delta * count:.2g} "
                "on average may be exposed outright."
            )
    return tuple(found)
