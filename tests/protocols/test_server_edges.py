"""What the server refuses, reports and counts, to the code and the number; found by mutation (docs/mutation.md)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedgan_protocols import Code, Failure, ProtocolError, ServerSession, Stage, checks
from fedgan_protocols.messages import open_message
from fedgan_protocols.primitives import shamir
from fedgan_protocols.server import machine as server_machine
from fedgan_protocols.server import states as server_states

MODELS = tuple(hashlib.sha256(f"model {j}".encode()).digest() for j in range(3))
OTHER = hashlib.sha256(b"another model").digest()


def refusal(server: ServerSession, j: int, model_hash: bytes) -> tuple[Code, str]:
    """What `bind_model` raises; the session stays as it was."""
    before = server._state
    with pytest.raises(ProtocolError) as caught:
        server.bind_model(j, model_hash)
    assert server._state is before
    return caught.value.code, caught.value.culprit


def one_phase(federation: Any, server: ServerSession, clients: dict[str, Any]) -> None:
    phase = server.next_phase()
    assert phase is not None
    if phase.stage is Stage.MASKED_INPUT:
        for name, client in clients.items():
            client.provide_input(phase.sum, federation.inputs[name, phase.sum], MODELS[phase.sum])
    server.receive({name: clients[name].handle(phase.name, packet) for name, packet in phase.payloads.items()})


def test_a_model_is_bound_once_in_its_turn_and_never_changed(lab: Any) -> None:
    federation = lab.federation(n=3, t=2, sums=3)
    known = (MODELS[0], b"", b"")
    server = ServerSession(federation.parameters, federation.server_identity, known)
    clients = {name: federation.client(name, models=known) for name in federation.parameters.names}
    for _ in range(5):
        assert refusal(server, 1, MODELS[1]) == (Code.OUT_OF_ORDER, "server")
        one_phase(federation, server, clients)
    for j, model_hash in ((-1, MODELS[1]), (3, MODELS[1]), (1, MODELS[1][:31]), (1, MODELS[1] + b"x"), (1, b"")):
        assert refusal(server, j, model_hash) == (Code.BAD_INPUT, "server")
    assert refusal(server, 0, OTHER) == (Code.MODEL_MISMATCH, "server")
    assert refusal(server, 0, MODELS[0]) == (Code.OUT_OF_ORDER, "server")
    assert refusal(server, 2, MODELS[2]) == (Code.OUT_OF_ORDER, "server")
    server.bind_model(1, MODELS[1])
    assert server._state.context.model_hashes == (MODELS[0], MODELS[1], b"")
    assert refusal(server, 1, OTHER) == (Code.MODEL_MISMATCH, "server")
    assert refusal(server, 1, MODELS[1]) == (Code.OUT_OF_ORDER, "server")
    assert refusal(server, 2, MODELS[2]) == (Code.OUT_OF_ORDER, "server")  # the sum before it is not finished
    for _ in range(3):
        one_phase(federation, server, clients)
    server.bind_model(2, MODELS[2])
    assert server._state.context.model_hashes == MODELS
    while server.next_phase() is not None:
        one_phase(federation, server, clients)
    assert refusal(server, 2, MODELS[2]) == (Code.OUT_OF_ORDER, "server")
    for j, vector in enumerate(server.result().sums):
        assert np.array_equal(vector, federation.expected_sum(federation.parameters.names, j))


@pytest.mark.parametrize("culprit", ["h2", "server", ""])
def test_a_members_reason_is_reported_as_it_was_given(lab: Any, culprit: str) -> None:
    federation = lab.federation()
    server, clients = federation.server(), federation.clients()
    phase = server.next_phase()
    replies = {name: clients[name].handle(phase.name, packet) for name, packet in phase.payloads.items()}
    server.receive({**replies, "h1": Failure("deadline", "a" * 299 + "bc", culprit)})
    drop = server.dropped["h1"]
    assert (drop.stage, drop.code, drop.message, drop.culprit, drop.verified) == (
        "advertise-keys",
        "deadline",
        "a" * 299 + "b",
        culprit,
        False,
    )


def test_a_finished_sum_cannot_be_written_to(lab: Any) -> None:
    federation = lab.federation()
    server = federation.run({"h2": "masked-input"})
    for vector in (server.sum_of(0), server.result().sums[0]):
        assert not vector.flags.writeable
        with pytest.raises(ValueError):
            vector[0] = 1


def shifted(secret: int) -> tuple[int, int]:
    """A secret that no 32 bytes hold: one of the field's 297 elements above 2^256 - 1."""
    return 2**256 + 296, 0


def enlarged(secret: int) -> tuple[int, int]:
    """Shares that 33 bytes hold but that are not below the prime."""
    return secret, shamir.PRIME


@pytest.mark.parametrize("dealer", ["h1", "h3"])
@pytest.mark.parametrize("fault", [shifted, enlarged])
def test_shares_that_rebuild_no_secret_of_32_bytes_blame_their_dealer(
    lab: Any, monkeypatch: pytest.MonkeyPatch, dealer: str, fault: Any
) -> None:
    """Every share meets its commitment; only rebuilding shows that they are shares of nothing."""
    federation, honest, dealing = lab.federation(n=4, t=3), shamir.share, [""]

    def dishonest(secret: int, *rest: Any) -> dict[int, int]:
        if dealing[0] != dealer:
            return honest(secret, *rest)
        value, more = fault(secret)
        return {x: one + more for x, one in honest(value, *rest).items()}

    def note(name: str, phase: str, packet: bytes) -> bytes:
        dealing[0] = name
        return packet

    monkeypatch.setattr(shamir, "share", dishonest)
    with pytest.raises(ProtocolError) as caught:
        federation.run(to_client=note)
    assert (caught.value.code, caught.value.culprit) == (Code.BAD_SHARE_DEALER, dealer)


@pytest.mark.parametrize("change", [lambda data: data + bytes(4), lambda data: data[:-1], lambda data: b""])
def test_revealed_shares_of_the_wrong_number_are_refused_although_signed(lab: Any, change: Any) -> None:
    federation = lab.federation(n=5, t=4)

    def other(name: str, phase: str, packet: bytes) -> bytes:
        if (name, phase) != ("h3", "unmasking"):
            return packet
        raw, attachment = lab.split(packet)
        message = open_message(federation.parameters, raw, stage=Stage.UNMASKING, sender=3, previous=None, blame="test")
        openings = change(bytes(attachment))
        body = replace(message.body, shares_digest=checks.shares_digest(openings))
        return lab.join(federation.sign(Stage.UNMASKING, message.previous, body, sender=3).raw, openings)

    result = federation.result(to_server=other)
    drop = result.drops["h3"]
    assert (drop.code, drop.culprit, drop.verified) == ("malformed", "h3", True)
    assert np.array_equal(result.sums[0], federation.expected_sum(federation.parameters.names))


@pytest.mark.parametrize("dead", [("h1", "h2"), ("h2", "h4"), ("h4", "h5")])
def test_the_masks_between_two_dead_members_and_the_survivors_come_off(lab: Any, dead: tuple[str, str]) -> None:
    federation = lab.federation(n=5, t=3)
    result = federation.result(dict.fromkeys(dead, "masked-input"))
    assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors))


@pytest.mark.parametrize(
    ("phase", "change"),
    [
        ("advertise-keys", lambda data: b"x"),
        ("share-keys", lambda data: data + bytes(4)),
        ("share-keys", lambda data: data[:-1]),
        ("masked-input", lambda data: data + bytes(4)),
        ("consistency-check", lambda data: b"x"),
        ("receipt", lambda data: b"x"),
    ],
)
def test_an_attachment_of_another_size_drops_its_sender(lab: Any, phase: str, change: Any) -> None:
    federation = lab.federation(n=4, t=3)

    def other(name: str, at: str, packet: bytes) -> bytes:
        if (name, at) != ("h2", phase):
            return packet
        raw, attachment = lab.split(packet)
        return lab.join(raw, change(bytes(attachment)))

    result = federation.result(to_server=other)
    drop = result.drops["h2"]
    assert (drop.stage, drop.code, drop.culprit, drop.verified) == (phase, "malformed", "h2", True)


@pytest.mark.parametrize("which", ["sealing_key", "mask_keys"])
def test_a_member_may_not_advertise_the_key_of_another(lab: Any, which: str) -> None:
    """h3 takes over a key of h1, whose private part it does not have."""
    federation = lab.federation(n=4, t=3)
    first: dict[str, Any] = {}

    def copied(name: str, phase: str, packet: bytes) -> bytes:
        if phase != "advertise-keys" or name not in ("h1", "h3"):
            return packet
        sender = int(name[1:])
        message = open_message(
            federation.parameters,
            lab.split(packet)[0],
            stage=Stage.ADVERTISE_KEYS,
            sender=sender,
            previous=None,
            blame="test",
        )
        if name == "h1":
            first[which] = getattr(message.body, which)
            return packet
        body = replace(message.body, **first)
        return lab.join(federation.sign(Stage.ADVERTISE_KEYS, message.previous, body, sender=sender).raw)

    result = federation.result(to_server=copied)
    drop = result.drops["h3"]
    assert (drop.stage, drop.code, drop.culprit, drop.verified) == ("advertise-keys", "duplicate-key", "h3", True)
    assert result.survivors == ("h1", "h2", "h4")


def test_who_is_silent_at_the_deadline_is_reported_as_that(lab: Any) -> None:
    federation = lab.federation(n=4, t=3)
    ready = server_states.Ready(
        server_states.Context(federation.parameters, federation.server_identity, federation.models)
    )
    with pytest.raises(ProtocolError) as caught:
        server_machine.step(ready, server_states.DeadlinePassed())
    assert caught.value.code is Code.OUT_OF_ORDER
    state, packets = server_machine.step(ready, server_states.Start())
    for member, packet in packets[:3]:
        reply = federation.client(f"h{member}").handle("advertise-keys", packet)
        state, _ = server_machine.step(state, server_states.Reply(member, reply))
    state, packets = server_machine.step(state, server_states.DeadlinePassed())
    drop = state.context.drops[4]
    assert (drop.stage, drop.code, drop.culprit, drop.verified) == ("advertise-keys", "no-answer", "", False)
    assert [member for member, _ in packets] == [1, 2, 3]


def test_a_handler_cannot_leave_the_transition_table(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = lab.federation(n=4, t=3)
    ready = server_states.Ready(
        server_states.Context(federation.parameters, federation.server_identity, federation.models)
    )
    monkeypatch.setattr(server_machine, "_invite", lambda state: (state, ()))
    with pytest.raises(AssertionError):
        server_machine.step(ready, server_states.Start())
