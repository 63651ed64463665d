"""Epsilon computed again from the parameters that a report records, and the history that those parameters tell.

The recorded figure must equal the one by privacy loss distributions to 1e-3, and the one by Rényi differential
privacy must equal its own record and not lie below the first. Rényi is computed for every round. Privacy loss
distributions and the whole report, which take up to a second a round, are computed again for every round of a run of
up to `ALL_UP_TO` rounds; of a longer run for the last round and where the mechanism changes, or for all on demand.
"""

from __future__ import annotations

import math

from fedgan_audits import accountant, envelope, figures
from fedgan_audits.checks import Verification
from fedgan_audits.errors import AuditError
from fedgan_audits.mechanism import MechanismRecord
from fedgan_audits.records import HospitalFacts, Spent
from fedgan_audits.report import build_report, record_of
from fedgan_audits.sections import HospitalBudget, RoundReport

TOLERANCE = 1e-3
ALL_UP_TO = 16
MAX_KINDS = 256
"""Ledgers with more different mechanisms are not computed again: a hostile one could keep a machine busy for days."""
EPSILON = "epsilon"
HISTORY = "reservations"
FIGURES = "figures"


def _number(text: str) -> float:
    return math.inf if text == "unbounded" else float(text)


def _near(text: str, value: float) -> bool:
    recorded = _number(text)
    if math.isinf(recorded) or math.isinf(value):
        return recorded == value
    return abs(recorded - value) <= TOLERANCE


def check_history(result: Verification, previous: RoundReport | None, report: RoundReport, file: str) -> None:
    """What each hospital reserved up to the last round must stand unchanged in this one, and nothing be forgotten."""
    before = {} if previous is None else {entry.name: entry for entry in previous.aggregation.participants}
    number = report.header.round
    for hospital in report.aggregation.participants:
        old = before.get(hospital.name)
        if _extended(old.this_run if old else (), number, hospital.reserved) != hospital.this_run:
            result.failed(
                HISTORY, f"hospital {hospital.name}'s reservations differ from those of the round before", file
            )
        if old is not None and (old.earlier, old.fingerprint) != (hospital.earlier, hospital.fingerprint):
            result.failed(HISTORY, f"hospital {hospital.name}'s key or earlier runs changed within the run", file)


def _extended(held: tuple[Spent, ...], number: int, mechanism: MechanismRecord | None) -> tuple[Spent, ...]:
    """What a run's reservations are after `mechanism` was reserved in round `number`."""
    if mechanism is None:
        return held
    if held and held[-1].last_round + 1 == number and held[-1].mechanism == mechanism:
        return (*held[:-1], held[-1].model_copy(update={"last_round": number}))
    return (*held, Spent(first_round=number, last_round=number, mechanism=mechanism))


def check_epsilon(result: Verification, report: RoundReport, file: str, *, pld: bool) -> None:
    """Recompute every hospital's cumulative epsilon; `pld` also by privacy loss distributions."""
    delta = report.privacy.settings.delta
    for hospital, row in zip(report.aggregation.participants, report.composition.hospitals, strict=False):
        try:
            _check_hospital(result, hospital, row, delta, file, pld=pld)
        except AuditError as error:
            result.failed(EPSILON, f"hospital {hospital.name}: {error}", file)
    names = [hospital.name for hospital in report.aggregation.participants]
    if names != [row.name for row in report.composition.hospitals]:
        result.failed(EPSILON, "the hospitals with figures are not those that took part", file)
    highest = max((_number(row.spent) for row in report.composition.hospitals), default=0.0)
    if {_number(report.verdict.spent), _number(report.privacy.epsilon)} != {highest}:
        result.failed(EPSILON, "the headline is not the highest figure of a hospital", file)


def _check_hospital(
    result: Verification, hospital: HospitalFacts, row: HospitalBudget, delta: float, file: str, *, pld: bool
) -> None:
    held = figures.of_ledger(hospital)
    if len(held) > MAX_KINDS:
        text = f"hospital {hospital.name} lists {len(held)} different mechanisms, expected at most {MAX_KINDS}"
        result.failed(EPSILON, text, file)
        return
    rdp = figures.second_opinion(held, delta)
    if not _near(row.spent_second_accountant, rdp):
        result.failed(EPSILON, _differs(hospital.name, "second", row.spent_second_accountant, rdp), file)
    if _number(row.spent) > _number(row.spent_second_accountant) + TOLERANCE:
        result.failed(EPSILON, f"hospital {hospital.name}: the looser second figure lies below the first", file)
    if pld:
        value = figures.epsilon(held, delta)
        if not _near(row.spent, value):
            result.failed(EPSILON, _differs(hospital.name, "recorded", row.spent, value), file)
        counted = figures.held_of(hospital.earlier, figures.of_run(hospital.this_run), delta, hospital.cap)
        if row.held is not None and not _near(row.held, counted):
            result.failed(EPSILON, _differs(hospital.name, "counted", row.held, counted), file)


def _differs(name: str, which: str, recorded: str, value: float) -> str:
    return f"hospital {name}: the {which} figure is {recorded}, computed again it is {accountant.round_up(value)}"


def changes_mechanism(previous: RoundReport | None, report: RoundReport) -> bool:
    """Whether any hospital reserved another mechanism than in the round before (or there is no round before)."""
    if previous is None:
        return True
    before = [hospital.reserved for hospital in previous.aggregation.participants]
    return before != [hospital.reserved for hospital in report.aggregation.participants]


def check_figures(result: Verification, report: RoundReport, renderer: str, file: str) -> bool:
    """Build the report again from its own facts and compare every section; False where that is not possible here."""
    if any(len(figures.of_ledger(entry)) > MAX_KINDS for entry in report.aggregation.participants):
        return False
    if report.renderer != renderer or report.privacy.accountant != accountant.accountant_name(
        figures.worst_ledger(report.aggregation.participants, report.privacy.settings.delta),
        report.privacy.settings.delta,
    ):
        return False
    try:
        rebuilt = build_report(record_of(report))
    except AuditError as error:
        result.failed(FIGURES, str(error), file)
        return True
    ours, theirs = rebuilt.model_dump(mode="json"), report.model_dump(mode="json")
    different = [name for name in ours if envelope.canonical(ours[name]) != envelope.canonical(theirs[name])]
    if different:
        result.failed(FIGURES, f"does not follow from the facts in the report: {', '.join(different)}", file)
    return True
