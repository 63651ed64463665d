"""What a run has cost each hospital's patients so far, as the terminal says it: the figures of the reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedgan_audits.accounting import epsilon, epsilon_several_hospitals, round_up
from fedgan_audits.report import figures
from fedgan_secure.federation.hospital import Hospital
from fedgan_secure.policy import FederationPolicy


@dataclass(frozen=True)
class HospitalSpent:
    """One hospital's epsilons at the policy's delta, as a report prints them ("unbounded" without privacy).

    Attributes:
        this_run: this run alone.
        ledger: everything in the ledger, if every run in it was planned beforehand.
        held: the same, whether or not a later run was chosen after an earlier one; it counts against the cap.
        cap: the cap that the ledger holds its hospital to, or None.
        left_of_target: what the run's target leaves, rounded down, or None without one.
        left_of_cap: what the cap leaves, rounded down, or None without one.
        has_history: whether the ledger holds other runs.
    """

    this_run: str
    ledger: str
    held: str
    cap: float | None
    left_of_target: str | None
    left_of_cap: str | None
    has_history: bool

    def json(self) -> dict[str, object]:
        """The same as plain values, by their names."""
        return dict(vars(self))


def spent_of(hospital: Hospital) -> HospitalSpent:
    """Return where a hospital stands, computed from its ledger as its reports are (`fedgan_audits.report.figures`)."""
    ledger, mechanism = hospital.ledger, hospital.policy.mechanism
    earlier, own = ledger.mechanisms(exclude_run=hospital.run_id), ledger.mechanisms(run_id=hospital.run_id)
    cap, target, delta = hospital.standing_cap, mechanism.epsilon_target, mechanism.delta
    alone = figures.epsilon(figures.merged(own), delta)
    held = figures.held_of(earlier, figures.merged(own), delta, cap)
    return HospitalSpent(
        this_run=round_up(alone),
        ledger=round_up(figures.epsilon(figures.merged((*earlier, *own)), delta)),
        held=round_up(held),
        cap=cap,
        left_of_target=None if target is None else figures.shown_down(target - alone),
        left_of_cap=None if cap is None else figures.shown_down(cap - held),
        has_history=bool(earlier),
    )


def several_hospitals(policy: FederationPolicy, hospitals: Mapping[str, Hospital]) -> str | None:
    """Return epsilon of this run for a patient in as many hospitals as the policy declares; None where that is one."""
    mechanism = policy.mechanism
    if mechanism.hospitals_per_patient == 1:
        return None
    ledgers = [hospital.ledger.mechanisms(run_id=policy.run_id) for hospital in hospitals.values()]
    ledgers.sort(key=lambda ledger: epsilon(ledger, mechanism.delta))
    return round_up(epsilon_several_hospitals(ledgers[-mechanism.hospitals_per_patient :], mechanism.delta))
