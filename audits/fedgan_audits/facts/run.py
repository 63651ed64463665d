"""The types of a whole run: how it stands, its manifest of files, and a reviewer's sign-off."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from fedgan_audits.facts.records import (
    Count,
    Digest,
    Facts,
    Incident,
    Label,
    Name,
    Positive,
    SafePath,
    Text,
    Time,
    as_tuple,
)
from fedgan_audits.facts.sections import Verdict

MANIFEST = "manifest.dsse.json"


INDEX = "index.html"


POLICY = "policy.json"


Outcome = Literal["running", "complete", "ended early", "refused"]


class RunFacts(Facts):
    """How the run stands, as the coordinator states it; `reason` says why it ended, in a sentence."""

    run_id: Name
    outcome: Outcome
    reason: Text
    rounds_scheduled: Positive
    policy_sha256: Digest
    started: Time
    ended: Time
    incidents: Annotated[tuple[Incident, ...], BeforeValidator(as_tuple)] = ()


class ReportEntry(Facts):
    """One report of the chain; `digest` is SHA-256 of its payload."""

    round: Positive
    digest: Digest
    verdict: Verdict


class FileSize(Facts):
    """Size in bytes of one file; its digest is a subject of the statement."""

    path: SafePath
    size: Count


class Manifest(Facts):
    """The predicate of a run's manifest."""

    schema_version: Literal["0"]
    schema_note: Text
    renderer: Label
    run: RunFacts
    head: Digest | None
    reports: tuple[ReportEntry, ...]
    files: tuple[FileSize, ...]


SIGN_OFF_TYPE = "urn:fedgan-secure:audit:sign-off:0"


_ROLE = Annotated[
    str, Field(min_length=2, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+$")
]


class SignOff(Facts):
    """The predicate of a sign-off. `report` and `head` are digests of reports' payloads, `previous` of a sign-off's."""

    schema_version: Literal["0"]
    schema_note: Text
    sequence: Positive
    previous: Digest | None
    run_id: Name
    round: Positive
    report: Digest
    head: Digest
    signer: Name
    role: _ROLE
    person: Label | None
    remarks: Text
    time: Time
