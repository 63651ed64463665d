"""The policy of a federation with shared noise: what it fixes, proves and refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedgan_audits.accounting.mechanism import DistributedMechanism, NoiseShares
from fedgan_secure.errors import InputError
from fedgan_secure.policy.policy import DistributedMechanismPolicy, FederationPolicy, Flags, MechanismPolicy, RingPolicy
from fedgan_secure.policy.settings import RunSettings
from tests.fedgan_secure.federation.test_policy import fields

SHARES = NoiseShares(threshold=3, colluders=1, grid_step=2.0**-16, dimension=1000)
RING = RingPolicy(ring_bits=32, update_bound=10.0, fraction_bits=16)


def mechanism(shares: NoiseShares = SHARES, **changes: Any) -> DistributedMechanismPolicy:
    plain = fields()["mechanism"].model_dump(exclude={"noise_placement"})
    return DistributedMechanismPolicy(**{**plain, **changes}, shares=shares)


def shared(**changes: Any) -> FederationPolicy:
    return FederationPolicy.build(**fields(**{"mechanism": mechanism(), "ring": RING, **changes}))


def test_it_survives_its_file_and_gives_the_accountant_the_shares() -> None:
    policy = shared()
    again = FederationPolicy.parse(policy.canonical())
    assert again == policy and again.digest() == policy.digest()
    record = again.mechanism_record()
    assert isinstance(record, DistributedMechanism) and record.shares == SHARES
    assert (record.steps, record.noise_multiplier, record.noise_placement) == (5, 1.0, "distributed")
    assert again.distributed is not None and again.lengths(7, 1) == (1000,) * 5
    assert "noise of 3 hospitals" in policy.headroom


def test_a_policy_of_hospitals_own_noise_has_not_changed_its_form() -> None:
    policy = FederationPolicy.build(**fields())
    written = json.loads(policy.canonical())
    assert "shares" not in written["mechanism"] and written["mechanism"]["noise_placement"] == "per_hospital"
    assert policy.distributed is None and policy.lengths(7, 1) == (7,)
    assert not isinstance(policy.mechanism_record(), DistributedMechanism)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mechanism": mechanism(SHARES.model_copy(update={"colluders": 2}))}, "colluders"),
        ({"mechanism": mechanism(SHARES.model_copy(update={"threshold": 2}))}, "threshold"),
        ({"mechanism": mechanism(SHARES.model_copy(update={"grid_step": 2.0**-15}))}, "grid_step"),
        ({"mechanism": mechanism(SHARES.model_copy(update={"dimension": 10**9}))}, "rounding"),
        ({"mechanism": mechanism(noise_multiplier=0.0), "flags": Flags(no_privacy=True)}, "no_privacy"),
        ({"ring": RingPolicy(ring_bits=32, update_bound=20_000.0, fraction_bits=16)}, "wrap"),
    ],
)
def test_what_has_no_proof_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        shared(**changes)


def test_a_threshold_that_tolerates_no_colluder_is_refused() -> None:
    """Any hospital could take its own share out of the sum: 3 of 4 allows for one that does, 3 of 5 for none."""
    roster = fields()["hospitals"]
    four = (*roster, roster[0].model_copy(update={"name": "d", "public_key": "d" * 64}))
    five = (*four, roster[0].model_copy(update={"name": "e", "public_key": "e" * 64}))
    assert shared(hospitals=four).distributed is not None
    with pytest.raises(InputError, match="no hospital may collude"):
        shared(hospitals=five)


def test_noise_placement_and_shares_come_together() -> None:
    plain = fields()["mechanism"].model_dump()
    with pytest.raises(ValueError, match="shares"):
        MechanismPolicy(**{**plain, "noise_placement": "distributed"})
    written = json.loads(shared().canonical())
    del written["mechanism"]["shares"]
    with pytest.raises(InputError, match="shares"):
        FederationPolicy.parse(json.dumps(written, separators=(",", ":"), sort_keys=True).encode())


@pytest.mark.parametrize("placement", ["per_hospital", "distributed"])
def test_no_privacy_has_no_noise_to_share(placement: str) -> None:
    raw = {"privacy": {"noise_placement": placement, "no_privacy": True}}
    if placement == "per_hospital":
        assert RunSettings.merged(raw, {}).privacy.no_privacy
        return
    with pytest.raises(InputError, match="no noise to share"):
        RunSettings.merged(raw, {})
