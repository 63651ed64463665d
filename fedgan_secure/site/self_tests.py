"""A hospital's self-tests from round to round: the watch over one run, the file it goes on from, what a report may say.

The file (`site/NAME/self-tests.json`, owner-only) holds counts that depend on patients. A round that is killed leaves
it as it was: its draws are forgotten, which no test of sampling minds, for the kill did not look at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_audits.facts import NAMES, SelfTestRow
from fedgan_secure.data import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.privacy import MechanismWatch, Recorded
from fedgan_secure.storage import read_json, write_json


def open_watch(policy: FederationPolicy, dataset: PatientDataset, place: Path) -> MechanismWatch:
    """The watch of this hospital in this run, as the last round that ended left it.

    Raises:
        InputError: the file cannot be read.
    """
    told = policy.mechanism
    recorded = Recorded(policy.mechanism_record(), told.declared_patients, told.expected_batch_size)
    return _opened(recorded, dataset, place)


def open_release_watch(policy: FederationPolicy, dataset: PatientDataset, place: Path) -> MechanismWatch:
    """The watch of this hospital over the release round of this run.

    Raises:
        InputError: the file cannot be read, or the policy has no release.
    """
    if policy.release is None:
        raise InputError("self-tests of a release were asked for, and the policy has none")
    declared = policy.mechanism.declared_patients
    return _opened(Recorded(policy.release.record(), declared, float(declared)), dataset, place)


def _opened(recorded: Recorded, dataset: PatientDataset, place: Path) -> MechanismWatch:
    images = len(dataset)
    by_image = recorded.mechanism.unit == "image"
    whose = np.arange(images) if by_image else np.asarray(dataset.patient)
    watch = MechanismWatch(recorded, whose, images if by_image else dataset.patients)
    if place.exists():
        try:
            watch.restore(read_json(place, "the self-tests' counts"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{place} does not hold the counts of this run's self-tests", hint="restore it from a backup"
            ) from error
    return watch


def save_watch(watch: MechanismWatch, place: Path) -> None:
    """Keep the counts; whole or absent."""
    write_json(place, watch.state(), private=True)


def published(annex: Mapping[str, Any] | None) -> tuple[SelfTestRow, ...]:
    """What a report says of the tests in a round's annex; empty where the hospital did not train in it."""
    training = {} if annex is None else annex.get("training", {})
    outcomes = training.get("self_tests", {}).get("outcomes", {})
    return tuple(SelfTestRow(name=name, outcome=outcomes[name]) for name in NAMES if name in outcomes)
