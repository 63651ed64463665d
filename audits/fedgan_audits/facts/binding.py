"""Holding a round's record against the policy that it was run under, and against what a complete round must hold.

The digest of the policy says which policy was meant; only its content says what was agreed. So every public setting
that a report repeats is compared with `policy.json`, and whatever follows from the policy is computed from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fedgan_audits import canonical_json
from fedgan_audits.accounting import DistributedMechanism, MechanismRecord
from fedgan_audits.facts.records import HospitalFacts, RoundRecord


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


def _policy_release(release: Mapping[str, Any]) -> MechanismRecord | None:
    """What a policy's `release` reserves in round 1; None where it describes no mechanism."""
    kind = DistributedMechanism if release.get("shares") is not None else MechanismRecord
    names = {"noise_multiplier", "l2_clip_norm", "unit", "images_per_patient"}
    try:
        found = {name: release[name] for name in names}
        if kind is DistributedMechanism:
            found["shares"] = release["shares"]
        return kind(sampling_probability=1.0, steps=1, **found)
    except (KeyError, TypeError, ValidationError):
        return None


def start_text(name: str, digest: str, statement: str) -> str:
    """Say what a public start is, as reports repeat it: its name, the SHA-256 of its file and its statement."""
    return f"{name} (SHA-256 {digest}): {statement}"


def _policy_start(start: object) -> str | None:
    """The text of a policy's `start`; empty without one, None where it is in no form that says what the start is."""
    if start is None:
        return ""
    parts = [start.get(key) for key in ("name", "digest", "statement")] if isinstance(start, Mapping) else [None]
    return start_text(*parts) if all(isinstance(part, str) for part in parts) else None  # type: ignore[arg-type]


def release_differences(record: RoundRecord, policy: Mapping[str, Any]) -> list[str]:
    """Where a round's record says something else of the release than its policy, or reserves it otherwise.

    Round 1 reserves the release, once, and no other round does. Empty where neither has a release.
    """
    facts, agreed = record.privacy.release, policy.get("release")
    if facts is None or agreed is None:
        if facts is None and agreed is None:
            return []
        has, lacks = ("report", "policy") if agreed is None else ("policy", "report")
        return [f"the {has} has a release round and the {lacks} has none"]
    settings: Mapping[str, Any] = agreed if isinstance(agreed, Mapping) else {}
    start = policy.get("start")
    digest = start.get("digest") if isinstance(start, Mapping) else None
    mechanism, absent = _policy_release(settings), object()
    rows: list[tuple[str, object, object]] = [
        ("the mechanism of the release", facts.mechanism, mechanism),
        ("the length of the release's vector", facts.dimension, settings.get("dimension", absent)),
        ("the layout of the release's vector", facts.layout_sha256, settings.get("layout_sha256", absent)),
        ("the layout's digest in the policy", facts.layout_sha256, _digest_of(settings.get("layout"))),
    ]
    if digest is not None:
        rows.append(("the start of the release's features", str(digest) in facts.features, True))
    found = [f"{what} differs from the policy" for what, said, meant in rows if not _same(said, meant)]
    if record.header.round == 1 and record.aggregation.dimension != facts.dimension:
        found.append(
            f"the sum of the release has {record.aggregation.dimension} numbers and its vector {facts.dimension}"
        )
    for hospital in record.hospitals:
        found += _misreserved(hospital, facts.mechanism, record.privacy.planned)
    return found


def _misreserved(hospital: HospitalFacts, release: MechanismRecord, planned: MechanismRecord) -> list[str]:
    """Where a hospital reserved something else than the release in round 1, or the release in a later round."""
    found = []
    for spent in hospital.this_run:
        if spent.first_round == 1 and spent.mechanism != release:
            found.append(f"hospital {hospital.name} reserved another mechanism in round 1 than the release")
        if spent.last_round > 1 and spent.mechanism == release != planned:
            last = max(2, spent.first_round)
            found.append(f"hospital {hospital.name} reserved the release again in round {last}")
    return found


def _digest_of(layout: object) -> str | None:
    """SHA-256 of the canonical JSON of a layout; None where there is none."""
    if not isinstance(layout, Mapping):
        return None
    try:
        return hashlib.sha256(canonical_json.canonical(dict(layout))).hexdigest()
    except canonical_json.EnvelopeError:
        return None


def _headroom(record: RoundRecord, policy: Mapping[str, Any]) -> object:
    """Why the sum of this round cannot overflow, as the policy says it: a release has a proof of its own."""
    release = policy.get("release")
    own = release.get("headroom") if isinstance(release, Mapping) and record.header.round == 1 else None
    return own or policy.get("headroom", object())


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
        ("the headroom", facts.headroom, _headroom(record, policy)),
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
        ("the public start", data.start, _policy_start(policy.get("start"))),
    ]
    declared = [entry.model_dump(mode="json") for entry in record.governance]
    rows.append(("what was declared", declared, policy.get("governance", [])))
    for hospital in record.hospitals:
        who = f"of hospital {hospital.name}"
        declared = mechanism.get("declared_patients", absent)
        rows.append((f"the declared number of patients {who}", hospital.declared_patients, declared))
        later = (spent for spent in hospital.this_run if privacy.release is None or spent.last_round > 1)
        rows += [(f"a mechanism reserved {who}", spent.mechanism, planned) for spent in later]
    found = [f"{what} differs from the policy" for what, said, agreed in rows if not _same(said, agreed)]
    return list(dict.fromkeys([*found, *release_differences(record, policy)]))


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
