"""Every figure that a report prints of a ledger, computed before the budget is spent: none may fail afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter

from fedgan_audits.accounting import MechanismRecord, accountant
from fedgan_audits.errors import NotAccounted
from fedgan_audits.facts import DeltaText, EpsilonText, self_tests
from fedgan_audits.report import figures

_EPSILON: TypeAdapter[str] = TypeAdapter(EpsilonText)
_DELTA: TypeAdapter[str] = TypeAdapter(DeltaText)


def foresee(
    earlier: Sequence[MechanismRecord], this_run: Sequence[MechanismRecord], delta: float, cap: float | None
) -> None:
    """Compute what the report after a reservation prints of its hospital.

    Figures are kept by the accountant, so that the report itself costs no more.

    Args:
        earlier: the reservations of other runs in the ledger.
        this_run: those of this run, with the one that is asked for.
        delta: the run's.
        cap: the hospital's, or None.

    Raises:
        NotAccounted: a figure cannot be computed or printed; nothing may be reserved then.
    """
    everything = figures.merged((*earlier, *this_run))
    try:
        spent = figures.epsilon(everything, delta)
        alone = figures.epsilon(figures.merged(this_run), delta)
        held = figures.held_of(earlier, figures.merged(this_run), delta, cap)
        second, mu = figures.second_opinion(everything, delta), accountant.mu_gdp(everything, delta)
        for value in (spent, alone, held, second, mu):
            _EPSILON.validate_python(figures.shown(value))
        added = figures.self_test_delta_text(self_tests.delta_added(everything, spent))
        _DELTA.validate_python(added)
    except (ValueError, ArithmeticError) as error:
        raise NotAccounted(
            f"the figures that a report would print after this reservation cannot be computed ({type(error).__name__})",
            hint="Nothing was spent. Plan less: more noise, fewer rounds, or fewer steps.",
        ) from None
