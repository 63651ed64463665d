"""The policy of a run that can be attacked."""

from __future__ import annotations

from pathlib import Path

from fedgan_secure.errors import InputError
from fedgan_secure.policy import FederationPolicy


def read_policy(run: Path) -> tuple[Path, FederationPolicy]:
    """Return the public folder and the policy of a run that claims an epsilon.

    Args:
        run: its folder, or its public part.

    Raises:
        InputError: no run, one without noise, or one of which no round was finished.
    """
    public = run / "public" if (run / "public").is_dir() else run
    if not (public / "policy.json").is_file():
        raise InputError(f"no such run: {run}", hint="give the folder that `fedgan-secure run` printed")
    policy = FederationPolicy.parse((public / "policy.json").read_bytes())
    if policy.flags.no_privacy:
        raise InputError(f"{run} was trained without noise: no epsilon is claimed that could be refuted")
    if not (public / "model" / "generator.keras").is_file():
        raise InputError(f"{run} has no generator: no round of it was finished", hint="finish a round first")
    return public, policy
