"""What a client draws, refuses and with which code, one cause at a time; found by mutation (docs/mutation.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.protocols.lying import R2, R3, R4, R5

from fedgan_protocols import Code, ProtocolError, ServerSession, Stage
from fedgan_protocols.client import machine as client
from fedgan_protocols.client import states as client_states
from fedgan_protocols.messages import MaskRequest, Outcome, extend, open_message, unpack_hashes
from fedgan_protocols.parameters import SERVER, sum_digest
from fedgan_protocols.primitives.graph import SparseGraph


def honest_until(federation: Any, stop: tuple[str, int]) -> tuple[Any, dict[str, Any], dict[str, bytes]]:
    """The server, the clients and their open requests at a phase of an honest round."""
    server, clients = federation.server(), federation.clients()
    while (phase := server.next_phase()) is not None and (phase.name, phase.sum) != stop:
        provide(federation, clients, phase.name, phase.sum)
        server.receive({name: clients[name].handle(phase.name, packet) for name, packet in phase.payloads.items()})
    assert phase is not None
    provide(federation, clients, phase.name, phase.sum)
    return server, clients, dict(phase.payloads)


def provide(federation: Any, clients: dict[str, Any], name: str, j: int) -> None:
    if name == "masked-input":
        for member, one in clients.items():
            one.provide_input(j, federation.inputs[member, j].copy())


def refuses(one: Any, phase: str, packet: bytes, code: Code, culprit: str = "server") -> None:
    with pytest.raises(ProtocolError) as caught:
        one.handle(phase, packet)
    assert (caught.value.code, caught.value.culprit) == (code, culprit), caught.value
    assert one.phase == "Aborted"


def relied(lab: Any, federation: Any, stage: Stage, packet: bytes, **lies: Any) -> bytes:
    """The server's own request with its body changed, signed again at the same place of the transcript."""
    raw, attachment = lab.split(packet)
    message = open_message(federation.parameters, raw, stage=stage, sender=SERVER, previous=None, blame="test")
    signed = federation.sign(stage, message.previous, replace(message.body, **lies))
    return lab.join(signed.raw, bytes(attachment))


@pytest.mark.parametrize("graph", [None, SparseGraph(4, 3, 1)])
def test_the_random_bytes_of_a_step_are_counted_exactly(lab: Any, graph: SparseGraph | None) -> None:
    """Keys and seeds of 32 bytes, two salts per holder and sum, coefficients of 40 with four to spare; nothing else."""
    federation = lab.federation(n=6, t=5, sums=2, graph=graph)
    member = federation.client("h1")
    holders, threshold = (6, 5) if graph is None else (4, 3)
    drawn = 0 if graph is None else (4 + 4) * 8
    shares = 2 * (32 + 2 * 32 * holders) + (2 * 2 * (threshold - 1) + 4) * 40
    seen = {}
    clients = {name: federation.client(name) for name in federation.parameters.names} | {"h1": member}

    def note(name: str, phase: str, packet: bytes) -> bytes:
        if name == "h1":
            seen.setdefault(phase, client.entropy_needed(member._state))
        return packet

    federation.run(clients=clients, to_client=note)
    assert seen["advertise-keys"] == 32 * 3 + drawn
    assert seen["share-keys"] == shares
    assert seen["masked-input"] == seen["consistency-check"] == seen["receipt"] == 0
    checked = federation.parameters.signatures_checked
    assert seen["unmasking"] == (0 if graph is None else (checked + 4) * 8)


OTHER = hashlib.sha256(b"something else").digest()
LIES = [
    (R2, 0, {"sum": 1}, Code.OUT_OF_ORDER),
    (R2, 0, {"members": (1, 2, 3, 5)}, Code.MALFORMED),
    (R2, 0, {"members": (1, 2)}, Code.TOO_FEW),
    (R2, 0, {"members": (2, 3, 4)}, Code.EXCLUDED),
    (R2, 0, {"responders": (1, 2, 3)}, Code.MALFORMED),
    (R2, 0, {"last_sum_digest": OTHER}, Code.MALFORMED),
    (R2, 0, {"model_hash": OTHER}, Code.MODEL_MISMATCH),
    (R2, 1, {"sum": 0}, Code.OUT_OF_ORDER),
    (R2, 1, {"members": (1, 2, 3)}, Code.SET_GREW),
    (R2, 1, {"responders": (2, 3, 4)}, Code.MALFORMED),
    (R2, 1, {"responders": (1, 2)}, Code.TOO_FEW),
    (R2, 1, {"responders": ()}, Code.TOO_FEW),
    (R2, 1, {"responders": (1, 2, 3, 5)}, Code.MALFORMED),
    (R2, 1, {"last_sum_digest": OTHER}, Code.RESULT_MISMATCH),
    (R2, 1, {"last_sum_digest": b""}, Code.RESULT_MISMATCH),
    (R2, 1, {"model_hash": OTHER}, Code.MODEL_MISMATCH),
    (R3, 1, {"sum": 0}, Code.OUT_OF_ORDER),
    (R3, 1, {"model_hash": OTHER}, Code.MODEL_MISMATCH),
    (R3, 1, {"members": (2, 3, 4)}, Code.DECLARED_DEAD),
    (R3, 1, {"members": (1, 2, 3)}, Code.MALFORMED),
    (R4, 1, {"sum": 0}, Code.OUT_OF_ORDER),
    (R4, 1, {"members": (1, 2, 3)}, Code.MALFORMED),
    (R5, 1, {"sum_digests": (OTHER,)}, Code.MALFORMED),
    (R5, 1, {"sum_digests": (OTHER, OTHER, OTHER)}, Code.MALFORMED),
    (R5, 1, {"responders": (1, 2, 3)}, Code.MALFORMED),
]


@pytest.mark.parametrize(("stage", "j", "lie", "code"), LIES, ids=[f"lie {at}" for at in range(len(LIES))])
def test_each_lie_of_the_server_is_refused_for_its_own_reason(
    lab: Any, stage: Stage, j: int, lie: dict[str, Any], code: Code
) -> None:
    federation = lab.federation(n=4, t=3, sums=2)
    _, clients, requests = honest_until(federation, (stage.label, j))
    refuses(clients["h1"], stage.label, relied(lab, federation, stage, requests["h1"], **lie), code)


def test_the_outcome_may_not_come_before_the_last_sum(lab: Any) -> None:
    """After the first of two sums the server asks for the receipt of both."""
    federation = lab.federation(n=4, t=3, sums=2)
    server, clients, requests = honest_until(federation, ("masked-input", 1))
    raw, attachment = lab.split(requests["h1"])
    asked = open_message(federation.parameters, raw, stage=R2, sender=SERVER, previous=None, blame="test")
    body = Outcome(asked.body.responders, (asked.body.last_sum_digest, OTHER))
    packet = lab.join(federation.sign(R5, asked.previous, body).raw, bytes(attachment))
    refuses(clients["h1"], "receipt", packet, Code.OUT_OF_ORDER)
    assert np.array_equal(server.sum_of(0), federation.expected_sum(federation.parameters.names))


@pytest.mark.parametrize("changed", [0, 1])
def test_the_outcome_repeats_every_sum_that_was_received(lab: Any, changed: int) -> None:
    """The receipt countersigns all sums: the digest of an earlier one may not have changed since."""
    federation = lab.federation(n=4, t=3, sums=2)
    server, clients, requests = honest_until(federation, ("receipt", 1))
    digests = [sum_digest(server.sum_of(j)) for j in (0, 1)]
    digests[changed] = OTHER
    packet = relied(lab, federation, R5, requests["h1"], sum_digests=tuple(digests))
    refuses(clients["h1"], "receipt", packet, Code.RESULT_MISMATCH)


class Ending:
    """A round of five without h5 up to its outcome, which the server then signs as it likes, chained to fit."""

    def __init__(self, lab: Any) -> None:
        self.lab, self.federation = lab, lab.federation(n=5, t=3)
        self.clients = self.federation.clients()
        server = self.federation.run({"h5": "masked-input"}, clients=self.clients, stop_before="receipt")
        raw, attachment = lab.split(server.next_phase().payloads["h1"])
        digests, vector = lab.split(attachment)
        self.digests, self.vector = unpack_hashes(digests), bytes(vector)
        self.body = open_message(
            self.federation.parameters, raw, stage=R5, sender=SERVER, previous=None, blame="test"
        ).body

    def packet(self, u5: tuple[int, ...], digests: Sequence[bytes], vector: bytes) -> bytes:
        state = self.clients["h1"]._state
        chain = extend("T5", state.t4, state.broadcast, zip(u5, digests, strict=False))
        signed = self.federation.sign(R5, chain, Outcome(u5, self.body.sum_digests))
        return self.lab.join(signed.raw, self.lab.join(b"".join(digests), vector))


FOUR = (1, 2, 3, 4)
ENDINGS = {
    "a dead member responds": (lambda end: ((*FOUR, 5), [*end.digests, OTHER], end.vector), Code.SET_GREW),
    "own message altered": (lambda end: (FOUR, [OTHER, *end.digests[1:]], end.vector), Code.OWN_MESSAGE_ALTERED),
    "a digest too few": (lambda end: (FOUR, end.digests[:3], end.vector), Code.MALFORMED),
    "a digest too many": (lambda end: (FOUR, [*end.digests, OTHER], end.vector), Code.MALFORMED),
    "left out": (lambda end: ((2, 3, 4), end.digests[1:], end.vector), Code.EXCLUDED),
    "a short vector": (lambda end: (FOUR, end.digests, end.vector[:-4]), Code.MALFORMED),
    "another vector": (lambda end: (FOUR, end.digests, bytes(len(end.vector))), Code.RESULT_MISMATCH),
}


@pytest.mark.parametrize("lie", ENDINGS)
def test_what_ends_a_sum_is_of_its_survivors_and_unaltered(lab: Any, lie: str) -> None:
    """The transcript fits each of these lies: the check alone stands between it and a receipt."""
    end, (told, code) = Ending(lab), ENDINGS[lie]
    refuses(end.clients["h1"], "receipt", end.packet(*told(end)), code)


def test_an_honest_ending_is_countersigned(lab: Any) -> None:
    end = Ending(lab)
    assert end.clients["h1"].handle("receipt", end.packet(FOUR, end.digests, end.vector))
    assert end.clients["h1"].phase == "Finished"


def test_no_vector_is_masked_beyond_the_last_sum(lab: Any) -> None:
    federation = lab.federation(n=4, t=3)
    server, clients, requests = honest_until(federation, ("receipt", 0))
    raw, attachment = lab.split(requests["h1"])
    outcome = open_message(federation.parameters, raw, stage=R5, sender=SERVER, previous=None, blame="test")
    everyone = (1, 2, 3, 4)
    body = MaskRequest(1, federation.models[0], everyone, everyone, sum_digest(server.sum_of(0)))
    packet = lab.join(federation.sign(R2, outcome.previous, body).raw, bytes(attachment))
    refuses(clients["h1"], "masked-input", packet, Code.SET_GREW)


def test_a_second_and_different_request_of_a_stage_is_a_conflict(lab: Any) -> None:
    federation = lab.federation(n=4, t=3)
    _, clients, requests = honest_until(federation, ("advertise-keys", 0))
    first = clients["h1"].handle("advertise-keys", requests["h1"])
    assert clients["h1"].handle("advertise-keys", requests["h1"]) == first
    refuses(clients["h1"], "advertise-keys", requests["h1"] + b"x", Code.CONFLICTING)


@pytest.mark.parametrize("phase", ["advertise-keys", "consistency-check", "unmasking"])
def test_an_attachment_of_another_size_is_refused(lab: Any, phase: str) -> None:
    federation = lab.federation(n=4, t=3)
    _, clients, requests = honest_until(federation, (phase, 0))
    raw, attachment = lab.split(requests["h1"])
    refuses(clients["h1"], phase, lab.join(raw, bytes(attachment) + b"x"), Code.MALFORMED)


def test_the_deadline_has_its_code(lab: Any) -> None:
    federation = lab.federation()
    context = client_states.Context(federation.parameters, federation.identities["h1"], 1, federation.models)
    with pytest.raises(ProtocolError) as caught:
        client.step(client_states.Invited(context), client_states.DeadlinePassed())
    assert (caught.value.code, caught.value.culprit) == (Code.DEADLINE, "")


def vectors() -> dict[str, tuple[np.ndarray | None, Code]]:
    return {
        "none": (None, Code.NO_INPUT),
        "too short": (np.zeros(4, dtype="<u4"), Code.BAD_INPUT),
        "too long": (np.zeros(6, dtype="<u4"), Code.BAD_INPUT),
        "a matrix": (np.zeros((5, 1), dtype="<u4"), Code.BAD_INPUT),
        "another ring": (np.zeros(5, dtype="<u8"), Code.BAD_INPUT),
        "signed": (np.zeros(5, dtype="<i4"), Code.BAD_INPUT),
    }


@pytest.mark.parametrize("which", vectors())
def test_the_machine_itself_refuses_a_vector_that_does_not_fit(lab: Any, which: str) -> None:
    """The session checks what it is given; the machine does not rely on it. The fault is this member's own."""
    federation = lab.federation(n=4, t=3, d=5)
    _, clients, requests = honest_until(federation, ("masked-input", 0))
    vector, code = vectors()[which]
    state = clients["h2"]._state
    with pytest.raises(ProtocolError) as caught:
        client.step(state, client_states.Received(R2, requests["h2"], b"", vector))
    assert (caught.value.code, caught.value.culprit) == (code, "h2")


@pytest.mark.parametrize("answered", [False, True])
def test_a_handler_cannot_leave_the_transition_table(lab: Any, monkeypatch: pytest.MonkeyPatch, answered: bool) -> None:
    """A handler that stays where it was, and one that answers but skips to the end."""
    federation = lab.federation(n=4, t=3)
    _, clients, requests = honest_until(federation, ("advertise-keys", 0))
    state = clients["h1"]._state
    event = client_states.Received(Stage.ADVERTISE_KEYS, requests["h1"], bytes(1000))
    reply = client_states.Exchange(Stage.ADVERTISE_KEYS, b"", b"")
    target = client_states.Finished(state.context, reply, ()) if answered else state
    monkeypatch.setitem(client._HANDLERS, Stage.ADVERTISE_KEYS, lambda *given: target)
    with pytest.raises(AssertionError):
        client.step(state, event)


@pytest.mark.parametrize("known", [True, False])
def test_the_model_is_the_one_that_is_held_here(lab: Any, known: bool) -> None:
    """A member that was told of a model at R0 does not take another with its vector; without any it does not mask."""
    federation = lab.federation(n=4, t=3, sums=2)
    models = (federation.models[0], federation.models[1] if known else b"")
    server = ServerSession(federation.parameters, federation.server_identity, models)
    clients = {name: federation.client(name, models=models) for name in federation.parameters.names}
    while (phase := server.next_phase()).sum == 0 and phase.stage is not Stage.UNMASKING:
        provide(federation, clients, phase.name, phase.sum)
        server.receive({name: clients[name].handle(phase.name, packet) for name, packet in phase.payloads.items()})
    server.receive({name: clients[name].handle(phase.name, packet) for name, packet in phase.payloads.items()})
    if not known:
        server.bind_model(1, federation.models[1])
    phase = server.next_phase()
    for name, given, code, culprit in (
        ("h1", OTHER, Code.MODEL_MISMATCH, "server"),
        ("h2", None, Code.NO_INPUT, "server"),
        ("h3", federation.models[1], None, ""),
    ):
        clients[name].provide_input(1, federation.inputs[name, 1], given)
        if code is None or (known and given is None):
            clients[name].handle(phase.name, phase.payloads[name])
        else:
            refuses(clients[name], phase.name, phase.payloads[name], code, culprit)
