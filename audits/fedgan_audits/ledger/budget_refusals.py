"""Why a ledger does not take a reservation, in sentences with the figures that decided it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedgan_audits.accounting import MechanismRecord, accountant, budget
from fedgan_audits.errors import BudgetRefused


@dataclass(frozen=True)
class Refused:
    """A reservation that a ledger does not take: what its runs hold, without it and with it, at which delta."""

    hospital: str
    what: str
    before: Mapping[str, list[MechanismRecord]]
    after: Mapping[str, list[MechanismRecord]]
    delta: float

    def over_cap(self, cap: float) -> BudgetRefused:
        """Say that the whole ledger would exceed the hospital's cap."""
        spent = budget.capped_epsilon(self.before, self.delta, cap)
        asked = budget.capped_epsilon(self.after, self.delta, cap)
        runs = len(self.after)
        way = "" if runs < 2 else f" (by the Rényi filter, since {runs} runs on the same patients follow one another)"
        return BudgetRefused(
            f"hospital {self.hospital} refuses {self.what}: its ledger would reach epsilon "
            f"{accountant.round_up(asked)}{way}, over its cap of {cap:g}, at delta {self.delta:g}; "
            f"{accountant.round_up(spent)} is spent so far",
            spent=spent,
            asked=asked,
            cap=cap,
        )

    def over_target(self, run_id: str, target: float) -> BudgetRefused:
        """Say that the run alone would exceed what its policy promises."""
        spent = accountant.epsilon(self.before.get(run_id, []), self.delta)
        asked = accountant.epsilon(self.after[run_id], self.delta)
        return BudgetRefused(
            f"hospital {self.hospital} refuses {self.what}: the run would reach epsilon {accountant.round_up(asked)}, "
            f"over the target of {target:g} that its policy names, at delta {self.delta:g}; "
            f"{accountant.round_up(spent)} is spent so far",
            spent=spent,
            asked=asked,
            cap=target,
            hint="The policy promises less than its schedule costs; nothing was spent by this request.",
        )

    def at_another_delta(self, strictest: float, cap: float) -> BudgetRefused:
        """Say that a cap holds at the smallest delta of its ledger, and the request has a larger one."""
        spent = budget.capped_epsilon(self.before, strictest, cap)
        asked = budget.capped_epsilon(self.after, strictest, cap)
        return BudgetRefused(
            f"hospital {self.hospital} refuses {self.what}: it is asked for at delta {self.delta:g}, and its ledger "
            f"holds its cap of {cap:g} at delta {strictest:g}, the smallest that it reserved at",
            spent=spent,
            asked=asked,
            cap=cap,
            hint=f"Plan the run at that delta or a smaller one (--delta {strictest:g}); nothing was spent.",
        )
