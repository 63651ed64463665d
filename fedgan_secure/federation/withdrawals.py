"""Patients who withdraw: a hospital's own list, and what it changes from the next round on.

The list (`SITE/withdrawn.json`, owner-only) holds keyed pseudonyms and never an identifier. It is looked at when a
round begins, before anything is reserved, so that a withdrawal reaches a run that is going on. It lasts as long as the
site, over all its runs.

What it does: the patient is in no step of any later round. What it cannot undo: rounds that are over, models that were
released, and what was spent for them. No sampling probability, divisor or noise changes: those are public constants
that do not depend on who is there.

A federation's report does not tell whether anybody withdrew: that would say who was in the data, which no epsilon
covers (ADR 12). It says the same of withdrawals in every round; the row is in the hospital's confidential annex.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fedgan_secure.data.patients import PSEUDONYM_HEX_DIGITS, PatientDataset, pseudonym
from fedgan_secure.errors import InputError
from fedgan_secure.federation.storage import in_turn, read_json, write_json

FILE = "withdrawn.json"
_SECRET = "pseudonym.key"  # noqa: S105 - a file's name
_LOCK = ".withdrawn.lock"
_LARGEST = 1_000_000


class _Withdrawn(BaseModel):
    """One patient: under which pseudonyms, when the list was told, and from which round of which run on it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pseudonyms: tuple[Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{PSEUDONYM_HEX_DIGITS}}}$")], ...]
    told: datetime.datetime
    since: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)


class _List(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(1, ge=1, le=1)
    withdrawn: tuple[_Withdrawn, ...] = Field((), max_length=_LARGEST)


TEXT = (
    "patients withdrew: from this round on none of them is in any step. Not undone: earlier rounds, the models "
    "released after them, and the budget spent for them"
)


@dataclass(frozen=True)
class Withdrawals:
    """What a hospital's list says of one round.

    Attributes:
        patients: those who may still be trained on.
        incidents: confidential: a row where entries take effect with this round, saying how many asked and how many
            of all on the list the hospital holds.
    """

    patients: PatientDataset
    incidents: tuple[dict[str, str | int], ...]


def withdraw(site: Path, patients: Sequence[str]) -> int:
    """Put patients on a site's list; returns how many were new to it.

    Args:
        site: a hospital's own folder, ``RUN/site/NAME`` or, with a lasting site directory, ``DIR/NAME``.
        patients: identifiers as the data name them. Their case is kept and also folded, as some layouts do.

    Raises:
        InputError: no such site, no identifier, or a list that cannot be read.
    """
    if not patients or any(not name.strip() for name in patients):
        raise InputError("no patient is named", hint="give the patient's identifier as the data name it")
    secret = site / _SECRET
    if not secret.is_file():
        raise InputError(
            f"{site} is not the site of a hospital that reads patients of its own: it has no {_SECRET}",
            hint="name RUN/site/NAME or, with --site-dir DIR, DIR/NAME; a run that splits one data set (--dataset) is "
            "started anew with --exclude-patient instead",
        )
    key = secret.read_bytes()
    told = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    new = []
    with in_turn(site / _LOCK):
        kept = _read(site)
        known = {entry.pseudonyms for entry in kept.withdrawn}
        for name in dict.fromkeys(patients):
            names = tuple(dict.fromkeys(pseudonym(key, form) for form in (name, name.casefold())))
            if names not in known:
                new.append(_Withdrawn(pseudonyms=names, told=told))
                known.add(names)
        if new:
            _write(site, _List(format=1, withdrawn=(*kept.withdrawn, *new)))
    return len(new)


def take_effect(site: Path, patients: PatientDataset, run_id: str, number: int) -> Withdrawals:
    """The patients of round `number` without those on the site's list; notes, durably, since when each is left out.

    Raises:
        InputError: the list cannot be read or written.
    """
    with in_turn(site / _LOCK):
        kept = _read(site)
        entries = tuple(
            entry if run_id in entry.since else entry.model_copy(update={"since": {**entry.since, run_id: number}})
            for entry in kept.withdrawn
        )
        if entries != kept.withdrawn:
            _write(site, _List(format=1, withdrawn=entries))
    gone = {name for entry in entries for name in entry.pseudonyms}
    staying = np.array([name not in gone for name in patients.pseudonyms], dtype=np.bool_)
    held = int(np.count_nonzero(~staying))
    new = sum(entry.since[run_id] == number for entry in entries)
    row: dict[str, str | int] = {"kind": "withdrawal", "text": TEXT, "asked": new, "left_out": held}
    return Withdrawals(patients if not held else patients.subset(staying), (row,) if new else ())


def _read(site: Path) -> _List:
    place = site / FILE
    if not place.exists():
        return _List.model_validate({})
    try:
        return _List.model_validate(read_json(place, "the list of withdrawn patients"))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InputError(
            f"{place} is not a list of withdrawn patients: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint="restore it from a backup: without it a patient who withdrew would be trained on again",
        ) from None


def _write(site: Path, kept: _List) -> None:
    write_json(site / FILE, kept.model_dump(mode="json"), private=True)
