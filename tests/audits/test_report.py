"""From facts to a report: figures, verdicts, determinism, schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from pydantic import ValidationError

from fedgan_audits.accounting import accountant
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.errors import RecordInvalid
from fedgan_audits.facts import controls
from fedgan_audits.facts.records import Flags, HospitalFacts, MissingSignature, RoundRecord, spending
from fedgan_audits.facts.run import Manifest
from fedgan_audits.facts.schema import SCHEMAS, schema_text
from fedgan_audits.facts.sections import RoundReport
from fedgan_audits.report import figures
from fedgan_audits.report.reading import read_payload, record_of
from fedgan_audits.report.report import build_report, build_round, commit_annex, disagreements
from fedgan_audits.signing import envelope
from tests.audits.conftest import rows_of

MakeRun = Callable[..., Any]


def test_the_same_record_gives_the_same_bytes(whole_run: Any) -> None:
    for draft in whole_run.drafts:
        record = RoundRecord.model_validate_json(record_of(draft.report).model_dump_json())
        picture = (whole_run.public / f"samples/{draft.stem}.png").read_bytes()
        again = build_round(record, sample_png=picture)
        assert again.payload == draft.payload
        assert again.html == draft.html


def test_a_payload_reads_back_as_the_same_report(whole_run: Any) -> None:
    draft = whole_run.drafts[2]
    report, subjects = read_payload(draft.payload)
    assert report == draft.report
    assert subjects["reports/round-0003.html"] == hashlib.sha256(draft.html).hexdigest()
    assert set(subjects) == {
        "policy.json",
        "model/generator.keras",
        "model/discriminator.keras",
        "samples/round-0003.png",
        "transcripts/round-0003.cbor",
        "reports/round-0003.html",
    }


def test_reports_are_chained_by_the_digest_of_the_payload(whole_run: Any) -> None:
    first, second, third = whole_run.drafts
    assert first.report.header.previous_report is None
    assert second.report.header.previous_report == hashlib.sha256(first.payload).hexdigest()
    assert third.report.header.previous_report == hashlib.sha256(second.payload).hexdigest()


def test_epsilons_are_compositions_rounded_up(whole_run: Any) -> None:
    report = whole_run.drafts[2].report
    one = whole_run.mechanism
    three = one.model_copy(update={"steps": one.steps * 3})
    value = accountant.epsilon_pld([three], 1e-4)
    row = report.composition.hospitals[0]
    assert 0 <= float(row.spent) - value <= 1.01e-4
    assert float(row.spent_second_accountant) >= float(row.spent)
    naive = 3 * accountant.epsilon_pld([one], 1e-4)
    assert float(row.spent) < naive
    assert float(row.spent) < float(report.composition.two_hospitals) < 2 * float(row.spent)
    assert float(row.increase_this_round) == pytest.approx(
        value - accountant.epsilon_pld([one.model_copy(update={"steps": 40})], 1e-4), abs=2e-4
    )
    points = report.composition.trajectories[0].points
    assert [point.round for point in points] == [0, 1, 2, 3]
    assert points[-1].planned == points[-1].spent == row.spent


def test_earlier_runs_of_a_ledger_are_composed(new_run: MakeRun) -> None:
    run = new_run(rounds=1)
    earlier = run.mechanism.model_copy(update={"steps": 200})
    draft = run.report(1, hospital={"b": {"earlier": (earlier,), "ledger_lifetime": "site", "cap": 9.0}})
    plain, loaded = draft.report.composition.hospitals[:2]
    assert float(loaded.spent) > float(plain.spent)
    assert loaded.spent_this_run == plain.spent
    assert loaded.spent == figures.shown(accountant.epsilon_pld([earlier, run.mechanism], 1e-4))
    assert draft.report.verdict.spent == loaded.spent
    assert draft.report.composition.trajectories[1].points[0].spent != "0"


FAILED = {"self_test": "FAIL", "self_tests": rows_of(noise_variance="FAIL")}


@pytest.mark.parametrize(
    ("changes", "word", "may_continue", "said"),
    [
        ({}, "PASS", True, "Yes"),
        ({"flags": Flags(no_privacy=True)}, "STOP", False, "started without privacy"),
        ({"flags": Flags(insecure_deterministic=True)}, "STOP", False, "nothing in this report holds"),
        ({"hospital": {"b": {"cap": 1.0}}}, "STOP", False, "Hospital b exceeded its budget"),
        ({"hospital": {"b": {"cap": 1.7}}}, "STOP", False, "Hospital b has no room for another round"),
        ({"hospital": {"b": FAILED}}, "STOP", False, "self-test failed at hospital b"),
        ({"hospital": {"b": {"receipt": "refused", "receipt_reason": "late"}}}, "INCOMPLETE", True, "refused: late"),
        ({"missing_cosignatures": (MissingSignature(name="c", reason="away"),)}, "INCOMPLETE", True, "c did not sign"),
    ],
)
def test_verdicts(new_run: MakeRun, changes: dict[str, Any], word: str, may_continue: bool, said: str) -> None:
    report = build_report(new_run().record(1, **changes))
    text = " ".join((report.verdict.headline, *report.verdict.reasons))
    assert (report.verdict.verdict, report.verdict.may_continue) == (word, may_continue)
    assert said in text


def test_a_killed_round_is_incomplete_and_its_budget_is_spent(new_run: MakeRun) -> None:
    run = new_run()
    record = run.record(1)
    values = record.model_dump()
    values["header"].update(status="incomplete", killed=True, abort_code="interrupted")
    values["aggregation"].update(survivors=(), transcript_sha256=None, model_after=None, sum_sha256=None)
    values["artefacts"] = [entry for entry in values["artefacts"] if entry["kind"] in ("policy", "model")]
    for hospital in values["hospitals"]:
        hospital.update(took_part=False, receipt="not due")
    draft = build_round(RoundRecord.model_validate(values))
    assert draft.report.verdict.verdict == "INCOMPLETE"
    assert draft.report.verdict.spent == build_report(record).verdict.spent != "0"
    assert b"INCOMPLETE" in draft.html and b"budget is spent" in draft.html


def test_no_noise_reads_unbounded_everywhere(new_run: MakeRun) -> None:
    mechanism = MechanismRecord(
        sampling_probability=0.1, noise_multiplier=0, steps=5, l2_clip_norm=1, unit="patient", images_per_patient=2
    )
    draft = build_round(new_run(mechanism=mechanism, target=None).record(1, flags=Flags(no_privacy=True)))
    assert draft.report.verdict.spent == "unbounded"
    assert draft.report.verdict.verdict == "STOP"
    assert draft.report.composition.hospitals[0].status == "unbounded"


def test_images_as_the_unit_are_said_loudly_with_figures_for_several(new_run: MakeRun) -> None:
    mechanism = MechanismRecord(sampling_probability=0.05, noise_multiplier=2.0, steps=5, l2_clip_norm=1, unit="image")
    report = build_report(new_run(mechanism=mechanism).record(1))
    rows = report.composition.several_images
    assert [row.images for row in rows] == [1, 2, 4, 8]
    assert sorted(float(row.epsilon) for row in rows) == [float(row.epsilon) for row in rows]
    assert float(rows[1].epsilon) > float(rows[0].epsilon)
    assert any("one image, not one patient" in reason for reason in report.verdict.reasons)


def test_rounds_left_are_found_by_composition(new_run: MakeRun) -> None:
    run = new_run(rounds=10)
    two, four = (
        accountant.epsilon_pld([run.mechanism.model_copy(update={"steps": 20 * count})], 1e-4) for count in (2, 4)
    )
    report = build_report(run.record(1, hospital={"a": {"cap": round((two + four) / 2, 3)}}))
    mechanism3 = run.mechanism.model_copy(update={"steps": 60})
    expected = 2 if accountant.epsilon_pld([mechanism3], 1e-4) <= (two + four) / 2 else 1
    assert report.composition.hospitals[0].rounds_left == expected
    assert report.composition.hospitals[1].rounds_left == 9
    assert report.verdict.rounds_left == expected


def test_annex_commitment_needs_the_salt() -> None:
    salt, annex = bytes(range(32)), b'{"batch sizes":[3,4]}'
    commitment = commit_annex(salt, annex)
    assert commitment == hashlib.sha256(salt + annex).hexdigest()
    assert commitment != commit_annex(salt[::-1], annex)
    assert commitment != commit_annex(salt, annex + b" ")
    with pytest.raises(RecordInvalid, match="32"):
        commit_annex(b"short", annex)


def test_a_hospital_signs_only_what_it_knows(whole_run: Any) -> None:
    draft = whole_run.drafts[1]
    own: HospitalFacts = draft.report.aggregation.participants[0]
    known: dict[str, Any] = {
        "reserved": own.reserved,
        "this_run": own.this_run,
        "earlier": own.earlier,
        "cap": own.cap,
        "annex_commitment": own.annex_commitment,
        "policy_sha256": draft.report.header.policy_sha256,
        "previous_report": whole_run.drafts[0].digest,
        "transcript_sha256": draft.report.aggregation.facts.transcript_sha256,
        "sample_png": (whole_run.public / "samples/round-0002.png").read_bytes(),
    }
    assert disagreements(draft.payload, "a", **known) == []
    assert disagreements(draft.payload, "nobody", **known)
    wrong: dict[str, Any] = {
        "reserved": whole_run.mechanism.model_copy(update={"noise_multiplier": 3.0}),
        "this_run": spending([(1, whole_run.mechanism)]),
        "earlier": (whole_run.mechanism,),
        "cap": 3.0,
        "annex_commitment": "0" * 64,
        "policy_sha256": "0" * 64,
        "previous_report": "0" * 64,
        "transcript_sha256": "0" * 64,
    }
    for name, value in wrong.items():
        assert disagreements(draft.payload, "a", **{**known, name: value}), name
    _, predicate = envelope.read_statement(draft.payload, "urn:fedgan-secure:audit:round-report:3")
    predicate["verdict"]["spent"] = "0.0001"
    subjects = read_payload(draft.payload)[1]
    forged = envelope.statement(subjects, "urn:fedgan-secure:audit:round-report:3", predicate)
    assert any("follow from its facts" in found for found in disagreements(forged, "a", **known))


def test_the_order_of_earlier_runs_is_the_hospitals_own(whole_run: Any) -> None:
    """The filter under a cap is fixed by what came first: in another order a report would count other rounds left."""
    quiet = whole_run.mechanism.model_copy(update={"noise_multiplier": 9.0})
    record, earlier = record_of(whole_run.drafts[0].report), (whole_run.mechanism, quiet)
    rows = tuple(row.model_copy(update={"earlier": earlier}) if row.name == "a" else row for row in record.hospitals)
    draft = build_round(record.model_copy(update={"hospitals": rows}))
    own = rows[0]
    known: dict[str, Any] = {
        "reserved": own.reserved,
        "this_run": own.this_run,
        "cap": own.cap,
        "annex_commitment": own.annex_commitment,
        "policy_sha256": record.header.policy_sha256,
        "previous_report": None,
        "transcript_sha256": record.aggregation.transcript_sha256,
    }
    assert own.name == "a" and disagreements(draft.payload, "a", earlier=earlier, **known) == []
    found = disagreements(draft.payload, "a", earlier=earlier[::-1], **known)
    assert found == ["the first mechanism of earlier runs differs from the hospital's own record"]


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["header"].update(round=2),
        lambda v: v["header"].update(run_id="../../etc"),
        lambda v: v["hospitals"][0].update(name="<script>"),
        lambda v: v["hospitals"][0].update(name="coordinator"),
        lambda v: v["hospitals"][1].update(name="a"),
        lambda v: v["hospitals"][0].update(took_part=False),
        lambda v: v["hospitals"][0].update(reserved=None),
        lambda v: v["hospitals"][0].update(cap=float("nan")),
        lambda v: v["hospitals"][0].update(patients=12),
        lambda v: v["aggregation"].update(survivors=("a", "z")),
        lambda v: v["aggregation"].update(dimension=2**53),
        lambda v: v["artefacts"][0].update(path="../policy.json"),
        lambda v: v["artefacts"][0].update(path="/etc/passwd"),
        lambda v: v["privacy"].update(delta=0.0),
        lambda v: v["header"]["software"].update(python="3.11\u202e"),
    ],
)
def test_impossible_records_are_refused(whole_run: Any, change: Callable[[dict[str, Any]], None]) -> None:
    values = record_of(whole_run.drafts[0].report).model_dump()
    RoundRecord.model_validate(values)
    change(values)
    with pytest.raises(ValidationError):
        RoundRecord.model_validate(values)


def test_spending_joins_equal_neighbours_and_nothing_else() -> None:
    one = MechanismRecord(sampling_probability=0.1, noise_multiplier=1, steps=5, l2_clip_norm=1, unit="patient")
    two = one.model_copy(update={"steps": 6})
    rows = spending([(1, one), (2, one), (4, one), (5, two)])
    assert [(row.first_round, row.last_round) for row in rows] == [(1, 2), (4, 4), (5, 5)]
    assert sum(mechanism.steps for mechanism in figures.of_run(rows)) == 21
    assert sum(mechanism.steps for mechanism in figures.of_run(rows, until=4)) == 15
    with pytest.raises(ValueError, match="twice"):
        spending([(1, one), (1, two)])


def test_every_control_traces_to_a_field_that_exists(whole_run: Any) -> None:
    report = whole_run.drafts[0].report
    plain = report.model_dump(mode="json")
    assert report.controls.as_of == str(controls.provisions().as_of) and report.controls.edition == controls.NEWEST
    for control in report.controls.controls:
        if control.evidence_field:
            controls.field_of(plain, control.evidence_field)
        else:
            assert control.status == "not assessed"
        assert control.does_not_show
    statuses = {control.id: control.status for control in report.controls.controls}
    assert statuses["gdpr-25-32"] == "evidence produced"
    assert statuses["gdpr-6-9-89"] == "not assessed"


def test_controls_fail_where_privacy_was_switched_off(new_run: MakeRun) -> None:
    report = build_report(new_run().record(1, flags=Flags(no_privacy=True)))
    assert {c.id: c.status for c in report.controls.controls}["gdpr-25-32"] == "failed"


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_published_schemas_are_those_of_the_models(name: str) -> None:
    published = (files("fedgan_audits") / "schemas" / name).read_text(encoding="utf-8")
    assert published == schema_text(name), "run `python -m fedgan_audits.facts.schema`"


def test_reports_and_manifest_satisfy_the_published_schemas(whole_run: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")

    def validator(name: str) -> Any:
        schema = json.loads((files("fedgan_audits") / "schemas" / name).read_text(encoding="utf-8"))
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        jsonschema.Draft202012Validator.check_schema(schema)
        return jsonschema.Draft202012Validator(schema)

    check = validator("round-report-3.json")
    for draft in whole_run.drafts:
        predicate = json.loads(draft.payload)["predicate"]
        check.validate(predicate)
        assert isinstance(RoundReport.model_validate(predicate), RoundReport)
    predicate["surprise"] = 1
    assert not check.is_valid(predicate)
    manifest = envelope.parse((whole_run.public / "manifest.dsse.json").read_bytes()).payload
    validator("run-manifest-0.json").validate(json.loads(manifest)["predicate"])
    assert Manifest.model_validate(json.loads(manifest)["predicate"]).head == whole_run.drafts[-1].digest


def test_what_was_read_off_the_data_is_a_remark(new_run: MakeRun) -> None:
    run = new_run()
    plain = " ".join(build_report(run.record(1)).verdict.reasons)
    assert "taken from the patients' data" not in plain and "first weights" not in plain
    values = run.record(1).model_dump()
    values["data"].update(
        taken_from_data=("declared patients", "label names", "split over hospitals"),
        pretraining="run 17 on 40 public images",
        unit_remark="A patient is a folder here.",
    )
    report = build_report(RoundRecord.model_validate(values))
    said = " ".join(report.verdict.reasons)
    named = "declared patients, label names and split over hospitals"
    assert f"taken from the patients' data: {named}. What they reveal is not covered" in said
    assert "run 17 on 40 public images" in said and "in the reports of that run" in said
    assert "with the split as it fell" in said and "with the split as it fell" not in plain
    assert report.verdict.reasons[-1] == "A patient is a folder here."
    assert report.verdict.verdict == "PASS"


def test_timing_is_said_to_be_public_and_not_covered(whole_run: Any) -> None:
    report = whole_run.drafts[0].report
    assert any("When a round starts and ends is public" in text for text in report.verdict.does_not_show)
    assert not any("timing) is not released" in text for text in report.privacy.assumptions)


def test_a_sentence_holds_as_many_names_as_fit() -> None:
    from fedgan_audits.report.verdict import LONGEST_LIST, listed

    assert listed(["a"]) == "a" and listed(["a", "b"]) == "a and b" and listed(["a", "b", "c"]) == "a, b and c"
    names = [f"hospital-number-{number:03d}-of-a-long-list-of-names" for number in range(200)]
    text = listed(names)
    assert len(text) <= LONGEST_LIST + 20
    shown = text.count("hospital-")
    assert text.endswith(f" and {200 - shown} more") and text.startswith(", ".join(names[:3]))
