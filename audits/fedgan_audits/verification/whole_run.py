"""What a run's reports say together: the policy they keep to, who signed, how rounds ended, which model led on.

Reports come in the order of their rounds, each with its file; findings are noted in the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedgan_audits.facts import MANIFEST, POLICY, RoundReport, RunFacts, Verification, binding
from fedgan_audits.report import record_of

POLICY_CONTENT = "policy content"
RELEASE = "release"
WHOLENESS = "whole rounds"
MODELS = "models"
SELF_TESTS = "self-tests"
VERDICTS = "verdicts"
SIGNATURES = "signatures"


def _needed(hospitals: int, policy: Mapping[str, Any]) -> int:
    """How many of `hospitals` hospitals must have signed: the policy's threshold, or all where it names none."""
    threshold = policy.get("threshold")
    return threshold if type(threshold) is int and 0 < threshold <= hospitals else hospitals


def check_manifest_signers(
    result: Verification, signers: Collection[str], hospitals: Collection[str], policy: Mapping[str, Any]
) -> None:
    """Fail a manifest that fewer hospitals signed than the threshold: with the coordinator's key alone it could list
    other pages, or end the run with other words."""
    count, needed = len(set(signers) & set(hospitals)), _needed(len(hospitals), policy)
    if count < needed:
        text = f"signed by {count} of {len(hospitals)} hospitals, fewer than the threshold of {needed}"
        result.failed("manifest", text, MANIFEST)


def check_signers(
    result: Verification, signed: Sequence[tuple[int, str, int]], hospitals: int, policy: Mapping[str, Any]
) -> None:
    """`signed`: round, file and number of hospitals with a valid signature. Fewer than the threshold is a failure."""
    needed = _needed(hospitals, policy)
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


class Standing:
    """Takes the reports one after the other and concludes on all of them; no report is kept."""

    def __init__(self, result: Verification, policy: Mapping[str, Any]) -> None:
        self._result = result
        self._policy = policy
        self._verdicts: Counter[str] = Counter()
        self._complete = 0
        self._tested = 0
        self._model: str | None = None
        self._releases = 0

    def add(self, report: RoundReport, file: str) -> None:
        """Every setting that a report repeats is the policy's, a complete round holds what makes it complete, and it
        starts from the model of the last complete round before it (incomplete rounds change nothing)."""
        record, facts = record_of(report), report.aggregation.facts
        if self._policy:
            of_release = set(binding.release_differences(record, self._policy))
            for text in binding.differences(record, self._policy):
                self._result.failed(RELEASE if text in of_release else POLICY_CONTENT, text, file)
        self._releases += record.privacy.release is not None
        for text in binding.shortfalls(record):
            self._result.failed(WHOLENESS, text, file)
        first = (self._policy.get("initial_model") or {}).get("vector_digest") if self._model is None else None
        if first is not None and facts.model_before != first:
            self._result.failed(MODELS, "does not start from the model that policy.json names", file)
        if self._model is not None and facts.model_before is not None and facts.model_before != self._model:
            self._result.failed(MODELS, "does not start from the model that the last complete round led to", file)
        self._model = facts.model_after or self._model or facts.model_before
        self._add_self_tests(report, file)
        self._verdicts[report.verdict.verdict] += 1
        self._complete += report.header.status == "complete"

    def _add_self_tests(self, report: RoundReport, file: str) -> None:
        """No hospital's self-test contradicts what the accountant was told: if one does, no figure of the run holds."""
        hospitals = report.aggregation.participants
        for hospital in hospitals:
            if hospital.self_test == "FAIL":
                names = ", ".join(row.name for row in hospital.self_tests if row.outcome == "FAIL") or "a self-test"
                text = f"hospital {hospital.name} did not do what is recorded: {names} failed"
                self._result.failed(SELF_TESTS, text, file)
        self._tested += any(hospital.self_tests for hospital in hospitals)

    def conclude(self, run: RunFacts | None) -> None:
        """How the rounds ended; a run is only called complete with a report for every scheduled round."""
        result, scheduled, count = self._result, self._policy.get("rounds"), self._verdicts.total()
        if run is not None:
            if run.rounds_scheduled != scheduled:
                result.failed(VERDICTS, f"the manifest and the policy ({scheduled}) schedule other rounds", MANIFEST)
            if run.outcome == "complete" and count != run.rounds_scheduled:
                result.failed(
                    VERDICTS,
                    f"the run is called complete, with reports of {count} of {run.rounds_scheduled} rounds",
                    MANIFEST,
                )
        if not count:
            return
        if not self._policy:
            result.failed(POLICY_CONTENT, "cannot be compared: policy.json could not be read", POLICY)
        result.conclude(POLICY_CONTENT, "every report repeats the settings of policy.json")
        if self._releases:
            result.conclude(RELEASE, "round 1 reserves the release of policy.json, and no other round reserves it")
        result.conclude(
            WHOLENESS, f"{self._complete} of {count} rounds are complete, each with a transcript and enough receipts"
        )
        result.conclude(MODELS, "each round starts from the model that the last complete round led to")
        if self._tested:
            result.conclude(
                SELF_TESTS, f"by the hospitals' own word no contradiction in {self._tested} of {count} rounds"
            )
        elif not result.has_failed(SELF_TESTS):
            result.skipped(SELF_TESTS, "no round holds the outcome of a self-test")
        text = ", ".join(f"{self._verdicts[word]} {word}" for word in ("PASS", "INCOMPLETE", "STOP"))
        result.conclude(VERDICTS, f"verdicts of rounds: {text}; {count} of {scheduled} scheduled rounds reported")
