"""What-if for a run that is under way or over: more rounds, more hospitals, a smaller cap, in plain words.

Read are the run's public policy and, where it is given, one hospital's ledger. Nothing is reserved or changed: a
schedule is fixed before it starts, so what is said of more rounds is said of the next run, or of this one had it been
planned so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord, accountant, budget
from fedgan_audits.errors import UnreachableTarget
from fedgan_audits.facts import colluders_against_lying
from fedgan_audits.ledger import Ledger
from fedgan_protocols import default_threshold
from fedgan_secure.errors import InputError
from fedgan_secure.policy import FederationPolicy

_MOST_ROUNDS = 10_000


@dataclass(frozen=True)
class WhatIf:
    """An answer: figures by name, and the same in sentences.

    Attributes:
        figures: JSON-ready numbers; epsilons are at the policy's delta, an unbounded one is "unbounded".
        sentences: what an officer reads.
    """

    figures: dict[str, float | int | str | None] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()


def read_policy(run: Path) -> FederationPolicy:
    """The policy of a run, from its folder or from a copy of its `public` folder. Raises InputError."""
    public = run / "public" if (run / "public").is_dir() else run
    try:
        return FederationPolicy.parse((public / "policy.json").read_bytes())
    except OSError as error:
        raise InputError(
            f"no such run: {run} holds no public/policy.json", hint="give the folder that `fedgan-secure run` printed"
        ) from error


def what_if(
    run: Path, *, more_rounds: int = 0, more_hospitals: int = 0, cap: float | None = None, ledger: Path | None = None
) -> WhatIf:
    """What changes for one patient's epsilon and for the noise.

    Args:
        run: a run's folder, or its public part.
        more_rounds: rounds after the scheduled ones, of the same steps and noise.
        more_hospitals: hospitals that join.
        cap: an epsilon that must not be exceeded.
        ledger: one hospital's ledger: everything else that it holds is counted, by the filter of caps.

    Raises:
        InputError: nothing is asked, the run cannot be read, or a number is out of range.
    """
    if not more_rounds and not more_hospitals and cap is None:
        raise InputError("nothing is asked", hint="give --more-rounds, --more-hospitals or --epsilon-cap")
    if not 0 <= more_rounds <= _MOST_ROUNDS or not 0 <= more_hospitals <= 99:
        raise InputError("expected 0 to 10000 more rounds and 0 to 99 more hospitals")
    if cap is not None and not (cap > 0 and math.isfinite(cap)):
        raise InputError(f"the cap is {cap}, expected a finite epsilon above 0")
    policy = read_policy(run)
    if policy.flags.no_privacy:
        raise InputError(
            f"the run {run} has no noise: its epsilon is unbounded, whatever changes",
            hint="ask about a run with differential privacy",
        )
    return _Question(policy, more_rounds, more_hospitals, cap, ledger).answer()


def _held(ledger: Path | None, run_id: str) -> tuple[dict[str, list[MechanismRecord]], list[float], float | None]:
    """What a ledger holds, by run in the order in which they began, its deltas, and the cap that stands.

    This run keeps its place but holds nothing: what is asked about it goes there.
    """
    if ledger is None:
        return {}, [], None
    found: dict[str, list[MechanismRecord]] = {}
    deltas = []
    with Ledger.open(ledger, read_only=True) as book:
        for entry in book.entries():
            if entry.mechanism is not None:
                mechanisms = found.setdefault(str(entry.run_id), [])
                if entry.run_id != run_id:
                    mechanisms.append(entry.mechanism)
                deltas.append(float(entry.facts["delta"]))
        return found, deltas, book.standing_cap()


class _Question:
    def __init__(
        self, policy: FederationPolicy, more_rounds: int, more_hospitals: int, cap: float | None, ledger: Path | None
    ) -> None:
        self.policy, self.cap = policy, cap
        self.held, deltas, self.held_cap = _held(ledger, policy.run_id)
        self.others = any(self.held.values())
        self.more_rounds, self.more_hospitals = more_rounds, more_hospitals
        self.round = policy.mechanism_record()
        # The one round of a run that is a release and nothing else is accounted as any other round.
        self.release = None if policy.release is None or policy.rounds == 1 else policy.release.record()
        self.delta = min([policy.mechanism.delta, *deltas])  # the ledger holds its cap at the smallest
        self.figures: dict[str, float | int | str | None] = {}
        self.sentences: list[str] = []

    def epsilon(
        self,
        mechanism: MechanismRecord,
        rounds: int,
        cap: float | None = None,
        release: MechanismRecord | None = None,
    ) -> float:
        """Of so many rounds, with everything else in the ledger, as a ledger with this cap (None: its own) holds it.

        The first of them is the `release` (None: the run's own), if there is one.
        """
        own = list(budget.scheduled(mechanism, rounds, release or self.release))
        return budget.capped_epsilon({**self.held, self.policy.run_id: own}, self.delta, cap or self.held_cap)

    def alone(self, mechanism: MechanismRecord, rounds: int) -> float:
        """Of so many rounds of this run by itself, at its own delta."""
        return accountant.epsilon(budget.scheduled(mechanism, rounds, self.release), self.policy.mechanism.delta)

    def answer(self) -> WhatIf:
        rounds = self.policy.rounds
        now = self.epsilon(self.round, rounds)
        who = "image" if self.policy.mechanism.unit == "image" else "patient"
        earlier = ", with the other runs in this ledger," if self.others else ""
        self.figures |= {"rounds": rounds, "hospitals": len(self.policy.hospitals), "delta": self.delta}
        self.figures |= {"noise_multiplier": self.round.noise_multiplier, "epsilon": _json(now)}
        verb = "costs" if self.policy.release is not None and self.release is None else "cost"
        if self.policy.release is not None:
            self.figures["release_noise_multiplier"] = self.policy.release.noise_multiplier
        self.sentences.append(
            f"As planned, {self._schedule()}{earlier} {verb} one {who} an epsilon of "
            f"{accountant.round_up(now)} at delta {self.delta:g}, with noise multiplier "
            f"{self.round.noise_multiplier:g}{self._of_release()}."
        )
        if self.more_rounds:
            self._rounds()
        if self.more_hospitals:
            self._hospitals()
        if self.cap is not None:
            self._cap(self.cap)
        return WhatIf(self.figures, tuple(self.sentences))

    def _schedule(self) -> str:
        """What is planned, in words."""
        if self.policy.release is None:
            return f"{_rounds(self.policy.rounds)} of {self.round.steps} steps"
        if self.release is None:
            return "one release and nothing else"
        return f"a release and {_rounds(self.policy.rounds - 1)} of {self.round.steps} steps"

    def _whose(self) -> str:
        """Which noise is asked about, where a release has another."""
        return "" if self.release is None else " of the steps"

    def _compared(self, noise: float) -> str:
        return f"{noise:g}, {_percent(noise / self.round.noise_multiplier)}"

    def _held_already(self) -> str:
        return "what the ledger holds already" if self.release is None else "the release, with what the ledger holds,"

    def _of_release(self) -> str:
        return "" if self.release is None else f" ({self.release.noise_multiplier:g} in the release)"

    def _rounds(self) -> None:
        total = self.policy.rounds + self.more_rounds
        more = self.epsilon(self.round, total)
        self.figures |= {"more_rounds": self.more_rounds, "epsilon_with_more_rounds": _json(more)}
        self.sentences.append(
            f"With {_rounds(self.more_rounds)} more, {total} in all, at the same noise, it would be "
            f"{accountant.round_up(more)}."
        )
        target = self.policy.mechanism.epsilon_target or self.alone(self.round, self.policy.rounds)
        noise = self._noise_for(self.round, total, target, None)
        self.figures["noise_for_more_rounds"] = noise
        itself = ", without the other runs" if self.others else ""
        self.sentences.append(
            f"To stay at {target:.6g} over all {total} rounds of this run{itself}, "
            + (
                f"the noise multiplier{self._whose()} would have had to be {self._compared(noise)}."
                if noise is not None
                else "no noise would have been enough."
            )
            + " The noise of rounds that have taken place cannot be raised: more rounds are a new run, charged as one."
        )

    def _hospitals(self) -> None:
        old, new = len(self.policy.hospitals), len(self.policy.hospitals) + self.more_hospitals
        self.figures["more_hospitals"] = self.more_hospitals
        if not isinstance(self.round, DistributedMechanism):
            share = math.sqrt(old / new)
            self.figures |= {"epsilon_with_more_hospitals": self.figures["epsilon"], "noise_in_mean_times": share}
            self.sentences.append(
                f"With {_hospitals(self.more_hospitals)} more, {new} in all, epsilon stays as it is at every hospital: "
                f"each adds all of its own noise. The noise in the average of their updates would be {share:.3f} times "
                f"what it is ({_percent(share)}). A patient whom several hospitals know is protected less, the more of "
                "them take part."
            )
            return
        shares = self.round.shares
        threshold = max(default_threshold(new), shares.threshold)
        wider = shares.model_copy(update={"threshold": threshold, "colluders": colluders_against_lying(new, threshold)})
        same = self.round.model_copy(update={"shares": wider})
        release = self.release
        if isinstance(release, DistributedMechanism):
            counts = {"threshold": wider.threshold, "colluders": wider.colluders}
            release = release.model_copy(update={"shares": release.shares.model_copy(update=counts)})
        cost = self.epsilon(same, self.policy.rounds, release=release)
        share = math.sqrt((new / wider.honest_shares) / (old / shares.honest_shares))
        self.figures |= {
            "epsilon_with_more_hospitals": _json(cost),
            "threshold": threshold,
            "colluders": wider.colluders,
            "noise_in_sum_times": share,
        }
        self.sentences.append(
            f"With {_hospitals(self.more_hospitals)} more, {new} in all, a round would need {threshold} hospitals and "
            f"{wider.colluders} could collude. At the same declared noise it would cost {accountant.round_up(cost)}, "
            f"the noise in the sum would be {share:.3f} times what it is, for {new / old:.3f} times the hospitals."
        )

    def _cap(self, cap: float) -> None:
        rounds = self.policy.rounds
        fits = self._fitting(cap)
        noise = self._noise_for(self.round, rounds, cap, cap)
        self.figures |= {"cap": cap, "rounds_within_cap": fits, "noise_for_cap": noise}
        if fits >= rounds:
            self.sentences.append(f"Under a cap of {cap:g} all {rounds} scheduled rounds fit.")
            return
        self.sentences.append(
            f"Under a cap of {cap:g}, {_rounds(fits)} of {rounds} would fit at this noise; the next would be refused."
        )
        self.sentences.append(
            "For all of them, "
            + (
                f"the noise multiplier{self._whose()} would have to be {self._compared(noise)}."
                if noise is not None
                else f"no noise{self._whose()} would be enough: {self._held_already()} is too much, "
                "or the cap is too small."
            )
        )

    def _fitting(self, cap: float) -> int:
        low, high = 0, self.policy.rounds + 1
        while high - low > 1:
            middle = (low + high) // 2
            own = budget.scheduled(self.round, middle, self.release)
            if budget.allows({**self.held, self.policy.run_id: own}, self.policy.run_id, self.delta, cap):
                low = middle
            else:
                high = middle
        return low

    def _noise_for(self, mechanism: MechanismRecord, rounds: int, target: float, cap: float | None) -> float | None:
        """The noise multiplier at which so many rounds cost at most `target`.

        With a cap: together with the rest of the ledger, as a ledger with that cap holds it; else by themselves.
        """
        before = () if self.release is None else (self.release,)
        whole = mechanism.model_copy(update={"steps": mechanism.steps * (rounds - len(before))})
        delta = self.delta if cap is not None else self.policy.mechanism.delta
        try:
            if self.others and cap is not None:
                from fedgan_audits.accounting import calibration

                def figure(sigma: float) -> float:
                    return self.epsilon(mechanism.model_copy(update={"noise_multiplier": sigma}), rounds, cap)

                return calibration.by(figure, mechanism.sampling_probability, whole.steps, target, delta)
            return accountant.calibrate(whole, target=target, delta=delta, before=before)
        except UnreachableTarget:
            return None


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else "unbounded"


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def _hospitals(count: int) -> str:
    return "1 hospital" if count == 1 else f"{count} hospitals"


def _percent(ratio: float) -> str:
    change = (ratio - 1) * 100
    return "about the same" if abs(change) < 0.5 else f"{abs(change):.0f} % {'more' if change > 0 else 'less'}"
