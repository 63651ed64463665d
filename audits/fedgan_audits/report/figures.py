"""The epsilons of a report, derived from the mechanisms that the hospitals reserved.

Every figure is a composition of mechanisms at the declared delta; epsilons are never added up. `report` writes the
figures down and `verify` derives them again from a finished report: both use this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedgan_audits.accounting import MechanismRecord, accountant, gaussian_orders
from fedgan_audits.accounting import budget as budgets
from fedgan_audits.facts import HospitalFacts, PrivacySettings, RoundRecord, Spent, self_tests

TRAJECTORY_POINTS = 24
_PAIRED = 4


def repeated(mechanism: MechanismRecord, times: int) -> MechanismRecord:
    """`mechanism` in `times` rounds (`times` >= 1)."""
    return mechanism.model_copy(update={"steps": mechanism.steps * times})


def merged(mechanisms: Iterable[MechanismRecord]) -> tuple[MechanismRecord, ...]:
    """Mechanisms that differ in their number of steps alone, joined into one; composition does not depend on order."""
    steps: dict[MechanismRecord, int] = {}
    for mechanism in mechanisms:
        kind = mechanism.model_copy(update={"steps": 1})
        steps[kind] = steps.get(kind, 0) + mechanism.steps
    return tuple(kind.model_copy(update={"steps": count}) for kind, count in steps.items())


def first_kind(earlier: Sequence[MechanismRecord]) -> MechanismRecord | None:
    """Return one step of the mechanism that other runs reserved first: the cap's filter is fixed by it."""
    return earlier[0].model_copy(update={"steps": 1}) if earlier else None


def of_run(spent: Sequence[Spent], *, until: int | None = None) -> tuple[MechanismRecord, ...]:
    """The mechanisms of this run up to and including round `until` (all of them by default)."""
    found = []
    for row in spent:
        last = row.last_round if until is None else min(row.last_round, until)
        if last >= row.first_round:
            found.append(repeated(row.mechanism, last - row.first_round + 1))
    return merged(found)


def of_ledger(hospital: HospitalFacts, *, until: int | None = None) -> tuple[MechanismRecord, ...]:
    """All that a hospital's ledger holds: other runs and this one, up to and including round `until`."""
    return merged((*hospital.earlier, *of_run(hospital.this_run, until=until)))


def as_scheduled(privacy: PrivacySettings, until: int) -> tuple[MechanismRecord, ...]:
    """Return what the scheduled rounds 1 to `until` reserve by the plan: the release first where there is one."""
    release = None if privacy.release is None else privacy.release.mechanism
    return budgets.scheduled(privacy.planned, until, release)


def epsilon(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """The proved epsilon; 0 when nothing has been spent, infinite when nothing protects."""
    return accountant.epsilon(mechanisms, delta) if mechanisms else 0.0


def second_opinion(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """The same by Rényi differential privacy: a looser bound, computed independently, and by no library."""
    return accountant.epsilon_rdp(mechanisms, delta) if mechanisms else 0.0


def second_opinion_at_most(mechanisms: Sequence[MechanismRecord], delta: float) -> float:
    """Return the largest second opinion that a version of dp-accounting gives: reports of older renderers hold one."""
    found = second_opinion(mechanisms, delta)
    if not mechanisms or math.isinf(found) or accountant.rests_on_curve(mechanisms):
        return found
    return gaussian_orders.epsilon(accountant.gaussian_parts(mechanisms), delta, coarse=True)


def self_test_delta(hospitals: Iterable[HospitalFacts], delta: float) -> str | None:
    """What the published self-tests add to delta at the worst hospital, rounded up; None where nothing protects."""
    added = [
        self_tests.delta_added(mechanisms, spent) if not math.isinf(spent := epsilon(mechanisms, delta)) else None
        for mechanisms in map(of_ledger, hospitals)
    ]
    if None in added:
        return None
    return self_test_delta_text(max((value for value in added if value is not None), default=0.0))


def self_test_delta_text(added: float) -> str:
    """Return what self-tests add to delta as text, rounded up, at most 1: above that nothing is promised at all."""
    if added == 0:
        return "0"
    return f"{added * 1.05:.1e}" if added * 1.05 < 0.95 else "1"


def shown(value: float) -> str:
    """An epsilon as text, rounded up."""
    return accountant.round_up(value)


def given(limit: float) -> str:
    """A limit as text: the number that was set, not rounded."""
    return f"{limit:.12g}" if 1e-4 <= limit < 1e12 else f"{limit:.4f}"


def shown_down(value: float) -> str:
    """What is left of a budget, rounded down and never below zero, with four digits after the point."""
    if math.isinf(value):
        return "unbounded"
    return f"{math.floor(max(value, 0.0) * 10_000) / 10_000:.4f}"


@dataclass(frozen=True)
class Budget:
    """One hospital's figures as floats (infinite when unbounded); `held` is what counts against its cap.

    `held` is `spent` in a ledger's first run. After others it is larger: it holds where whether a further run began
    depended on what the earlier ones gave (budget.capped_epsilon).
    """

    hospital: HospitalFacts
    spent: float
    held: float
    rdp: float
    before: float
    this_run: float
    left_of_target: float | None
    left_of_cap: float | None
    rounds_left: int

    @property
    def remaining(self) -> float | None:
        """What the tighter of target and cap leaves; None where there is neither."""
        return min((left for left in (self.left_of_target, self.left_of_cap) if left is not None), default=None)


def held_of(
    earlier: Sequence[MechanismRecord], this_run: Sequence[MechanismRecord], delta: float, cap: float | None
) -> float:
    """Return the epsilon of a ledger that counts against a cap, for report, terminal and verification alike.

    Args:
        earlier: the reservations of all other runs, in the ledger's order.
        this_run: those of the run that goes on.
        delta: at which.
        cap: the hospital's, which fixes the filter's order; None where there is none.

    Raises as accountant.epsilon.
    """
    return budgets.capped_epsilon({"earlier": earlier, "this": this_run}, delta, cap)


def rounds_left(hospital: HospitalFacts, privacy: PrivacySettings, scheduled: int) -> int:
    """How many of the `scheduled` remaining rounds the hospital's ledger will take, by its own rule (`budget.allows`).

    A report is of round 1 or a later one, so that a release is behind it: further rounds reserve `planned`.
    """
    return budgets.rounds_left(
        earlier=hospital.earlier,
        this_run=of_run(hospital.this_run),
        mechanism=privacy.planned,
        delta=privacy.delta,
        cap=hospital.cap,
        target=privacy.epsilon_target,
        most=scheduled,
    )


def budget(hospital: HospitalFacts, record: RoundRecord) -> Budget:
    """The figures of one hospital after this round."""
    privacy, header = record.privacy, record.header
    spent = epsilon(of_ledger(hospital), privacy.delta)
    this_run = epsilon(of_run(hospital.this_run), privacy.delta)
    held = held_of(hospital.earlier, of_run(hospital.this_run), privacy.delta, hospital.cap)
    return Budget(
        hospital=hospital,
        spent=spent,
        held=held,
        rdp=second_opinion(of_ledger(hospital), privacy.delta),
        before=epsilon(of_ledger(hospital, until=header.round - 1), privacy.delta),
        this_run=this_run,
        left_of_target=None if privacy.epsilon_target is None else privacy.epsilon_target - this_run,
        left_of_cap=None if hospital.cap is None else hospital.cap - held,
        rounds_left=rounds_left(hospital, privacy, header.rounds_scheduled - header.round),
    )


def _kinds(hospitals: Sequence[HospitalFacts]) -> dict[tuple[MechanismRecord, ...], int]:
    """The distinct ledgers and how many hospitals have each."""
    found: dict[tuple[MechanismRecord, ...], int] = {}
    for hospital in hospitals:
        key = tuple(sorted(of_ledger(hospital), key=repr))
        found[key] = found.get(key, 0) + 1
    return found


def two_hospitals(hospitals: Sequence[HospitalFacts], delta: float) -> float:
    """Epsilon for a patient whom two hospitals know: the worst pair, all their mechanisms composed.

    With more than four different ledgers it is the bound of `several_hospitals` for two, which saves many compositions.
    """
    ledgers = _kinds(hospitals)
    kinds = sorted(ledgers, key=lambda kind: epsilon(kind, delta))
    if len(kinds) > _PAIRED:
        return several_hospitals(hospitals, delta, 2)
    worst = 0.0
    for index, first in enumerate(kinds):
        for second in kinds[index:]:
            if first is not second or ledgers[first] >= 2:
                worst = max(worst, accountant.epsilon_two_hospitals(first, delta, other=second))
    return worst


def several_hospitals(hospitals: Sequence[HospitalFacts], delta: float, count: int) -> float:
    """Epsilon for a patient whom `count` hospitals know, whichever they are: at least that of the worst choice.

    For every mechanism the `count` hospitals count that ran most of it. Where all ledgers hold the same mechanisms this
    is exact; where they differ, no choice of hospitals ran more of any mechanism than is composed here.
    """
    steps: dict[MechanismRecord, list[int]] = {}
    for hospital in hospitals:
        for mechanism in of_ledger(hospital):
            steps.setdefault(mechanism.model_copy(update={"steps": 1}), []).append(mechanism.steps)
    ranks = [
        tuple(
            kind.model_copy(update={"steps": sorted(counts, reverse=True)[rank]})
            for kind, counts in steps.items()
            if rank < len(counts)
        )
        for rank in range(min(count, len(hospitals)))
    ]
    return accountant.epsilon_several_hospitals(ranks, delta) if any(ranks) else 0.0


def worst_ledger(hospitals: Sequence[HospitalFacts], delta: float) -> tuple[MechanismRecord, ...]:
    """The mechanisms of the hospital whose epsilon is largest; empty when nothing has been spent."""
    return max(_kinds(hospitals), key=lambda kind: epsilon(kind, delta))


def several_images(mechanisms: Sequence[MechanismRecord], delta: float) -> tuple[tuple[int, float], ...]:
    """For unit "image": epsilon for a patient with 1, 2, 4 and 8 images; empty for unit "patient" (any number)."""
    if not mechanisms or mechanisms[0].unit == "patient":
        return ()
    return tuple((images, accountant.epsilon_k_images(mechanisms, delta, images)) for images in (1, 2, 4, 8))


def chart_rounds(done: int, scheduled: int, *, first: bool = False) -> tuple[int, ...]:
    """The rounds that a chart shows: evenly spaced ones of a long run, else all; always 0, `done` and the last.

    `first`: round 1 as well, where a release makes the curve jump.
    """
    step = max(1, math.ceil(scheduled / TRAJECTORY_POINTS))
    return tuple(sorted({0, done, scheduled, *range(0, scheduled + 1, step), *([1] if first else [])}))
