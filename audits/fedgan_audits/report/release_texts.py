"""What a report says in words of a run with a release round or a public start, chosen from `wording` by its facts."""

from __future__ import annotations

from fedgan_audits.facts import ReleaseFacts, RoundRecord
from fedgan_audits.pages import wording

MAX_SOURCE = 1_200
"""Characters of a fact that a sentence repeats; the whole fact stands in the report's own field."""


def clause(text: str) -> str:
    """A fact as a part of a sentence: shortened, and without its full stop."""
    return text[:MAX_SOURCE].rstrip(". ")


def is_alone(record: RoundRecord) -> bool:
    """Whether the run is one release and nothing else."""
    return record.privacy.release is not None and record.header.rounds_scheduled == 1


def remarks(record: RoundRecord) -> tuple[str, ...]:
    """What an officer should read first of a release and of a public start; empty where there is neither."""
    found = []
    if record.data.start:
        found.append(wording.START_NOTE.format(start=clause(record.data.start)))
    if record.privacy.release is not None:
        found.append(wording.RELEASE_ALONE_NOTE if is_alone(record) else wording.RELEASE_NOTE)
    return tuple(found)


def accesses(record: RoundRecord) -> tuple[str, ...]:
    """Which accesses to real images epsilon covers (section C)."""
    start = (wording.START_ACCESS,) if record.data.start else ()
    release = record.privacy.release
    if release is None:
        return (*start, *wording.ACCESSES)
    training = () if is_alone(record) else wording.HEADS_ACCESSES
    return (*start, *_of_release(release), *training, wording.RELEASE_USE_ACCESS, *wording.ACCESSES[2:])


def _of_release(release: ReleaseFacts) -> tuple[str, ...]:
    return (
        wording.RELEASE_ACCESS.format(statistic=clause(release.statistic)),
        wording.FEATURES_ACCESS.format(features=clause(release.features)),
    )


def outputs(record: RoundRecord) -> tuple[str, ...]:
    """Which outputs epsilon covers (section C)."""
    per_hospital = record.privacy.noise_placement == "per_hospital"
    steps = wording.OUTPUTS if per_hospital else wording.OUTPUTS_DISTRIBUTED
    if record.privacy.release is None:
        return steps
    release = wording.RELEASE_OUTPUTS if per_hospital else wording.RELEASE_OUTPUTS_DISTRIBUTED
    return release if is_alone(record) else (*release, *steps)


def assumptions(record: RoundRecord) -> tuple[str, ...]:
    """What the figure assumes (section C)."""
    per_hospital = record.privacy.noise_placement == "per_hospital"
    every = wording.ASSUMPTIONS if per_hospital else wording.ASSUMPTIONS_DISTRIBUTED
    if record.privacy.release is None:
        return every
    left_out = wording.STEP_ASSUMPTIONS if is_alone(record) else ()
    return (*wording.RELEASE_ASSUMPTIONS, *(text for text in every if text not in left_out))
