"""What a report says in words of how a run protects its patients: a hospital knows these words itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedgan_audits.facts import RoundRecord
from fedgan_secure.data.reading import fields_read
from fedgan_secure.federation.rounds import (
    CLIPPING,
    DEIDENTIFICATION,
    NO_NOISE,
    SAMPLING,
    SETTING,
    noise_of,
    release_facts,
)
from fedgan_secure.policy import CLAIMS, FederationPolicy


def objections_to_words(record: RoundRecord, policy: FederationPolicy, name: str, *, lasting: bool) -> list[str]:
    """Return where a report's words are not those that follow from the policy, for a hospital before it signs.

    Args:
        record: of the report, by a coordinator who is not trusted.
        policy: the hospital's own copy.
        name: the hospital's.
        lasting: whether its ledger lasts over runs.
    """
    privacy, data = record.privacy, record.data
    own = next((hospital.ledger_lifetime for hospital in record.hospitals if hospital.name == name), None)
    release = None if policy.release is None else release_facts(policy, policy.release)
    expected: list[tuple[str, object, object]] = [
        ("the setting of the run", record.header.setting, SETTING),
        ("how patients are drawn", privacy.sampling, SAMPLING),
        ("what noise there is", privacy.noise, NO_NOISE if policy.flags.no_privacy else noise_of(policy)),
        ("how patients are clipped", privacy.clipping, CLIPPING),
        ("what is released", privacy.release, release),
        ("how identifiers are kept out", data.deidentification, DEIDENTIFICATION),
        ("the fields that are read", tuple(data.fields_read), tuple(fields_read(data.layouts))),
        ("whether pictures have classes", data.conditional, policy.data.classes > 0),
        ("how long its ledger lasts", own, "site" if lasting else "run"),
    ]
    found = [f"the report says otherwise {what}" for what, said, known in expected if said != known]
    free = [incident.text for incident in record.incidents] + [row.reason for row in record.missing_cosignatures]
    free += [text for row in record.hospitals for text in (row.drop_reason, row.receipt_reason) if text]
    claims = [
        claimed for text in (*free, record.header.abort_detail or "") if (claimed := claim_in(text, policy.names))
    ]
    return [*found, *(f"the coordinator's own words claim {claim!r}, as no report does" for claim in claims)]


def claim_in(text: str, names: Sequence[str]) -> str | None:
    """Return a claim that no report makes, or None; the names of hospitals claim nothing."""
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<![a-z0-9-]){re.escape(name)}(?![a-z0-9-])", "", text)
    found = CLAIMS.search(text)
    return found.group() if found else None
