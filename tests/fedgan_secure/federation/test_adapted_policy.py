"""The policy of a run with a public start: what it fixes, what it answers for each round, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785

from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord, NoiseShares
from fedgan_secure.errors import InputError
from fedgan_secure.policy.policy import (
    DistributedMechanismPolicy,
    FederationPolicy,
    Flags,
    MechanismPolicy,
    ReleasePolicy,
    RingPolicy,
    StartPolicy,
)
from fedgan_secure.statistics.layout import ReleaseLayout
from tests.fedgan_secure.federation.test_distributed_policy import RING, SHARES, mechanism
from tests.fedgan_secure.federation.test_policy import fields

LAYOUT = ReleaseLayout(classes=3, features=12, bins=(2, 2, 2))
START = StartPolicy(name="toy/1", digest="5" * 64, statement="Made up for a test.")


def release(**changes: Any) -> ReleasePolicy:
    given: dict[str, Any] = {
        "noise_multiplier": 3.0,
        "l2_clip_norm": 1.0,
        "images_per_patient": 64,
        "dimension": LAYOUT.dimension,
        "layout": LAYOUT.to_json(),
        "layout_sha256": LAYOUT.digest(),
        "ring": RingPolicy(ring_bits=32, update_bound=130.0, fraction_bits=10),
    }
    return ReleasePolicy(**{**given, **changes})


def adapted(**changes: Any) -> dict[str, Any]:
    return fields(**{"start": START, "release": release(), **changes})


def shared_release(**changes: Any) -> ReleasePolicy:
    """With noise that hospitals share, on the grid of its ring."""
    grid = 2.0**-13
    shares = NoiseShares(
        **{"threshold": 3, "colluders": 1, "grid_step": grid, "dimension": LAYOUT.dimension, **changes}
    )
    return release(shares=shares, ring=RingPolicy(ring_bits=32, update_bound=100.0, fraction_bits=13))


def shared(**changes: Any) -> dict[str, Any]:
    return adapted(**{"mechanism": mechanism(), "ring": RING, "release": shared_release(), **changes})


BOTH = pytest.mark.parametrize("given", [adapted, shared], ids=["per_hospital", "distributed"])


@BOTH
def test_it_survives_its_file_to_the_byte(given: Callable[..., dict[str, Any]]) -> None:
    policy = FederationPolicy.build(**given())
    again = FederationPolicy.parse(policy.canonical())
    assert again == policy and again.canonical() == policy.canonical() and again.digest() == policy.digest()
    assert policy.release is not None and again.release is not None and again.start == START
    assert again.release.release_layout() == LAYOUT and again.release.record() == policy.release.record()
    assert type(again.release.record()) is type(policy.release.record())


@BOTH
def test_both_rings_are_proved_to_hold_their_sums(given: Callable[..., dict[str, Any]]) -> None:
    policy = FederationPolicy.build(**given())
    assert policy.release is not None and "no sum over any survivors wraps" in policy.headroom
    assert policy.release.headroom and policy.release.headroom != policy.headroom


def test_start_and_release_are_part_of_the_digest() -> None:
    one = FederationPolicy.build(**adapted()).digest()
    other = FederationPolicy.build(**adapted(start=START.model_copy(update={"statement": "Something else."}))).digest()
    third = FederationPolicy.build(**adapted(release=release(noise_multiplier=3.5))).digest()
    assert len({one, other, third, FederationPolicy.build(**fields()).digest()}) == 4


def test_a_policy_without_a_start_is_written_as_it_always_was() -> None:
    """The bytes of a policy of the last version, and so its digest, are those of this version."""
    policy = FederationPolicy.build(**fields(flags=Flags()))
    assert policy.digest().hex() == "182c4bb69e585378b3e29ae4caf2e1cdd00642e6a945bbdb1b4932b3f1131c7d"
    written = json.loads(policy.canonical())
    assert "start" not in written and "release" not in written
    for name in ("start", "release"):
        with pytest.raises(InputError, match="canonical form"):
            FederationPolicy.parse(rfc8785.dumps({**written, name: None}))


@BOTH
def test_the_first_round_is_the_release_and_the_others_are_steps(given: Callable[..., dict[str, Any]]) -> None:
    policy = FederationPolicy.build(**given())
    assert policy.release is not None
    told = policy.release.record()
    assert (told.sampling_probability, told.steps, told.noise_multiplier, told.l2_clip_norm) == (1.0, 1, 3.0, 1.0)
    assert [policy.is_release(number) for number in (1, 2, 4)] == [True, False, False]
    assert policy.record_of(1) == told
    assert policy.record_of(2) == policy.record_of(4) == policy.mechanism_record() != told
    first, rest = policy.scheduled_records()
    assert first == told and rest == policy.mechanism_record().model_copy(update={"steps": 15})
    assert policy.codec_of(1) == policy.release.fixed_point() != policy.fixed_point() == policy.codec_of(2)
    assert policy.lengths(7, 1) == (LAYOUT.dimension,)


def test_only_steps_with_shared_noise_have_a_sum_each() -> None:
    own, together = FederationPolicy.build(**adapted()), FederationPolicy.build(**shared())
    assert not own.is_stepwise(1) and not own.is_stepwise(2) and own.lengths(7, 2) == (7,)
    assert not together.is_stepwise(1) and together.is_stepwise(2)
    assert together.lengths(7, 2) == (SHARES.dimension,) * 5
    assert isinstance(together.record_of(1), DistributedMechanism)
    assert together.record_of(1).shares.dimension == LAYOUT.dimension


def test_without_a_release_every_round_is_alike() -> None:
    policy = FederationPolicy.build(**fields(start=START))
    assert not policy.is_release(1) and policy.record_of(1) == policy.mechanism_record()
    assert policy.scheduled_records() == (policy.mechanism_record().model_copy(update={"steps": 20}),)
    assert policy.codec_of(1) == policy.fixed_point() and policy.lengths(7, 1) == (7,)


def alone(**changes: Any) -> MechanismPolicy:
    """The release as the mechanism of the only round."""
    plain = fields()["mechanism"].model_dump()
    only = {
        "sampling_probability": 1.0, "noise_multiplier": 3.0, "l2_clip_norm": 1.0, "steps_per_round": 1,
        "expected_batch_size": 100.0, "images_per_patient": 64,
    }  # fmt: skip
    return MechanismPolicy(**{**plain, **only, **changes})


def test_a_release_alone_is_the_mechanism_of_the_run() -> None:
    policy = FederationPolicy.build(**adapted(rounds=1, mechanism=alone(), ring=release().ring))
    assert policy.scheduled_records() == (policy.record_of(1),) and policy.record_of(1) == policy.mechanism_record()
    assert isinstance(policy.record_of(1), MechanismRecord)


NOISELESS = fields()["mechanism"].model_copy(update={"noise_multiplier": 0.0})
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no start": (adapted(start=None), "needs the public start"),
    "own noise, shared steps": (shared(release=release()), "different placements"),
    "shared noise, own steps": (adapted(release=shared_release()), "different placements"),
    "another unit": (adapted(release=release(unit="image")), "protects a image, the steps a patient"),
    "no noise": (adapted(release=release(noise_multiplier=0.0)), "without noise"),
    "noise under no_privacy": (
        adapted(mechanism=NOISELESS, flags=Flags(no_privacy=True)),
        "without noise and the flag",
    ),
    "another ring": (
        adapted(release=release(ring=RingPolicy(ring_bits=64, update_bound=130.0, fraction_bits=10))),
        "different widths",
    ),
    "one round, less noise": (adapted(rounds=1, mechanism=alone(noise_multiplier=2.0)), "another mechanism"),
    "one round, of steps": (adapted(rounds=1), "another mechanism"),
    "another threshold": (shared(release=shared_release(threshold=2)), "threshold of 2"),
    "more colluders": (shared(release=shared_release(colluders=2)), "2 colluders"),
    "another grid": (shared(release=shared_release(grid_step=2.0**-12)), "grid_step"),
    "a ring that wraps": (
        shared(
            release=release(
                shares=shared_release().shares, ring=RingPolicy(ring_bits=32, update_bound=200_000.0, fraction_bits=13)
            )
        ),
        "wrap",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_release_that_contradicts_the_run_is_refused(name: str) -> None:
    given, said = WRONG[name]
    with pytest.raises(InputError, match=said):
        FederationPolicy.build(**given)
    proved = FederationPolicy.build(**(shared() if given["mechanism"] == mechanism() else adapted()))
    written = json.loads(proved.canonical())
    for key in {"start", "release", "rounds", "mechanism", "flags"} & set(given):
        value = given[key]
        written[key] = value if isinstance(value, int | None) else value.model_dump(mode="json")
    written = {key: value for key, value in written.items() if value is not None}
    if name != "a ring that wraps":  # that is proved when a policy is made, and the proof is in it
        with pytest.raises(InputError, match=said):
            FederationPolicy.parse(rfc8785.dumps(written))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dimension": LAYOUT.dimension + 1}, "not the one that its dimension and digest name"),
        ({"layout_sha256": "0" * 64}, "not the one that its dimension and digest name"),
        ({"layout": {**LAYOUT.to_json(), "colour_weight": 0.3}}, "not the one that its dimension and digest name"),
        ({"shares": SHARES}, "shares of noise are for 1000 coordinates"),
        ({"noise_multiplier": -1.0}, "greater than or equal to 0"),
        ({"l2_clip_norm": 0.0}, "greater than 0"),
        ({"images_per_patient": 0}, "greater than or equal to 1"),
        ({"more": 1}, "Extra inputs"),
    ],
)
def test_a_release_that_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        release(**changes)


def test_a_layout_that_is_none_is_refused() -> None:
    with pytest.raises((InputError, ValueError), match="layout of a release"):
        release(layout={"classes": 3})
    written = json.loads(FederationPolicy.build(**adapted()).canonical())
    written["release"]["layout"] = {"classes": 3}
    with pytest.raises(InputError, match="layout of a release"):
        FederationPolicy.parse(rfc8785.dumps(written))


def test_shared_mechanism_policies_are_told_apart_when_read() -> None:
    policy = FederationPolicy.parse(FederationPolicy.build(**shared()).canonical())
    assert isinstance(policy.mechanism, DistributedMechanismPolicy) and policy.distributed is not None
