"""The provisions that a report gives evidence for, and what that evidence does not show.

Legal text is data with an "as of" date (`provisions/controls.json`), not code. A row names the field of the report
that carries its evidence. Its status follows from that field alone: the row's own word where the field holds
something, `not assessed` where it is empty or the row names none, `failed` where a flag contradicts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from fedgan_audits.sections import Control, ControlSection, Status


@cache
def provisions() -> Mapping[str, Any]:
    """The provisions shipped with this version."""
    text = (files("fedgan_audits") / "provisions" / "controls.json").read_text(encoding="utf-8")
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


def field_of(report: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted path of a report in its JSON form; raises KeyError where there is no such field."""
    value: Any = report
    for part in dotted.split("."):
        value = value[part]
    return value


def _status(row: Mapping[str, Any], report: Mapping[str, Any]) -> Status:
    contradicting = row.get("fails_when")
    if contradicting and any(field_of(report, contradicting).values()):
        return "failed"
    if not row["evidence_field"] or not field_of(report, row["evidence_field"]):
        return "not assessed"
    status: Status = row["present"]
    return status


def assess(report: Mapping[str, Any]) -> ControlSection:
    """Section L for a report given in its JSON form (sections A to K are enough)."""
    data = provisions()
    return ControlSection(
        as_of=data["as_of"],
        edition=data["edition"],
        sources=tuple(data["sources"]),
        controls=tuple(
            Control(
                id=row["id"],
                provision=row["provision"],
                title=row["title"],
                evidence=row["evidence"],
                evidence_field=row["evidence_field"],
                status=_status(row, report),
                does_not_show=row["does_not_show"],
                proposed=row.get("proposed", False),
            )
            for row in data["rows"]
        ),
    )
