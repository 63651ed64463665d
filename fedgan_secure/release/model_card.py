"""The model card and the privacy statement of a released model, in Markdown, from its verified reports and policy.

Every figure is one of the signed reports, or the SHA-256 of a file that they list. The same run gives the same bytes:
no time of export, no machine, no path.
"""

from __future__ import annotations

from typing import Any

from fedgan_audits.facts import RoundReport
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.release.export_gate import Judgement, Override
from fedgan_secure.release.markdown import plain, table
from fedgan_secure.release.start_card import (
    first_weights,
    mechanism_rows,
    opening,
    origin,
    rounds_section,
    start_section,
)

INTENDED = (
    "Research and development with synthetic images: as additional training data, to test software, to teach. "
    "Whether the images serve a given purpose has to be measured for that purpose."
)
NOT_INTENDED = (
    "Diagnosis, or any decision about a person.",
    "As a stand-in for patients where rare findings matter: noise that protects single patients also hides what only "
    "few patients have.",
    "As evidence that another data set is private: the figures below are of this model and what is computed from it.",
)
PREPROCESSING = {
    "fundus-crop/1": "cropped to the disc of the eye, padded to a square, resized",
    "ct-abdomen-window/1": "Hounsfield units through the abdominal window (centre 40, width 400), padded, resized",
    "plain/1": "padded to a square, resized",
    "by-modality/1": "CT in Hounsfield units through the abdominal window (centre 40, width 400), eyes (OP) cropped to "
    "their disc; all padded to a square, resized",
}
NOT_VERIFIED_KEYS = (
    "The keys were taken from the run's own folder when this bundle was made: whoever altered a report could have "
    "altered them too. Compare their fingerprints with those that the hospitals gave you by another way."
)


def model_card(policy: FederationPolicy, judgement: Judgement, override: Override | None, files: dict[str, str]) -> str:
    """Return the card as Markdown. Args: files: the model files below the bundle and their SHA-256 digests."""
    report, data = judgement.report, policy.data
    whose = "phantoms that the software drew; no patient" if data.phantoms else "patients of the hospitals below"
    labels = ", ".join(plain(name) for name in data.label_names) or "none: the generator takes no label"
    lines = [
        f"# Model card: run {policy.run_id}",
        "",
        f"A generator of synthetic images of {data.image_size} x {data.image_size} pixels, "
        f"{'grey' if data.channels == 1 else 'colour'}, {origin(policy)}",
        "",
        *_gate(judgement, override),
        "## Use",
        "",
        f"**Meant for.** {_declared(report, 'Purpose') or INTENDED}",
        "",
        "**Not meant for.**",
        "",
        *(f"- {text}" for text in NOT_INTENDED),
        "",
        *start_section(policy, released=judgement.verification.run["verdicts"][0] != "INCOMPLETE"),
        "## The model",
        "",
        *table(("file", "SHA-256"), sorted(files.items())),
        *table(
            ("setting", "value"),
            [
                ("labels", labels),
                *((plain(name.replace("_", " ")), plain(_value(policy.model[name]))) for name in sorted(policy.model)),
                *first_weights(policy),
            ],
        ),
        "The generator takes noise" + (" and a label" if data.classes else "") + " and gives pixels from -1 to 1. "
        "`fedgan-secure generate BUNDLE --count N --output DIR` draws images.",
        "",
        *opening(policy),
        "## Training data, as declared",
        "",
        *table(
            ("setting", "value"),
            [
                ("whose", whose),
                ("layout", ", ".join(report.data.facts.layouts)),
                ("preprocessing", f"{data.preprocessing}: {PREPROCESSING.get(data.preprocessing, 'see the policy')}"),
                ("hospitals (pseudonymous names)", ", ".join(policy.names)),
                ("declared patients of a hospital", f"{policy.mechanism.declared_patients} (public and nominal)"),
                ("unit of privacy", policy.mechanism.unit),
                ("taken from the patients' data", ", ".join(policy.flags.taken_from_data) or "nothing"),
                *([("remark on the unit", plain(data.unit_remark))] if data.unit_remark else []),
                ("de-identification", plain(report.data.facts.deidentification)),
            ],
        ),
        "How many patients and images there were is confidential and stands in no public document.",
        "",
        "## Privacy",
        "",
        f"Epsilon {report.verdict.spent} at delta {report.verdict.delta}, for adding or removing one "
        f"{policy.mechanism.unit} of one hospital. The whole statement: `PRIVACY.md`.",
        "",
        *rounds_section(policy),
        "## Rounds",
        "",
        *table(
            ("round", "verdict", "SHA-256 of the report"),
            [
                (str(number), verdict, digest)
                for number, (verdict, digest) in enumerate(
                    zip(judgement.verification.run["verdicts"], judgement.verification.digests, strict=True), start=1
                )
            ],
        ),
        "## Quality",
        "",
        "No figure of quality is part of the signed reports. `fedgan-secure evaluate` measures it; on patients' images "
        "that costs privacy or needs images of people who are not in the training data.",
        "",
        "## What this does not show",
        "",
        *(f"- {plain(text)}" for text in report.verdict.does_not_show),
        "",
        *_declarations(report),
        *_checking(judgement),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def privacy_statement(policy: FederationPolicy, judgement: Judgement, override: Override | None) -> str:
    """Return as Markdown what is claimed, about whom, against whom, under which assumptions, and what is not."""
    report = judgement.report
    privacy = report.privacy
    lines = [
        f"# Privacy statement: run {policy.run_id}",
        "",
        *_gate(judgement, override),
        *table(
            ("what", "value"),
            [
                ("epsilon", privacy.epsilon),
                ("delta", privacy.delta),
                ("unit", policy.mechanism.unit),
                ("neighbours", privacy.neighbouring_relation),
                ("GDP mu", privacy.gdp_mu),
                ("accountant", plain(privacy.accountant)),
                ("second accountant", plain(privacy.second_accountant)),
                *mechanism_rows(policy, report.header.round),
                ("random source", plain(report.mechanism.random_source)),
                ("report", f"`public/reports/round-{report.header.round:04d}.dsse.json`, payload {judgement.digest}"),
            ],
        ),
        plain(privacy.setting),
        "",
        "## For each hospital, over everything in its ledger",
        "",
        *table(
            ("hospital", "epsilon", "second opinion", "of this run", "limit", "status"),
            [
                (
                    row.name,
                    row.spent,
                    row.spent_second_accountant,
                    row.spent_this_run,
                    row.target or row.cap or "none",
                    row.status,
                )
                for row in report.composition.hospitals
            ],
        ),
        f"A patient whom two hospitals know: epsilon {report.composition.two_hospitals}. "
        f"{plain(report.composition.two_hospitals_text)}",
        "",
        f"The federation declared that a patient is in {_hospitals(report.composition.declared_hospitals)}: epsilon "
        f"{report.composition.declared_hospitals_epsilon} for such a patient. The bound is declared, not checked.",
        "",
        *(
            f"A patient with {row.images} images, where the unit is the image: epsilon {row.epsilon}.\n"
            for row in report.composition.several_images
        ),
        "## What is covered",
        "",
        *(f"- {plain(text)}" for text in (*privacy.accesses_covered, *privacy.outputs_covered)),
        "",
        "## Assumptions",
        "",
        *(f"- {plain(text)}" for text in privacy.assumptions),
        "",
        "## Remarks of the last report",
        "",
        *(f"- {plain(text)}" for text in report.verdict.reasons or ("none",)),
        "",
        "## What this does not show",
        "",
        *(f"- {plain(text)}" for text in report.verdict.does_not_show),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _gate(judgement: Judgement, override: Override | None) -> list[str]:
    if judgement.passed:
        return [
            "**PASS.** The reports of this run verified when the bundle was made, and nothing stood against it.",
            "",
        ]
    lines = ["**NOT PASS: exported by a person's decision.**", ""]
    lines += [f"- {plain(text)}" for text in judgement.objections]
    if override is not None:
        who = f"{plain(override.person)}, " if override.person else ""
        lines += ["", f"Overridden by {who}{plain(override.role)} (as typed; not signed): {plain(override.reason)}"]
    return [*lines, ""]


def _declared(report: RoundReport, topic: str) -> str:
    return " ".join(plain(entry.text) for entry in report.governance.entries if entry.topic == topic)


def _declarations(report: RoundReport) -> list[str]:
    if not report.governance.entries:
        return []
    rows = [(plain(entry.topic), plain(entry.text)) for entry in report.governance.entries]
    return ["## Declared by people, not checked", "", *table(("topic", "text"), rows)]


def _checking(judgement: Judgement) -> list[str]:
    participants = judgement.report.aggregation.participants
    checks = judgement.verification.checks
    skipped = [check for check in checks if check.outcome == "NOT CHECKED"]
    named = any(check.name == "keys" for check in skipped)
    return [
        "## How to check it",
        "",
        "`fedgan-secure audit verify BUNDLE --trust KEYS` checks signatures, chain, files and figures, offline. This "
        "card and the statement are not signed: `fedgan-secure release BUNDLE --output COPY` makes them again from the "
        "signed reports, byte for byte (with the same override, if there was one).",
        "",
        *([NOT_VERIFIED_KEYS, ""] if named else []),
        *table(
            ("who", "fingerprint of the key"),
            [("coordinator", judgement.report.header.coordinator_fingerprint)]
            + [(row.name, row.fingerprint) for row in participants],
        ),
        f"Newest report (keep it elsewhere, and give it to `--head`): {judgement.digest}",
        "",
    ]


def _hospitals(count: int) -> str:
    return "one hospital" if count == 1 else f"up to {count} hospitals"


def _value(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
