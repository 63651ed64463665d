"""Reports of a run with a release round: figures, words, and what verification must refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedgan_audits import canonical_json
from fedgan_audits.accounting import accountant, budget
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord, NoiseShares
from fedgan_audits.errors import BudgetRefused
from fedgan_audits.exports import gdpr, registry_card
from fedgan_audits.exports.verified_run import verified
from fedgan_audits.facts import binding
from fedgan_audits.facts.records import RoundRecord, spending
from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.pages import render
from fedgan_audits.report import figures
from fedgan_audits.report.reading import record_of
from fedgan_audits.report.report import build_report, disagreements
from fedgan_audits.verification.verify import verify_run

from .conftest import FEATURES, MECHANISM, PUBLIC_START, RELEASE, STATISTIC, Run, toy_transcript_check
from .test_binding import failed
from .test_heads import make_ledger
from .test_render import Outline

MakeRun = Callable[..., Any]
SHARES = NoiseShares(threshold=3, colluders=1, grid_step=1e-3, dimension=3_515)
SHARED_RELEASE = DistributedMechanism(**RELEASE.model_dump(exclude={"noise_placement"}), shares=SHARES)
SHARED_STEPS = DistributedMechanism(
    **MECHANISM.model_dump(exclude={"noise_placement"}),
    shares=SHARES.model_copy(update={"dimension": 9_100, "grid_step": 1e-4}),
)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run: a release and two rounds of steps."""
    return Run(tmp_path_factory.mktemp("released") / "run", release=RELEASE).all_rounds()


def plan_of(run: Any) -> budget.RunBudget:
    return budget.RunBudget(mechanism=run.mechanism, rounds=run.rounds, delta=1e-4, release=run.release)


def test_plan_ledger_report_and_verification_agree(released: Any, tmp_path: Path) -> None:
    ledger = make_ledger(released, tmp_path / "ledger.sqlite")
    result = verify_run(
        released.folder,
        trust=released.public_keys,
        transcript_check=toy_transcript_check,
        ledger=ledger,
        full=True,
    )
    assert result.ok, [check for check in result.checks if check.outcome == "FAIL"]
    assert any(check.name == "release" and check.outcome == "PASS" for check in result.checks)
    expected = [accountant.round_up(value) for value in plan_of(released).schedule]
    assert [draft.report.verdict.spent for draft in released.drafts] == expected
    assert result.run["epsilon"] == expected[-1]
    with Ledger.open(ledger, read_only=True) as book:
        reserved = book.mechanisms(released.run_id)
    assert reserved == (RELEASE, MECHANISM, MECHANISM)
    assert accountant.round_up(budget.capped_epsilon({"run": reserved}, 1e-4, 8.0)) == expected[-1]


def test_the_release_is_counted_in_round_1_and_nowhere_else(released: Any) -> None:
    first, second, last = (draft.report for draft in released.drafts)
    assert [row.steps for row in first.mechanism.rows] == [1] * 4
    assert {row.sampling_probability for row in first.mechanism.rows} == {1.0}
    assert [row.steps for row in second.mechanism.rows] == [20] * 4
    assert first.composition.hospitals[0].increase_this_round == first.verdict.spent
    points = last.composition.trajectories[0].points
    assert [(point.round, point.planned) for point in points] == [
        (number, accountant.round_up(plan_of(released).epsilon_after(number))) for number in range(4)
    ]
    assert all(point.spent == point.planned for point in points)


def test_a_long_run_draws_the_jump_of_the_release() -> None:
    assert 1 not in figures.chart_rounds(60, 100)
    assert figures.chart_rounds(60, 100, first=True)[:3] == (0, 1, 5)


def test_rounds_left_are_rounds_of_steps(new_run: MakeRun) -> None:
    run = new_run(release=RELEASE, rounds=7)
    plan = plan_of(run)
    cap = plan.epsilon_after(4) + 1e-6
    report = build_report(run.record(1, hospital={"b": {"cap": cap}}))
    rows = {row.name: row for row in report.composition.hospitals}
    assert rows["b"].rounds_left == 3 and report.verdict.rounds_left == 3
    standing = budget.standing(
        earlier=[], this_run=[RELEASE], mechanism=MECHANISM, release=RELEASE, delta=1e-4, cap=cap, most=7
    )
    assert standing.rounds_left == 3
    tight = build_report(run.record(1, hospital={"b": {"cap": plan.epsilon_after(1) + 1e-6}}))
    assert tight.verdict.verdict == "STOP" and not tight.verdict.may_continue


def test_a_run_of_the_release_alone(new_run: MakeRun) -> None:
    run = new_run(release=RELEASE, mechanism=RELEASE, rounds=1).all_rounds()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=toy_transcript_check)
    assert result.ok, [check for check in result.checks if check.outcome == "FAIL"]
    report = run.drafts[0].report
    assert report.verdict.spent == accountant.round_up(accountant.epsilon([RELEASE], 1e-4))
    assert any("whole run is one release" in text for text in report.verdict.reasons)
    said = " ".join((*report.privacy.accesses_covered, *report.privacy.assumptions, *report.privacy.outputs_covered))
    assert "round 2" not in said and "independent coin" not in said and "updates" not in said
    values = record_of(report).model_dump()
    values["privacy"]["planned"] = MECHANISM
    with pytest.raises(ValidationError, match="the one scheduled round is the release"):
        RoundRecord.model_validate(values)


def test_shared_noise_has_a_release_of_its_own_shares(new_run: MakeRun) -> None:
    run = new_run(release=SHARED_RELEASE, mechanism=SHARED_STEPS, rounds=2).all_rounds()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=toy_transcript_check)
    assert result.ok, [check for check in result.checks if check.outcome == "FAIL"]
    report = run.drafts[-1].report
    both = [SHARED_RELEASE, SHARED_STEPS]
    assert report.privacy.epsilon == accountant.round_up(accountant.epsilon(both, 1e-4))
    assert report.privacy.outputs_covered[0].startswith("The sum over hospitals of round 1")
    assert len(report.composition.colluders) == 3


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("release",), None, "the report has a release round and the policy has none"),
        (("release", "noise_multiplier"), 2.4, "the mechanism of the release"),
        (("release", "l2_clip_norm"), 2.0, "the mechanism of the release"),
        (("release", "unit"), "image", "the mechanism of the release"),
        (("release", "images_per_patient"), 3, "the mechanism of the release"),
        (("release", "shares"), SHARES.model_dump(), "the mechanism of the release"),
        (("release", "dimension"), 3_516, "the length of the release's vector"),
        (("release", "layout_sha256"), "c" * 64, "the layout of the release's vector"),
        (("release", "layout"), {"classes": 4}, "the layout's digest in the policy"),
        (("release", "headroom"), "none", "the headroom"),
        (("start", "digest"), "c" * 64, "the start of the release's features"),
        (("start", "statement"), "Another.", "the public start"),
        (("start",), "fundus64", "the public start"),
        (("start",), None, "the public start"),
    ],
)
def test_what_a_report_says_of_the_release_is_the_policys(
    released: Any, path: tuple[str, ...], value: Any, said: str
) -> None:
    record, policy = record_of(released.drafts[0].report), json.loads(released.policy)
    assert binding.differences(record, policy) == []
    place = policy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(said in text for text in binding.differences(record, policy))


def test_a_policy_with_a_release_needs_reports_with_one(released: Any, whole_run: Any) -> None:
    record, policy = record_of(whole_run.drafts[0].report), json.loads(whole_run.policy)
    policy["release"] = json.loads(released.policy)["release"]
    assert "the policy has a release round and the report has none" in binding.release_differences(record, policy)
    for hostile in ("x", 7, [], {"layout": [1]}, {"layout": {"a": "b"}, "shares": 3}):
        policy = {**json.loads(released.policy), "release": hostile}
        assert binding.release_differences(record_of(released.drafts[0].report), policy)


def misreserved(run: Any, number: int, mechanism: MechanismRecord) -> dict[str, Any]:
    """Fields of hospital b with `mechanism` reserved in round `number` in place of what was due."""
    due = [(earlier, run.scheduled(earlier)) for earlier in range(1, number)]
    return {"b": {"reserved": mechanism, "this_run": spending([*due, (number, mechanism)])}}


def test_a_release_that_was_reserved_twice_fails(new_run: MakeRun, transcript_check: Any) -> None:
    run = new_run(release=RELEASE, rounds=2)
    run.report(1)
    run.report(2, hospital=misreserved(run, 2, RELEASE))
    run.close()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    wrong = [entry for entry in result.checks if entry.outcome == "FAIL"]
    assert result.exit_code == 5
    assert ("release", "hospital b reserved the release again in round 2") in [(e.name, e.detail) for e in wrong]
    assert {entry.name for entry in wrong} == {"release", "policy content"}, "a mechanism of round 2 is another, too"


@pytest.mark.parametrize("noise", [2.4, 2.6])
def test_round_1_that_reserved_another_noise_fails(new_run: MakeRun, transcript_check: Any, noise: float) -> None:
    run = new_run(release=RELEASE, rounds=2)
    other = RELEASE.model_copy(update={"noise_multiplier": noise})
    run.report(1, hospital=misreserved(run, 1, other))
    run.close("ended early", "It was ended.")
    assert failed(run, transcript_check, "release") == [
        "reports/round-0001.dsse.json: hospital b reserved another mechanism in round 1 than the release"
    ]


def test_steps_in_place_of_the_release_fail(new_run: MakeRun, transcript_check: Any) -> None:
    run = new_run(release=RELEASE, rounds=2)
    run.report(1, hospital=misreserved(run, 1, MECHANISM))
    run.close("ended early", "It was ended.")
    assert len(failed(run, transcript_check, "release")) == 1


def test_a_report_with_a_release_that_the_policy_has_not_fails(new_run: MakeRun, transcript_check: Any) -> None:
    run = new_run(rounds=2)
    told = new_run(release=RELEASE, rounds=2)
    privacy = told.record(1).privacy
    hospital = {name: {"reserved": RELEASE, "this_run": spending([(1, RELEASE)])} for name in run.names}
    facts = run.record(1).aggregation.model_copy(update={"dimension": 3_515})
    run.report(1, privacy=privacy, hospital=hospital, aggregation=facts)
    run.close("ended early", "It was ended.")
    assert failed(run, transcript_check, "release") == [
        "reports/round-0001.dsse.json: the report has a release round and the policy has none"
    ]


def test_a_report_with_a_release_that_the_ledger_has_not_fails(
    released: Any, tmp_path: Path, transcript_check: Any
) -> None:
    for name, reservations in {
        "no release": [MECHANISM] * 3,
        "another noise": [RELEASE.model_copy(update={"noise_multiplier": 2.4}), MECHANISM, MECHANISM],
        "the release twice": [RELEASE, RELEASE, MECHANISM],
    }.items():
        path = tmp_path / f"{name}.sqlite"
        with Ledger.open(path, hospital="b", create=True) as book:
            for number, mechanism in enumerate(reservations, start=1):
                book.reserve(released.run_id, number, mechanism, 1e-4)
                digest = released.drafts[number - 1].digest
                book.record("report_signed", released.run_id, number, {"digest": digest})
        found = failed(released, transcript_check, "ledger", ledger=path)
        assert any("what b reserved is not what its ledger says" in text for text in found), name


def test_the_sum_of_the_release_has_the_length_of_its_vector(new_run: MakeRun) -> None:
    run = new_run(release=RELEASE)
    facts = run.record(1).aggregation.model_copy(update={"dimension": 3_514})
    found = binding.release_differences(run.record(1, aggregation=facts), json.loads(run.policy))
    assert found == ["the sum of the release has 3514 numbers and its vector 3515"]


def test_a_hospital_does_not_sign_for_another_release(new_run: MakeRun) -> None:
    run = new_run(release=RELEASE)
    draft = run.report(1)

    def objections(reserved: MechanismRecord, policy: bytes) -> list[str]:
        row = draft.report.aggregation.participants[0]
        return disagreements(
            draft.payload,
            "a",
            reserved=reserved,
            this_run=spending([(1, reserved)]),
            earlier=(),
            cap=None,
            annex_commitment=row.annex_commitment,
            policy_sha256=draft.report.header.policy_sha256,
            previous_report=None,
            transcript_sha256=draft.report.aggregation.facts.transcript_sha256,
            sample_png=(run.public / "samples/round-0001.png").read_bytes(),
            policy=policy,
        )

    assert objections(RELEASE, run.policy) == []
    other = RELEASE.model_copy(update={"noise_multiplier": 9.0})
    assert "the mechanism reserved this round differs from the hospital's own record" in objections(other, run.policy)


def test_officers_read_what_the_release_and_the_start_are(released: Any) -> None:
    first, second = released.drafts[0], released.drafts[1]
    words = Outline(first.html).words
    for said in (
        "Round 1 is the release: every hospital makes one vector of each of its patients",
        f"The generator started from public data: {PUBLIC_START['name']} (SHA-256 {PUBLIC_START['digest']}): Trained",
        STATISTIC,
        FEATURES,
        "One sum of 3,515 numbers at each hospital, every patient in it once with a vector of norm 1 at most, noise "
        "multiplier 2.5.",
        "This round is the release; sampling, clipping and noise above are those of the steps",
        "a sum over its patients with noise in it, hidden under random masks",
        "Numbers in each sum 3,515",
    ):
        assert said in words, said
    later = Outline(second.html).words
    assert "This round is the release;" not in later and "an update of the model, hidden under" in later
    assert "Round 1 is the release:" in later and "Numbers in an update" in later
    index = Outline((released.public / "index.html").read_bytes()).words
    assert "Round 1 (the release)" in index and "Round 2 (the release)" not in index
    german = Outline(render.render_round(first.report, None, "de")).words
    assert "Runde 1 ist die Freigabe:" in german and "Diese Runde ist die Freigabe;" in german


def test_exports_say_what_the_release_is(released: Any) -> None:
    run = verified(released.public, trust=released.public_keys, transcript_check=toy_transcript_check)
    card = json.dumps(registry_card.card(run))
    assert "Round 1 is one noisy sum over patients" in card and "noise multiplier 2.5" in card
    assert "DP-SGD on small networks" in card and "DP-SGD on the discriminator" not in card
    text = " ".join(entry.text for part in gdpr.impact_assessment(run).parts for entry in part.entries)
    assert "In round 1 each adds up one vector of every patient, once" in text and PUBLIC_START["statement"] in text


def test_a_run_without_a_release_says_nothing_of_one(whole_run: Any) -> None:
    payload = whole_run.drafts[0].payload
    assert b'"release":null' in payload and b'"start":""' in payload
    assert "the release" not in Outline(whole_run.drafts[0].html).words
    assert not any(check.name == "release" for check in verify_run(whole_run.folder).checks)
    assert canonical_json.parse_canonical(whole_run.policy).get("release") is None


def test_a_cap_at_the_target_admits_the_release_and_every_round_and_no_more(tmp_path: Path) -> None:
    plan = budget.plan_run(
        sampling_probability=0.1, steps_per_round=20, rounds=4, delta=1e-4, epsilon=4.0, release=RELEASE
    )
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="a", create=True) as book:
        for number, mechanism in enumerate([RELEASE, *[plan.mechanism] * 3], start=1):
            book.reserve("run-7", number, mechanism, 1e-4, 4.0)
        assert accountant.epsilon(book.mechanisms(), 1e-4) == plan.epsilon_total
        with pytest.raises(BudgetRefused):
            book.reserve("run-7", 5, plan.mechanism, 1e-4, 4.0)
