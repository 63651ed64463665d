"""Messages from another stage, round or roster, bits that flip, and what is left of a secret once it was used."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.protocols.lying import R0, R1, R2, R5, LyingServer

from fedgan_protocols import Code, ProtocolError, Stage


def test_stages_out_of_order_and_repeated(liar: LyingServer) -> None:
    packet = liar.invitation()
    first = liar.clients[1].handle(R0.label, packet)
    assert liar.clients[1].handle(R0.label, packet) == first
    liar.refused(R0, 1, liar.invitation(model_hashes=(bytes(32),)), Code.CONFLICTING)
    liar.refused(R1, 2, packet, Code.OUT_OF_ORDER)
    liar.refused(R5, 3, packet, Code.OUT_OF_ORDER)
    with pytest.raises(ProtocolError) as caught:
        liar.clients[4].handle("share", packet)
    assert caught.value.code is Code.MALFORMED


def test_a_vector_is_masked_once(liar: LyingServer) -> None:
    liar.masked()
    with pytest.raises(ProtocolError):
        liar.provide(1)
    packet = liar.mask_request(1, (1, 2, 3, 4))  # the same vector under other survivors
    liar.refused(R2, 1, packet, Code.CONFLICTING)


def test_the_vector_and_this_sums_secrets_are_gone_once_masked(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    vector = liar.federation.inputs["h1", 0].copy()
    alive = weakref.ref(vector)
    liar.clients[1].provide_input(0, vector)
    del vector
    liar.send(R2, 1, liar.mask_request(1, liar.everyone))
    assert alive() is None
    secrets = liar.clients[1]._state.secrets  # type: ignore[union-attr]
    assert secrets.mask_keys == () and secrets.seeds == ()


def test_replay_across_rounds_and_sessions(lab: Any) -> None:
    first = lab.federation(seed="same", round_=1)
    second = lab.federation(seed="same", round_=2)
    third = lab.federation(seed="same", round_=1, session=bytes(32))
    packet = first.server().next_phase().payloads["h1"]
    for other in (second, third):
        with pytest.raises(ProtocolError) as caught:
            other.client("h1").handle("advertise-keys", packet)
        assert caught.value.code is Code.WRONG_SESSION
    reply = first.client("h1").handle("advertise-keys", packet)
    server = second.server()
    clients = second.clients()
    replies = {name: clients[name].handle("advertise-keys", one) for name, one in server.next_phase().payloads.items()}
    server.receive({**replies, "h1": reply})
    assert server.dropped["h1"].code == "wrong-session" and server.dropped["h1"].verified


def test_another_roster_is_refused(lab: Any) -> None:
    federation, other = lab.federation(seed="a"), lab.federation(seed="b")
    mixed = replace(federation.parameters, roster=(*federation.parameters.roster[:3], other.parameters.roster[3]))
    packet = federation.server().next_phase().payloads["h1"]
    with pytest.raises(ProtocolError) as caught:
        federation.client("h1", parameters=mixed).handle("advertise-keys", packet)
    assert caught.value.code is Code.WRONG_ROSTER


def test_no_vector_or_a_wrong_one(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    with pytest.raises(ProtocolError):
        liar.clients[1].provide_input(0, np.zeros(2, dtype=np.uint32))
    with pytest.raises(ProtocolError):
        liar.clients[1].provide_input(0, np.zeros(3, dtype=np.float32))
    with pytest.raises(ProtocolError):
        liar.clients[1].provide_input(1, np.zeros(3, dtype=np.uint32))
    liar.refused(R2, 1, liar.mask_request(1, liar.everyone), Code.NO_INPUT, culprit="h1")


def test_a_deadline_erases_everything(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    liar.clients[1].deadline()
    assert liar.clients[1].phase == "Aborted" and liar.clients[1]._state is None
    with pytest.raises(ProtocolError):
        liar.clients[1].handle(R2.label, liar.mask_request(1, liar.everyone))


def test_flipping_any_bit_of_any_message_is_refused(lab: Any) -> None:
    """One byte in sixteen of every packet of a round, both ways; nothing but ProtocolError, never another sum."""
    federation = lab.federation(n=3, t=2, d=3)
    honest = federation.result()
    flips = 0
    for phase in (stage for stage in Stage if stage is not Stage.CLOSING):
        recorded: dict[str, int] = {}

        def measure(name: str, at: str, packet: bytes, phase: Stage = phase, sizes: dict[str, int] = recorded) -> bytes:
            if (name, at) == ("h1", phase.label):
                sizes["size"] = len(packet)
            return packet

        for direction in ("to_client", "to_server"):
            federation.run(**{direction: measure})
            for place in range(flips % 16, recorded["size"], max(16, recorded["size"] // 24)):
                flips += 1

                def flip(name: str, at: str, packet: bytes, phase: Stage = phase, place: int = place) -> bytes:
                    if (name, at) != ("h1", phase.label):
                        return packet
                    return packet[:place] + bytes([packet[place] ^ (1 << place % 8)]) + packet[place + 1 :]

                result = federation.run(**{direction: flip}, errors={}).result()
                assert result.dropped == {"h1": phase.label}
                assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors))
    assert flips > 200 and honest.dropped == {}


def test_no_repr_shows_a_secret(lab: Any) -> None:
    """At every phase of every machine: nothing drawn, no input, no share, in any notation that a repr would use."""
    federation = lab.federation(n=4, t=3, d=4)
    clients, server = federation.clients(), federation.server()
    secrets = [vector.tobytes() for vector in federation.inputs.values()]
    for client in clients.values():
        source = client._entropy

        def draw(size: int, source: Any = source) -> bytes:
            drawn: bytes = source(size)
            secrets.extend(drawn[at : at + 32] for at in range(0, size - 31, 32))
            return drawn

        client._entropy = draw
    texts: list[str] = []

    def note(name: str, phase: str, packet: bytes) -> bytes:
        texts.append(repr(clients[name]._state) + repr(clients[name]) + repr(server._state))
        secrets.extend(bytes(lab.split(packet)[1])[at : at + 65] for at in (0, 65) if phase == "unmasking")
        return packet

    federation.run({"h4": "masked-input"}, server=server, clients=clients, to_server=note)
    text = "".join(texts) + repr(server._state) + repr(server.result()) + repr(federation.identities)
    phases = ("Advertised(", "Shared(", "Masked(", "Signed(", "Revealed(", "Finished(", "CollectingRevelations(")
    assert all(phase in text for phase in phases)
    assert repr(federation.parameters.policy_hash)[2:-1] in text  # the search would find what is there
    assert len(secrets) > 80
    for secret in secrets:
        assert repr(secret)[2:-1] not in text and secret.hex() not in text
