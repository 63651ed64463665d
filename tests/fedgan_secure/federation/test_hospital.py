"""A hospital believes nobody: what it refuses to join, to train for, and to sign."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgan_audits.errors import BudgetRefused
from fedgan_audits.ledger.ledger import Ledger
from fedgan_protocols.journal import Journal
from fedgan_protocols.parameters import Member, SessionParameters
from fedgan_protocols.primitives.keys import Identity
from fedgan_secure.federation.hospital import Hospital
from fedgan_secure.federation.refusals import SessionRefused, SignatureRefused
from fedgan_secure.policy.policy import CoordinatorEntry, FederationPolicy, HospitalEntry
from fedgan_secure.processors import processors
from fedgan_secure.storage.site import SiteDirectory
from tests.audits.conftest import Run
from tests.fedgan_secure.federation.small_federation import four_patients
from tests.fedgan_secure.federation.test_policy import fields

LAYOUT = "ab" * 32
VECTOR = np.linspace(-1, 1, 7, dtype=np.float32)


class World:
    """One hospital, `a`, and what its coordinator would send it."""

    def __init__(self, folder: Path, cap: float | None = None) -> None:
        self.keys = {name: Identity.generate() for name in ("a", "b", "c", "coordinator")}
        self.policy = FederationPolicy.build(
            **fields(
                coordinator=CoordinatorEntry(public_key=self.keys["coordinator"].public_key.hex()),
                hospitals=tuple(HospitalEntry(name=n, public_key=self.keys[n].public_key.hex()) for n in "abc"),
            )
        )
        site = SiteDirectory(folder / "a", self.policy.run_id, lasting=False).prepare()
        self.hospital = Hospital(
            site=site,
            identity=self.keys["a"],
            ledger=Ledger.open(site.ledger, hospital="a", create=True),
            dataset=four_patients(),
            policy=self.policy,
            name="a",
            cap=cap,
            findings={"secret": "MRN-7"},
            entropy=os.urandom,
            journal=Journal(site.journal),
        )
        self.parameters = SessionParameters(
            session=os.urandom(32),
            round=1,
            roster=tuple(Member(n, self.keys[n].public_key) for n in "abc"),
            server_public_key=self.keys["coordinator"].public_key,
            threshold=3,
            ring_bits=32,
            lengths=(7,),
            policy_hash=self.policy.digest(),
        )

    def follow(self, policy: FederationPolicy) -> None:
        """Let coordinator and hospital hold another policy."""
        self.policy = self.hospital.policy = policy
        self.hospital._family = None
        self.parameters = replace(self.parameters, policy_hash=policy.digest())


@pytest.fixture(autouse=True)
def any_first_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """These hospitals get toy vectors; `test_first_model.py` has real ones."""
    monkeypatch.setattr(Hospital, "first_model", lambda self: None)


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    yield made
    made.hospital.close()


def test_an_honest_session_is_joined_once_the_round_is_reserved(world: World) -> None:
    with pytest.raises(SessionRefused, match="reservation"):
        world.hospital.open_session(world.parameters, VECTOR, LAYOUT)
    world.hospital.reserve(1)
    assert world.hospital.open_session(world.parameters, VECTOR, LAYOUT).name == "a"


def test_a_hospital_masks_with_every_processor(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgan_secure.federation.hospital.processors", lambda: 5)
    world.hospital.reserve(1)
    client = world.hospital.open_session(world.parameters, VECTOR, LAYOUT)
    assert client._state is not None and client._state.context.threads == 5
    assert 1 <= processors() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("what", ["roster", "coordinator", "threshold", "ring", "policy", "lengths", "round"])
def test_a_session_that_is_not_the_policys_is_refused(world: World, what: str) -> None:
    """A roster of Sybils beside one victim would give that victim's update away: the sum less what one knows."""
    world.hospital.reserve(1)
    stranger = Identity.generate().public_key
    own = world.parameters.roster[0]
    changes: dict[str, dict[str, Any]] = {
        "roster": {"roster": (own, Member("b", stranger), Member("c", Identity.generate().public_key))},
        "coordinator": {"server_public_key": stranger},
        "threshold": {"threshold": 2},
        "ring": {"ring_bits": 64},
        "policy": {"policy_hash": b"x" * 32},
        "lengths": {"lengths": (7, 7)},
        "round": {"round": 2},
    }
    with pytest.raises(SessionRefused) as caught:
        world.hospital.open_session(replace(world.parameters, **changes[what]), VECTOR, LAYOUT)
    assert caught.value.exit_code == 4 and caught.value.hint


def test_one_reservation_pays_for_one_training_of_the_bound_model(world: World) -> None:
    class Counting:
        seen: list[np.ndarray] = []  # noqa: RUF012 - a test's own record

        def train(self, vector: np.ndarray, steps: int, progress: Any) -> Any:
            self.seen.append(vector)
            return type("Result", (), {"update": vector * 0, "statistics": {}, "seconds": 0.1})()

    world.hospital._trainer = Counting()
    with pytest.raises(SessionRefused):
        world.hospital.train(None)
    world.hospital.reserve(1)
    world.hospital.open_session(world.parameters, VECTOR, LAYOUT)
    assert world.hospital.train(None).shape == (7,)
    with pytest.raises(SessionRefused, match="one training"):
        world.hospital.train(None)
    assert len(Counting.seen) == 1 and np.array_equal(Counting.seen[0], VECTOR)


@pytest.mark.parametrize("ended", [None, "round_aborted", "round_finished"])
def test_a_round_is_opened_once_whatever_the_session_and_after_a_restart(world: World, ended: str | None) -> None:
    """Otherwise one entry in the ledger would pay for as many trainings as a coordinator opens sessions."""
    world.hospital.reserve(1)
    if ended is None:
        world.hospital.open_session(world.parameters, VECTOR, LAYOUT)
    else:
        world.hospital.ledger.record(ended, world.policy.run_id, 1, {})
    restarted = replace_hospital(world)
    for hospital in (world.hospital, restarted):
        for parameters in (world.parameters, replace(world.parameters, session=os.urandom(32))):
            with pytest.raises(SessionRefused, match="one reservation pays for one session") as caught:
                hospital.open_session(parameters, VECTOR, LAYOUT)
            assert caught.value.hint
    restarted.ledger.close()


def test_no_round_beyond_the_schedule_is_reserved_or_opened(world: World) -> None:
    """Each one would be spent, trained and summed, and the run's reports would say nothing of it."""
    hospital, last = world.hospital, world.policy.rounds
    for number in (0, last + 1, last + 7):
        assert "schedules rounds" in str(hospital.out_of_turn(number))
        with pytest.raises(SessionRefused, match="schedules rounds") as caught:
            hospital.reserve(number)
        assert caught.value.hint and caught.value.exit_code == 4
    assert hospital.ledger.mechanisms() == ()
    # A ledger that an earlier version wrote may hold such a reservation: it opens nothing.
    record = world.policy.record_of(last + 1)
    hospital.ledger.reserve(world.policy.run_id, last + 1, record, world.policy.mechanism.delta)
    with pytest.raises(SessionRefused, match="schedules rounds"):
        hospital.open_session(replace(world.parameters, round=last + 1), VECTOR, LAYOUT)
    assert hospital.out_of_turn(last) is None


def test_no_round_is_begun_while_an_opened_one_has_no_signed_report(world: World) -> None:
    """Else a coordinator would collect sums of which no report tells."""
    hospital = world.hospital
    hospital.reserve(1)
    assert hospital.out_of_turn(2) is None  # what was never opened gave nothing away: a kill between is no dead end
    hospital.reserve(2)
    hospital.open_session(world.parameters, VECTOR, LAYOUT)
    restarted = replace_hospital(world)
    for one in (hospital, restarted):
        with pytest.raises(SessionRefused, match="round 1 was opened, and this hospital has signed no report"):
            one.reserve(3)
        with pytest.raises(SessionRefused, match="round 1 was opened"):
            one.open_session(replace(world.parameters, round=2), VECTOR, LAYOUT)
    assert set(hospital.ledger.reservations(world.policy.run_id)) == {1, 2}
    hospital.ledger.record("report_signed", world.policy.run_id, 1, {"digest": "ab" * 32})
    hospital.open_session(replace(world.parameters, round=2), VECTOR, LAYOUT)
    hospital.ledger.record("report_signed", world.policy.run_id, 2, {"digest": "ab" * 32})
    assert "rounds go forwards" in str(hospital.out_of_turn(1)) and hospital.out_of_turn(3) is None
    restarted.ledger.close()


def test_after_the_run_was_signed_as_complete_nothing_is_reserved(world: World) -> None:
    hospital, run = world.hospital, world.policy.run_id
    for outcome in ("running", "refused", "ended early"):
        hospital.ledger.end_run(run, outcome)
    hospital.reserve(1)
    for _ in range(2):
        hospital.ledger.end_run(run, "complete")
    assert [entry.kind for entry in hospital.ledger.entries()].count("run_ended") == 1
    with pytest.raises(SessionRefused, match="signed that the run is complete"):
        hospital.reserve(2)
    with pytest.raises(SessionRefused, match="signed that the run is complete"):
        hospital.open_session(world.parameters, VECTOR, LAYOUT)


def replace_hospital(world: World) -> Hospital:
    """The same hospital in a new process: its files, none of its memory."""
    old = world.hospital
    return Hospital(
        site=old.site,
        identity=old.identity,
        ledger=Ledger.open(old.site.ledger, hospital="a"),
        dataset=old.dataset,
        policy=old.policy,
        name=old.name,
        cap=old.cap,
        findings=old.findings,
        entropy=os.urandom,
        journal=old.journal,
    )


def test_the_cap_refuses_and_the_refusal_is_kept(tmp_path: Path) -> None:
    world = World(tmp_path, cap=0.01)
    refused = world.hospital.refusal(1)
    assert refused is not None and refused.exit_code == 3
    world.hospital.refuse(1)
    with pytest.raises(BudgetRefused):
        world.hospital.reserve(1)
    assert world.hospital.ledger.reservations(world.policy.run_id) == {}
    assert "refused" in [entry.kind for entry in world.hospital.ledger.entries()]
    world.hospital.close()


def test_a_strangers_report_is_objected_to_and_nothing_is_signed_unread(world: World, tmp_path: Path) -> None:
    payload = Run(tmp_path / "other").report(1).payload
    found = world.hospital.review(payload, None, None)
    assert any("policy" in objection for objection in found)
    with pytest.raises(SignatureRefused, match="not reviewed") as caught:
        world.hospital.sign(payload)
    assert world.hospital.ledger.signed_heads(world.policy.run_id) == {}
    assert "MRN-7" not in repr(world.hospital) + str(caught.value)
