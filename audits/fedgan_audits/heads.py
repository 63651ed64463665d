"""Comparing a chain with what was kept elsewhere: a head written down, or a hospital's own ledger.

A bundle alone cannot show that its signers withheld the newest rounds, or that a coordinator showed different
histories to different hospitals. Both come to light against the heads that someone else kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedgan_audits import figures
from fedgan_audits.checks import Verification
from fedgan_audits.errors import AuditError
from fedgan_audits.mechanism import MechanismRecord
from fedgan_audits.sections import RoundReport

if TYPE_CHECKING:
    from fedgan_audits.ledger import Ledger

HEAD = "head"
LEDGER = "ledger"


def check_head(result: Verification, digests: Sequence[str], head: str) -> None:
    """Whether `head`, the digest of a report's payload kept elsewhere, is in the chain of `digests`, oldest first."""
    if head not in digests:
        result.failed(HEAD, "the head that you hold is not in this chain: rounds were withheld or rewritten")
    elif head != digests[-1]:
        result.passed(HEAD, f"the head that you hold is round {digests.index(head) + 1}'s; later rounds follow from it")
    else:
        result.passed(HEAD, "the newest report is the head that you hold")


@dataclass(frozen=True)
class _Held:
    """What a ledger held when a round was reserved: the other runs' mechanisms and the cap."""

    earlier: frozenset[MechanismRecord]
    cap: float | None


def _held(ledger: Ledger, run_id: str) -> dict[int, _Held]:
    """By round of this run; what other runs reserved later is not counted."""
    found: dict[int, _Held] = {}
    others: list[MechanismRecord] = []
    for entry in ledger.entries():
        if entry.mechanism is None:
            continue
        if entry.run_id != run_id:
            others.append(entry.mechanism)
        elif entry.round is not None:
            cap = entry.facts.get("cap")
            limit = float(cap) if isinstance(cap, int | float) else None
            found[entry.round] = _Held(frozenset(figures.merged(others)), limit)
    return found


def check_ledger(
    result: Verification,
    place: Path,
    hospitals: Sequence[str],
    reports: Sequence[tuple[RoundReport, str]],
    files: Mapping[int, str],
) -> None:
    """Compare a hospital's ledger with the reports (each with its digest): what it signed, what it reserved.

    `files` names each round's file. The ledger is opened read-only and its own hash chain is checked first.
    """
    from fedgan_audits.ledger import Ledger

    if not reports:
        result.failed(LEDGER, "there are no reports to compare it with", str(place))
        return
    run_id = reports[-1][0].header.run_id
    try:
        with Ledger.open(place, read_only=True) as ledger:
            ledger.verify()
            hospital, heads, reserved = ledger.hospital, ledger.signed_heads(run_id), ledger.reservations(run_id)
            held = _held(ledger, run_id)
    except AuditError as error:
        result.failed(LEDGER, str(error), str(place))
        return
    if hospital not in hospitals:
        result.failed(LEDGER, f"it is the ledger of {hospital}, which is no hospital of this run", str(place))
        return
    if not heads:
        result.failed(LEDGER, f"hospital {hospital} signed no report of this run", str(place))
    here = {report.header.round for report, _ in reports}
    for number in sorted(heads.keys() - here):
        result.failed(LEDGER, f"{hospital} signed a report of round {number} that is not here: rounds were withheld")
    for number in sorted(reserved.keys() - heads.keys() - here):
        text = f"{hospital} reserved budget for round {number}, of which no report is here"
        if number == max(here) + 1:
            result.skipped(LEDGER, f"{text}: it may still be running", str(place))
        else:
            result.failed(LEDGER, text)
    for report, digest in reports:
        number = report.header.round
        missing = {entry.name for entry in report.incidents.missing_cosignatures}
        if number not in heads:
            if hospital not in missing:
                result.failed(LEDGER, f"{hospital}'s ledger knows no signature of this report", files[number])
        elif heads[number] != digest:
            result.failed(LEDGER, f"{hospital} signed another report of this round", files[number])
        own = next((entry for entry in report.aggregation.participants if entry.name == hospital), None)
        if own is not None and own.reserved != reserved.get(number):
            result.failed(LEDGER, f"what {hospital} reserved is not what its ledger says", files[number])
        if own is not None and number in held:
            if set(figures.merged(own.earlier)) != held[number].earlier:
                result.failed(LEDGER, f"{hospital}'s earlier runs are not those of its ledger", files[number])
            if own.cap != held[number].cap:
                result.failed(LEDGER, f"{hospital}'s cap is not the one that its ledger held", files[number])
    result.conclude(
        LEDGER, f"{hospital} signed exactly these {len(heads)} reports and reserved what they say", str(place)
    )
