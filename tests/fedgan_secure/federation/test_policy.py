"""The policy: canonical, self-consistent, and refused where its ring could overflow."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedgan_audits.signing.public_keys import is_safe_key
from fedgan_protocols.primitives.keys import SMALL_ORDER_Y, is_safe_public_key
from fedgan_secure.errors import InputError
from fedgan_secure.policy.policy import (
    CoordinatorEntry,
    DataPolicy,
    FederationPolicy,
    Flags,
    HospitalEntry,
    InitialModel,
    MechanismPolicy,
    RingPolicy,
)


def fields(**changes: Any) -> dict[str, Any]:
    """A policy of three hospitals, with `changes` laid over it."""
    base: dict[str, Any] = {
        "run_id": "0" * 32,
        "coordinator": CoordinatorEntry(public_key="9" * 64),
        "hospitals": tuple(HospitalEntry(name=name, public_key=name * 64) for name in "abc"),
        "threshold": 3,
        "rounds": 4,
        "spare_rounds": 0,
        "mechanism": MechanismPolicy(
            sampling_probability=0.1,
            noise_multiplier=1.0,
            l2_clip_norm=1.0,
            steps_per_round=5,
            delta=1e-4,
            epsilon_target=3.0,
            declared_patients=100,
            expected_batch_size=10.0,
            images_per_patient=2,
        ),
        "data": DataPolicy(image_size=28, channels=1, classes=0, preprocessing="plain/1"),
        "model": {},
        "training": {},
        "average_decay": 0.0,
        "ring": RingPolicy(ring_bits=32, update_bound=1.0, fraction_bits=20),
        "initial_model": InitialModel(seed=0),
        "flags": Flags(taken_from_data=("declared patients",)),
    }
    return {**base, **changes}


def test_a_policy_survives_its_file_and_its_digest_is_its_own() -> None:
    policy = FederationPolicy.build(**fields())
    again = FederationPolicy.parse(policy.canonical())
    assert again == policy and again.digest() == policy.digest() and policy.headroom
    other = FederationPolicy.build(**fields(rounds=5))
    assert other.digest() != policy.digest()


def test_bytes_that_are_not_canonical_are_refused() -> None:
    data = FederationPolicy.build(**fields()).canonical()
    for broken in (data + b"\n", b" " + data, data[:-1], b"[]", b"\xff", data.replace(b'"rounds":4', b'"rounds":4.0')):
        with pytest.raises(InputError):
            FederationPolicy.parse(broken)


def test_the_ring_must_hold_the_sum_of_all_bounds() -> None:
    """Three inputs of at most 2^29 units fit a signed 32-bit ring; three of 2^30 do not."""
    FederationPolicy.build(**fields(ring=RingPolicy(ring_bits=32, update_bound=1.0, fraction_bits=29)))
    with pytest.raises(InputError, match="fraction_bits"):
        FederationPolicy.build(**fields(ring=RingPolicy(ring_bits=32, update_bound=1.0, fraction_bits=30)))


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 4},
        {"hospitals": tuple(HospitalEntry(name=name, public_key="a" * 64) for name in "abc")},
        {"hospitals": tuple(HospitalEntry(name="a", public_key=key * 64) for key in "abc")},
        {"hospitals": tuple(HospitalEntry(name=name, public_key=name * 64) for name in "ab")},
        {"flags": Flags(no_privacy=True)},
        {"run_id": "x"},
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        FederationPolicy.build(**fields(**changes))


@pytest.mark.parametrize("y", [*sorted(SMALL_ORDER_Y), 2**255 - 19 + 3, 2**255 - 1])
def test_a_key_that_identifies_no_signer_is_refused_by_name(y: int) -> None:
    """The protocol's room and the auditor's, which never see each other, agree on which keys those are."""
    raw = y.to_bytes(32, "little")
    assert not is_safe_public_key(raw)
    assert not is_safe_key(Ed25519PublicKey.from_public_bytes(raw))
    hospitals = tuple(HospitalEntry(name=name, public_key=name * 64) for name in "ab")
    with pytest.raises(InputError, match="the key of c has small order"):
        FederationPolicy.build(**fields(hospitals=(*hospitals, HospitalEntry(name="c", public_key=raw.hex()))))
    with pytest.raises(InputError, match="the key of coordinator has small order"):
        FederationPolicy.build(**fields(coordinator=CoordinatorEntry(public_key=raw.hex())))


def test_half_the_hospitals_are_no_threshold() -> None:
    four = tuple(HospitalEntry(name=name, public_key=name * 64) for name in "abcd")
    with pytest.raises(InputError, match="more than half"):
        FederationPolicy.build(**fields(hospitals=four, threshold=2))


def test_the_divisor_is_public() -> None:
    """The expected batch size is q times the declared cohort, and cannot be set to anything measured."""
    mechanism = fields()["mechanism"].model_copy(update={"expected_batch_size": 11.0})
    with pytest.raises(InputError, match="expected_batch_size"):
        FederationPolicy.build(**fields(mechanism=mechanism))


def test_a_policy_names_the_model_that_round_1_starts_from_and_an_older_one_keeps_its_bytes() -> None:
    older = FederationPolicy.build(**fields())
    assert b"vector_digest" not in older.canonical()
    named = older.starting_from("ab" * 32)
    assert named.initial_model.vector_digest == "ab" * 32 and named.digest() != older.digest()
    assert FederationPolicy.parse(named.canonical()) == named
    assert named.model_copy(update={"initial_model": older.initial_model}).canonical() == older.canonical()
    with pytest.raises(InputError, match="vector_digest"):
        older.starting_from("weights")
