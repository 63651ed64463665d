"""A hospital with shared noise: which session it joins, every step once, and which report it does not sign."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedgan_audits.ledger.ledger import Ledger
from fedgan_protocols.journal import Journal
from fedgan_protocols.parameters import Member, SessionParameters, sum_digest
from fedgan_protocols.primitives.keys import Identity
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.hospital import Hospital
from fedgan_secure.federation.refusals import SessionRefused
from fedgan_secure.policy.policy import CoordinatorEntry, FederationPolicy, HospitalEntry
from fedgan_secure.privacy.shared_noise import step_digest, sums_digest
from fedgan_secure.storage.site import SiteDirectory
from tests.fedgan_secure.federation.small_federation import four_patients
from tests.fedgan_secure.federation.test_distributed_policy import RING, mechanism
from tests.fedgan_secure.federation.test_policy import fields

LAYOUT = "ab" * 32
VECTOR = np.linspace(-1, 1, 7, dtype=np.float32)
WEIGHTS = np.linspace(0, 1, 5, dtype=np.float32)


class Counting:
    """A trainer that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def begin(self, vector: np.ndarray) -> None:
        self.asked.append(("begin", vector))

    def step(self, weights: np.ndarray | None) -> np.ndarray:
        self.asked.append(("step", weights))
        return np.full(1000, len(self.asked), np.uint32)

    def end_round(self) -> None:
        self.asked.append(("end", None))

    def statistics(self) -> dict[str, Any]:
        return {"steps": len(self.asked) - 1}


class World:
    """Hospital `a` of three, its round reserved and its session open."""

    def __init__(self, folder: Path) -> None:
        keys = {name: Identity.generate() for name in ("a", "b", "c", "coordinator")}
        self.policy = FederationPolicy.build(
            **fields(
                mechanism=mechanism(),
                ring=RING,
                coordinator=CoordinatorEntry(public_key=keys["coordinator"].public_key.hex()),
                hospitals=tuple(HospitalEntry(name=n, public_key=keys[n].public_key.hex()) for n in "abc"),
            )
        )
        site = SiteDirectory(folder / "a", self.policy.run_id, lasting=False).prepare()
        self.hospital = Hospital(
            site=site,
            identity=keys["a"],
            ledger=Ledger.open(site.ledger, hospital="a", create=True),
            dataset=four_patients(),
            policy=self.policy,
            name="a",
            cap=None,
            findings={},
            entropy=os.urandom,
            journal=Journal(site.journal),
        )
        self.parameters = SessionParameters(
            session=os.urandom(32),
            round=1,
            roster=tuple(Member(n, keys[n].public_key) for n in "abc"),
            server_public_key=keys["coordinator"].public_key,
            threshold=3,
            ring_bits=32,
            lengths=(1000,) * 5,
            policy_hash=self.policy.digest(),
        )
        self.hospital.reserve(1)
        self.hospital._trainer = self.trainer = Counting()


@pytest.fixture(autouse=True)
def any_first_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """These hospitals get toy vectors; `test_first_model.py` has real ones."""
    monkeypatch.setattr(Hospital, "first_model", lambda self: None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.hospital.close()


@pytest.mark.parametrize("lengths", [(7,), (1000,), (1000,) * 4, (1000,) * 6, (999,) * 5])
def test_only_a_session_with_the_policys_sums_is_joined(world: World, lengths: tuple[int, ...]) -> None:
    with pytest.raises(SessionRefused, match="lengths"):
        world.hospital.open_session(replace(world.parameters, lengths=lengths), VECTOR, LAYOUT)
    assert world.hospital.open_session(world.parameters, VECTOR, LAYOUT).name == "a"


def test_one_reservation_pays_for_the_sums_of_one_session(world: World) -> None:
    """A coordinator that opens the round again, under any session, would get fresh noise that nobody has paid for."""
    world.hospital.open_session(world.parameters, VECTOR, LAYOUT)
    world.hospital.train_step(0, None)
    for again in (world.parameters, replace(world.parameters, session=os.urandom(32))):
        with pytest.raises(SessionRefused, match="one session"):
            world.hospital.open_session(again, VECTOR, LAYOUT)
    world.hospital.train_step(1, WEIGHTS)  # the session that was opened goes on


def test_every_step_is_taken_once_in_order_and_names_the_weights_it_came_from(world: World) -> None:
    with pytest.raises(SessionRefused):
        world.hospital.train_step(0, None)
    world.hospital.open_session(world.parameters, VECTOR, LAYOUT)
    for early in (1, 4, -1):
        with pytest.raises(SessionRefused, match="once, in order"):
            world.hospital.train_step(early, WEIGHTS)
    with pytest.raises(SessionRefused):
        world.hospital.train_step(0, WEIGHTS)  # the first step starts from the model that the session is bound to
    first, bound = world.hospital.train_step(0, None)
    assert bound is None and first.shape == (1000,)
    for again in (0, 2):
        with pytest.raises(SessionRefused):
            world.hospital.train_step(again, WEIGHTS)
    with pytest.raises(SessionRefused):
        world.hospital.train_step(1, None)
    _, named = world.hospital.train_step(1, WEIGHTS)
    assert named == step_digest(LAYOUT, WEIGHTS)
    assert [what for what, _ in world.trainer.asked] == ["begin", "step", "step"]
    assert np.array_equal(world.trainer.asked[0][1], VECTOR)
    with pytest.raises(SessionRefused):
        world.hospital.train(None)  # nor is there another way to take a step


def test_a_report_is_held_against_the_weights_and_the_sums_that_were_received(world: World) -> None:
    world.hospital.open_session(world.parameters, VECTOR, LAYOUT)
    world.hospital.train_step(0, None)
    world.hospital.train_step(1, WEIGHTS)
    attempt = world.hospital._attempt
    assert attempt is not None
    sums = tuple(np.full(3, j, np.uint32) for j in range(5))
    attempt.client = SimpleNamespace(sums=sums)  # type: ignore[assignment]

    def objections(hashes: list[bytes], named: str | None) -> list[str]:
        record: Any = SimpleNamespace(aggregation=SimpleNamespace(sum_sha256=named))
        return attempt.objections_to_sums(record, hashes)

    hashes = [model_digest(LAYOUT, VECTOR), step_digest(LAYOUT, WEIGHTS), b"x" * 32]
    right = sums_digest(tuple(sum_digest(vector) for vector in sums)).hex()
    assert objections(hashes, right) == [] and objections([hashes[0], b""], None) == []
    assert "model" in objections([b"y" * 32, *hashes[1:]], right)[0]
    assert "model" in objections([hashes[0], b"y" * 32], right)[0]
    assert "sums" in objections(hashes, "00" * 32)[0]
    attempt.client = SimpleNamespace(sums=sums[:4])  # type: ignore[assignment]
    assert objections(hashes, "00" * 32) == []  # it left on the way, and does not know the last sum
