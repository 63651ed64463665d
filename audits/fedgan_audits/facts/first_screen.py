"""What the first screen of a report says of the budget: this run against its target, its patients over all runs.

Both are read off the signed figures of the hospitals; nothing is computed here but which hospital is named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedgan_audits.facts import cohort
from fedgan_audits.facts.sections import HospitalBudget, RoundReport


@dataclass(frozen=True)
class BudgetLine:
    """A figure against its limit, as text; `limit` and `left` are None where nobody set one."""

    spent: str
    limit: str | None
    left: str | None
    hospital: str


def _number(text: str | None) -> float:
    return math.inf if text in (None, "unbounded") else float(str(text))


def _held(row: HospitalBudget) -> str:
    """What counts against a cap; a report before schema version 3 says no more than `spent`."""
    return row.spent if row.held is None else row.held


def this_run(report: RoundReport) -> BudgetLine:
    """Return the highest figure of this run alone, against its target."""
    row = max(report.composition.hospitals, key=lambda row: _number(row.spent_this_run))
    return BudgetLine(row.spent_this_run, row.target, row.left_of_target, row.name)


def all_runs(report: RoundReport) -> BudgetLine:
    """Return the figure of the hospital that is nearest to its cap; where nobody has a cap, the highest."""
    rows = report.composition.hospitals
    capped = [row for row in rows if row.cap is not None]
    if not capped:
        row = max(rows, key=lambda row: _number(_held(row)))
        return BudgetLine(_held(row), None, None, row.name)
    row = min(capped, key=lambda row: (_number(row.left_of_cap), -_number(_held(row))))
    return BudgetLine(_held(row), row.cap, row.left_of_cap, row.name)


def has_history(report: RoundReport) -> bool:
    """Tell whether any hospital's ledger holds other runs than this one."""
    return any(hospital.earlier for hospital in report.aggregation.participants)


def alarms(report: RoundReport) -> tuple[str, ...]:
    """Return the reasons of a report that speak of its delta and its cohort: they stand beside the verdict."""
    settings = report.privacy.settings
    declared = [hospital.declared_patients for hospital in report.aggregation.participants]
    wanted = {*cohort.stops(settings.delta, declared), *cohort.warnings(settings.delta, declared, settings.unit)}
    return tuple(reason for reason in report.verdict.reasons if reason in wanted)
