"""The planning arithmetic of a run: what its schedule will cost, and what a hospital's cap still allows.

The schedule is fixed before the first round: every scheduled round, spare ones included, is counted, since an
attempt consumes its round whether it finishes or not. Every figure is a composition of events; none is a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from fedgan_audits.accounting import accountant, renyi
from fedgan_audits.accounting.mechanism import (
    MechanismRecord,
    NoisePlacement,
    NoiseShares,
    SearchMechanism,
    Unit,
    is_release,
    parse_mechanism,
)
from fedgan_audits.errors import RecordInvalid

_MAX_ROUNDS = 1_000_000
MAX_KINDS = 256
"""Mechanisms that differ in more than their number of steps: a ledger with more is not computed again by whoever
verifies its reports, since a hostile one could keep a machine busy for days."""
_TARGET_SLACK = 1 + 1e-9
"""A schedule is calibrated to its target; its own figure, computed round by round, may differ in the last digits."""


def mechanism_record(**fields: object) -> MechanismRecord:
    """A MechanismRecord from its fields; raises RecordInvalid, which names the first bad field in one sentence."""
    try:
        return parse_mechanism(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "mechanism"
        raise RecordInvalid(f"{name} is {first['input']!r}: {first['msg'].lower()}") from None


def kinds(mechanisms: Iterable[MechanismRecord]) -> int:
    """Return how many mechanisms differ in more than their number of steps."""
    return len({mechanism.model_copy(update={"steps": 1}) for mechanism in mechanisms})


@dataclass(frozen=True)
class RunBudget:
    """One run's schedule for one hospital: `rounds` + `spare_rounds` times `mechanism` (the mechanism of ONE round).

    Where there is a `release`, it is the first of these rounds and `mechanism` every later one; a run of the release
    alone has one round, and `mechanism` is the release. delta is that of every figure. Raises RecordInvalid when made
    with numbers out of range.
    """

    mechanism: MechanismRecord
    rounds: int
    delta: float
    spare_rounds: int = 0
    release: MechanismRecord | None = None

    def __post_init__(self) -> None:
        accountant.check_delta(self.delta)
        _whole("rounds", self.rounds, 1)
        _whole("spare_rounds", self.spare_rounds, 0)
        if self.release is not None:
            _check_release(self.release)
            if self.rounds_scheduled == 1 and self.mechanism != self.release:
                raise RecordInvalid("the one scheduled round is the release, but another mechanism is given for it")

    @property
    def rounds_scheduled(self) -> int:
        """Rounds that are calibrated and paid for: `rounds` + `spare_rounds`."""
        return self.rounds + self.spare_rounds

    def epsilon_after(self, attempts: int) -> float:
        """Composed epsilon after `attempts` scheduled rounds, finished or not (0 to rounds_scheduled)."""
        if not 0 <= attempts <= self.rounds_scheduled:
            raise RecordInvalid(f"round {attempts} is asked for, but {self.rounds_scheduled} rounds are scheduled")
        return accountant.epsilon(scheduled(self.mechanism, attempts, self.release), self.delta)

    @property
    def schedule(self) -> tuple[float, ...]:
        """Composed epsilon after each scheduled round, in order."""
        return tuple(self.epsilon_after(attempt) for attempt in range(1, self.rounds_scheduled + 1))

    @property
    def epsilon_total(self) -> float:
        """Composed epsilon of the whole schedule."""
        return self.epsilon_after(self.rounds_scheduled)


@dataclass(frozen=True)
class Standing:
    """Where a hospital stands. Epsilons at one delta; `remaining` and `rounds_left` are None without a cap.

    `remaining` is the cap less what is held against it (:func:`capped_epsilon`), for people to read: it is not an
    epsilon that a further mechanism may simply have, since epsilons do not add up. `rounds_left` is how many more
    rounds, as scheduled, the cap allows.
    """

    spent: float
    remaining: float | None
    rounds_left: int | None


def _whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_ROUNDS:
        raise RecordInvalid(f"{name} is {value}, but a whole number from {least} to {_MAX_ROUNDS} is expected")


def repeated(mechanism: MechanismRecord, times: int) -> tuple[MechanismRecord, ...]:
    """`times` rounds of `mechanism` as one record of so many steps (none for 0); for the accountant the same."""
    if times == 0:
        return ()
    return (mechanism.model_copy(update={"steps": mechanism.steps * times}),)


def scheduled(
    mechanism: MechanismRecord, rounds: int, release: MechanismRecord | None = None
) -> tuple[MechanismRecord, ...]:
    """Return what the first `rounds` scheduled rounds reserve: the release first where there is one, then `mechanism`.

    As :func:`repeated`, the rounds of `mechanism` are one record; none for 0 rounds.
    """
    if release is None or rounds == 0:
        return repeated(mechanism, rounds)
    return (release, *repeated(mechanism, rounds - 1))


def _check_release(release: MechanismRecord) -> None:
    if not is_release(release):
        raise RecordInvalid(
            f"the release has sampling probability {release.sampling_probability:g} and {release.steps} steps, but one "
            "step in which every patient takes part is expected",
            hint="Make it with fedgan_audits.accounting.releases.record.",
        )


def one_of(noise_multiplier: float | None, epsilon: float | None) -> None:
    """Raise RecordInvalid unless exactly one of the two is given."""
    if (noise_multiplier is None) == (epsilon is None):
        raise RecordInvalid(
            "exactly one of noise_multiplier and epsilon is expected, but "
            + ("both are given" if epsilon is not None else "neither is given"),
            hint="Give a target epsilon and let the noise be calibrated, or fix the noise.",
        )


def plan_run(
    *,
    sampling_probability: float,
    steps_per_round: int,
    rounds: int,
    delta: float,
    spare_rounds: int = 0,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    l2_clip_norm: float = 1.0,
    unit: Unit = "patient",
    images_per_patient: int = 1,
    noise_placement: NoisePlacement = "per_hospital",
    shares: NoiseShares | None = None,
    release: MechanismRecord | None = None,
) -> RunBudget:
    """Fix a run's schedule from the noise multiplier, or from a target epsilon for all scheduled rounds together.

    `noise_placement` "distributed" needs `shares`, and no other takes them. A `release` (releases.record), whose noise
    is given, is the first of `rounds`; the target is then that of the release and all steps composed. Raises
    RecordInvalid unless exactly one of the two is given and every number is in range, UnreachableTarget where no noise
    reaches `epsilon`, NotAccounted for a placement that is not proved.
    """
    one_of(noise_multiplier, epsilon)
    _whole("rounds", rounds, 1)
    _whole("spare_rounds", spare_rounds, 0)
    trained = rounds + spare_rounds
    if release is not None:
        _check_release(release)
        trained -= 1
        if trained == 0:
            raise RecordInvalid(
                "one round is scheduled and it is the release, which leaves none for steps",
                hint="Schedule more rounds, or plan the release alone (fedgan_audits.accounting.releases.plan).",
            )
    fields: dict[str, object] = {
        "sampling_probability": sampling_probability,
        "steps": steps_per_round,
        "l2_clip_norm": l2_clip_norm,
        "unit": unit,
        "images_per_patient": images_per_patient,
        "noise_placement": noise_placement,
    }
    if shares is not None:
        fields["shares"] = shares
    before = () if release is None else (release,)
    probe = mechanism_record(noise_multiplier=1.0, **fields)
    accountant.refuse_unaccounted([*before, probe])
    if epsilon is not None:
        schedule = probe.model_copy(update={"steps": probe.steps * trained})
        noise_multiplier = accountant.calibrate(schedule, target=epsilon, delta=delta, before=before)
    mechanism = mechanism_record(noise_multiplier=noise_multiplier, **fields)
    return RunBudget(mechanism=mechanism, rounds=rounds, spare_rounds=spare_rounds, delta=delta, release=release)


def advised_delta(declared_patients: int) -> float:
    """1 / (10 N) for the public nominal number of patients N. Raises RecordInvalid unless N >= 1.

    A delta of 1/N or more would allow publishing one patient's record outright.
    """
    if isinstance(declared_patients, bool) or not isinstance(declared_patients, int) or declared_patients < 1:
        raise RecordInvalid(f"declared_patients is {declared_patients}, but a whole number of at least 1 is expected")
    return 1 / (10 * declared_patients)


def capped_epsilon(by_run: Mapping[str, Sequence[MechanismRecord]], delta: float, cap: float | None = None) -> float:
    """The epsilon that is held against a hospital's cap, for the reservations of each run in its ledger.

    `by_run` is in the order in which the runs began. One run has a schedule that its signed policy fixed before it
    began: its proved figure (accountant.epsilon). Where there are several, each next one may have been chosen after
    seeing what the last one gave, which PLD composition does not cover, and neither does the best of all Rényi orders:
    the Rényi filter stands (renyi.filtered_epsilon). With the hospital's fixed `cap` it watches the one order at which
    most of the ledger's first mechanism fits under the cap; without, it divides delta among several orders, which
    costs more. It is never below the proved figure of the same mechanisms taken as a fixed schedule.

    Guarantee, while this is held under a cap that stays, at a delta that stays: everything in the ledger is (cap,
    delta)-DP if it is one run or was planned as a whole, and (cap, 2 delta)-DP if whether a further run began may have
    depended on outputs (docs/accounting.md, "The filter"). Raises as accountant.epsilon.
    """
    runs = [records for records in by_run.values() if records]
    everything = [record for records in runs for record in records]
    figure = accountant.epsilon(everything, delta)
    if math.isinf(figure) or len(runs) < 2:
        return figure
    return max(figure, filtered(by_run, delta, cap))


def filtered(by_run: Mapping[str, Sequence[MechanismRecord]], delta: float, cap: float | None = None) -> float:
    """Return the Rényi filter's epsilon of a ledger's reservations: :func:`capped_epsilon` without its lower bound.

    Infinite where any mechanism has no noise. Raises NotAccounted as accountant.epsilon, and RecordInvalid where
    nothing is reserved.
    """
    everything = [record for records in by_run.values() for record in records]
    if not everything:
        raise RecordInvalid("a filter's figure is asked for, but nothing is reserved")
    accountant.refuse_unaccounted(everything)
    curve = accountant.curve(everything)
    if math.isinf(float(curve[0])):
        return math.inf
    order = None if cap is None else renyi.order_for(_first_curve(everything[0]), delta, cap)
    return renyi.filtered_epsilon(curve, delta, order)


def _first_curve(first: MechanismRecord) -> renyi.Curve:
    """What one step of a ledger's first mechanism costs at every order; of a search, all of it."""
    if isinstance(first, SearchMechanism):
        return accountant.curve([first])
    return renyi.step_curve(accountant.step_noise(first))


def allows(
    by_run: Mapping[str, Sequence[MechanismRecord]],
    run: str,
    delta: float,
    cap: float | None = None,
    target: float | None = None,
) -> bool:
    """Tell whether a ledger may hold the reservations `by_run`: the one rule of ledger, report, verification and plan.

    Args:
        by_run: every run's reservations, in the order in which the runs began; what is asked for is among them.
        run: the run that goes on.
        delta: of the cap and of the target.
        cap: the hospital's, over everything (:func:`capped_epsilon`), or None.
        target: what the run's policy promises of the run alone, as a schedule that was fixed before it began, or None.

    Raises as accountant.epsilon.
    """
    own = by_run.get(run, ())
    if target is not None and own and accountant.epsilon(own, delta) > target * _TARGET_SLACK:
        return False
    return cap is None or capped_epsilon(by_run, delta, cap) <= cap


def rounds_left(
    *,
    earlier: Sequence[MechanismRecord],
    this_run: Sequence[MechanismRecord],
    mechanism: MechanismRecord,
    delta: float,
    cap: float | None,
    target: float | None,
    most: int,
    release: MechanismRecord | None = None,
) -> int:
    """Return how many of the next `most` rounds a ledger takes before it refuses one (:func:`allows`).

    `earlier` are the reservations of other runs in the ledger, in its order, `this_run` those of the run that goes on.
    Further rounds reserve `mechanism`; the first one the `release`, if there is one and nothing of this run is reserved
    yet. Raises as accountant.epsilon.
    """

    def allowed(rounds: int) -> bool:
        more = [*this_run, *scheduled(mechanism, rounds, None if this_run else release)]
        return allows({"earlier": earlier, "this": more}, "this", delta, cap, target)

    if most <= 0 or allowed(most):
        return max(most, 0)
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if allowed(middle):
            low = middle
        else:
            high = middle
    return low


def standing(
    *,
    earlier: Sequence[MechanismRecord],
    mechanism: MechanismRecord,
    delta: float,
    cap: float | None = None,
    this_run: Sequence[MechanismRecord] = (),
    release: MechanismRecord | None = None,
    most: int = 10_000,
) -> Standing:
    """What is spent, what the cap leaves, and how many more rounds it allows (:func:`rounds_left`, up to `most`)."""
    spent = accountant.epsilon([*earlier, *this_run], delta)
    if cap is None:
        return Standing(spent=spent, remaining=None, rounds_left=None)
    held = capped_epsilon({"earlier": earlier, "this": this_run}, delta, cap)

    def left(at_most: int) -> int:
        return rounds_left(
            earlier=earlier, this_run=this_run, mechanism=mechanism, release=release, delta=delta, cap=cap, target=None,
            most=at_most,
        )  # fmt: skip

    high = 1  # doubled first: the figure of very many rounds is slow to compute
    while left(min(high, most)) == high < most:
        high *= 2
    return Standing(spent=spent, remaining=max(0.0, cap - held), rounds_left=left(min(high, most)))
