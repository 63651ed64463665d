"""One rule says whether a run may go on: what a report counts as left, its ledger takes, and not one round more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting import accountant, budget
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.errors import BudgetRefused
from fedgan_audits.facts.records import HospitalFacts, PrivacySettings, spending
from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.report import figures
from fedgan_audits.report.report import build_round
from tests.audits.conftest import Run
from tests.audits.test_ledger import mechanism

DELTA = 1e-4
MOST = 5


def facts_of(ledger: Ledger, run: str, cap: float | None) -> HospitalFacts:
    """What a report would say of the ledger's hospital."""
    reserved = ledger.reservations(run)
    return HospitalFacts(
        name=ledger.hospital,
        fingerprint="SHA256:" + "A" * 43,
        declared_patients=75,
        reserved=reserved[max(reserved)],
        this_run=spending(reserved.items()),
        earlier=ledger.mechanisms(exclude_run=run),
        cap=cap,
        ledger_lifetime="site",
        took_part=False,
    )


def settings_of(planned: MechanismRecord, target: float | None) -> PrivacySettings:
    """What a report would say of the run."""
    return PrivacySettings(
        unit="patient", noise_placement="per_hospital", delta=DELTA, epsilon_target=target, planned=planned,
        images_per_patient=1, sampling="coins", noise="Gaussian", clipping="exact",
    )  # fmt: skip


def taken(ledger: Ledger, run: str, planned: MechanismRecord, cap: float | None, target: float | None) -> int:
    """How many of the next rounds the ledger takes, one after the other, before it refuses one."""
    first = max(ledger.reservations(run)) + 1
    for number in range(first, first + MOST):
        if ledger.refusal(run, number, planned, DELTA, cap, target) is not None:
            with pytest.raises(BudgetRefused):
                ledger.reserve(run, number, planned, DELTA, cap, target)
            return number - first
        ledger.reserve(run, number, planned, DELTA, cap, target)
    return MOST


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    earlier=st.lists(st.tuples(st.sampled_from([1.0, 2.0]), st.integers(1, 3)), max_size=3),
    sigma=st.sampled_from([1.0, 2.0]),
    done=st.integers(1, 3),
    room=st.sampled_from([0.3, 0.6, 1.0, 1.3]),
    limited=st.sampled_from(["cap", "target", "both", "neither"]),
)
def test_rounds_left_in_a_report_are_the_reservations_that_then_succeed(
    tmp_path_factory: pytest.TempPathFactory,
    earlier: list[tuple[float, int]],
    sigma: float,
    done: int,
    room: float,
    limited: str,
) -> None:
    planned = mechanism(sigma)
    with Ledger.open(tmp_path_factory.mktemp("rule") / "ledger.sqlite", hospital="b", create=True) as ledger:
        for place, (noise, rounds) in enumerate(earlier):
            for number in range(1, rounds + 1):
                ledger.reserve(f"earlier-{place}", number, mechanism(noise), DELTA)
        for number in range(1, done + 1):
            ledger.reserve("this", number, planned, DELTA)
        held = {"earlier": ledger.mechanisms(exclude_run="this"), "this": [planned] * done}
        whole = {**held, "this": [planned] * (done + MOST)}
        # a limit between what is held now and what it would be after all of the next rounds
        low, high = budget.capped_epsilon(held, DELTA, 8.0), budget.capped_epsilon(whole, DELTA, 8.0)
        cap = low + room * (high - low) if limited in ("cap", "both") else None
        alone = [accountant.epsilon([planned] * count, DELTA) for count in (done, done + MOST)]
        target = alone[0] + room * (alone[1] - alone[0]) if limited in ("target", "both") else None
        said = figures.rounds_left(facts_of(ledger, "this", cap), settings_of(planned, target), MOST)
        if cap is not None and target is None:
            more = budget.standing(
                earlier=held["earlier"], this_run=held["this"], mechanism=planned, delta=DELTA, cap=cap, most=MOST
            )
            assert more.rounds_left == said
        assert taken(ledger, "this", planned, cap, target) == said


def test_a_report_does_not_promise_what_the_ledger_refuses(tmp_path: Path) -> None:
    """Before: PASS, "all rounds still scheduled fit the budget", and the same ledger refused the next one."""
    run = Run(tmp_path / "run", rounds=3, target=None)
    place = tmp_path / "ledger.sqlite"
    with Ledger.open(place, hospital="b", create=True) as ledger:
        ledger.reserve("last-year", 1, run.mechanism, DELTA)
        ledger.reserve(run.run_id, 1, run.mechanism, DELTA)
        earlier = ledger.mechanisms(exclude_run=run.run_id)
        whole = accountant.epsilon([*earlier, *[run.mechanism] * 3], DELTA)
        cap = whole * 1.0001  # by PLD, as one schedule, everything would fit
        said: Any = {"earlier": earlier, "cap": cap, "ledger_lifetime": "site"}
        base = run.record(1)
        hospitals = tuple(row.model_copy(update=said) if row.name == "b" else row for row in base.hospitals)
        report = build_round(base.model_copy(update={"hospitals": hospitals})).report
        left = report.verdict.rounds_left
        assert left == taken(ledger, run.run_id, run.mechanism, cap, None) < 2
    assert "All 2 rounds" not in report.verdict.rounds_left_text
    (row,) = [row for row in report.composition.hospitals if row.name == "b"]
    held = budget.capped_epsilon({"earlier": earlier, "this": [run.mechanism]}, DELTA, cap)
    assert row.remaining == figures.shown_down(cap - held) and row.rounds_left == left
    assert (report.verdict.verdict == "STOP") == (left == 0) and report.verdict.may_continue == (left > 0)


def test_a_capped_ledger_takes_no_larger_delta_than_it_holds(tmp_path: Path) -> None:
    """Its cap holds at its smallest delta, and a report of the larger one would count against another figure."""
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="b", create=True) as ledger:
        ledger.reserve("first", 1, mechanism(), 1e-6)
        ledger.reserve("free", 1, mechanism(), 1e-3)  # without a cap nothing is held against anything
        with pytest.raises(BudgetRefused, match="holds its cap of 50 at delta 1e-06") as caught:
            ledger.reserve("next", 1, mechanism(), 1e-5, 50.0)
        assert "--delta 1e-06" in caught.value.hint
        ledger.reserve("next", 1, mechanism(), 1e-6, 50.0)
        ledger.reserve("stricter", 1, mechanism(), 1e-7, 50.0)


def test_a_run_does_not_pass_what_its_policy_promises(tmp_path: Path) -> None:
    two = accountant.epsilon([mechanism()] * 2, DELTA)
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="b", create=True) as ledger:
        ledger.reserve("earlier", 1, mechanism(), DELTA)
        for number in (1, 2):
            ledger.reserve("this", number, mechanism(), DELTA, None, two)
        with pytest.raises(BudgetRefused, match="over the target of") as caught:
            ledger.reserve("this", 3, mechanism(), DELTA, None, two)
        assert caught.value.hint and caught.value.spent == two
        assert ledger.entries()[-1].kind == "refused" and ledger.standing_cap() is None
