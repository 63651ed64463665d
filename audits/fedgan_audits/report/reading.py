"""Read a round's report from its signed bytes, and its record and sample picture out of it."""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

from fedgan_audits import canonical_json
from fedgan_audits.errors import RecordInvalid
from fedgan_audits.facts import REPORT_TYPE, RoundRecord, RoundReport
from fedgan_audits.report import versions
from fedgan_audits.signing import envelope


def sample_of(record: RoundRecord | RoundReport) -> tuple[str, str] | None:
    """Path and digest of the round's sample picture, if it has one."""
    artefacts = record.artefacts if isinstance(record, RoundRecord) else record.verification.artefacts
    return next(((entry.path, entry.sha256) for entry in artefacts if entry.kind == "samples"), None)


def check_sample(record: RoundRecord | RoundReport, sample_png: bytes | None) -> None:
    """Raise RecordInvalid unless `sample_png` is the PNG picture that the record lists (or neither is there)."""
    if sample_png is None:
        return
    expected = sample_of(record)
    if expected is None or hashlib.sha256(sample_png).hexdigest() != expected[1]:
        raise RecordInvalid("the sample picture differs from the one that the record lists among its artefacts")
    if not sample_png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise RecordInvalid("the sample picture is not a PNG file")


def record_of(report: RoundReport) -> RoundRecord:
    """The facts inside a report: `build_report(record_of(report)) == report` with the same software."""
    return RoundRecord(
        header=report.header,
        privacy=report.privacy.settings,
        hospitals=report.aggregation.participants,
        aggregation=report.aggregation.facts,
        data=report.data.facts,
        artefacts=report.verification.artefacts,
        incidents=report.incidents.incidents,
        flags=report.privacy.flags,
        missing_cosignatures=report.incidents.missing_cosignatures,
        governance=report.governance.entries,
        provisions_edition=report.controls.edition,
    )


def read_payload(payload: bytes) -> tuple[RoundReport, dict[str, str]]:
    """The typed report and the subjects (path -> SHA-256) of a payload; see :func:`read_any`."""
    report, subjects, _ = read_any(payload)
    return report, subjects


def read_any(payload: bytes) -> tuple[RoundReport, dict[str, str], str]:
    """The typed report, the subjects (path -> SHA-256) and the schema version of a payload.

    A report of an older version comes back in the form of this one (`versions`). Raises EnvelopeError where the payload
    is not a canonical statement of a version that this software reads, whose every field must also come back unchanged
    from the typed form (so that nothing unknown rides along).
    """
    subjects, predicate, version = envelope.read_versioned(payload, REPORT_TYPE, versions.OLDER)
    predicate = versions.upgraded(predicate, version)
    try:
        report = RoundReport.model_validate(predicate)
        record_of(report)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:120]
        raise canonical_json.EnvelopeError(f"schema: {where or 'the record'}: {first['msg'][:200]}") from None
    names = [hospital.name for hospital in report.aggregation.participants]
    if names != [row.name for row in report.composition.hospitals] or names != [
        row.name for row in report.mechanism.rows
    ]:
        raise canonical_json.EnvelopeError("schema: the tables of the report list different hospitals")
    if not canonical_json.same(report.model_dump(mode="json"), predicate):
        raise canonical_json.EnvelopeError("schema: a value is not in the form that this version writes")
    if not {entry.path: entry.sha256 for entry in report.verification.artefacts}.items() <= subjects.items():
        raise canonical_json.EnvelopeError("an artefact of the report is not among the statement's subjects")
    return report, subjects, version
