"""Which round a hospital may begin next, judged by its own copy of the policy and its own ledger alone.

Every scheduled round is one attempt, begun in order, and the next one is begun only after the report of the last one is
signed. So a coordinator gets no round beyond the figure that the reports state, and no sum that no report tells of.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedgan_audits.ledger import Ledger, is_complete
from fedgan_protocols import SessionParameters
from fedgan_secure.data import PatientDataset
from fedgan_secure.federation.refusals import SessionRefused
from fedgan_secure.federation.results.models_found import ModelsFound
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.site import foreign_cohort

_ENDS = frozenset({"session_opened", "round_finished", "round_aborted", "report_signed"})
"""Entries of the ledger after which a round's reservation pays for no session any more."""


def out_of_turn(
    policy: FederationPolicy, ledger: Ledger, models: ModelsFound, dataset: PatientDataset, round_number: int
) -> str | None:
    """Return why a hospital does not begin a round now, whatever its budget, or None where it is the round's turn.

    Args:
        policy: the hospital's own copy; `rounds` is the whole schedule, spare rounds included.
        ledger: the hospital's.
        models: what it found the rounds before to lead to.
        dataset: its patients, whose number is compared with the declared one before the run's first reservation.
        round_number: from 1.
    """
    if not ledger.reservations(policy.run_id) and (why := foreign_cohort(policy, dataset)) is not None:
        return why
    if not 1 <= round_number <= policy.rounds:
        return f"the policy schedules rounds 1 to {policy.rounds}, spare ones included"
    entries = [entry for entry in ledger.entries() if entry.run_id == policy.run_id]
    if any(map(is_complete, entries)):
        return "it has signed that the run is complete"
    if (other := _spent_meanwhile(policy.run_id, ledger)) is not None:
        return (
            f"run {other} has spent on the same patients since this run began: figures of this run would leave that out"
        )
    signed = {entry.round for entry in entries if entry.kind == "report_signed" and entry.round is not None}
    opened = {entry.round for entry in entries if entry.kind == "session_opened" and entry.round is not None}
    unsigned = sorted(opened - signed - {round_number})
    if unsigned:
        return f"round {unsigned[0]} was opened, and this hospital has signed no report of it"
    if (waiting := models.waits_for()) is not None:
        return f"it has seen the report of round {waiting[0]} and does not hold the sum that the receipts of it name"
    later = [number for number in opened | signed if number > round_number]
    return f"round {min(later)} was begun before, and rounds go forwards" if later else None


def _spent_meanwhile(run_id: str, ledger: Ledger) -> str | None:
    """Another run that reserved after this one's first reservation, or None: two runs do not take turns."""
    begun = False
    for entry in ledger.entries():
        if entry.mechanism is not None and entry.run_id == run_id:
            begun = True
        elif begun and entry.mechanism is not None:
            return str(entry.run_id)
    return None


def foreign_parameters(policy: FederationPolicy, parameters: SessionParameters, update: int) -> list[str]:
    """Return what of a session's parameters is not the policy's, in words.

    Args:
        policy: the hospital's own copy.
        parameters: of the session.
        update: the length of what a hospital gives to a round that is not a release.
    """
    roster = tuple((entry.name, bytes.fromhex(entry.public_key)) for entry in policy.hospitals)
    expected: list[tuple[str, object, object]] = [
        ("the roster", tuple((member.name, member.public_key) for member in parameters.roster), roster),
        ("the coordinator's key", parameters.server_public_key, bytes.fromhex(policy.coordinator.public_key)),
        ("the threshold", parameters.threshold, policy.threshold),
        ("the ring", parameters.ring_bits, policy.ring_bits),
        ("the graph of masks", parameters.graph, None),
        ("the policy", parameters.policy_hash, policy.digest()),
        ("the vectors' lengths", parameters.lengths, policy.lengths(update, parameters.round)),
    ]
    return [what for what, found, wanted in expected if found != wanted]


def refuse_foreign(wrong: Sequence[str], name: str, round_number: int) -> None:
    """Refuse a session in which something is not as hospital `name` knows it; raises SessionRefused, naming what."""
    if wrong:
        raise SessionRefused(
            f"hospital {name} does not take part in round {round_number}: {', '.join(wrong)} differ(s) "
            "from its own copy of the policy, ledger or last report",
            hint="compare the coordinator's policy with the hospitals' before going on",
        )


def open_once(policy: FederationPolicy, ledger: Ledger, parameters: SessionParameters, name: str) -> None:
    """Write down, durably, which session a round's reservation pays for.

    Raises:
        SessionRefused: the round was opened before, under whatever session, or has ended.
    """
    number = parameters.round
    before = {
        entry.kind
        for entry in ledger.entries()
        if entry.run_id == policy.run_id and entry.round == number and entry.kind in _ENDS
    }
    if before:
        raise SessionRefused(
            f"hospital {name} does not open round {number} again ({', '.join(sorted(before))}): "
            "one reservation pays for one session",
            hint="go on with the next scheduled round",
        )
    ledger.record("session_opened", policy.run_id, number, {"session": parameters.session.hex()})
