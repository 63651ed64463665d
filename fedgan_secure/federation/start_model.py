"""The model that a run starts from, as each hospital makes it itself: from the seed, the public start, or a bundle.

Weights of an attacker's making could amplify rounding (docs/privacy.md, "Floating point in the clip"), so a hospital
trains from no start that it was merely sent. What it made of a bundle is kept in its ledger: a resumed run needs the
bundle no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fedgan_audits.ledger import Ledger
from fedgan_secure.federation.families.family import Family
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.refusals import SessionRefused
from fedgan_secure.federation.transfer import Initial, initial_vector, read_initial
from fedgan_secure.policy import FederationPolicy, spec_of

DERIVED = "start_derived"


@dataclass(frozen=True)
class StartBundle:
    """Another run's released model, in the hands of one party.

    Args:
        root: the run's folder, a copy of its public folder, or a release bundle.
        trust: keys or a digest that the party trusts (`transfer.read_initial`).
        no_privacy, declared_public: as `transfer.read_initial` takes them.
    """

    root: Path
    trust: tuple[str, ...]
    no_privacy: bool = False
    declared_public: str | None = None

    @cached_property
    def initial(self) -> Initial:
        """The model, read and verified once; raises as `transfer.read_initial`."""
        return read_initial(self.root, self.no_privacy, self.declared_public, self.trust)


def start_vector(policy: FederationPolicy, family: Family, initial: Initial | None) -> np.ndarray:
    """Return the first model, float32[d], of a seed or public start, or with `initial` laid over the seed's."""
    seed = policy.initial_model.seed
    if initial is None:
        return family.layout.initial_vector(seed)
    return initial_vector(family.layout, seed, initial, spec_of(policy), policy.data.label_names)


def own_start(policy: FederationPolicy, family: Family, ledger: Ledger, bundle: StartBundle | None, name: str) -> str:
    """Return the digest (hex) of the first model as hospital `name` makes it itself; kept in its ledger once made.

    Raises:
        SessionRefused: the run starts from another one's model, of which this hospital was given no bundle, or another
            one than the policy names; or the model is not the one that the policy names.
    """
    said = policy.initial_model
    if said.from_run is None:
        return _as_named(policy, family.first_model(said.seed), name)
    kept = [
        str(entry.facts["model"])
        for entry in ledger.entries()
        if entry.kind == DERIVED and entry.run_id == policy.run_id
    ]
    if kept:
        return _as_named(policy, kept[-1], name)
    if bundle is None:
        raise SessionRefused(
            f"hospital {name} was given no bundle of run {said.from_run}, whose model the policy starts from",
            hint="start the run with --init-from BUNDLE --trust KEYS: every hospital makes the first model itself",
        )
    found = bundle.initial
    if (found.run_id, found.digest) != (said.from_run, said.model_digest):
        raise SessionRefused(
            f"hospital {name} was given the model {found.digest[:16]}... of run {found.run_id}, and the policy starts "
            f"from {str(said.model_digest)[:16]}... of run {said.from_run}",
            hint="compare the bundle with the one that the coordinator names",
        )
    digest = model_digest(family.layout.layout_hash, start_vector(policy, family, found)).hex()
    _as_named(policy, digest, name)
    ledger.record(DERIVED, policy.run_id, None, {"model": digest, "from_run": found.run_id})
    return digest


def _as_named(policy: FederationPolicy, digest: str, name: str) -> str:
    named = policy.initial_model.vector_digest
    if named is not None and digest != named:
        raise SessionRefused(
            f"hospital {name} makes the first model {digest[:16]}..., and the policy names {named[:16]}...",
            hint="the coordinator starts from other weights than the seed, public start or bundle gives; do not go on",
        )
    return digest
