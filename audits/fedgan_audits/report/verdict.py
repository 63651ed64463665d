"""Section B: the verdict in plain words, from the facts and the figures alone.

INCOMPLETE when the round did not finish, or when a receipt or co-signature is missing; else STOP when nothing
protects the patients, a limit is exceeded, a self-test failed, or no further scheduled round fits; else PASS.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from fedgan_audits.facts import BudgetStatus, HospitalBudget, RoundRecord, Verdict, VerdictSection, cohort
from fedgan_audits.pages import wording
from fedgan_audits.report import release_texts
from fedgan_audits.report.figures import Budget, given, self_test_delta, shown, shown_down

SHORT = 110
MAX_SOURCE = 2_000
_SLACK = 1e-9
LONGEST_LIST = 3000
"""Signs of a list of names in a sentence; a sentence of a report has 4,000 at most."""


def listed(names: Sequence[str]) -> str:
    """Names as prose: "a", "a and b", "a, b and c"; of more than fit in a sentence the first, and how many more."""
    fitting, length = 0, 0
    while fitting < len(names) and length + len(names[fitting]) + 2 <= LONGEST_LIST:
        length += len(names[fitting]) + 2
        fitting += 1
    if fitting < len(names):
        return f"{', '.join(names[:fitting])} and {len(names) - fitting} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def rounds(count: int) -> str:
    """ "1 round", "2 rounds"."""
    return f"{count} round" if count == 1 else f"{count} rounds"


def hospitals(count: int) -> str:
    """ "1 hospital", "2 hospitals"."""
    return f"{count} hospital" if count == 1 else f"{count} hospitals"


def status(row: Budget, record: RoundRecord) -> BudgetStatus:
    """Where a hospital stands against its limits."""
    if math.isinf(row.spent):
        return "unbounded"
    if row.remaining is not None and row.remaining < -_SLACK:
        return "over budget"
    if record.header.round < record.header.rounds_scheduled and row.rounds_left == 0:
        return "no further round fits"
    return "within budget"


def hospital_budget(row: Budget, record: RoundRecord) -> HospitalBudget:
    """A hospital's figures as they are printed."""
    increase = math.inf if math.isinf(row.spent) else max(row.spent - row.before, 0.0)
    target, cap = record.privacy.epsilon_target, row.hospital.cap
    return HospitalBudget(
        name=row.hospital.name,
        spent=shown(row.spent),
        spent_second_accountant=shown(row.rdp),
        spent_before_this_round=shown(row.before),
        increase_this_round=shown(increase),
        spent_this_run=shown(row.this_run),
        held=shown(row.held),
        target=None if target is None else given(target),
        left_of_target=None if row.left_of_target is None else shown_down(row.left_of_target),
        cap=None if cap is None else given(cap),
        left_of_cap=None if row.left_of_cap is None else shown_down(row.left_of_cap),
        remaining=None if row.remaining is None else shown_down(row.remaining),
        rounds_left=row.rounds_left,
        status=status(row, record),
    )


def _unfinished(record: RoundRecord) -> list[str]:
    header = record.header
    found = []
    if header.status == "incomplete":
        why = f" ({header.abort_code})" if header.abort_code else ""
        cause = "It was interrupted" if header.killed else f"It was aborted{why}"
        detail = f": {header.abort_detail}" if header.abort_detail else "."
        found.append(f"The round did not finish. {cause}{detail} Its budget is spent all the same.")
    for hospital in record.hospitals:
        if hospital.receipt in ("missing", "refused"):
            why = f": {hospital.receipt_reason}" if hospital.receipt_reason else "."
            found.append(f"Hospital {hospital.name}'s receipt for the sum is {hospital.receipt}{why}")
    for missing in record.missing_cosignatures:
        found.append(f"Hospital {missing.name} did not sign this report: {missing.reason}")
    return found


def _stops(record: RoundRecord, rows: Sequence[Budget]) -> list[str]:
    found = []
    if record.flags.no_privacy:
        found.append(wording.NO_PRIVACY_NOTE)
    else:
        found += cohort.stops(record.privacy.delta, _declared(record))
    if record.flags.insecure_deterministic:
        found.append(wording.INSECURE_NOTE)
    if any(math.isinf(row.spent) for row in rows) and not record.flags.no_privacy:
        found.append("No noise protects the patients of at least one hospital: epsilon is unbounded.")
    for wanted, text in (
        ("over budget", "exceeded its budget"),
        ("no further round fits", "has no room for another round under its limit"),
    ):
        names = [row.hospital.name for row in rows if status(row, record) == wanted]
        if names:
            found.append(f"Hospital {listed(names)} {text}.")
    added = self_test_delta(record.hospitals, record.privacy.delta)
    if added is not None and float(added) > record.privacy.delta:
        found.append(wording.SELF_TEST_DELTA_NOTE.format(added=added, delta=repr(record.privacy.delta)))
    failed = [hospital.name for hospital in record.hospitals if hospital.self_test == "FAIL"]
    if failed:
        found.append(f"The mechanism's self-test failed at hospital {listed(failed)}: the figures cannot be relied on.")
    return found


def _declared(record: RoundRecord) -> list[int]:
    return [hospital.declared_patients for hospital in record.hospitals]


def _history(record: RoundRecord, rows: Sequence[Budget]) -> list[str]:
    """What has to be said where a ledger holds other runs: what their figures assume, and what they give away."""
    longer = [row for row in rows if row.hospital.earlier and not math.isinf(row.spent)]
    if not longer:
        return []
    worst = max(longer, key=lambda row: row.held)
    said = {"name": worst.hospital.name, "spent": shown(worst.spent), "held": shown(worst.held)}
    return [wording.HISTORY_NOTE.format(**said), wording.EARLIER_SAMPLING_NOTE]


def _remarks(record: RoundRecord, rows: Sequence[Budget]) -> list[str]:
    privacy = record.privacy
    found = [] if record.flags.no_privacy else [*cohort.warnings(privacy.delta, _declared(record), privacy.unit)]
    found += _history(record, rows)
    found += [
        note
        for note, holds in (
            (wording.CLOCK_NOTE, record.header.ended < record.header.started),
            (wording.IMAGE_UNIT_NOTE, record.privacy.unit == "image"),
            (wording.SIMULATION_NOTE, record.header.setting == "simulation"),
            (wording.PHANTOM_NOTE, record.data.synthetic_phantoms),
        )
        if holds
    ]
    short = [hospital.name for hospital in record.hospitals if hospital.ledger_lifetime == "run"]
    if len(short) == len(record.hospitals):
        found.append(wording.RUN_LEDGER_NOTE.format(whose="Every hospital's ledger was", which="any figure"))
    elif short:
        whose = f"The ledger of {listed(short)} was"
        found.append(wording.RUN_LEDGER_NOTE.format(whose=whose, which="their figures"))
    if record.data.taken_from_data:
        found.append(wording.TAKEN_FROM_DATA_NOTE.format(which=listed(record.data.taken_from_data)))
        if any(setting.startswith("split") for setting in record.data.taken_from_data):
            found.append(wording.SPLIT_NOTE)
    if record.data.pretraining != "none":
        found.append(wording.PRETRAINING_NOTE.format(source=record.data.pretraining[:MAX_SOURCE].rstrip(". ")))
    found += release_texts.remarks(record)
    if record.data.unit_remark:
        found.append(record.data.unit_remark)
    return found


def _limit(record: RoundRecord, rows: Sequence[Budget]) -> tuple[float | None, str]:
    """The limit that binds first, and whose it is."""
    bounded = [row for row in rows if row.remaining is not None]
    if not bounded:
        return None, "No limit was set: neither a target for the run nor a hospital's own cap."
    tightest = min(bounded, key=lambda row: row.remaining if row.remaining is not None else math.inf)
    target, cap = record.privacy.epsilon_target, tightest.hospital.cap
    if cap is not None and (target is None or cap - tightest.held < target - tightest.this_run - _SLACK):
        return cap, f"Up to hospital {tightest.hospital.name}'s own cap, which counts everything in its ledger."
    return target, "Up to the target that was fixed for the whole run before it started."


def _left(record: RoundRecord, left: int) -> str:
    scheduled = record.header.rounds_scheduled - record.header.round
    if scheduled == 0:
        return "The schedule ends with this round. No further round is planned."
    if left == scheduled:
        return (
            f"All {rounds(scheduled)} still scheduled fit the budget."
            if scheduled > 1
            else ("The 1 round still scheduled fits the budget.")
        )
    if left == 0:
        return f"None of the {rounds(scheduled)} still scheduled fits the budget."
    return f"{left} of the {rounds(scheduled)} still scheduled fit the budget; after that the run must stop."


def verdict(record: RoundRecord, rows: Sequence[Budget], unsaid: Collection[str] = ()) -> VerdictSection:
    """Section B; without the reasons in `unsaid`, as a version decides that does not know them yet."""
    unfinished = _unfinished(record)
    stops = [text for text in _stops(record, rows) if text not in unsaid]
    word: Verdict = "INCOMPLETE" if unfinished else "STOP" if stops else "PASS"
    left = min(row.rounds_left for row in rows)
    scheduled = record.header.rounds_scheduled - record.header.round
    may_continue = not stops and left > 0
    if word == "PASS":
        headline = (
            "Yes, the next round may go ahead: every hospital is within its budget."
            if scheduled
            else "The run is finished: every hospital stayed within its budget."
        )
    elif word == "STOP":
        headline = "No, the run should not go on." + (f" {stops[0]}" if len(stops[0]) <= SHORT else "")
    elif record.header.status == "incomplete":
        headline = "This round did not finish, and its budget is spent." + (
            " The next scheduled round may go ahead." if may_continue else " No further round may go ahead."
        )
    else:
        headline = "This round's record is not whole: someone has not signed." + (
            " Ask why before the next round." if may_continue else " No further round may go ahead."
        )
    limit, limit_text = _limit(record, rows)
    margins = [row.remaining for row in rows if row.remaining is not None]
    return VerdictSection(
        verdict=word,
        may_continue=may_continue,
        headline=headline,
        reasons=(*unfinished, *stops, *(text for text in _remarks(record, rows) if text not in unsaid)),
        spent=shown(max(row.spent for row in rows)),
        budget=None if limit is None else given(limit),
        budget_text=limit_text,
        remaining=shown_down(min(margins)) if margins else None,
        delta=repr(record.privacy.delta),
        rounds_done=record.header.round,
        rounds_scheduled=record.header.rounds_scheduled,
        rounds_left=left,
        rounds_left_text=_left(record, left),
        does_not_show=wording.DOES_NOT_SHOW,
    )
