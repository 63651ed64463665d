"""Handing the transcripts of a run to the protocol's own check.

This room never imports the protocol: the command line passes the check in as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization

from fedgan_audits.checks import Verification, said
from fedgan_audits.reading import Bundle, UnreadableFileError
from fedgan_audits.sections import RoundReport
from fedgan_audits.trust import COORDINATOR, Roster

TRANSCRIPTS = "transcripts"


@dataclass(frozen=True)
class TranscriptContext:
    """What a transcript check needs: the bytes, the policy, the roster's raw keys (32 bytes each) and the report.

    `hospitals` is in the order of the policy.
    """

    data: bytes
    policy: Mapping[str, Any]
    policy_sha256: str
    run_id: str
    round: int
    hospitals: Mapping[str, bytes]
    coordinator: bytes
    report: RoundReport


TranscriptCheck = Callable[[TranscriptContext], str]
"""Returns a line for people; raises any exception where the transcript does not fit."""


@dataclass(frozen=True)
class Evidence:
    """The bundle that transcripts are read from, and the policy and keys that they must fit."""

    bundle: Bundle
    policy: Mapping[str, Any]
    roster: Roster

    def context(self, data: bytes, report: RoundReport) -> TranscriptContext:
        """Everything that a check of one transcript needs."""
        raw = {
            name: key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            for name, key in self.roster.keys.items()
        }
        return TranscriptContext(
            data=data,
            policy=self.policy,
            policy_sha256=report.header.policy_sha256,
            run_id=report.header.run_id,
            round=report.header.round,
            hospitals={name: raw[name] for name in self.roster.hospitals},
            coordinator=raw[COORDINATOR],
            report=report,
        )


def check_transcripts(
    result: Verification, evidence: Evidence, reports: Sequence[RoundReport], check: TranscriptCheck | None
) -> None:
    """Replay every transcript that a report names; without a check only NOT CHECKED can be said."""
    if check is None:
        result.skipped(TRANSCRIPTS, "no transcript check was given; only their digests were compared")
        return
    checked = 0
    for report in reports:
        for entry in report.verification.artefacts:
            if entry.kind != "transcript":
                continue
            try:
                data = evidence.bundle.read(entry.path)
                check(evidence.context(data, report))
                checked += 1
            except UnreadableFileError as error:
                result.failed(TRANSCRIPTS, error.problem, error.file)
            except Exception as error:  # noqa: BLE001 - hostile bytes in another room's parser: any error is a failure
                result.failed(TRANSCRIPTS, said(error), entry.path)
    if checked:
        result.conclude(TRANSCRIPTS, f"{checked} replayed: signatures, stages and sums fit the reports")
