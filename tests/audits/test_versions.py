"""Reports of older schema versions: runs as those versions wrote them still verify, and nothing newer is guessed at."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedgan_audits import canonical_json
from fedgan_audits.facts import schema
from fedgan_audits.facts.sections import REPORT_TYPE, SCHEMA_VERSION
from fedgan_audits.report import versions
from fedgan_audits.report.reading import read_any
from fedgan_audits.signing import envelope
from fedgan_audits.verification.verify import verify_run
from fedgan_secure.transcript_check import check_transcript

ROOT = Path(__file__).resolve().parents[2]
OLD_TYPE = "urn:fedgan-secure:audit:round-report:0"


def unpacked(version: str, folder: Path) -> Path:
    """Two rounds of three hospitals, with a sign-off, made by the software as it wrote `version`; and `trust`."""
    with tarfile.open(ROOT / "tests" / "vectors" / f"report-version-{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return unpacked("0", tmp_path)


def payload_of(old: Path, number: int = 1) -> bytes:
    return envelope.parse((old / f"public/reports/round-{number:04d}.dsse.json").read_bytes()).payload


def predicate_of(old: Path) -> Any:
    return json.loads(payload_of(old))["predicate"]


@pytest.mark.parametrize("version", versions.OLDER)
def test_a_run_of_an_older_version_verifies_with_its_keys(version: str, tmp_path: Path) -> None:
    old = unpacked(version, tmp_path)
    result = verify_run(old / "public", trust=[old / "trust"], transcript_check=check_transcript, full=True)
    assert result.exit_code == 0, [check for check in result.checks if check.outcome == "FAIL"]
    passed = {check.name: check.detail for check in result.checks if check.outcome == "PASS"}
    assert passed["schema"] == f"2 reports: 2 of schema version {version}"
    assert {"files", "keys", "manifest", "signatures", "chain", "epsilon", "transcripts", "sign-offs"} <= passed.keys()
    assert "0.0343 at delta 1e-05" in passed["epsilon"]


@pytest.mark.parametrize("file", ["reports/round-0001.dsse.json", "reports/round-0002.html", "policy.json"])
def test_a_changed_byte_of_it_is_caught(old: Path, file: str) -> None:
    place = old / "public" / file
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    result = verify_run(old / "public", trust=[old / "trust"], transcript_check=check_transcript)
    assert result.exit_code == 5 and any(check.file == file for check in result.checks if check.outcome == "FAIL")


def test_it_reads_in_the_present_form(old: Path) -> None:
    report, _, version = read_any(payload_of(old))
    assert (version, report.schema_version) == ("0", SCHEMA_VERSION)
    assert {row.self_test_summary for row in report.mechanism.rows} == {"9 of 10 passed; not assessed: batch sizes"}
    assert report.incidents.withdrawals == versions.NOT_SAID


@pytest.mark.parametrize("version", versions.OLDER)
def test_the_published_schema_of_an_older_version_still_describes_it(version: str, tmp_path: Path) -> None:
    old = unpacked(version, tmp_path)
    published = json.loads((Path(schema.__file__).parents[1] / "schemas" / f"round-report-{version}.json").read_text())
    jsonschema.validate(predicate_of(old), published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(versions.upgraded(predicate_of(old), version), published)


def test_a_report_of_version_1_has_no_release_and_no_public_start(tmp_path: Path) -> None:
    report, _, version = read_any(payload_of(unpacked("1", tmp_path)))
    assert (version, report.privacy.settings.release, report.data.facts.start) == ("1", None, "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["privacy"]["settings"].update(release=None), "version 1 has no such field: privacy.settings.rel"),
        (lambda p: p["data"]["facts"].update(start=""), "version 1 has no such field: data.facts.start"),
        (lambda p: p.update(schema_version="2"), "expected 1"),
        (lambda p: p["data"].pop("facts"), "not a report of version 1"),
    ],
)
def test_what_version_1_did_not_write_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    payload = payload_of(unpacked("1", tmp_path))
    old_type = OLD_TYPE.replace(":0", ":1")
    subjects, predicate = envelope.read_statement(payload, old_type)
    change(predicate)
    with pytest.raises(canonical_json.EnvelopeError, match=said):
        read_any(envelope.statement(subjects, old_type, predicate))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["mechanism"]["rows"][0].update(self_test_summary="all fine"), "version 0 has no such field"),
        (lambda p: p["incidents"].update(withdrawals="none"), "version 0 has no such field"),
        (lambda p: p["composition"].update(declared_hospitals=2), "composition.declared_hospitals"),
        (lambda p: p["privacy"]["settings"].update(hospitals_per_patient=2), "settings.hospitals_per_patient"),
        (lambda p: p.update(schema_version="1"), "expected 0"),
        (lambda p: p["aggregation"].pop("participants"), "not a report of version 0"),
        (lambda p: p.update(verdict="fine"), "schema: verdict"),
        (lambda p: p["incidents"].update(other=1), "incidents.other"),
    ],
)
def test_what_version_0_did_not_write_is_refused(old: Path, change: Any, said: str) -> None:
    predicate = predicate_of(old)
    change(predicate)
    subjects, _ = envelope.read_statement(payload_of(old), OLD_TYPE)
    with pytest.raises(canonical_json.EnvelopeError, match=said):
        read_any(envelope.statement(subjects, OLD_TYPE, predicate))


def test_a_newer_version_is_refused_and_says_what_to_do(old: Path) -> None:
    subjects, predicate = envelope.read_statement(payload_of(old), OLD_TYPE)
    newer = f"{REPORT_TYPE.rpartition(':')[0]}:{int(SCHEMA_VERSION) + 1}"
    with pytest.raises(canonical_json.EnvelopeError, match="verify with a newer one") as refused:
        read_any(envelope.statement(subjects, newer, predicate))
    assert refused.value.exit_code == 5 and "Install" in refused.value.hint


def test_every_older_version_leads_to_the_present_one() -> None:
    for version in versions.OLDER:
        for _ in range(len(versions.OLDER)):
            version = versions.STEPS[version][0] if version in versions.STEPS else version
        assert version == SCHEMA_VERSION
