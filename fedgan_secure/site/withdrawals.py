"""Patients who withdraw: a hospital's own list, and what it changes from the next round on.

The list (`SITE/withdrawn.json`, owner-only) holds keyed pseudonyms and never an identifier. It is looked at when a
round begins, before anything is reserved, so that a withdrawal reaches a run that is going on. It lasts as long as the
site, over all its runs.

Identifiers are compared in one form (`normal_identifier`): blanks at the ends, case and the like count for nothing.
Beside the list lies whose images the last loading of this site found (`people-read.json`, keyed pseudonyms,
owner-only): a name that nobody has is refused at once.

What it does: the patient is in no step of any later round. What it cannot undo: rounds that are over, models that were
released, and what was spent for them. No sampling probability, divisor or noise changes: those are public constants
that do not depend on who is there.

A federation's report does not tell whether anybody withdrew: that would say who was in the data, which no epsilon
covers (ADR 12). It says the same of withdrawals in every round; the row is in the hospital's confidential annex.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fedgan_secure.data import PSEUDONYM_HEX_DIGITS, PatientDataset, normal_identifier, pseudonym
from fedgan_secure.errors import InputError
from fedgan_secure.storage import in_turn, read_json, write_json

FILE = "withdrawn.json"
READ = "people-read.json"
_SECRET = "pseudonym.key"  # noqa: S105 - a file's name
_LOCK = ".withdrawn.lock"
_LARGEST = 1_000_000


_Pseudonym = Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{PSEUDONYM_HEX_DIGITS}}}$")]


class _Withdrawn(BaseModel):
    """One patient: under which pseudonyms, when the list was told, and from which round of which run on it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pseudonyms: tuple[_Pseudonym, ...]
    told: datetime.datetime
    since: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)


class _List(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(1, ge=1, le=1)
    withdrawn: tuple[_Withdrawn, ...] = Field((), max_length=_LARGEST)


class _PeopleRead(BaseModel):
    """Whose images the last loading found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(1, ge=1, le=1)
    people: tuple[_Pseudonym, ...]


TEXT = (
    "patients withdrew: from this round on none of them is in any step. Not undone: earlier rounds, the models "
    "released after them, and the budget spent for them"
)


TEXT_NOBODY = (
    "Names on the list of withdrawn patients are of nobody whose images are trained on here (`asked` less `found`): "
    "for these names nothing was left out"
)


@dataclass(frozen=True)
class Withdrawals:
    """What a hospital's list says of one round.

    Attributes:
        patients: those who may still be trained on.
        incidents: confidential: where entries take effect with this round, a row that says how many asked, how many of
            them were found, and how many units (patients, or images where the unit is the image) were left out for
            them.
    """

    patients: PatientDataset
    incidents: tuple[dict[str, str | int], ...]


@dataclass(frozen=True)
class Asked:
    """What became of the names that were given.

    Attributes:
        asked: how many different names were given.
        found: how many of them the last loading of the site knows; None where nothing was loaded yet.
        new: how many were not on the list before.
    """

    asked: int
    found: int | None
    new: int


def withdraw(site: Path, patients: Sequence[str], *, unknown_ok: bool = False) -> Asked:
    """Put patients on a site's list.

    Args:
        site: a hospital's own folder, ``RUN/site/NAME`` or, with a lasting site directory, ``DIR/NAME``.
        patients: identifiers, in any case and with or without blanks around them.
        unknown_ok: also names that nobody has whose images were last loaded here.

    Raises:
        InputError: no such site, no identifier, one that nobody has (then nothing is written), or a list that cannot
            be read.
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
    asked = {normal_identifier(name): name for name in reversed(patients)}
    read = people_read(site)
    missing = [] if read is None else [name for name in asked if pseudonym(key, name) not in read]
    if missing and not unknown_ok:
        raise InputError(
            f"asked {len(asked)}, found {len(asked) - len(missing)}: nobody whose images were last read for this site "
            f"has the name given as number {_positions(missing, patients)}; nothing was written",
            hint="check the identifiers against the data (blanks around them and case do not matter); add --unknown-ok "
            "for somebody whose images were not read yet, or could not be read",
        )
    new = []
    with in_turn(site / _LOCK):
        kept = _read(site)
        known = {name for entry in kept.withdrawn for name in entry.pseudonyms}
        for normal, name in asked.items():
            if pseudonym(key, normal) not in known:
                names = dict.fromkeys(pseudonym(key, form) for form in (name, name.casefold(), normal))
                new.append(_Withdrawn(pseudonyms=tuple(names), told=told))
        if new:
            _write(site, _List(format=1, withdrawn=(*kept.withdrawn, *new)))
    return Asked(len(asked), None if read is None else len(asked) - len(missing), len(new))


def _positions(missing: Sequence[str], given: Sequence[str]) -> str:
    """Where names were first given, counted from 1: a message, which may end in a log, repeats no identifier."""
    normal = [normal_identifier(name) for name in given]
    return ", ".join(str(normal.index(name) + 1) for name in reversed(missing))


def note_people(site: Path, people: Iterable[str]) -> None:
    """Keep whose images a loading found, by :func:`person_pseudonym`."""
    write_json(site / READ, _PeopleRead(format=1, people=tuple(sorted(people))).model_dump(mode="json"), private=True)


def people_read(site: Path) -> frozenset[str] | None:
    """Return the pseudonyms of the persons whose images the last loading found; None where there was none yet."""
    place = site / READ
    if not place.exists():
        return None
    try:
        return frozenset(_PeopleRead.model_validate(read_json(place, "the list of whose images were read")).people)
    except ValidationError:
        raise InputError(
            f"{place} is not the list of whose images were read", hint="remove it; the next run writes it again"
        ) from None


def standing(site: Path) -> Asked:
    """Return how many are on a site's list and how many of them the last loading found; `new` is 0."""
    kept, read = _read(site), people_read(site)
    found = None if read is None else sum(not read.isdisjoint(entry.pseudonyms) for entry in kept.withdrawn)
    return Asked(len(kept.withdrawn), found, 0)


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
    staying = ~_named(patients, entries)
    new = tuple(entry for entry in entries if entry.since[run_id] == number)
    held = {*patients.pseudonyms, *patients.people}
    found = sum(not held.isdisjoint(entry.pseudonyms) for entry in new)
    left_out = int(np.count_nonzero(_named(patients, new)))
    text = TEXT if found == len(new) else f"{TEXT}. {TEXT_NOBODY}" if found else TEXT_NOBODY
    row: dict[str, str | int] = {
        "kind": "withdrawal", "text": text, "asked": len(new), "found": found, "left_out": left_out,
    }  # fmt: skip
    return Withdrawals(patients if np.all(staying) else patients.subset(staying), (row,) if new else ())


def _named(patients: PatientDataset, entries: Sequence[_Withdrawn]) -> np.ndarray:
    """bool[P]: whether a patient is one of these, by the name of the unit or of the person behind it."""
    names = {name for entry in entries for name in entry.pseudonyms}
    pairs = zip(patients.pseudonyms, patients.people, strict=True)
    return np.array([one in names or person in names for one, person in pairs], dtype=np.bool_)


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
