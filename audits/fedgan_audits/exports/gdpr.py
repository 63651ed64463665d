"""What a run holds for two documents that a controller keeps: the record of GDPR Art. 30 and the annex to a DPIA.

Neither is the document itself. A controller knows what the software cannot: the annex fills in what follows from the
signed reports, repeats what was declared, and says of the rest that it is not assessed.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedgan_audits.exports import documents
from fedgan_audits.exports.documents import Document, Entry, Part
from fedgan_audits.exports.verified_run import VerifiedRun
from fedgan_audits.facts import RoundReport
from fedgan_audits.pages import render

NOTHING = "Nothing was declared. The controller has to state it."


def _declared(report: RoundReport, topic: str, title: str | None = None) -> list[Entry]:
    """What was declared under `topic`, by the federation and by single hospitals; one empty entry where nobody did."""
    name = title or topic
    found = [
        Entry(name + entry.topic[len(topic) :], "declared", entry.text)
        for entry in report.governance.entries
        if entry.topic == topic or entry.topic.startswith(f"{topic} (hospital ")
    ]
    return found or [Entry(name, "not assessed", NOTHING)]


def _others(report: RoundReport, parts: Sequence[Part]) -> tuple[Part, ...]:
    """What was declared and stands in none of `parts`, as a part of its own."""
    shown = {entry.text for part in parts for entry in part.entries if entry.standing == "declared"}
    left = [entry for entry in report.governance.entries if entry.text not in shown]
    rows = tuple(Entry(entry.topic, "declared", entry.text) for entry in left)
    return (Part("Other declarations", rows),) if rows else ()


def _measures(report: RoundReport) -> list[Entry]:
    """Technical measures that follow from the reports (Art. 32)."""
    facts, verdict, settings = report.aggregation.facts, report.verdict, report.privacy.settings
    caps = [row.name for row in report.composition.hospitals if row.cap is not None]
    broken = report.privacy.flags.no_privacy or report.privacy.flags.insecure_deterministic
    return [
        Entry(
            "Differential privacy",
            "evidenced",
            "Switched off or made predictable in this run: nothing limits what the model can reveal."
            if broken
            else f"Epsilon {verdict.spent} at delta {verdict.delta} per {settings.unit} at the hospital with the "
            f"highest figure. {report.privacy.setting}",
        ),
        Entry(
            "Secure aggregation",
            "evidenced",
            f"{facts.roster_size} hospitals, of which at least {facts.threshold} must finish. "
            + " ".join(report.aggregation.adversary),
        ),
        Entry(
            "Integrity",
            "evidenced",
            "Every round has a report signed with Ed25519 and bound to the one before it; models, transcripts and "
            "pages are listed by digest. A change would be noticed; it is not prevented.",
        ),
        Entry(
            "Budget",
            "declared",
            f"A ledger at each hospital refuses what exceeds its own cap. A cap was set by: {', '.join(caps)}."
            if caps
            else "A ledger at each hospital counts what is spent. No hospital set a cap of its own.",
        ),
        Entry("De-identification", "declared", report.data.facts.deidentification),
        Entry("Encryption at rest, access control, staff", "not assessed", "Nothing is known here."),
    ]


def _subjects(report: RoundReport) -> Entry:
    if report.data.facts.synthetic_phantoms:
        return Entry("Data subjects", "declared", "None: the images are drawn phantoms, no people.")
    return Entry(
        "Data subjects",
        "declared",
        "Patients of the hospitals. Declared numbers: "
        + ", ".join(f"{row.name} {row.declared_patients}" for row in report.aggregation.participants)
        + ". True numbers stay in each hospital.",
    )


def _categories(report: RoundReport) -> Entry:
    data = report.data.facts
    colour = "greyscale" if data.channels == 1 else "colour"
    labels = f", {data.classes} labels" if data.conditional else ", labels not used"
    return Entry(
        "Categories of personal data",
        "declared",
        f"Medical images ({', '.join(data.layouts)}; {data.image_size} x {data.image_size} pixels, {colour}{labels}), "
        f"which are data concerning health (Art. 9). Read from them: "
        f"{', '.join(data.fields_read) or 'pixels and a keyed pseudonym'}.",
    )


def _recipients() -> list[Entry]:
    return [
        Entry(
            "Images and identifiers",
            "declared",
            "No recipient: by its design none leaves a hospital through this software. What else a hospital sends is "
            "not seen.",
        ),
        Entry(
            "Updates of the model",
            "evidenced",
            "Masked vectors to the coordinator, which reads their sum alone, under the assumptions of section G.",
        ),
        Entry(
            "The sum, the model, sample pictures and reports",
            "evidenced",
            "The coordinator, all hospitals, and whoever is given the run's public folder.",
        ),
    ]


def article_30(run: VerifiedRun) -> Document:
    """What the run holds for the controller's record of processing activities, GDPR Art. 30(1)(a)-(g)."""
    last = run.last
    names = ", ".join(row.name for row in last.aggregation.participants)
    parts = (
        Part("(a) Controller and data protection officer", (
            *_declared(last, "Controllers"),
            *_declared(last, "Data protection officer"),
            Entry("Hospitals in the run", "evidenced", f"{names}. Keys name hospitals, not legal persons."),
        )),
        Part("(b) Purposes", (*_declared(last, "Purpose"), *_declared(last, "Legal basis"))),
        Part("(c) Data subjects and categories of personal data", (_subjects(last), _categories(last))),
        Part("(d) Recipients", (*_recipients(), *_declared(last, "Agreements", "Agreements with recipients"))),
        Part("(e) Transfers to third countries", tuple(_declared(last, "Transfers"))),
        Part("(f) Time limits for erasure", tuple(_declared(last, "Retention"))),
        Part("(g) Technical and organisational measures", tuple(_measures(last)),
             "Art. 32(1). What follows from the signed reports; the controller adds the rest."),
    )  # fmt: skip
    return Document(
        f"Record of processing activities: run {last.header.run_id}",
        (
            "For the controller's record under GDPR Art. 30(1), filled in as far as its signed reports go. "
            "It is not a complete record: what the reports do not hold is marked as not assessed and is for the "
            "controller to state.",
            "Declared means that people stated it and the software repeats it unchecked.",
        ),
        (*parts, *_others(last, parts)),
        documents.identity(run),
    )


def _risks(last: RoundReport) -> list[Entry]:
    verdict, unit = last.verdict, last.privacy.settings.unit
    low, even = render.odds(verdict.spent, 0.01), render.odds(verdict.spent, 0.5)
    found = [
        Entry(
            f"Learning that a {unit} was in the data",
            "evidenced",
            f"Epsilon {verdict.spent} at delta {verdict.delta}. A suspicion of 1 in 100 can rise to {low} at most, "
            f"one of 50 in 100 to at most {even}, against everything that was released, under section C's assumptions.",
        ),
        Entry(
            "A patient known to two hospitals",
            "evidenced",
            f"Epsilon {last.composition.two_hospitals}. {last.composition.two_hospitals_text}",
        ),
        Entry("A patient with several images", "evidenced", last.composition.several_images_text),
    ]
    found += [
        Entry(f"If they pool what they know: {row.who}", "evidenced", f"Epsilon {row.epsilon}")
        for row in last.composition.colluders
    ]
    return [
        *found,
        Entry("Attacks in practice (singling out, linking, inference)", "not assessed", last.empirical.text),
        *(
            Entry(row.topic, row.assessment, row.text)
            for row in last.nist_sp_800_226
            if row.assessment == "not assessed"
        ),
        Entry(
            "Harm from a model that draws wrongly",
            "not assessed",
            "Medical use and quality per group of patients are not part of the reports.",
        ),
    ]


def _done(run: VerifiedRun) -> str:
    """What the hospitals did, in a sentence or two."""
    last = run.last
    alone = last.privacy.settings.release is not None and last.header.rounds_scheduled == 1
    text = "Hospitals train one generator of synthetic images together. "
    if last.privacy.settings.release is not None:
        text += "In round 1 each adds up one vector of every patient, once, and sends the sum with noise, masked. "
    if not alone:
        text += "Each trains on its own images and sends masked updates. "
    return f"{text}{len(run.digests)} of {last.header.rounds_scheduled} rounds were reported."


def _incidents(run: VerifiedRun) -> list[Entry]:
    rows = [
        Entry(f"{row.kind}, round {row.round}" if row.round else row.kind, "evidenced", row.text)
        for row in run.facts.incidents
    ]
    return rows or [Entry("Incidents", "evidenced", "None recorded in the reports.")]


def impact_assessment(run: VerifiedRun) -> Document:
    """An annex to a data protection impact assessment, GDPR Art. 35(7)(a)-(d): what the run's reports hold for it."""
    last = run.last
    data = last.data.facts
    parts = (
        Part("(a) Description of the processing and its purposes", (
            *_declared(last, "Purpose"),
            *_declared(last, "Controllers"),
            _subjects(last),
            _categories(last),
            Entry("What is done", "evidenced", _done(run)),
            *_recipients(),
            Entry("First weights", "evidenced", f"Pretraining: {data.pretraining}."),
            *([Entry("Public start", "declared", data.start)] if data.start else []),
        )),
        Part("(b) Necessity and proportionality", (
            *_declared(last, "Legal basis"),
            Entry("Minimisation", "declared", " ".join(last.privacy.outputs_covered)),
            Entry("Settings read off the patients' data", "evidenced",
                  (", ".join(data.taken_from_data) or "none") + ". What they reveal is not covered by epsilon."),
            Entry("Whether the processing is necessary for the purpose", "not assessed", "A judgement for people."),
        )),
        Part("(c) Risks to patients", tuple(_risks(last)),
             "What can be put in figures, and what cannot. No law names a number for epsilon."),
        Part("(d) Measures", tuple(_measures(last))),
        Part("Incidents", tuple(_incidents(run))),
        Part("Consultation", (
            *_declared(last, "Data protection officer"),
            *_declared(last, "Impact assessment", "Reference of the assessment"),
            Entry("Views of data subjects, prior consultation (Art. 35(9), 36)", "not assessed", NOTHING),
        )),
    )  # fmt: skip
    return Document(
        f"Annex to an impact assessment: run {last.header.run_id}",
        (
            "Evidence for a data protection impact assessment under GDPR Art. 35(7), as far as this run's signed "
            "reports go. It is an annex: it neither makes the assessment nor says that one was made.",
            "What this does not show: " + " ".join(last.verdict.does_not_show),
        ),
        (*parts, *_others(last, parts)),
        documents.identity(run),
    )
