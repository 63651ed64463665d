"""Reports are held against the content of the policy, against each other, and against what "complete" means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from fedgan_audits import canonical_json
from fedgan_audits.facts import binding
from fedgan_audits.facts.checks import Verification
from fedgan_audits.facts.records import Flags, MissingSignature, RoundRecord
from fedgan_audits.facts.sections import REPORT_TYPE, RoundReport
from fedgan_audits.pages import render
from fedgan_audits.publishing.manifest import write_manifest
from fedgan_audits.report.reading import record_of
from fedgan_audits.report.report import RoundDraft, build_report, build_round, disagreements
from fedgan_audits.signing import envelope
from fedgan_audits.verification import recompute
from fedgan_audits.verification.verify import verify_run

MakeRun = Callable[..., Any]


def failed(run: Any, check: Any, name: str, **settings: Any) -> list[str]:
    """What the check called `name` found; nothing else may have failed."""
    result: Verification = verify_run(run.folder, trust=run.public_keys, transcript_check=check, **settings)
    wrong = [entry for entry in result.checks if entry.outcome == "FAIL"]
    assert {entry.name for entry in wrong} <= {name}, wrong
    return [f"{entry.file}: {entry.detail}" for entry in wrong]


def detail(result: Verification, name: str) -> str:
    return next(entry.detail for entry in result.checks if entry.name == name and entry.outcome == "PASS")


CHANGES: list[tuple[tuple[str, ...], Any, str]] = [
    (("run_id",), "another", "the run's id"),
    (("rounds",), 4, "scheduled rounds"),
    (("threshold",), 4, "the threshold"),
    (("ring_bits",), 64, "the ring"),
    (("headroom",), "none", "the headroom"),
    (("mechanism", "delta"), 1e-6, "delta"),
    (("mechanism", "epsilon_target"), 2.0, "the target"),
    (("mechanism", "epsilon_target"), None, "the target"),
    (("mechanism", "unit"), "image", "the unit"),
    (("mechanism", "images_per_patient"), 3, "images per patient"),
    (("mechanism", "noise_placement"), "distributed", "who adds the noise"),
    (("mechanism", "sampling_probability"), 0.2, "the planned mechanism"),
    (("mechanism", "noise_multiplier"), 1.3, "the planned mechanism"),
    (("mechanism", "steps_per_round"), 21, "a mechanism reserved of hospital b"),
    (("mechanism", "l2_clip_norm"), 2.0, "the planned mechanism"),
    (("mechanism", "declared_patients"), 76, "declared number of patients of hospital c"),
    (("flags", "no_privacy"), True, "privacy is switched off"),
    (("flags", "insecure_deterministic"), True, "randomness was fixed"),
    (("flags", "insecure_deterministic"), 0, "randomness was fixed"),
    (("flags", "taken_from_data"), ["label names"], "taken from the data"),
    (("initial_model", "pretraining"), "another run", "first weights"),
    (("data", "phantoms"), False, "phantoms"),
    (("data", "image_size"), 28, "size of the images"),
    (("data", "channels"), 1, "channels"),
    (("data", "classes"), 4, "classes"),
    (("data", "unit_remark"), "A folder is a patient.", "remark on the unit"),
]


@pytest.mark.parametrize(("path", "value", "said"), CHANGES)
def test_every_setting_that_a_report_repeats_is_the_policys(
    whole_run: Any, path: tuple[str, ...], value: Any, said: str
) -> None:
    record = record_of(whole_run.drafts[1].report)
    policy = json.loads(whole_run.policy)
    assert binding.differences(record, policy) == []
    place = policy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(said in text for text in binding.differences(record, policy))
    del place[path[-1]]
    assert any(said in text for text in binding.differences(record, policy)), "a setting may not be absent"


def test_another_roster_is_another_policy(whole_run: Any) -> None:
    record = record_of(whole_run.drafts[1].report)
    policy = json.loads(whole_run.policy)
    policy["hospitals"].append({"name": "e", "public_key": "0" * 64})
    found = binding.differences(record, policy)
    assert "the size of the roster differs from the policy" in found
    assert "the list of hospitals differs from the policy" in found
    policy["hospitals"] = list(reversed(json.loads(whole_run.policy)["hospitals"]))
    assert binding.differences(record, policy) == ["the list of hospitals differs from the policy"]
    assert len(binding.differences(record, {})) > 10


@pytest.mark.parametrize(
    ("hospitals", "threshold", "lying", "honest"),
    [(3, 2, 0, 0), (4, 3, 1, 1), (5, 4, 2, 2), (5, 3, 0, 1), (7, 7, 5, 5)],
)
def test_colluders_follow_from_the_roster_and_the_threshold(
    hospitals: int, threshold: int, lying: int, honest: int
) -> None:
    assert binding.colluders_against_lying(hospitals, threshold) == lying
    assert binding.colluders_against_honest(threshold) == honest


def test_the_report_does_not_trust_the_record_with_colluders(new_run: MakeRun) -> None:
    run = new_run()
    facts = run.record(1).aggregation.model_copy(update={"colluders_tolerated": 3, "semi_honest_colluders": 3})
    record = run.record(1, aggregation=facts)
    assert "how many hospitals may collude differs from the policy" in binding.differences(
        record, json.loads(run.policy)
    )
    report = build_report(record)
    assert [text.split("up to ")[1] for text in report.aggregation.adversary] == ["1 hospital.", "1 hospital."]
    assert "The coordinator and up to 1 of the 3 other hospitals" in [row.who for row in report.composition.colluders]


def test_a_hospital_holds_the_report_against_its_policy(new_run: MakeRun) -> None:
    run = new_run(rounds=1)
    base = run.record(1)

    def objections(record: RoundRecord, policy: bytes | None) -> list[str]:
        draft = build_round(record)
        own = draft.report.aggregation.participants[0]
        return disagreements(
            draft.payload,
            "a",
            reserved=own.reserved,
            this_run=own.this_run,
            earlier=own.earlier,
            cap=own.cap,
            annex_commitment=own.annex_commitment,
            policy_sha256=draft.report.header.policy_sha256,
            previous_report=None,
            transcript_sha256=draft.report.aggregation.facts.transcript_sha256,
            policy=policy,
        )

    assert objections(base, run.policy) == []
    changed = run.record(1, privacy=base.privacy.model_copy(update={"delta": 1e-2, "epsilon_target": None}))
    assert objections(changed, run.policy) == [
        "delta differs from the policy",
        "the target for epsilon differs from the policy",
    ]
    assert objections(base, run.policy + b" ") == ["the policy's bytes are not those of its digest"]
    receipts = {name: {"receipt": "refused"} for name in ("a", "b")}
    assert any("2 signed receipts" in text for text in objections(run.record(1, hospital=receipts), run.policy))


def test_reports_that_contradict_the_policy_fail_though_everyone_signed(
    new_run: MakeRun, transcript_check: Any
) -> None:
    run = new_run(rounds=1, flags=Flags(insecure_deterministic=True))
    base = run.record(1)
    run.report(1, flags=Flags(), privacy=base.privacy.model_copy(update={"delta": 1e-2}))
    run.close()
    found = failed(run, transcript_check, "policy content")
    assert found == [
        "reports/round-0001.dsse.json: delta differs from the policy",
        "reports/round-0001.dsse.json: whether randomness was fixed differs from the policy",
    ]


def test_a_complete_round_needs_a_transcript(new_run: MakeRun, transcript_check: Any) -> None:
    run = new_run(rounds=1)
    base = run.record(1)
    run.report(
        1,
        aggregation=base.aggregation.model_copy(update={"transcript_sha256": None}),
        artefacts=tuple(entry for entry in base.artefacts if entry.kind != "transcript"),
    )
    (run.public / "transcripts/round-0001.cbor").unlink()
    run.close()
    assert failed(run, transcript_check, "whole rounds") == [
        "reports/round-0001.dsse.json: a complete round has no transcript"
    ]


@pytest.mark.parametrize(
    ("hospital", "said"),
    [
        ({"a": {"receipt": "not due"}}, "a is in the sum and its receipt is called not due"),
        ({"a": {"receipt": "missing"}, "b": {"receipt": "refused"}}, "2 signed receipts, the threshold is 3"),
    ],
)
def test_a_complete_round_needs_receipts(
    new_run: MakeRun, transcript_check: Any, hospital: dict[str, Any], said: str
) -> None:
    run = new_run(rounds=1)
    run.report(1, hospital=hospital)
    run.close()
    assert any(said in text for text in failed(run, transcript_check, "whole rounds"))


def test_too_few_signatures_fail_and_the_others_are_counted(new_run: MakeRun, transcript_check: Any) -> None:
    run = new_run(rounds=2)
    for number, names in ((1, ("c",)), (2, ("b", "c"))):
        missing = tuple(MissingSignature(name=name, reason="The line was down.") for name in names)
        signers = [name for name in run.keys if name not in names]
        run.report(number, signers=signers, missing_cosignatures=missing)
    run.close()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    assert failed(run, transcript_check, "signatures") == [
        "reports/round-0002.dsse.json: signed by 2 of 4 hospitals, fewer than the threshold of 3"
    ]
    assert "0 PASS, 2 INCOMPLETE, 0 STOP" in detail(result, "verdicts")


def test_who_signed_is_said_in_numbers(whole_run: Any, new_run: MakeRun, transcript_check: Any) -> None:
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, transcript_check=transcript_check)
    assert "by 4 of 4 hospitals" in detail(result, "signatures")
    assert "3 PASS, 0 INCOMPLETE, 0 STOP" in detail(result, "verdicts")
    run = new_run(rounds=1)
    run.report(1, signers=("coordinator", "a", "b", "d"), missing_cosignatures=[MissingSignature(name="c", reason="x")])
    run.close()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    assert result.ok and "round 1 by 3 of 4" in detail(result, "signatures")
    assert not any("everyone" in entry.detail for entry in result.checks)


def test_a_run_is_complete_with_all_of_its_rounds_only(whole_run: Any, bundle: Any, transcript_check: Any) -> None:
    for file in bundle.rglob("*round-0003*"):
        file.unlink()
    for name in ("generator", "discriminator"):
        (bundle / f"model/{name}.keras").write_bytes(f"{name} after round 2".encode())
    write_manifest(bundle, whole_run.facts(), whole_run.keys)
    result = verify_run(bundle, trust=whole_run.public_keys, transcript_check=transcript_check)
    assert [(entry.name, entry.file) for entry in result.checks if entry.outcome == "FAIL"] == [
        ("verdicts", "manifest.dsse.json")
    ]


def test_the_manifest_keeps_to_the_policys_schedule(new_run: MakeRun, transcript_check: Any) -> None:
    run = new_run(rounds=2)
    run.report(1)
    facts = run.facts("ended early", "Stopped.").model_copy(update={"rounds_scheduled": 1})
    write_manifest(run.public, facts, run.keys)
    assert any("schedule other rounds" in text for text in failed(run, transcript_check, "verdicts"))


def test_every_round_starts_from_the_last_complete_rounds_model(new_run: MakeRun, transcript_check: Any) -> None:
    run = new_run(rounds=2)
    run.report(1)
    base = run.record(2)
    run.report(2, aggregation=base.aggregation.model_copy(update={"model_before": "77" * 32}))
    run.close()
    found = failed(run, transcript_check, "models")
    assert len(found) == 1 and found[0].startswith("reports/round-0002.dsse.json")


@pytest.mark.parametrize("named", [True, False])
def test_the_first_round_starts_from_the_model_that_the_policy_names(
    new_run: MakeRun, transcript_check: Any, named: bool
) -> None:
    run = new_run(rounds=2, first_model=hashlib.sha256(b"model 0" if named else b"other weights").hexdigest())
    result = verify_run(run.all_rounds().folder, trust=run.public_keys, transcript_check=transcript_check)
    found = [check.file for check in result.checks if check.name == "models" and check.outcome == "FAIL"]
    assert result.ok == named and found == ["reports/round-0001.dsse.json"] * (not named)


@pytest.mark.parametrize("faithful", [True, False])
def test_an_incomplete_round_leaves_the_model_alone(new_run: MakeRun, transcript_check: Any, faithful: bool) -> None:
    run = new_run(rounds=3)
    run.report(1)
    values = run.record(2).model_dump()
    values["header"].update(status="incomplete", killed=True, abort_code="interrupted")
    values["aggregation"].update(survivors=(), transcript_sha256=None, model_after=None, sum_sha256=None)
    values["artefacts"] = [entry for entry in values["artefacts"] if entry["kind"] == "policy"]
    for hospital in values["hospitals"]:
        hospital.update(took_part=False, receipt="not due")
    draft = build_round(RoundRecord.model_validate(values))
    run.publish(draft)
    run.drafts.append(draft)
    before = values["aggregation"]["model_before"] if faithful else run.record(3).aggregation.model_before
    base = run.record(3)
    run.report(3, aggregation=base.aggregation.model_copy(update={"model_before": before}))
    for place in ("transcripts/round-0002.cbor", "samples/round-0002.png"):
        (run.public / place).unlink(missing_ok=True)
    run.close()
    assert len(failed(run, transcript_check, "models")) == (0 if faithful else 1)


def test_a_policy_that_is_no_policy_is_said(whole_run: Any) -> None:
    record = record_of(whole_run.drafts[0].report)
    for odd in ({"mechanism": 3, "flags": None, "hospitals": 7}, {"hospitals": [3]}):
        try:
            assert binding.differences(record, odd)
        except AttributeError:
            pytest.fail("a policy of another shape must be said, not crash")
    assert canonical_json.canonical(json.loads(whole_run.policy)) == whole_run.policy


def test_false_figures_of_a_middle_round_are_caught(new_run: MakeRun, transcript_check: Any) -> None:
    run = new_run(rounds=3)
    run.report(1)
    picture = run.record(2).artefacts
    honest = build_round(run.record(2), sample_png=(run.public / "samples/round-0002.png").read_bytes())
    values = honest.report.model_dump(mode="json")
    values["verdict"].update(spent="0.0001", headline="Nothing was spent.", reasons=[])
    values["privacy"].update(epsilon="0.0001")
    for row in values["composition"]["hospitals"]:
        row.update(spent="0.0001")
    report = RoundReport.model_validate(values)
    page = render.render_round(report, (run.public / "samples/round-0002.png").read_bytes())
    subjects = {entry.path: entry.sha256 for entry in picture}
    subjects["reports/round-0002.html"] = hashlib.sha256(page).hexdigest()
    payload = envelope.statement(subjects, REPORT_TYPE, report.model_dump(mode="json"))
    forged = RoundDraft(report, payload, page)
    run.publish(forged)
    run.drafts.append(forged)
    run.report(3)
    run.close()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    wrong = {(entry.name, entry.file) for entry in result.checks if entry.outcome == "FAIL"}
    assert wrong == {("epsilon", "reports/round-0002.dsse.json"), ("figures", "reports/round-0002.dsse.json")}


def test_what_is_not_built_again_is_said(
    whole_run: Any, transcript_check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "ALL_UP_TO", 2)
    keys = whole_run.public_keys
    result = verify_run(whole_run.folder, trust=keys, transcript_check=transcript_check)
    assert "in 1 of 3 reports" in detail(result, "figures")
    assert "accountants in 1 of 3 reports, with the second alone in the others" in detail(result, "epsilon")
    left_out = [entry.detail for entry in result.checks if entry.outcome == "NOT CHECKED" and entry.name == "figures"]
    assert left_out == ["2 reports were not built again: give --full"]
    full = verify_run(whole_run.folder, trust=keys, transcript_check=transcript_check, full=True)
    assert "in 3 of 3 reports" in detail(full, "figures")
