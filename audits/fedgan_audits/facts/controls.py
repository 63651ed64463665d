"""The provisions that a report gives evidence for, and what that evidence does not show.

Legal text is data, not code: one file for each edition below `provisions/`, with the source of every provision and the
date as of which it was read. A report names its edition and carries the rows, so it can be read when newer editions
are out; an edition that was published is never edited. A row names the field of the report that carries its evidence.
Its status follows from that field alone: the row's own word where the field holds something, `not assessed` where it is
empty or the row names none, `failed` where a flag contradicts it, or where epsilon is unbounded and it is a figure.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import Field, ValidationError, model_validator

from fedgan_audits.errors import RecordInvalid
from fedgan_audits.facts.records import Facts, Label, Text
from fedgan_audits.facts.sections import Control, ControlSection, Status

NEWEST = "2"
FIGURES = frozenset({"privacy.epsilon", "privacy.profile", "composition.hospitals"})
"""Fields that hold figures of epsilon: where nothing protects the patients they are evidence of nothing."""
EDITIONS = ("1", "2")
"""Every edition that was ever used, oldest first; each is a file `provisions/EDITION.json`."""


class Source(Facts):
    """Where provisions are written down, and when that text was last read for this edition."""

    title: Text
    as_of: datetime.date


class Provision(Facts):
    """One row: what it asks about, where it is written down, which field holds evidence, what that does not show."""

    id: str = Field(pattern=r"^[a-z0-9-]{1,60}$")
    provision: Text
    title: Text
    source: Label
    evidence: Text
    evidence_field: str = Field(pattern=r"^([a-z_0-9]+(\.[a-z_0-9]+)*)?$")
    present: Status
    fails_when: str | None = None
    does_not_show: Text
    proposed: bool = False


class Provisions(Facts):
    """One edition. `as_of` is the earliest date of its sources: nothing in it is newer than that date promises."""

    edition: Label
    as_of: datetime.date
    note: Text
    sources: Mapping[str, Source]
    rows: tuple[Provision, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Provisions:
        identities = [row.id for row in self.rows]
        if len(set(identities)) != len(identities):
            raise ValueError("two rows have the same id")
        if {row.source for row in self.rows} != set(self.sources):
            raise ValueError("every row names a listed source, and every source has a row")
        if self.as_of != min(source.as_of for source in self.sources.values()):
            raise ValueError("as_of is the earliest date of the sources")
        return self

    def cited(self) -> tuple[str, ...]:
        """Each source with the date as of which it was read."""
        return tuple(f"{source.title} (as of {source.as_of})" for source in self.sources.values())


@cache
def provisions(edition: str = NEWEST) -> Provisions:
    """An edition shipped with this version; raises RecordInvalid where it has none of that name, or it is damaged."""
    if edition not in EDITIONS:
        raise RecordInvalid(
            f"there is no edition {edition!r} of the provisions; this version has {', '.join(EDITIONS)}",
            hint="Read the report with the version of fedgan-secure that made it, or a newer one.",
        )
    try:
        found = Provisions.model_validate_json((files("fedgan_audits") / "provisions" / f"{edition}.json").read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the edition"
        raise RecordInvalid(f"edition {edition} of the provisions: {where}: {first['msg']}") from None
    if found.edition != edition:
        raise RecordInvalid(f"the file of edition {edition} of the provisions says that it is {found.edition}")
    return found


def field_of(report: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted path of a report in its JSON form; raises KeyError where there is no such field."""
    value: Any = report
    for part in dotted.split("."):
        value = value[part]
    return value


def _status(row: Provision, report: Mapping[str, Any]) -> Status:
    if row.fails_when and any(field_of(report, row.fails_when).values()):
        return "failed"
    if row.evidence_field in FIGURES and (
        field_of(report, "privacy.epsilon") == "unbounded" or any(field_of(report, "privacy.flags").values())
    ):
        return "failed"
    if not row.evidence_field or not field_of(report, row.evidence_field):
        return "not assessed"
    return row.present


def assess(report: Mapping[str, Any], edition: str | None = None) -> ControlSection:
    """Section L for a report given in its JSON form (sections A to K are enough), by the newest edition or another."""
    data = provisions(NEWEST if edition is None else edition)
    return ControlSection(
        as_of=str(data.as_of),
        edition=data.edition,
        sources=data.cited(),
        controls=tuple(
            Control(
                id=row.id,
                provision=row.provision,
                title=row.title,
                evidence=row.evidence,
                evidence_field=row.evidence_field,
                status=_status(row, report),
                does_not_show=row.does_not_show,
                proposed=row.proposed,
            )
            for row in data.rows
        ),
    )
