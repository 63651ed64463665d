"""A run that was made with one version of dp-accounting verifies where another one is installed, in whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedgan_audits.accounting import accountant, loss_distribution
from fedgan_audits.facts.checks import Verification
from fedgan_audits.facts.records import RoundRecord
from fedgan_audits.facts.sections import RoundReport
from fedgan_audits.pages import renderers
from fedgan_audits.report import figures, rebuilding
from fedgan_audits.report.report import build_report, build_round
from fedgan_audits.verification import recompute
from fedgan_audits.verification.verify import verify_run

MakeRun = Callable[..., Any]
OLD = renderers.BEFORE_NUMBERS[-1]


@pytest.fixture
def other_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes dp-accounting say that it is another version."""

    def pretend(version: str) -> None:
        monkeypatch.setattr(accountant, "version", lambda _: version)
        monkeypatch.setattr(rebuilding, "version", lambda _: version)

    return pretend


def made_by(record: RoundRecord, version: str) -> RoundRecord:
    software = record.header.software.model_copy(update={"dp_accounting": version})
    return record.model_copy(update={"header": record.header.model_copy(update={"software": software})})


def changed(report: RoundReport, change: Callable[[dict[str, Any]], Any]) -> RoundReport:
    values = report.model_dump(mode="json")
    change(values)
    return RoundReport.model_validate(values)


def wrong(report: RoundReport) -> list[str]:
    result = Verification()
    recompute.check_epsilon(result, report, "f", pld=True)
    return [check.detail for check in result.checks if check.outcome == "FAIL"]


@pytest.mark.parametrize("installed", ["0.4.3", "0.5.0", "0.6.0", "1.2.0"])
def test_a_run_verifies_in_whole_whichever_version_is_installed(
    whole_run: Any, transcript_check: Any, other_version: Any, installed: str
) -> None:
    """All runs here say that 0.6.0 made them; the version installed changes no text and no page."""
    other_version(installed)
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, transcript_check=transcript_check)
    assert result.ok and not result.closing
    assert "in 3 of 3 reports" in next(check.detail for check in result.checks if check.name == "figures")


def test_a_report_names_the_version_that_is_in_its_record(new_run: MakeRun, other_version: Any) -> None:
    record = new_run().record(1)
    other_version("0.4.3")
    assert build_report(record).privacy.accountant.startswith("dp-accounting 0.6.0, PLD")
    assert build_report(made_by(record, "0.4.3")).privacy.accountant.startswith("dp-accounting 0.4.3, PLD")


def test_no_figure_of_a_report_comes_from_the_librarys_renyi_accountant(
    new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library whose figures at fractional orders are half as large changes nothing in a report."""
    import dp_accounting

    record = new_run().record(1)
    honest = build_round(record).payload
    accountant.clear_caches()
    kept = dp_accounting.rdp.compute_epsilon

    def other(orders: Any, rdp: Any, delta: float) -> tuple[float, float]:
        found, order = kept(orders, rdp, delta)
        fractional = any(float(one) % 1 for one in orders)
        return (found / 2 if fractional else found), order

    monkeypatch.setattr(dp_accounting.rdp, "compute_epsilon", other)
    try:
        assert build_round(record).payload == honest
        assert "Rényi" in build_report(record).privacy.second_accountant
        assert "dp-accounting" not in build_report(record).privacy.second_accountant
    finally:
        accountant.clear_caches()


def test_a_last_digit_may_move_with_the_library_and_with_it_alone(new_run: MakeRun, other_version: Any) -> None:
    """Loss distributions of two versions differ by 1e-7 of themselves: now and then the fourth digit moves."""
    report = build_report(new_run().record(1))
    spent = float(report.verdict.spent)

    def move(values: dict[str, Any], by: float) -> None:
        values["composition"]["trajectories"][0]["points"][1]["spent"] = f"{spent + by:.4f}"

    moved, false = (
        changed(report, lambda values: move(values, 1e-4)),
        changed(report, lambda values: move(values, 2e-3)),
    )
    other_version("0.6.0")
    assert rebuilding.compare(moved, renderers.VERSION).wrong == ("composition.trajectories[0].points[1].spent",)
    other_version("0.4.3")
    assert rebuilding.compare(moved, renderers.VERSION).wrong == ()
    assert rebuilding.compare(false, renderers.VERSION).wrong == ("composition.trajectories[0].points[1].spent",)


def test_no_parameter_may_move_with_the_library(new_run: MakeRun, other_version: Any) -> None:
    other_version("0.4.3")
    report = build_report(new_run().record(1))

    def shift(values: dict[str, Any]) -> None:
        values["verdict"]["delta"] = "0.0002"
        values["composition"]["hospitals"][0]["target"] = "8.0005"
        values["privacy"]["profile"][0]["delta"] = "0.0101"

    found = rebuilding.compare(changed(report, shift), renderers.VERSION).wrong
    assert set(found) == {"verdict.delta", "composition.hospitals[0].target", "privacy.profile[0].delta"}


@pytest.mark.parametrize(
    ("second", "accepted"),
    [("1.8288", True), ("1.8289", True), ("1.8354", True), ("1.8260", False), ("1.9000", False), ("unbounded", False)],
)
def test_the_second_figure_of_an_older_report_lies_between_bounds_that_hold_for_every_version(
    new_run: MakeRun, second: str, accepted: bool
) -> None:
    """q .1, noise 1.4, 20 steps, delta 1e-4: 0.4.3 gives 1.82876, 0.6.0 gives 1.82879, integer orders 1.83536."""
    report = build_report(new_run().record(1))

    def older(values: dict[str, Any]) -> None:
        values["renderer"] = OLD
        values["privacy"]["second_accountant"] = "dp-accounting 0.4.3, Rényi differential privacy"
        for row in values["composition"]["hospitals"]:
            row["spent_second_accountant"] = second

    old = changed(report, older)
    assert (wrong(old) == []) is accepted
    assert rebuilding.compare(old, 0).wrong == ()
    exact = second in ("1.8288", "1.8289")
    new = changed(old, lambda values: values.update(renderer=renderers.RENDERER))
    assert (wrong(new) == []) is exact, "a report of this renderer has the exact figure"


def test_an_older_report_whose_figure_is_the_librarys_renyi_verifies(
    new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Rényi's proof is the smaller one, 0.6.0 gave up to some hundredths more than it is: no less is taken."""
    run = new_run(target=None)
    monkeypatch.setattr(loss_distribution, "epsilon", lambda merged, images, delta: loss_distribution.rdp_epsilon(
        merged, delta))  # fmt: skip
    report = build_report(run.record(1))
    assert report.privacy.accountant == accountant.RENYI
    exact = figures.second_opinion(figures.of_ledger(report.aggregation.participants[0]), 1e-4)

    def older(values: dict[str, Any], factor: float) -> None:
        values["renderer"] = OLD
        values["privacy"]["accountant"] = "dp-accounting 0.6.0, Rényi differential privacy"
        text = accountant.round_up(exact * factor)
        values["privacy"]["epsilon"] = values["verdict"]["spent"] = text
        for row in values["composition"]["hospitals"]:
            row.update(spent=text, spent_second_accountant=text)

    looser = changed(report, lambda values: older(values, 1.002))
    assert wrong(looser) == [] and rebuilding.compare(looser, 0).wrong == ()
    assert "privacy.epsilon" in rebuilding.compare(looser, 0).unchecked
    smaller = changed(report, lambda values: older(values, 0.99))
    assert len(wrong(smaller)) == 8 and "privacy.epsilon" in rebuilding.compare(smaller, 0).wrong
