"""The sum is exact, whoever drops out and whenever, while t members are left."""

from __future__ import annotations

import time
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedgan_protocols import Failure, Identity, Member, ProtocolError, SessionParameters, Stage
from fedgan_protocols.client import machine as client_machine
from fedgan_protocols.client import states as client_states
from fedgan_protocols.server import machine as server_machine
from fedgan_protocols.server import states as server_states
from fedgan_protocols.transcript.transcript import check

STAGES = [stage for stage in Stage if stage is not Stage.CLOSING]
BEFORE_INPUT = {Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT}


def test_every_pattern_of_up_to_two_dropouts_at_every_stage_n7_t5(lab: Any) -> None:
    """799 patterns: every pair and every single of 7 hospitals, each at each of 6 stages, and none.

    States are immutable, so the patterns share their prefixes: the tree of all of them is walked once.
    """
    federation = lab.federation(n=7, t=5, d=4)
    parameters = federation.parameters
    leaves: dict[frozenset[tuple[int, Stage]], bool] = {}

    def grow(server: Any, packets: Any, clients: dict[int, Any], pattern: frozenset[tuple[int, Stage]]) -> None:
        if isinstance(server, server_states.Finished):
            lost = {member for member, stage in pattern if stage in BEFORE_INPUT}
            survivors = tuple(name for i, name in enumerate(parameters.names, 1) if i not in lost)
            exact = np.array_equal(server.context.sums[0], federation.expected_sum(survivors))
            silent = {member for member, _ in pattern}
            leaves[pattern] = exact and set(server.receipts) == set(range(1, 8)) - silent
            return
        stage = server.asked.broadcast.stage
        replies: dict[int, bytes] = {}
        after = dict(clients)
        for member, packet in packets:
            name = parameters.name_of(member)
            vector = federation.inputs[name, 0] if stage is Stage.MASKED_INPUT else None
            entropy = lab.entropy(f"{name}/{stage}")(client_machine.entropy_needed(clients[member]))
            event = client_states.Received(stage, packet, entropy, vector)
            after[member], (replies[member],) = client_machine.step(clients[member], event)
        for count in range(3 - len(pattern)):
            for dropped in combinations([member for member, _ in packets], count):
                state = server
                for member, reply in replies.items():
                    if member not in dropped:
                        state, _ = server_machine.step(state, server_states.Reply(member, reply))
                state, further = server_machine.step(state, server_states.DeadlinePassed())
                grow(state, further, after, pattern | {(member, stage) for member in dropped})

    start = server_states.Ready(server_states.Context(parameters, federation.server_identity, federation.models))
    clients = {
        i: client_states.Invited(client_states.Context(parameters, federation.identities[name], i, federation.models))
        for i, name in enumerate(parameters.names, 1)
    }
    grow(*server_machine.step(start, server_states.Start()), clients, frozenset())
    singles, pairs = 7 * 6, 21 * 36
    assert len(leaves) == 1 + singles + pairs
    assert all(leaves.values())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_size_ring_and_dropouts_that_leave_t(lab: Any, data: Any) -> None:
    n = data.draw(st.integers(2, 8), label="n")
    t = data.draw(st.integers(max(2, n // 2 + 1), n), label="t")
    d = data.draw(st.integers(1, 40), label="d")
    sums = data.draw(st.integers(1, 3), label="sums")
    ring_bits = data.draw(st.sampled_from([32, 64]), label="ring")
    federation = lab.federation(n, t, d, ring_bits=ring_bits, sums=sums, seed=str(data.draw(st.integers(0, 99))))
    names = data.draw(st.lists(st.sampled_from(federation.parameters.names), max_size=n - t, unique=True))
    places = [Stage.ADVERTISE_KEYS.label, Stage.SHARE_KEYS.label, Stage.RECEIPT.label] + [
        f"{stage.label}/{j}"
        for stage in (Stage.MASKED_INPUT, Stage.CONSISTENCY_CHECK, Stage.UNMASKING)
        for j in range(sums)
    ]
    drops = {name: data.draw(st.sampled_from(places), label=name) for name in names}
    result = federation.result(drops)
    for j in range(sums):
        assert np.array_equal(result.sums[j], federation.expected_sum(result.survivors_per_sum[j], j))
    assert set(result.dropped) == set(drops)
    facts = check(result.transcript, federation.expectations(complete=True, sum_digests=result.sum_digests))
    assert tuple(one.survivors for one in facts.sums) == result.survivors_per_sum
    assert {name: drop.stage for name, drop in facts.dropped.items()} == dict(result.dropped)


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_fewer_than_t_aborts_with_a_code(lab: Any, stage: Stage) -> None:
    federation = lab.federation(n=4, t=3)
    server = federation.server()
    with pytest.raises(ProtocolError) as caught:
        federation.run({"h1": stage.label, "h2": stage.label}, server=server)
    assert caught.value.code == "too-few" and caught.value.exit_code == 4
    facts = check(server.transcript_so_far(), federation.expectations(complete=False))
    assert facts.abort_code == "too-few" and facts.stage == stage.label
    assert set(facts.dropped) == {"h1", "h2"}
    with pytest.raises(ProtocolError):
        server.next_phase()
    with pytest.raises(ProtocolError):
        server.result()


def test_a_dropout_at_the_receipt_is_listed_with_its_reason(lab: Any) -> None:
    federation = lab.federation()
    result = federation.result({"h2": "receipt", "h3": "unmasking"})
    assert result.receipts == {
        "h1": "ok",
        "h2": "receipt: no-answer",
        "h3": "unmasking: no-answer",
        "h4": "ok",
    }
    assert result.receipts_ok == 2
    assert result.survivors == ("h1", "h2", "h3", "h4")


def test_later_models_may_be_bound_when_they_are_known(lab: Any) -> None:
    federation = lab.federation(sums=2)
    known = (federation.models[0], b"")
    server = type(federation.server())(federation.parameters, federation.server_identity, known)
    clients = {name: federation.client(name, models=known) for name in federation.parameters.names}
    while (phase := server.next_phase()) is not None:
        if phase.stage is Stage.MASKED_INPUT:
            for name, client in clients.items():
                client.provide_input(phase.sum, federation.inputs[name, phase.sum], federation.models[phase.sum])
        server.receive({name: clients[name].handle(phase.name, packet) for name, packet in phase.payloads.items()})
        if phase.stage is Stage.UNMASKING and phase.sum == 0:
            with pytest.raises(ProtocolError, match="bind_model"):
                server.next_phase()
            assert np.array_equal(server.sum_of(0), federation.expected_sum(federation.parameters.names, 0))
            server.bind_model(1, federation.models[1])
    result = server.result()
    assert np.array_equal(result.sums[1], federation.expected_sum(result.survivors, 1))
    check(result.transcript, federation.expectations(complete=True, model_hashes=federation.models))
    for client in clients.values():
        assert all(np.array_equal(a, b) for a, b in zip(client.sums, result.sums, strict=True))
        assert client.phase == "Finished"


def test_reasons_given_by_a_driver_are_reported_but_cannot_inject_text(lab: Any) -> None:
    federation = lab.federation()
    server = federation.server()
    phase = server.next_phase()
    clients = federation.clients()
    replies = {name: clients[name].handle(phase.name, packet) for name, packet in phase.payloads.items()}
    server.receive({**replies, "h1": Failure("Not A Code\x1b", "a\x1b[31mb" + "c" * 500, "nobody")})
    drop = server.dropped["h1"]
    assert drop.code == "no-answer" and drop.culprit == "" and "\x1b" not in drop.message and len(drop.message) <= 300
    assert server.parameters.names == ("h1", "h2", "h3", "h4")


def test_late_second_and_unasked_replies_change_nothing(lab: Any) -> None:
    federation = lab.federation()
    first = server_states.Ready(
        server_states.Context(federation.parameters, federation.server_identity, federation.models)
    )
    state, packets = server_machine.step(first, server_states.Start())
    reply = federation.client("h1").handle("advertise-keys", dict(packets)[1])
    early = server_states.Reply(1, reply)
    assert server_machine.step(first, early) == (first, ())
    after, _ = server_machine.step(state, early)
    assert set(after.asked.replies) == {1}
    for again in (early, server_states.Reply(1, b"other"), server_states.Lost(1, Failure("no-answer"))):
        assert server_machine.step(after, again) == (after, ())
    lost, _ = server_machine.step(after, server_states.Lost(2, Failure("no-answer")))
    late = federation.client("h2").handle("advertise-keys", dict(packets)[2])
    assert server_machine.step(lost, server_states.Reply(2, late)) == (lost, ())
    for wrong in (
        server_states.Start(),
        server_states.ModelKnown(0, bytes(32)),
        server_states.ModelKnown(5, bytes(32)),
    ):
        with pytest.raises(ProtocolError):
            server_machine.step(after, wrong)
    with pytest.raises(ProtocolError):
        server_machine.step(first, server_states.DeadlinePassed())
    with pytest.raises(ProtocolError):
        client_machine.step(
            client_states.Invited(client_states.Context(federation.parameters, federation.identities["h1"], 1, (b"",))),
            client_states.DeadlinePassed(),
        )


def test_four_hospitals_with_700k_parameters_take_well_under_two_seconds(lab: Any) -> None:
    federation = lab.federation(n=4, t=3, d=700_000)
    began = time.process_time()
    result = federation.result({"h2": "masked-input"})
    assert time.process_time() - began < 1.5
    assert np.array_equal(result.sums[0], federation.expected_sum(("h1", "h3", "h4")))


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 2},
        {"threshold": 5},
        {"threshold": 1},
        {"ring_bits": 16},
        {"lengths": ()},
        {"lengths": (0,)},
        {"session": b"short"},
        {"round": 0},
        {"round": 1 << 32},
        {"policy_hash": b""},
    ],
)
def test_impossible_parameters_are_refused(lab: Any, change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        lab.federation(n=4, t=3).server(**change)
    assert caught.value.exit_code == 2


def test_a_roster_has_no_name_or_key_twice() -> None:
    one, two, server = (Identity.generate().public_key for _ in range(3))
    for roster in (
        (Member("a", one), Member("a", two)),
        (Member("a", one), Member("b", one)),
        (Member("a", one), Member("b", server)),
        (Member("a", one),),
    ):
        with pytest.raises(ProtocolError):
            SessionParameters(bytes(32), 1, roster, server, 2, 32, (1,), bytes(32))


@pytest.mark.parametrize(("n", "t", "c"), [(10, 7, 3), (4, 3, 1), (3, 3, 1), (2, 2, 0), (7, 5, 2), (100, 67, 33)])
def test_the_number_of_colluders_is_the_designs(n: int, t: int, c: int) -> None:
    roster = tuple(Member(f"m{i}", i.to_bytes(32, "big")) for i in range(1, n + 1))
    parameters = SessionParameters(bytes(32), 1, roster, b"s" * 32, t, 32, (1,), bytes(32))
    assert parameters.colluders == c
