"""What a run's reports say together: the policy they keep to, who signed, how rounds ended, which model led on.

Every function takes reports in the order of their rounds, each with its file, and notes its findings in the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedgan_audits import binding
from fedgan_audits.checks import Verification
from fedgan_audits.manifest import MANIFEST, RunFacts
from fedgan_audits.report import record_of
from fedgan_audits.sections import RoundReport

POLICY_CONTENT = "policy content"
WHOLENESS = "whole rounds"
MODELS = "models"
SELF_TESTS = "self-tests"
VERDICTS = "verdicts"
SIGNATURES = "signatures"

Filed = Sequence[tuple[RoundReport, str]]


def check_policy_content(result: Verification, reports: Filed, policy: Mapping[str, Any]) -> None:
    """Every setting that a report repeats is the policy's, and a complete round holds what makes it complete."""
    for report, file in reports:
        record = record_of(report)
        for text in binding.differences(record, policy):
            result.failed(POLICY_CONTENT, text, file)
        for text in binding.shortfalls(record):
            result.failed(WHOLENESS, text, file)
    if reports:
        result.conclude(POLICY_CONTENT, "every report repeats the settings of policy.json")
        whole = sum(report.header.status == "complete" for report, _ in reports)
        result.conclude(
            WHOLENESS, f"{whole} of {len(reports)} rounds are complete, each with a transcript and enough receipts"
        )


def check_self_tests(result: Verification, reports: Filed) -> None:
    """No hospital's self-test contradicts what the accountant was told: if one does, no figure of the run holds."""
    tested = 0
    for report, file in reports:
        for hospital in report.aggregation.participants:
            if hospital.self_test == "FAIL":
                names = ", ".join(row.name for row in hospital.self_tests if row.outcome == "FAIL") or "a self-test"
                result.failed(SELF_TESTS, f"hospital {hospital.name} did not do what is recorded: {names} failed", file)
        tested += any(hospital.self_tests for hospital in report.aggregation.participants)
    if tested:
        result.conclude(SELF_TESTS, f"by the hospitals' own word no contradiction in {tested} of {len(reports)} rounds")
    elif reports and not result.has_failed(SELF_TESTS):
        result.skipped(SELF_TESTS, "no round holds the outcome of a self-test")


def check_models(result: Verification, reports: Filed) -> None:
    """Each round starts from the model of the last complete round before it; incomplete rounds change nothing."""
    current: str | None = None
    for report, file in reports:
        facts = report.aggregation.facts
        if current is not None and facts.model_before is not None and facts.model_before != current:
            result.failed(MODELS, "does not start from the model that the last complete round led to", file)
        current = facts.model_after or current or facts.model_before
    if reports:
        result.conclude(MODELS, "each round starts from the model that the last complete round led to")


def check_signers(
    result: Verification, signed: Sequence[tuple[int, str, int]], hospitals: int, policy: Mapping[str, Any]
) -> None:
    """`signed`: round, file and number of hospitals with a valid signature. Fewer than the threshold is a failure."""
    threshold = policy.get("threshold")
    needed = threshold if type(threshold) is int and 0 < threshold <= hospitals else hospitals
    for _, file, count in signed:
        if count < needed:
            result.failed(
                SIGNATURES, f"signed by {count} of {hospitals} hospitals, fewer than the threshold of {needed}", file
            )
    short = [f"round {number} by {count}" for number, _, count in signed if count < hospitals]
    if not short:
        text = f"each signed by the coordinator and by {hospitals} of {hospitals} hospitals"
    else:
        listed = ", ".join(short[:12]) + (f" and {len(short) - 12} more rounds" if len(short) > 12 else "")
        text = (
            f"each signed by the coordinator; not signed by all {hospitals} hospitals: {listed} of {hospitals}"
            " (the reports name who is missing)"
        )
    result.conclude(SIGNATURES, f"{len(signed)} reports, {text}")


def check_verdicts(result: Verification, reports: Filed, run: RunFacts | None, policy: Mapping[str, Any]) -> None:
    """How the rounds ended; a run is only called complete with a report for every scheduled round."""
    scheduled = policy.get("rounds")
    if run is not None:
        if run.rounds_scheduled != scheduled:
            result.failed(VERDICTS, f"the manifest and the policy ({scheduled}) schedule other rounds", MANIFEST)
        if run.outcome == "complete" and len(reports) != run.rounds_scheduled:
            result.failed(
                VERDICTS,
                f"the run is called complete, with reports of {len(reports)} of {run.rounds_scheduled} rounds",
                MANIFEST,
            )
    if not reports:
        return
    counts = Counter(report.verdict.verdict for report, _ in reports)
    text = ", ".join(f"{counts[word]} {word}" for word in ("PASS", "INCOMPLETE", "STOP"))
    result.conclude(VERDICTS, f"verdicts of rounds: {text}; {len(reports)} of {scheduled} scheduled rounds reported")
