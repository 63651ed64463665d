"""An attack on a run that adapts a public start: on its release, and on one step of its heads.

Both are games with one canary (`release_canary`, `step_canary`), played by the code that hospitals run, with the
mechanisms that the run's policy names. No patient is looked at and no budget is spent; of the run's own noise, coins
and patients this says nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgan_secure.attacks.finished_run import read_policy
from fedgan_secure.attacks.games import GamesVerdict, Outcome
from fedgan_secure.attacks.rehearsal import Progress, check_same
from fedgan_secure.attacks.release_canary import attack_release
from fedgan_secure.attacks.step_canary import HeadsAtWork, attack_step
from fedgan_secure.errors import InputError
from fedgan_secure.heads import HeadSettings, heads_spec
from fedgan_secure.models import AdaptedSpec
from fedgan_secure.policy import FederationPolicy, mechanism_fields
from fedgan_secure.privacy import Entropy

NO_RELEASE = "the run's policy has no release"
NO_STEPS = "the release is the only round of the run's policy"
_FROM_BAD_TO_GOOD: tuple[Outcome, ...] = ("refuted", "doubtful", "not testable", "not refuted")


@dataclass(frozen=True)
class AdaptedVerdict:
    """What an adversary shows about a run that adapts a public start.

    Attributes:
        release: of the release round; None where the policy has none.
        step: of one step of the heads; None where the policy has none.
        steps: how many steps the policy schedules.
    """

    release: GamesVerdict | None
    step: GamesVerdict | None
    steps: int

    @property
    def parts(self) -> tuple[GamesVerdict, ...]:
        """Of everything that was attacked."""
        return tuple(part for part in (self.release, self.step) if part is not None)

    @property
    def contradicted(self) -> bool:
        """Whether one of the proofs is refuted at 99.9 %."""
        return any(part.contradicted for part in self.parts)

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of the parts."""
        return min((part.outcome for part in self.parts), key=_FROM_BAD_TO_GOOD.index)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values; a part that the policy does not have is null, with the reason beside it."""
        found: dict[str, Any] = {"outcome": self.outcome, "steps_scheduled": self.steps}
        for name, part, missing in (("release", self.release, NO_RELEASE), ("step", self.step, NO_STEPS)):
            found[name] = None if part is None else part.to_json()
            if part is None:
                found[f"{name}_missing_because"] = missing
        return found


def attack_adapted_run(
    run: Path, *, games: int | None = None, progress: Progress | None = None, entropy: Entropy = os.urandom
) -> AdaptedVerdict:
    """Attack the release and a step of the run at `run`, as its policy describes them.

    Args:
        run: its folder, or its public part.
        games: against each of the two; None: as many as should show missing noise.
        progress: called with ("release", games played, games), then with ("step", ...).
        entropy: of coins, samples, made-up features and noise.

    Raises:
        InputError: no finished run with a public start, one without noise, or too few or too many games.
        VerificationFailed: the steps are told another mechanism than the ledger.
    """
    _, policy = read_policy(run)
    if policy.start is None:
        raise InputError(f"{run} adapts no public start", hint="use `rehearsal.attack_run`")

    def told(part: str) -> Any:
        return None if progress is None else lambda done, total: progress(part, done, total)

    release, step = policy.release, None
    found = None
    if release is not None:
        found = attack_release(
            release.release_layout(), release.record(), release.fixed_point(), delta=policy.mechanism.delta,
            games=games, progress=told("release"), entropy=entropy,
        )  # fmt: skip
    rounds = policy.rounds - (release is not None)
    if rounds:
        step = attack_step(
            HeadsAtWork.made_up(heads_spec(AdaptedSpec.from_json(policy.model)), _settings(policy), entropy),
            policy.mechanism_record(), policy.fixed_point(), delta=policy.mechanism.delta,
            games=games, progress=told("step"), entropy=entropy,
        )  # fmt: skip
    return AdaptedVerdict(found, step, rounds * policy.mechanism.steps_per_round)


def _settings(policy: FederationPolicy) -> HeadSettings:
    """What the steps are told; it has to be what the accountant is told."""
    record = policy.mechanism_record()
    settings = HeadSettings.from_json({**policy.training, **mechanism_fields(policy.mechanism)})
    check_same(settings, record)
    return settings
