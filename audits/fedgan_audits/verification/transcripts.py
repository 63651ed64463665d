"""Handing the transcripts of a run to the protocol's own check.

This room never imports the protocol: the command line passes the check in as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedgan_audits.bundle import Bundle, UnreadableFileError
from fedgan_audits.facts import RoundReport, Verification, said
from fedgan_audits.signing import COORDINATOR, Roster

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
        return TranscriptContext(
            data=data,
            policy=self.policy,
            policy_sha256=report.header.policy_sha256,
            run_id=report.header.run_id,
            round=report.header.round,
            hospitals={name: self.roster.raw[name] for name in self.roster.hospitals},
            coordinator=self.roster.raw[COORDINATOR],
            report=report,
        )


def replay(result: Verification, evidence: Evidence, report: RoundReport, check: TranscriptCheck) -> int:
    """Replay the transcripts that a report names; returns how many fitted."""
    fitted = 0
    for entry in report.verification.artefacts:
        if entry.kind != "transcript":
            continue
        try:
            data = evidence.bundle.read(entry.path)
            check(evidence.context(data, report))
            fitted += 1
        except UnreadableFileError as error:
            result.failed(TRANSCRIPTS, error.problem, error.file)
        except Exception as error:  # noqa: BLE001 - hostile bytes in another room's parser: any error is a failure
            result.failed(TRANSCRIPTS, said(error), entry.path)
    return fitted
