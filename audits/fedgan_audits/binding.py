"""Holding a round's record against the policy that it was run under, and against what a complete round must hold.

The digest of the policy says which policy was meant; only its content says what was agreed. So every public setting
that a report repeats is compared with `policy.json`, and whatever follows from the policy is computed from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fedgan_audits.mechanism import DistributedMechanism, MechanismRecord
from fedgan_audits.records import RoundRecord


def colluders_against_lying(roster_size: int, threshold: int) -> int:
    """How many hospitals may collude with a coordinator that lies: max(0, min(2t - n - 1, t - 2)).

    2t - n - 1 keeps two disjoint groups from each finishing the round; t - 2 as in :func:`colluders_against_honest`.
    """
    return max(0, min(2 * threshold - roster_size - 1, threshold - 2))


def colluders_against_honest(threshold: int) -> int:
    """How many hospitals may collude with a coordinator that follows the protocol: max(0, t - 2).

    A sum may hold as few as t hospitals. Were t - 1 of them to pool their inputs, the rest of the sum would be the
    input of one hospital.
    """
    return max(0, threshold - 2)


def _policy_mechanism(mechanism: Mapping[str, Any]) -> MechanismRecord | None:
    try:
        kind = DistributedMechanism if "shares" in mechanism else MechanismRecord
        return kind(
            steps=mechanism["steps_per_round"],
            **{name: mechanism[name] for name in kind.model_fields if name != "steps"},
        )
    except (KeyError, TypeError, ValidationError):
        return None


def differences(record: RoundRecord, policy: Mapping[str, Any]) -> list[str]:
    """Where a round's record says something else than its policy; `policy` is `policy.json` as parsed.

    Empty when the record repeats the policy faithfully. A policy that lacks a setting differs in it.
    """
    header, privacy, facts, data = record.header, record.privacy, record.aggregation, record.data
    parts = {name: policy.get(name) for name in ("mechanism", "flags", "data", "initial_model")}
    mechanism, flags, shape, initial = (part if isinstance(part, Mapping) else {} for part in parts.values())
    entries = policy.get("hospitals")
    listed = entries if isinstance(entries, list | tuple) else ()
    roster = [entry.get("name") if isinstance(entry, Mapping) else None for entry in listed]
    planned = _policy_mechanism(mechanism)
    absent = object()
    rows: list[tuple[str, object, object]] = [
        ("the run's id", header.run_id, policy.get("run_id", absent)),
        ("the number of scheduled rounds", header.rounds_scheduled, policy.get("rounds", absent)),
        ("delta", privacy.delta, mechanism.get("delta", absent)),
        ("the target for epsilon", privacy.epsilon_target, mechanism.get("epsilon_target", absent)),
        ("the unit of privacy", privacy.unit, mechanism.get("unit", absent)),
        ("the number of images per patient", privacy.images_per_patient, mechanism.get("images_per_patient", absent)),
        (
            "in how many hospitals a patient may be",
            privacy.hospitals_per_patient,
            mechanism.get("hospitals_per_patient", 1),
        ),
        ("who adds the noise", privacy.noise_placement, mechanism.get("noise_placement", absent)),
        ("the planned mechanism", privacy.planned, planned),
        ("whether privacy is switched off", record.flags.no_privacy, flags.get("no_privacy", absent)),
        (
            "whether randomness was fixed",
            record.flags.insecure_deterministic,
            flags.get("insecure_deterministic", absent),
        ),
        ("the threshold", facts.threshold, policy.get("threshold", absent)),
        ("the ring", facts.ring_bits, policy.get("ring_bits", absent)),
        ("the headroom", facts.headroom, policy.get("headroom", absent)),
        ("the size of the roster", facts.roster_size, len(roster)),
        ("the list of hospitals", [hospital.name for hospital in record.hospitals], roster),
        (
            "how many hospitals may collude",
            facts.colluders_tolerated,
            colluders_against_lying(facts.roster_size, facts.threshold),
        ),
        ("whether the images are phantoms", data.synthetic_phantoms, shape.get("phantoms", absent)),
        ("the size of the images", data.image_size, shape.get("image_size", absent)),
        ("the channels of the images", data.channels, shape.get("channels", absent)),
        ("the number of classes", data.classes, shape.get("classes", absent)),
        ("the remark on the unit", data.unit_remark, shape.get("unit_remark", absent)),
        ("what was taken from the data", list(data.taken_from_data), flags.get("taken_from_data", absent)),
        ("where the first weights came from", data.pretraining, initial.get("pretraining", absent)),
    ]
    declared = [entry.model_dump(mode="json") for entry in record.governance]
    rows.append(("what was declared", declared, policy.get("governance", [])))
    for hospital in record.hospitals:
        who = f"of hospital {hospital.name}"
        declared = mechanism.get("declared_patients", absent)
        rows.append((f"the declared number of patients {who}", hospital.declared_patients, declared))
        rows += [(f"a mechanism reserved {who}", spent.mechanism, planned) for spent in hospital.this_run]
    found = [f"{what} differs from the policy" for what, said, agreed in rows if not _same(said, agreed)]
    return list(dict.fromkeys(found))


def _same(said: object, agreed: object) -> bool:
    """Equality that does not take True for 1."""
    return isinstance(said, bool) == isinstance(agreed, bool) and said == agreed


def shortfalls(record: RoundRecord) -> list[str]:
    """What a round that calls itself complete lacks, and what an incomplete one may not claim; empty when whole."""
    facts = record.aggregation
    transcripts = [entry.sha256 for entry in record.artefacts if entry.kind == "transcript"]
    found = []
    if record.header.status == "incomplete":
        if facts.model_after is not None or facts.sum_sha256 is not None or facts.survivors:
            found.append("an incomplete round claims a sum, a model or survivors")
        return found
    if facts.transcript_sha256 is None or transcripts != [facts.transcript_sha256]:
        found.append("a complete round has no transcript")
    if None in (facts.model_before, facts.model_after, facts.sum_sha256):
        found.append("a complete round names no sum or no model")
    if len(facts.survivors) < facts.threshold:
        found.append(f"a complete round has {len(facts.survivors)} survivors, the threshold is {facts.threshold}")
    signed = sum(hospital.receipt == "signed" for hospital in record.hospitals)
    if signed < facts.threshold:
        found.append(f"a complete round has {signed} signed receipts, the threshold is {facts.threshold}")
    for hospital in record.hospitals:
        if hospital.took_part and hospital.receipt == "not due":
            found.append(f"hospital {hospital.name} is in the sum and its receipt is called not due")
        if not hospital.took_part and hospital.receipt != "not due":
            found.append(f"hospital {hospital.name} is not in the sum and has a receipt")
    return found
