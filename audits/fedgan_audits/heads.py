"""Comparing a chain with what was kept elsewhere: a head written down, or a hospital's own ledger.

A bundle alone cannot show that its signers withheld the newest rounds, or that a coordinator showed different
histories to different hospitals. Both come to light against the heads that someone else kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedgan_audits.checks import Verification
from fedgan_audits.errors import AuditError
from fedgan_audits.sections import RoundReport

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
    result.conclude(
        LEDGER, f"{hospital} signed exactly these {len(heads)} reports and reserved what they say", str(place)
    )
