"""What reports say of the self-tests, what that costs, and what verification makes of a contradiction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from fedgan_audits.accounting import accountant
from fedgan_audits.accounting.mechanism import SearchMechanism, SearchTerms, TrialSetting
from fedgan_audits.facts import self_tests
from fedgan_audits.facts.records import HospitalFacts
from fedgan_audits.report import figures
from fedgan_audits.report.report import build_report, disagreements
from fedgan_audits.verification.verify import verify_run
from tests.audits.conftest import MECHANISM, Run, rows_of

MakeRun = Callable[..., Run]


def test_every_test_has_a_text_and_the_verdict_of_all_is_the_worst() -> None:
    assert set(self_tests.TEXTS) == set(self_tests.NAMES)
    assert self_tests.overall([]) == "NOT ASSESSED"
    assert self_tests.overall(["PASS", "PASS"]) == "PASS"
    assert self_tests.overall(["PASS", "NOT ASSESSED"]) == "NOT ASSESSED"
    assert self_tests.overall(["NOT ASSESSED", "FAIL", "PASS"]) == "FAIL"


def test_the_charge_is_one_plus_e_to_the_epsilon_for_every_test() -> None:
    spent = accountant.epsilon([MECHANISM], 1e-4)
    exact = (1 + math.exp(spent)) * 7 * MECHANISM.steps * self_tests.FALSE_ALARM
    assert exact <= self_tests.delta_added([MECHANISM], spent) <= exact * (1 + 1e-6)
    assert self_tests.delta_added([MECHANISM, MECHANISM], spent) > 1.9 * exact
    assert self_tests.delta_added([], 0.0) == 0.0


def test_the_trials_of_a_search_have_false_alarms_of_their_own() -> None:
    settings = tuple(TrialSetting(sampling_probability=0.1, noise_multiplier=2, steps=steps) for steps in (30, 70))
    expected = {
        SearchTerms(charge="each_once", settings=settings, trials=2): 100,
        SearchTerms(charge="any_of", settings=settings, trials=5): 350,
        SearchTerms(charge="winner_alone", settings=settings, mean_trials=6.5, shape=None): 455,
    }
    for terms, steps in expected.items():
        record = SearchMechanism.of(terms, l2_clip_norm=1, unit="patient", images_per_patient=1)
        twice = record.model_copy(update={"steps": 2})
        assert self_tests.false_alarm_total([record]) == pytest.approx(7 * steps * self_tests.FALSE_ALARM)
        assert self_tests.false_alarm_total([twice, MECHANISM]) == pytest.approx(
            7 * (2 * steps + MECHANISM.steps) * self_tests.FALSE_ALARM
        )


def test_a_report_prints_the_worst_hospitals_charge_rounded_up(new_run: MakeRun) -> None:
    run = new_run(rounds=1)
    earlier = run.mechanism.model_copy(update={"steps": 400})
    record = run.record(1, hospital={"b": {"earlier": (earlier,), "ledger_lifetime": "site"}})
    mechanisms = figures.of_ledger(record.hospitals[1])
    exact = self_tests.delta_added(mechanisms, accountant.epsilon(mechanisms, 1e-4))
    printed = build_report(record).mechanism.self_test_delta
    assert printed is not None and exact <= float(printed) <= 1.2 * exact


def test_a_report_lists_where_each_test_passed_failed_or_could_not_tell(new_run: MakeRun) -> None:
    changes = {
        "b": {"self_test": "FAIL", "self_tests": rows_of(noise_mean="FAIL")},
        "c": {"self_test": "NOT ASSESSED", "self_tests": rows_of(batch_sizes="NOT ASSESSED")},
        "d": {"self_test": "NOT ASSESSED", "self_tests": ()},
    }
    lines = {line.name: line for line in build_report(new_run().record(1, hospital=changes)).mechanism.self_tests}
    assert tuple(lines) == self_tests.NAMES
    assert (lines["noise_mean"].passed, lines["noise_mean"].failed) == (("a", "c"), ("b",))
    assert lines["batch_sizes"].not_assessed == ("c", "d")


@pytest.mark.parametrize(
    "rows",
    [
        {"self_test": "PASS", "self_tests": rows_of(rows="FAIL")},
        {"self_test": "PASS", "self_tests": rows_of(rows="NOT ASSESSED")},
        {"self_test": "PASS", "self_tests": (*rows_of(), *rows_of())},
        {"self_test": "PASS", "self_tests": ({"name": "luck", "outcome": "PASS"},)},
    ],
)
def test_a_record_that_does_not_agree_with_itself_is_refused(new_run: MakeRun, rows: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HospitalFacts.model_validate({**new_run().record(1).hospitals[0].model_dump(), **rows})


def test_a_contradiction_fails_verification_and_names_the_round(new_run: MakeRun) -> None:
    run: Run = new_run()
    for number in (1, 2, 3):
        failed = {"c": {"self_test": "FAIL", "self_tests": rows_of(clip_probe="FAIL")}} if number == 2 else {}
        run.report(number, hospital=failed)
    run.close()
    result = verify_run(run.public, trust=run.public_keys)
    found = [check for check in result.checks if check.outcome == "FAIL"]
    assert result.exit_code == 5
    assert [(check.name, check.file) for check in found] == [("self-tests", "reports/round-0002.dsse.json")]
    assert "hospital c" in found[0].detail and "clip_probe" in found[0].detail


def test_without_any_self_test_verification_says_that_it_was_not_checked(new_run: MakeRun) -> None:
    run: Run = new_run(rounds=1)
    run.report(1, hospital={name: {"self_test": "NOT ASSESSED", "self_tests": ()} for name in run.names})
    run.close()
    result = verify_run(run.public, trust=run.public_keys)
    assert [check.outcome for check in result.checks if check.name == "self-tests"] == ["NOT CHECKED"]


def test_a_hospital_objects_to_another_outcome_than_its_own(new_run: MakeRun) -> None:
    run: Run = new_run(rounds=1)
    draft = run.report(1)
    own = draft.report.aggregation.participants[0]
    known: dict[str, Any] = {
        "reserved": own.reserved,
        "this_run": own.this_run,
        "earlier": (),
        "cap": None,
        "annex_commitment": own.annex_commitment,
        "policy_sha256": draft.report.header.policy_sha256,
        "previous_report": None,
        "transcript_sha256": draft.report.aggregation.facts.transcript_sha256,
        "sample_png": (run.public / "samples" / "round-0001.png").read_bytes(),
    }
    assert disagreements(draft.payload, "a", **known, self_tests=rows_of()) == []
    found = disagreements(draft.payload, "a", **known, self_tests=rows_of(noise_mean="FAIL"))
    assert found == ["the outcome of the self-tests differs from the hospital's own record"]
