"""What a search costs: Papernot and Steinke's theorems against dp-accounting's, compositions, and the ledger's part."""

from __future__ import annotations

import json
import math
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from pydantic import ValidationError

from fedgan_audits.accounting import accountant, budget, renyi, selection
from fedgan_audits.accounting.mechanism import (
    MechanismRecord,
    SearchMechanism,
    SearchTerms,
    TrialSetting,
    parse_mechanism,
)
from fedgan_audits.errors import BudgetRefused, LedgerError, NotAccounted, RecordInvalid
from fedgan_audits.ledger.ledger import Ledger

DELTA = 1e-5


def trial(q: float, sigma: float, steps: int) -> TrialSetting:
    return TrialSetting(sampling_probability=q, noise_multiplier=sigma, steps=steps)


def search(terms: SearchTerms) -> SearchMechanism:
    return SearchMechanism.of(terms, l2_clip_norm=1.0, unit="patient", images_per_patient=1)


def winner(*settings: TrialSetting, mean: float = 10.0, shape: float | None = None) -> SearchMechanism:
    return search(SearchTerms(charge="winner_alone", settings=settings, mean_trials=mean, shape=shape))


def plain(one: TrialSetting, times: int = 1) -> MechanismRecord:
    return MechanismRecord(
        sampling_probability=one.sampling_probability, noise_multiplier=one.noise_multiplier,
        steps=one.steps * times, l2_clip_norm=1.0, unit="patient",
    )  # fmt: skip


KNOWN = [
    (trial(0.01, 1.0, 1000), 10.0, None, 4.3623),
    (trial(0.02, 0.8, 500), 5.0, 0.0, 7.6405),
    (trial(0.1, 4.0, 400), 20.0, 1.0, 4.8536),
    (trial(0.05, 3.0, 100), 8.0, 0.5, 1.3900),
]
"""(trial, mean number, shape, epsilon at 1e-5) by dp-accounting 0.6.0's RepeatAndSelectDpEvent at orders 2 to 128."""


def by_dp_accounting(one: TrialSetting, mean: float, shape: float | None, orders: list[float] | None = None) -> float:
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(
            one.sampling_probability, dp_accounting.GaussianDpEvent(one.noise_multiplier)
        ),
        one.steps,
    )
    repeated = dp_accounting.dp_event.RepeatAndSelectDpEvent(event, mean, math.inf if shape is None else shape)
    return float(dp_accounting.rdp.RdpAccountant(orders).compose(repeated).get_epsilon(DELTA))


@pytest.mark.parametrize(("one", "mean", "shape", "known"), KNOWN)
def test_the_winner_costs_what_dp_accounting_says(
    one: TrialSetting, mean: float, shape: float | None, known: float
) -> None:
    ours = accountant.epsilon([winner(one, mean=mean, shape=shape)], DELTA)
    theirs = by_dp_accounting(one, mean, shape, [float(order) for order in range(2, 129)])
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert ours == pytest.approx(known, abs=1e-3)
    finer = by_dp_accounting(one, mean, shape)  # fractional orders: a little less, never more than a hundredth of it
    assert 0.99 * ours < finer <= ours + 1e-9


@pytest.mark.parametrize(("one", "mean", "shape", "known"), KNOWN)
def test_the_winner_alone_costs_more_than_a_trial_and_less_than_all(
    one: TrialSetting, mean: float, shape: float | None, known: float
) -> None:
    assert accountant.epsilon([plain(one)], DELTA) < known < accountant.epsilon([plain(one, int(mean))], DELTA)


def test_a_single_certain_trial_costs_a_trial() -> None:
    """A geometric number of mean 1 is always 1: Theorem 2 has nothing to add but the term of its other order."""
    one = trial(0.01, 1.0, 1000)
    curve = selection.winner_curve(selection.trial_curve(one), 1.0, 1.0)
    extra = 2 * float(np.min((1 - 1 / renyi.ORDERS) * selection.trial_curve(one)))
    assert np.allclose(curve, np.minimum.accumulate((selection.trial_curve(one) + extra)[::-1])[::-1])


def test_the_dearest_setting_stands_for_all() -> None:
    cheap, dear = trial(0.01, 2.0, 100), trial(0.02, 1.0, 1000)
    together = accountant.epsilon([winner(cheap, dear)], DELTA)
    assert together == accountant.epsilon([winner(dear)], DELTA) > accountant.epsilon([winner(cheap)], DELTA)


def test_trials_that_are_fixed_beforehand_compose() -> None:
    settings = (trial(0.01, 1.0, 500), trial(0.02, 2.0, 300), trial(0.01, 1.0, 500))
    grid = search(SearchTerms(charge="each_once", settings=settings, trials=3))
    one_by_one = [plain(one) for one in settings]
    assert accountant.epsilon([grid], DELTA) == accountant.epsilon(one_by_one, DELTA)
    assert accountant.epsilon_rdp([grid], DELTA) == accountant.epsilon_rdp(one_by_one, DELTA)
    assert accountant.epsilon_two_hospitals([grid], DELTA) == accountant.epsilon_two_hospitals(one_by_one, DELTA)
    event = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(
                    one.sampling_probability, dp_accounting.GaussianDpEvent(one.noise_multiplier)
                ),
                one.steps,
            )
            for one in settings
        ]
    )
    independent = dp_accounting.pld.PLDAccountant().compose(event).get_epsilon(DELTA)
    assert accountant.epsilon([grid], DELTA) == pytest.approx(independent, abs=1e-3)


def test_trials_that_are_chosen_as_it_goes_cost_the_dearest_each_time() -> None:
    settings = (trial(0.01, 1.0, 500), trial(0.05, 3.0, 50))
    learnt = search(SearchTerms(charge="any_of", settings=settings, trials=7))
    found = accountant.curve([learnt])
    for one in settings:
        assert np.all(found >= accountant.curve([plain(one, 7)]) * (1 - 1e-9))
    assert accountant.epsilon([learnt], DELTA) >= max(accountant.epsilon([plain(one, 7)], DELTA) for one in settings)
    same = search(SearchTerms(charge="any_of", settings=settings[:1], trials=7))
    assert np.allclose(accountant.curve([same]), accountant.curve([plain(settings[0], 7)]))


def test_a_search_composes_with_a_run_and_with_itself() -> None:
    one = trial(0.01, 1.0, 400)
    run, found = plain(one), winner(one)
    both = accountant.epsilon([run, found], DELTA)
    assert max(accountant.epsilon([found], DELTA), accountant.epsilon([run], DELTA)) < both
    assert np.allclose(accountant.curve([run, found]), accountant.curve([run]) + accountant.curve([found]))
    twice = found.model_copy(update={"steps": 2})
    assert accountant.epsilon([twice], DELTA) == accountant.epsilon([found, found], DELTA)
    assert accountant.epsilon_two_hospitals([found], DELTA) > accountant.epsilon([found], DELTA)
    assert accountant.mu_gdp([found], DELTA) > 0
    assert accountant.delta_profile([found], [both])[0] < DELTA
    assert "search" in accountant.accountant_name([found])
    with pytest.raises(NotAccounted, match="search"):
        accountant.epsilon_pld([found], DELTA)
    capped = budget.capped_epsilon({"search": [found], "run": [run]}, DELTA, 8.0)
    assert capped >= both


class _Coins:
    """Every coin of a coarse grid, in turn: what comes out is the distribution itself."""

    def __init__(self, count: int) -> None:
        self.left = [int((index + 0.5) / count * 2**62) for index in range(count)]

    def __call__(self, bits: int) -> int:
        assert bits == 62
        return self.left.pop()


@pytest.mark.parametrize(("mean", "shape"), [(10.0, None), (5.0, 0.0), (8.0, 1.0), (6.0, 0.5), (1.0, 1.0)])
def test_the_number_of_trials_has_the_distribution_that_is_charged(mean: float, shape: float | None) -> None:
    count = 20_000
    coins = _Coins(count)
    drawn = np.array([selection.draw_trials(mean, shape, coins) for _ in range(count)])
    assert drawn.mean() == pytest.approx(mean, rel=2e-3)
    assert drawn.min() == (0 if shape is None and mean < 9.5 else drawn.min())
    if shape is None:
        assert drawn.var() == pytest.approx(mean, rel=2e-2)
        assert (drawn == 3).mean() == pytest.approx(math.exp(-mean) * mean**3 / 6, abs=1e-4)
    else:
        assert drawn.min() == 1
        gamma = selection.gamma_of(mean, shape)
        assert selection.mean_of(gamma, shape) == pytest.approx(mean)
        if shape == 1.0:
            assert (drawn == 2).mean() == pytest.approx(gamma * (1 - gamma), abs=1e-4)
        if shape == 0.0:
            assert (drawn == 2).mean() == pytest.approx((1 - gamma) ** 2 / 2 / math.log(1 / gamma), abs=1e-4)


def test_two_draws_are_not_alike() -> None:
    assert len({selection.draw_trials(200.0, None) for _ in range(50)}) > 10


@pytest.mark.parametrize("bad", [(0.5, None), (math.nan, 1.0), (5.0, -1.0), (math.inf, None)])
def test_a_distribution_that_is_none_is_refused(bad: tuple[float, float | None]) -> None:
    with pytest.raises(RecordInvalid):
        selection.draw_trials(*bad)
    with pytest.raises(RecordInvalid):
        selection.winner_curve(np.ones(len(renyi.ORDERS)), *bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"charge": "winner_alone", "trials": 3},
        {"charge": "winner_alone", "mean_trials": 3.0, "trials": 3},
        {"charge": "any_of", "mean_trials": 3.0},
        {"charge": "any_of", "trials": 3, "shape": 1.0},
        {"charge": "each_once", "trials": 3},
        {"charge": "best_of", "trials": 1},
    ],
)
def test_terms_that_do_not_fit_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SearchTerms.model_validate({"settings": (trial(0.1, 1, 1),), **bad})


def test_a_search_states_the_most_that_a_trial_does() -> None:
    found = winner(trial(0.01, 1.0, 10), trial(0.05, 3.0, 20))
    assert (found.sampling_probability, found.noise_multiplier, found.steps) == (0.05, 1.0, 1)
    text = json.loads(json.dumps(found.model_dump(mode="json")))
    assert parse_mechanism(text) == found
    with pytest.raises(ValidationError, match="largest probability"):
        parse_mechanism({**text, "noise_multiplier": 2.0})


def test_a_ledger_holds_a_search_and_reserves_it_once(tmp_path: Path) -> None:
    found = winner(trial(0.01, 1.0, 1000))
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="a", create=True) as ledger:
        ledger.reserve("search-1", 1, found, DELTA, cap=5.0)
        with pytest.raises(LedgerError, match="reserved already"):
            ledger.reserve("search-1", 1, found, DELTA, cap=5.0)
        with pytest.raises(BudgetRefused):
            ledger.reserve("run", 1, plain(trial(0.01, 1.0, 1000)), DELTA, cap=5.0)
    with Ledger.open(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.mechanisms() == (found,)
        assert accountant.epsilon(ledger.mechanisms(), DELTA) == pytest.approx(4.3623, abs=1e-3)
        assert ledger.verify() == 3
