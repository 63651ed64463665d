"""A run's reports as OSCAL assessment results (JSON), for tools that gather evidence of many systems.

OSCAL (NIST, Open Security Controls Assessment Language 1.1.2) wants results to import an assessment plan. There is
none: `import-ap` points at a resource of this file that says so. There are observations and no findings, because a
finding says whether a control is satisfied, which is for an assessor. Identifiers follow from the digest of the
newest report, so the same run gives the same file.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from fedgan_audits.exports.verified_run import VerifiedRun

OSCAL_VERSION = "1.1.2"
NAMESPACE = "urn:fedgan-secure:oscal"
NO_PLAN = (
    "No assessment plan exists for this run. OSCAL requires a reference to one, so this resource stands in its place. "
    "What was checked is the list of checks of `fedgan-secure audit verify` and the provisions of section L."
)
NO_FINDINGS = (
    "Observations only. Whether a provision is satisfied is for an assessor to judge; no finding is made here. The "
    "control identifiers name rows of section L of the signed report; they are not those of a published catalogue."
)
_METHODS = {"evidence produced": "EXAMINE", "failed": "EXAMINE", "declared": "INTERVIEW", "not assessed": "UNKNOWN"}
"""OSCAL's method for each status: what was read in the evidence, what people said, what was not looked at."""


def assessment_results(run: VerifiedRun) -> Mapping[str, Any]:
    """The OSCAL document: one result for the run, an observation for every provision, check and hospital's epsilon."""
    last = run.last
    header = last.header
    root = uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}:{run.head}")

    def name(what: str) -> str:
        return str(uuid.uuid5(root, what))

    ended = _time(header.ended)
    envelope = run.envelope_path(header.round)
    report, policy, plan = name("report"), name("policy"), name("plan")

    def observation(what: str, title: str, text: str, method: str, remark: str, **props: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "uuid": name(f"observation {what}"),
            "title": title,
            "description": text,
            "props": _props(props),
            "methods": [method],
            "relevant-evidence": [{"href": f"#{report}", "description": f"Signed report of round {header.round}"}],
            "collected": ended,
        }
        return {**found, "remarks": remark} if remark else found

    observations = [
        observation(
            row.id, f"{row.provision}: {row.title}", row.evidence, _METHODS[row.status],
            f"What this does not show: {row.does_not_show}",
            **{"control-id": row.id, "status": row.status, "proposed": "yes" if row.proposed else "no",
               "evidence-field": row.evidence_field or "none"},
        )
        for row in last.controls.controls
    ]  # fmt: skip
    observations += [
        observation(
            f"epsilon {row.name}", f"Epsilon of hospital {row.name}",
            f"Epsilon {row.spent} at delta {last.verdict.delta} per {last.privacy.settings.unit}, over everything in "
            f"its ledger: {row.status}.",
            "TEST", "",
            **{"hospital": row.name, "status": row.status, "epsilon": row.spent, "delta": last.verdict.delta},
        )
        for row in last.composition.hospitals
    ]  # fmt: skip
    observations += [
        observation(f"check {index}", f"Check: {check.name}", check.detail or check.name,
                    "TEST" if check.outcome == "PASS" else "UNKNOWN", "", **{"outcome": check.outcome})
        for index, check in enumerate(run.checks)
    ]  # fmt: skip
    result = {
        "uuid": name("result"),
        "title": f"Run {header.run_id}",
        "description": f"{last.verdict.headline} {run.statement()}",
        "start": _time(run.facts.started),
        "end": _time(run.facts.ended),
        "props": _props({
            "verdict": last.verdict.verdict, "outcome": run.facts.outcome, "rounds-reported": str(len(run.digests)),
            "rounds-scheduled": str(header.rounds_scheduled), "report-sha256": run.head,
            "policy-sha256": header.policy_sha256, "provisions-edition": last.controls.edition,
            "provisions-as-of": last.controls.as_of,
        }),
        "reviewed-controls": {
            "description": "The provisions that section L of the report lists.",
            "control-selections": [
                {"include-controls": [{"control-id": row.id} for row in last.controls.controls]}
            ],
        },
        "observations": observations,
        "remarks": f"{NO_FINDINGS} {' '.join(last.verdict.does_not_show)}",
    }  # fmt: skip
    parties = [("coordinator", header.coordinator_fingerprint)]
    parties += [(row.name, row.fingerprint) for row in last.aggregation.participants]
    return {
        "assessment-results": {
            "uuid": str(root),
            "metadata": {
                "title": f"Evidence of federated training run {header.run_id}",
                "last-modified": ended,
                "version": run.head[:16],
                "oscal-version": OSCAL_VERSION,
                "parties": [
                    {"uuid": name(f"party {who}"), "type": "organization", "name": who,
                     "props": _props({"key-fingerprint": fingerprint}),
                     "remarks": "A name in the federation's roster; no legal person is identified by it."}
                    for who, fingerprint in parties
                ],
                "remarks": f"Made by fedgan-secure {header.software.fedgan_secure} from signed reports.",
            },
            "import-ap": {"href": f"#{plan}", "remarks": NO_PLAN},
            "results": [result],
            "back-matter": {
                "resources": [
                    {"uuid": plan, "title": "No assessment plan", "description": NO_PLAN},
                    _file(report, f"Signed report of round {header.round}", envelope, run.files[envelope]),
                    _file(policy, "Policy of the federation", "policy.json", header.policy_sha256),
                ]
            },
        }
    }  # fmt: skip


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _props(values: Mapping[str, str]) -> Sequence[Mapping[str, str]]:
    return [{"name": key, "ns": NAMESPACE, "value": " ".join(value.split())} for key, value in values.items()]


def _file(identity: str, title: str, path: str, digest: str) -> Mapping[str, Any]:
    return {
        "uuid": identity,
        "title": title,
        "rlinks": [{"href": path, "hashes": [{"algorithm": "SHA-256", "value": digest}]}],
    }
