"""A declared cohort that is not near a hospital's own stops that hospital before it spends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fedgan_audits.errors import NotAccounted
from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.report.foresight import foresee
from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.federation import turns
from fedgan_secure.site.cohorts import COHORT_FACTOR, foreign_cohort, refuse_foreign_cohort
from tests.audits.conftest import MECHANISM


def policy(declared: int, *, unit: str = "patient", taken: tuple[str, ...] = (), **changes: Any) -> Any:
    """What of a policy is asked for here."""
    return SimpleNamespace(
        run_id="run",
        rounds=3,
        mechanism=SimpleNamespace(declared_patients=declared, unit=unit, delta=changes.get("delta", 1e-4)),
        flags=SimpleNamespace(no_privacy=changes.get("no_privacy", False), taken_from_data=taken),
        data=SimpleNamespace(phantoms=changes.get("phantoms", False)),
    )


def hospital(patients: int, images: int) -> PatientDataset:
    """So many patients, so many images each."""
    count = patients * images
    return PatientDataset(
        np.zeros((count, 2, 2, 1), np.uint8), [-1] * count, [row % patients for row in range(count)], 0
    )


@pytest.mark.parametrize(("declared", "stops"), [(10, False), (20, False), (40, False), (41, True), (9, True)])
def test_a_factor_of_two_is_near(declared: int, stops: bool) -> None:
    own = hospital(20, 1)
    assert COHORT_FACTOR == 2.0
    if stops:
        with pytest.raises(
            InputError, match=f"hospital b: the declared cohort of {declared} patients is further"
        ) as no:
            refuse_foreign_cohort(policy(declared), own, "b")
        assert "20" not in str(no.value) and "20" not in str(no.value.hint)
    else:
        refuse_foreign_cohort(policy(declared), own, "b")


def test_images_are_counted_where_they_are_the_unit() -> None:
    own = hospital(5, 4)
    assert foreign_cohort(policy(20), own) is not None
    assert foreign_cohort(policy(20, unit="image"), own) is None
    assert "100 images" in str(foreign_cohort(policy(100, unit="image"), own))


def test_nothing_is_asked_where_nothing_was_declared_or_promised() -> None:
    own = hospital(20, 1)
    for allowed in (
        policy(1000, taken=("declared patients",)),
        policy(1000, no_privacy=True),
        policy(1000, phantoms=True),
    ):
        assert foreign_cohort(allowed, own) is None
    assert foreign_cohort(policy(1000, taken=("label names",)), own) is not None


def test_a_hospital_begins_no_first_round_under_it_and_goes_on_with_a_later_one(tmp_path: Path) -> None:
    """A withdrawal in the middle of a run must not be told by a refusal."""
    models = cast(Any, SimpleNamespace(waits_for=lambda: None))
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="b", create=True) as ledger:
        why = turns.out_of_turn(policy(41), ledger, models, hospital(20, 1), 1)
        assert why is not None and "declared cohort of 41" in why
        assert turns.out_of_turn(policy(40), ledger, models, hospital(20, 1), 1) is None
        ledger.reserve("run", 1, MECHANISM, 1e-4)
        assert turns.out_of_turn(policy(41), ledger, models, hospital(20, 1), 2) is None


def test_figures_are_computed_before_anything_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    foresee((MECHANISM,), (MECHANISM,), 1e-4, 8.0)
    loud = MECHANISM.model_copy(update={"noise_multiplier": 0.2, "steps": 2000})
    foresee((), (loud,), 1e-4, None)
    foresee((), (MECHANISM.model_copy(update={"noise_multiplier": 0.0}),), 1e-4, None)
    monkeypatch.setattr(
        "fedgan_audits.report.figures.self_test_delta_text", lambda added: "1.1e+00"
    )  # as it was printed once
    with pytest.raises(NotAccounted, match="cannot be computed") as caught:
        foresee((), (loud,), 1e-4, None)
    assert "Nothing was spent" in str(caught.value.hint)


@pytest.mark.parametrize("changes", [{}, {"phantoms": True}, {"taken": ("declared patients",)}])
def test_a_delta_that_promises_nothing_to_the_own_cohort_is_refused_whatever_the_policy_says(changes: Any) -> None:
    """A coordinator that declares two patients, or says that nobody declared anything, gets no delta of .45 for ten."""
    why = foreign_cohort(policy(2, delta=0.45, **changes), hospital(10, 1))
    assert why is not None and "delta is 0.45" in why and "10" not in why.replace("0.45", "")
    assert foreign_cohort(policy(2, delta=0.45, no_privacy=True, **changes), hospital(10, 1)) is None
    near = foreign_cohort(policy(10, delta=0.1, **changes), hospital(10, 1))
    assert near is None
    assert "delta" not in (foreign_cohort(policy(2, delta=0.6, **changes), hospital(10, 1)) or ""), "reports say STOP"
