"""Comparing a chain with what was kept elsewhere: a head written down, or a hospital's own ledger.

A bundle alone cannot show that its signers withheld the newest rounds, or that a coordinator showed different
histories to different hospitals. Both come to light against the heads that someone else kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedgan_audits.accounting import MechanismRecord
from fedgan_audits.errors import AuditError
from fedgan_audits.facts import HospitalFacts, RoundReport, RunFacts, Verification
from fedgan_audits.ledger import caps
from fedgan_audits.report import figures

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
    """What a ledger held when a round was reserved: the other runs' mechanisms, the first of them, and the cap."""

    earlier: frozenset[MechanismRecord]
    first: MechanismRecord | None
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
            found[entry.round] = _Held(frozenset(figures.merged(others)), figures.first_kind(others), limit)
    return found


class LedgerComparison:
    """A hospital's ledger beside the reports, one after the other: what it signed, what it reserved.

    The ledger is opened read-only, when the first report names the run, and its own hash chain is checked first.
    """

    def __init__(self, result: Verification, place: Path, hospitals: Sequence[str]) -> None:
        self._result = result
        self._place = place
        self._hospitals = hospitals
        self._here: set[int] = set()
        self._opened = False
        self._hospital: str | None = None
        self._heads: dict[int, str] = {}
        self._reserved: dict[int, MechanismRecord] = {}
        self._held: dict[int, _Held] = {}
        self._scheduled: int | None = None
        self._reserved_at: dict[int, int] = {}
        self._complete_at: int | None = None
        """Where in the ledger a round was reserved, and where the hospital signed that the run is complete."""
        self._raised: list[tuple[int, str | None]] = []
        """Where in the ledger the cap was raised, and by which key's valid signature."""
        self._fingerprint: str | None = None
        self._signed_at: dict[int, int] = {}
        self._ended_at: dict[str, int] = {}
        """Where in the ledger a round's report was signed, and where each key was followed by another or revoked."""

    def _open(self, run_id: str) -> None:
        from fedgan_audits.ledger import Ledger, is_complete

        self._opened = True
        place = str(self._place)
        try:
            with Ledger.open(self._place, read_only=True) as ledger:
                ledger.verify()
                hospital = ledger.hospital
                self._heads, self._reserved = ledger.signed_heads(run_id), ledger.reservations(run_id)
                self._held = _held(ledger, run_id)
                for entry in ledger.entries():
                    own_round = entry.round if entry.run_id == run_id else None
                    if entry.kind == "report_signed" and own_round is not None:
                        self._signed_at[own_round] = entry.sequence
                    elif entry.kind == "reserved" and own_round is not None:
                        self._reserved_at[own_round] = entry.sequence
                    elif is_complete(entry) and entry.run_id == run_id:
                        self._complete_at = self._complete_at or entry.sequence
                    elif entry.kind == caps.RAISED:
                        self._raised.append((entry.sequence, caps.signer_of(entry)))
                    elif entry.kind in ("key_rotated", "key_revoked"):
                        self._ended_at.setdefault(str(entry.facts.get("key")), entry.sequence)
        except AuditError as error:
            self._result.failed(LEDGER, str(error), place)
            return
        if hospital not in self._hospitals:
            self._result.failed(LEDGER, f"it is the ledger of {hospital}, which is no hospital of this run", place)
            return
        self._hospital = hospital
        if not self._heads:
            self._result.failed(LEDGER, f"hospital {hospital} signed no report of this run", place)

    def add(self, report: RoundReport, digest: str, file: str) -> None:
        """Compare one report with what the hospital signed and reserved for its round."""
        if not self._opened:
            self._open(report.header.run_id)
        number, hospital = report.header.round, self._hospital
        self._scheduled = report.header.rounds_scheduled
        self._here.add(number)
        if hospital is None:
            return
        missing = {entry.name for entry in report.incidents.missing_cosignatures}
        if number not in self._heads:
            if hospital not in missing:
                self._result.failed(LEDGER, f"{hospital}'s ledger knows no signature of this report", file)
        elif self._heads[number] != digest:
            self._result.failed(LEDGER, f"{hospital} signed another report of this round", file)
        own = next((entry for entry in report.aggregation.participants if entry.name == hospital), None)
        if own is not None:
            self._fingerprint = own.fingerprint
            self._compare(own, number, file)

    def _compare(self, own: HospitalFacts, number: int, file: str) -> None:
        """Compare what a report says of the hospital with its ledger."""
        hospital = own.name
        if own.reserved != self._reserved.get(number):
            self._result.failed(LEDGER, f"what {hospital} reserved is not what its ledger says", file)
        if self._signed_at.get(number, 0) > self._ended_at.get(own.fingerprint, 2**53):
            text = f"{hospital} signed this report after its key {own.fingerprint} had been followed or revoked"
            self._result.failed(LEDGER, text, file)
        if number in self._held:
            known = self._held[number]
            if set(figures.merged(own.earlier)) != known.earlier or figures.first_kind(own.earlier) != known.first:
                self._result.failed(LEDGER, f"{hospital}'s earlier runs are not those of its ledger", file)
            if own.cap != self._held[number].cap:
                self._result.failed(LEDGER, f"{hospital}'s cap is not the one that its ledger held", file)

    def conclude(self, run: RunFacts | None = None) -> None:
        """Fail where something was withheld that the hospital signed or reserved, or reserved out of the schedule.

        Args:
            run: how the manifest says that the run stands; None where there is none.
        """
        result, place, hospital = self._result, str(self._place), self._hospital
        if not self._here:
            result.failed(LEDGER, "there are no reports to compare it with", place)
            return
        if hospital is None:
            return
        for number in sorted(self._heads.keys() - self._here):
            result.failed(
                LEDGER, f"{hospital} signed a report of round {number} that is not here: rounds were withheld"
            )
        self._check_raises(hospital, place)
        strange = self._out_of_schedule()
        for number, text in strange.items():
            result.failed(LEDGER, f"{hospital} reserved budget for round {number}, {text}", place)
        complete = run is not None and run.outcome == "complete"
        for number in sorted(self._reserved.keys() - self._heads.keys() - self._here - strange.keys()):
            text = f"{hospital} reserved budget for round {number}, of which no report is here"
            if number == max(self._here) + 1 and not complete:
                result.skipped(LEDGER, f"{text}: it may still be running", place)
            else:
                result.failed(LEDGER, text)
        result.conclude(
            LEDGER, f"{hospital} signed exactly these {len(self._heads)} reports and reserved what they say", place
        )

    def _check_raises(self, hospital: str, place: str) -> None:
        """Whatever raised the cap before the last reservation of this run was signed by a key of the hospital."""
        last = max(self._reserved_at.values(), default=0)
        for sequence, signer in self._raised:
            if sequence > last:
                continue
            if signer is None:
                self._result.failed(LEDGER, f"{hospital}'s cap was raised without a valid signature", place)
            elif signer != self._fingerprint and signer not in self._ended_at:
                self._result.failed(LEDGER, f"{hospital}'s cap was raised by another key ({signer})", place)

    def _out_of_schedule(self) -> dict[int, str]:
        """Rounds that the ledger reserved although the run had no place for them, each with what is wrong."""
        found = {}
        for number, sequence in sorted(self._reserved_at.items()):
            if self._scheduled is not None and number > self._scheduled:
                found[number] = f"and {self._scheduled} rounds are scheduled, spare ones included"
            elif self._complete_at is not None and sequence > self._complete_at:
                found[number] = "after it had signed that the run is complete"
        return found
