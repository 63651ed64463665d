"""A patient in more than one hospital: the bound is declared in the policy, and epsilon is given for it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedgan_audits.accounting import accountant
from fedgan_audits.facts import binding
from fedgan_audits.report import figures
from fedgan_audits.report.report import build_report
from fedgan_cli.plan import command as plan
from fedgan_secure.errors import InputError
from fedgan_secure.federation.prepare import Request, start
from fedgan_secure.policy.settings import RunSettings
from tests.audits.conftest import MECHANISM, Run


def declared(run: Run, bound: int) -> object:
    record = run.record(1)
    return record.model_copy(update={"privacy": record.privacy.model_copy(update={"hospitals_per_patient": bound})})


@pytest.mark.parametrize("bound", [1, 2, 3])
def test_the_report_gives_epsilon_for_the_declared_bound(tmp_path: Path, bound: int) -> None:
    report = build_report(declared(Run(tmp_path), bound))  # type: ignore[arg-type]
    expected = accountant.epsilon_several_hospitals([[MECHANISM]] * bound, 1e-4)
    assert report.composition.declared_hospitals == bound
    assert report.composition.declared_hospitals_epsilon == accountant.round_up(expected)
    single = float(report.composition.hospitals[0].spent)
    assert single * math.sqrt(bound) * 0.8 < expected < single * bound + 1e-9
    if bound == 2:
        assert report.composition.declared_hospitals_epsilon == report.composition.two_hospitals


def test_the_hospitals_that_spent_most_are_composed(tmp_path: Path) -> None:
    record = Run(tmp_path).record(1)
    rich = record.hospitals[2].model_copy(update={"earlier": (MECHANISM.model_copy(update={"steps": 200}),)})
    hospitals = (*record.hospitals[:2], rich, record.hospitals[3])
    found = figures.several_hospitals(hospitals, 1e-4, 2)
    ledgers = [figures.of_ledger(rich), figures.of_ledger(record.hospitals[0])]
    assert found == accountant.epsilon_several_hospitals(ledgers, 1e-4)
    assert found > figures.several_hospitals(record.hospitals, 1e-4, 2)


def test_of_ledgers_that_differ_it_is_at_least_that_of_any_choice(tmp_path: Path) -> None:
    """Four ledgers in four ways: the two that are dearest alone need not be the dearest pair."""
    record = Run(tmp_path).record(1)
    other = MECHANISM.model_copy(update={"noise_multiplier": 3.0})
    earlier = [
        (MECHANISM.model_copy(update={"steps": 90}),),
        (other.model_copy(update={"steps": 500}),),
        (MECHANISM.model_copy(update={"steps": 60}), other.model_copy(update={"steps": 100})),
        (),
    ]
    hospitals = tuple(
        hospital.model_copy(update={"earlier": ran}) for hospital, ran in zip(record.hospitals, earlier, strict=True)
    )
    found = figures.several_hospitals(hospitals, 1e-4, 2)
    for pair in itertools.combinations(hospitals, 2):
        assert found >= accountant.epsilon_several_hospitals([figures.of_ledger(one) for one in pair], 1e-4)


def test_a_report_that_states_another_bound_than_the_policy_is_contradicted(tmp_path: Path) -> None:
    run = Run(tmp_path)
    policy = json.loads(run.policy)
    assert binding.differences(declared(run, 1), policy) == []  # type: ignore[arg-type]
    wrong = "in how many hospitals a patient may be differs from the policy"
    assert binding.differences(declared(run, 2), policy) == [wrong]  # type: ignore[arg-type]
    policy["mechanism"]["hospitals_per_patient"] = 2
    assert binding.differences(declared(run, 2), policy) == []  # type: ignore[arg-type]
    assert binding.differences(declared(run, 1), policy) == [wrong]  # type: ignore[arg-type]


def test_a_bound_above_the_number_of_hospitals_is_refused(tmp_path: Path) -> None:
    settings = RunSettings.merged(
        {
            "federation": {"hospitals": 3, "rounds": 1, "steps_per_round": 1},
            "data": {"image_size": 28, "phantom_patients": 8},
            "privacy": {"declared_patients": 8, "noise_multiplier": 1.0, "delta": 1e-3, "hospitals_per_patient": 4},
        },
        {},
    )
    with pytest.raises(InputError, match="hospitals_per_patient is 4, expected at most the number of hospitals, 3"):
        start(Request(settings, tmp_path / "run"), None)
    assert not (tmp_path / "run").exists()


def test_plan_gives_the_figure_for_the_bound() -> None:
    words = ["--sampling-probability", "0.1", "--steps", "20", "--delta", "1e-4", "--noise-multiplier", "1.4", "--json"]
    said = json.loads(CliRunner().invoke(plan, [*words, "--hospitals-per-patient", "3"]).stdout)
    expected = accountant.epsilon_several_hospitals([[MECHANISM]] * 3, 1e-4)
    assert float(said["epsilon_by_hospitals"]["3"]) == pytest.approx(expected, rel=1e-6)
    assert "epsilon_by_hospitals" not in json.loads(CliRunner().invoke(plan, words).stdout)
