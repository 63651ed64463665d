"""Delta against the cohort: what is refused, what is warned of, and which cohort decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgan_audits.facts.cohort import warnings
from fedgan_secure.errors import InputError
from fedgan_secure.federation.prepare import _ledger, check_before_reading
from fedgan_secure.policy.mechanisms import cohort_of, delta_of, with_delta_for
from fedgan_secure.policy.settings import RunSettings
from fedgan_secure.storage.site import SiteDirectory


def settings(**privacy: object) -> RunSettings:
    return RunSettings.merged({}, {f"privacy.{name}": value for name, value in privacy.items()})


@pytest.mark.parametrize(("delta", "declared"), [(0.3, 60), (0.0167, 60), (1e-4, 12_000)])
def test_a_delta_above_one_over_the_patients_is_refused_before_anything_is_read(delta: float, declared: int) -> None:
    asked = settings(delta=delta, declared_patients=declared)
    with pytest.raises(InputError, match=f"at most 1/{declared}") as caught:
        check_before_reading(asked, ("a", "b", "c"), ())
    assert "--delta" in str(caught.value.hint)


@pytest.mark.parametrize(("delta", "declared"), [(1e-5, 12_000), (1 / 60, 60), (1e-3, 10)])
def test_up_to_one_over_the_patients_is_taken(delta: float, declared: int) -> None:
    assert delta_of(settings(delta=delta), declared) == delta


def test_delta_follows_the_largest_cohort() -> None:
    assert with_delta_for(settings(), 3000).privacy.delta == 3.3e-5
    with pytest.raises(InputError, match="at most 1/3000"):
        with_delta_for(settings(delta=1e-3), 3000)
    assert with_delta_for(settings(delta=1e-3, no_privacy=True), 3000).privacy.delta == 1e-3


def test_of_undeclared_cohorts_the_smallest_is_declared_and_the_largest_decides_delta() -> None:
    sizes = (400, 30, 3000)
    declared, shaped = cohort_of(settings(), sizes, phantoms=False)
    assert (declared, shaped.privacy.delta) == (30, 3.3e-5)
    declared, shaped = cohort_of(settings(declared_patients=100), sizes, phantoms=False)
    assert (declared, shaped.privacy.delta) == (100, 1e-3)
    declared, shaped = cohort_of(settings(), (30, 29), phantoms=True)
    assert (declared, shaped.privacy.delta) == (3000, 3.3e-5)
    with pytest.raises(InputError, match="at most 1/3000"):
        cohort_of(settings(delta=1e-2), sizes, phantoms=False)


@pytest.mark.parametrize(
    ("delta", "declared", "words"),
    [
        (3.3e-5, 3000, []),
        (1e-5, 12_000, ["1/(10 x 12000)"]),
        (1e-3, 100, []),
        (2e-3, 50, ["above 0.001"]),
        (0.1 / 49, 49, ["below 50", "above 0.001"]),
        (0.02, 10, ["below 50", "above 0.001", "1/(10 x 10)"]),
    ],
)
def test_small_cohorts_and_large_deltas_are_warned_of(delta: float, declared: int, words: list[str]) -> None:
    found = warnings(delta, (declared,), "patient")
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))

    for text in warnings(delta, (declared,), "image"):
        assert "patient" not in text and ("images" in text or "above 0.001" in text)


def test_with_the_override_a_large_delta_is_taken() -> None:
    assert delta_of(settings(delta=0.3, declared_patients=60, allow_large_delta=True), 60) == 0.3
    assert not settings().privacy.allow_large_delta


def test_a_lost_ledger_of_a_lasting_site_is_not_begun_anew(tmp_path: Path) -> None:
    first = SiteDirectory(tmp_path / "a", "1" * 32, lasting=True).prepare()
    _ledger(first, "a", create=True).close()
    first.annex(1).write_text("{}")
    second = SiteDirectory(tmp_path / "a", "2" * 32, lasting=True).prepare()
    _ledger(second, "a", create=True).close()
    second.ledger.unlink()
    with pytest.raises(InputError, match=r"ledger\.sqlite is missing, and .* earlier runs") as caught:
        _ledger(second, "a", create=True)
    assert "backup" in str(caught.value.hint) and not second.ledger.exists()
    first.annex(1).unlink()  # a start that came to nothing leaves folders alone
    _ledger(second, "a", create=True).close()
