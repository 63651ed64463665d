"""Epsilon computed again from the parameters that a report records, and the history that those parameters tell.

The recorded figure must equal the one by privacy loss distributions to 1e-3, and the one by Rényi differential
privacy must equal its own record and not lie below the first. Reports of renderers before numbers hold Rényi figures of
dp-accounting, whose versions differ: there the record must lie between the exact figure, computed here, and the one at
integer orders, which no version exceeds. Rényi is computed for every round. Privacy loss
distributions and the whole report, which take up to a second a round, are computed again for every round of a run of
up to `ALL_UP_TO` rounds; of a longer run for the last round and where the mechanism changes, or for all on demand.
"""

from __future__ import annotations

from fedgan_audits.accounting import MechanismRecord, accountant, budget
from fedgan_audits.errors import AuditError
from fedgan_audits.facts import HospitalBudget, HospitalFacts, RoundReport, Spent, Verification
from fedgan_audits.pages import renderers
from fedgan_audits.report import TOLERANCE, figures, near, number_of, rebuilding

ALL_UP_TO = 16
EPSILON = "epsilon"
HISTORY = "reservations"
FIGURES = "figures"


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
    delta, since = report.privacy.settings.delta, renderers.number(report.renderer) or 0
    for hospital, row in zip(report.aggregation.participants, report.composition.hospitals, strict=False):
        try:
            _check_hospital(result, hospital, row, delta, since, file, pld=pld)
        except AuditError as error:
            result.failed(EPSILON, f"hospital {hospital.name}: {error}", file)
    names = [hospital.name for hospital in report.aggregation.participants]
    if names != [row.name for row in report.composition.hospitals]:
        result.failed(EPSILON, "the hospitals with figures are not those that took part", file)
    highest = max((number_of(row.spent) for row in report.composition.hospitals), default=0.0)
    if {number_of(report.verdict.spent), number_of(report.privacy.epsilon)} != {highest}:
        result.failed(EPSILON, "the headline is not the highest figure of a hospital", file)


def _check_hospital(
    result: Verification,
    hospital: HospitalFacts,
    row: HospitalBudget,
    delta: float,
    since: int,
    file: str,
    *,
    pld: bool,
) -> None:
    held = figures.of_ledger(hospital)
    if len(held) > budget.MAX_KINDS:
        text = f"hospital {hospital.name} lists {len(held)} different mechanisms, expected at most {budget.MAX_KINDS}"
        result.failed(EPSILON, text, file)
        return
    rdp, recorded = figures.second_opinion(held, delta), number_of(row.spent_second_accountant)
    most = figures.second_opinion_at_most(held, delta) if since == 0 else rdp
    if not (near(recorded, rdp) or rdp < recorded < most or near(recorded, most)):
        result.failed(EPSILON, _differs(hospital.name, "second", row.spent_second_accountant, rdp), file)
    if number_of(row.spent) > recorded + TOLERANCE:
        result.failed(EPSILON, f"hospital {hospital.name}: the looser second figure lies below the first", file)
    if pld:
        value, spent = figures.epsilon(held, delta), number_of(row.spent)
        most = most if value == rdp else value  # the second proof's figure is the smaller one
        if not (near(spent, value) or value < spent < most or near(spent, most)):
            result.failed(EPSILON, _differs(hospital.name, "recorded", row.spent, value), file)
        counted = figures.held_of(hospital.earlier, figures.of_run(hospital.this_run), delta, hospital.cap)
        if row.held is not None and not near(number_of(row.held), counted):
            result.failed(EPSILON, _differs(hospital.name, "counted", row.held, counted), file)


def _differs(name: str, which: str, recorded: str, value: float) -> str:
    return f"hospital {name}: the {which} figure is {recorded}, computed again it is {accountant.round_up(value)}"


def changes_mechanism(previous: RoundReport | None, report: RoundReport) -> bool:
    """Whether any hospital reserved another mechanism than in the round before (or there is no round before)."""
    if previous is None:
        return True
    before = [hospital.reserved for hospital in previous.aggregation.participants]
    return before != [hospital.reserved for hospital in report.aggregation.participants]


def check_figures(result: Verification, report: RoundReport, file: str) -> tuple[str, ...] | None:
    """Build the report again from its own facts and compare every field, whichever renderer made it.

    Returns the paths of the fields that this version cannot compare, since an older renderer made them otherwise (none
    for a report of this one); None where nothing was compared, which is a failure or follows one.
    """
    since = renderers.number(report.renderer)
    if since is None:
        result.failed(FIGURES, renderers.unknown(report.renderer), file)
        return None
    if any(len(figures.of_ledger(entry)) > budget.MAX_KINDS for entry in report.aggregation.participants):
        return None
    try:
        found = rebuilding.compare(report, since)
    except AuditError as error:
        result.failed(FIGURES, str(error), file)
        return None
    if found.wrong:
        text = f"does not follow from the facts in the report: {rebuilding.listed(found.wrong)}"
        result.failed(FIGURES, text, file)
    return found.unchecked
