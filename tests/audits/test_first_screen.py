"""The first screen of a report with history, and with a delta or a cohort that promises little."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits import canonical_json
from fedgan_audits.accounting import accountant
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.facts import first_screen
from fedgan_audits.facts.checks import Verification
from fedgan_audits.facts.controls import provisions
from fedgan_audits.facts.records import Flags, PrivacySettings
from fedgan_audits.pages import render, wording
from fedgan_audits.report import figures
from fedgan_audits.report.report import RoundDraft, build_round
from fedgan_audits.signing import envelope
from fedgan_audits.verification.recompute import check_epsilon
from tests.audits.conftest import MECHANISM, Run

EARLIER = MECHANISM.model_copy(update={"steps": 100})


def draft_of(
    run: Run, *, holders: str = "b", cap: float | None = None, declared: int = 75, **privacy: Any
) -> RoundDraft:
    """A report of round 1 in which the hospitals `holders` have earlier runs, and all declare the same cohort."""
    record = run.record(1)
    changes: dict[str, Any] = {"earlier": (EARLIER,), "cap": cap, "ledger_lifetime": "site"}
    hospitals = tuple(
        row.model_copy(update={"declared_patients": declared, **(changes if row.name in holders else {})})
        for row in record.hospitals
    )
    settings = PrivacySettings.model_validate({**record.privacy.model_dump(), **privacy})
    return build_round(record.model_copy(update={"hospitals": hospitals, "privacy": settings}))


def first_screen_of(page: bytes) -> str:
    """The words of a page before "Read this first", without markup."""
    text = page.decode("utf-8").split('id="notes"')[0].split('id="hospitals"')[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text.split("<main")[1])).split())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", target=4.0)


def test_a_run_is_held_against_its_target_and_its_patients_against_the_cap(run: Run) -> None:
    """Before: "8.5538 of 4, left 0.0001" for a second run at epsilon 4 on patients who had spent 8."""
    draft = draft_of(run, holders="abcd", cap=30.0)
    report, row = draft.report, draft.report.composition.hospitals[1]
    held = figures.held_of((EARLIER,), (MECHANISM,), 1e-4, 30.0)
    alone = accountant.epsilon([MECHANISM], 1e-4)
    line = first_screen.all_runs(report)
    assert (line.spent, line.limit, line.left, line.hospital) == (
        figures.shown(held), "30", figures.shown_down(30 - held), "a",
    )  # fmt: skip
    line = first_screen.this_run(report)
    assert (line.spent, line.limit, line.left) == (figures.shown(alone), "4", figures.shown_down(4 - alone))
    words = first_screen_of(draft.html)
    assert f"{figures.shown(alone)} of 4" in words and f"{figures.shown(held)} of 30" in words
    assert f"{row.spent} of 4" not in words
    assert float(row.spent) < held  # what is adaptive costs more than what was planned


def test_without_a_cap_the_first_screen_says_so(run: Run) -> None:
    draft = draft_of(run)
    held = draft.report.composition.hospitals[1].held
    words = first_screen_of(draft.html)
    assert f"{held} " in words and "no cap is set" in words and "No cap set" in words
    assert f"{held} of" not in words


def test_with_earlier_runs_the_report_states_the_assumption_and_the_adaptive_figure(run: Run) -> None:
    draft = draft_of(run)
    report, row = draft.report, draft.report.composition.hospitals[1]
    assert f"At hospital b, {row.held} counts against a cap" in draft.html.decode("utf-8")
    said = wording.HISTORY_NOTE.format(name="b", spent=row.spent, held=row.held)
    assert said in report.verdict.reasons and wording.HISTORY_ASSUMPTION in report.privacy.assumptions
    assert wording.EARLIER_SAMPLING_NOTE in report.verdict.reasons
    assert row.spent != row.held and report.composition.hospitals[0].held == report.composition.hospitals[0].spent
    plain = draft_of(run, holders="").report
    assert not any("Earlier runs" in reason for reason in plain.verdict.reasons)
    assert wording.HISTORY_ASSUMPTION not in plain.privacy.assumptions


def test_verification_computes_the_adaptive_figure_again(run: Run) -> None:
    report = draft_of(run, cap=30.0).report
    result = Verification()
    check_epsilon(result, report, "it", pld=True)
    assert result.ok
    plain = report.model_dump()
    plain["composition"]["hospitals"][1]["held"] = plain["composition"]["hospitals"][1]["spent"]
    check_epsilon(result, type(report).model_validate(plain), "it", pld=True)
    assert not result.ok and "the counted figure" in str(result.checks)


@pytest.mark.parametrize(
    ("declared", "delta", "verdict", "said"),
    [
        (75, 1e-4, "PASS", []),
        (49, 1e-4, "PASS", ["below 50"]),
        (75, 2e-3, "PASS", ["above 0.001", "1/(10 x 75)"]),
        (60, 0.3, "STOP", ["above 1/60", "above 0.001", "1/(10 x 60)"]),
        (400, 0.0026, "STOP", ["above 1/400", "above 0.001", "1/(10 x 400)"]),
    ],
)
def test_what_delta_does_not_promise_is_on_the_first_screen(
    run: Run, declared: int, delta: float, verdict: str, said: list[str]
) -> None:
    draft = draft_of(run, holders="", declared=declared, delta=delta, epsilon_target=None)
    alarms, words = first_screen.alarms(draft.report), first_screen_of(draft.html)
    assert draft.report.verdict.verdict == verdict
    assert len(alarms) == len(said) and all(part in text for part, text in zip(said, alarms, strict=True))
    assert all(text in words for text in alarms)
    assert "Read this first" not in words
    german = first_screen_of(render.render_round(draft.report, None, "de"))
    assert all(text not in german for text in alarms) and german.count("1/(10 x") == words.count("1/(10 x")


def test_a_run_without_privacy_says_that_and_nothing_of_delta(run: Run) -> None:
    none = MECHANISM.model_copy(update={"noise_multiplier": 0.0})
    record = Run(run.folder / "none", mechanism=none, target=None).record(1, flags=Flags(no_privacy=True))
    report = build_round(record).report
    assert first_screen.alarms(report) == () and report.verdict.verdict == "STOP"


@pytest.mark.parametrize("edition", ["1", "2"])
@pytest.mark.parametrize("flag", ["no_privacy", "insecure_deterministic"])
def test_figures_of_nothing_are_evidence_of_nothing(new_run: Callable[..., Run], flag: str, edition: str) -> None:
    """Before: "expert determination: evidence produced" in the report of a run without privacy."""
    noise = 0.0 if flag == "no_privacy" else 1.4
    made = new_run(mechanism=MECHANISM.model_copy(update={"noise_multiplier": noise}), target=None)
    flags = Flags.model_validate({flag: True})
    report = build_round(made.record(1, flags=flags, provisions_edition=edition)).report
    found = {row.id: row.status for row in report.controls.controls}
    assert found["hipaa-expert"] == found["gdpr-25-32"] == "failed"
    sound = {
        row.id: row.status
        for row in build_round(new_run().record(1, provisions_edition=edition)).report.controls.controls
    }
    assert sound["hipaa-expert"] == "evidence produced"
    assert {row.id for row in provisions(edition).rows} == found.keys()


def test_a_ledger_of_very_large_epsilon_gets_a_report(new_run: Callable[..., Run]) -> None:
    """Before: above epsilon 85 or so the report failed after the budget was spent, and each resumption with it."""
    loud = MechanismRecord(sampling_probability=0.3, noise_multiplier=0.5, steps=160, l2_clip_norm=1.0, unit="patient")
    for steps in (160, 2000):
        made = new_run(mechanism=loud.model_copy(update={"steps": steps}), target=None)
        report = build_round(made.record(1)).report
        assert float(report.verdict.spent) > 90 and report.mechanism.self_test_delta == "1"
        assert report.verdict.verdict == "STOP" and "the self-tests may add 1 to delta" in report.verdict.reasons[0]


def test_a_report_of_version_2_is_read_without_the_new_figures(run: Run) -> None:
    draft = draft_of(run, holders="")
    subjects, predicate = envelope.read_statement(draft.payload, "urn:fedgan-secure:audit:round-report:3")
    from fedgan_audits.report.reading import read_any

    old = {**predicate, "schema_version": "2"}
    with pytest.raises(canonical_json.EnvelopeError, match=r"no such field: composition\.hospitals\.held"):
        read_any(envelope.statement(subjects, "urn:fedgan-secure:audit:round-report:2", old))
    for row in old["composition"]["hospitals"]:
        for name in ("held", "left_of_target", "left_of_cap"):
            del row[name]
    report, _, version = read_any(envelope.statement(subjects, "urn:fedgan-secure:audit:round-report:2", old))
    row = report.composition.hospitals[0]
    assert (version, row.held, row.left_of_target) == ("2", None, None)
    line = first_screen.all_runs(report)
    assert (line.spent, line.left) == (row.spent, None) and render.render_round(report)
