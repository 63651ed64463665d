"""Members that lie to an honest server: the liar is named, and the round goes on without it where it can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.protocols.lying import R1, R2, R3, R4, R5

from fedgan_protocols import Code, Failure, ProtocolError, Stage, checks
from fedgan_protocols.messages import open_message, survivors_digest
from fedgan_protocols.primitives import shamir
from fedgan_protocols.primitives.graph import SparseGraph


def test_a_responder_with_a_wrong_share_is_named_and_the_round_goes_on(lab: Any) -> None:

    federation = lab.federation(n=5, t=4)

    def corrupt(name: str, phase: str, packet: bytes) -> bytes:
        if (name, phase) != ("h3", "unmasking"):
            return packet
        raw, attachment = lab.split(packet)
        message = open_message(federation.parameters, raw, stage=R4, sender=3, previous=None, blame="")
        openings = bytearray(attachment)
        openings[70] ^= 1
        body = replace(message.body, shares_digest=checks.shares_digest(bytes(openings)))
        return lab.join(federation.sign(R4, message.previous, body, sender=3).raw, bytes(openings))

    result = federation.result(to_server=corrupt)
    assert np.array_equal(result.sums[0], federation.expected_sum(federation.parameters.names))
    drop = result.drops["h3"]
    assert (drop.code, drop.culprit, drop.verified) == ("bad-share-responder", "h3", True)
    assert result.receipts["h3"] == "unmasking: bad-share-responder"


@pytest.mark.parametrize("graph", [None, SparseGraph(4, 2, 0)], ids=str)
@pytest.mark.parametrize("size", [0, 65, 65 * 7, 64])
def test_a_responder_with_the_wrong_number_of_shares(lab: Any, graph: SparseGraph | None, size: int) -> None:
    """What it sends is what it signed; it is not what it was dealt."""
    federation = lab.federation(n=6, t=4, graph=graph)

    def cut(name: str, phase: str, packet: bytes) -> bytes:
        if (name, phase) != ("h3", "unmasking"):
            return packet
        raw, attachment = lab.split(packet)
        message = open_message(federation.parameters, raw, stage=R4, sender=3, previous=None, blame="")
        openings = (bytes(attachment) * 2)[:size]
        assert len(openings) == size != len(attachment)
        body = replace(message.body, shares_digest=checks.shares_digest(openings))
        return lab.join(federation.sign(R4, message.previous, body, sender=3).raw, openings)

    result = federation.result(to_server=cut)
    assert np.array_equal(result.sums[0], federation.expected_sum(federation.parameters.names))
    drop = result.drops["h3"]
    assert (drop.code, drop.culprit, drop.verified) == ("malformed", "h3", True)


@pytest.mark.parametrize(
    "other", [lambda secret: secret ^ 1 << 100, lambda _: 2**256 + 296], ids=["flipped", "33 bytes"]
)
@pytest.mark.parametrize("dies", [False, True])
def test_a_dealer_whose_shares_rebuild_another_secret_is_named(
    lab: Any, monkeypatch: pytest.MonkeyPatch, dies: bool, other: Callable[[int], int]
) -> None:
    """Its shares meet their commitments but belong to another secret: only rebuilding shows it."""
    federation = lab.federation(n=4, t=3)
    clients = federation.clients()
    honest = shamir.share
    dealing = [""]

    def dishonest(secret: int, *rest: Any) -> dict[int, int]:
        return honest(other(secret) if dealing[0] == "h2" else secret, *rest)

    monkeypatch.setattr(shamir, "share", dishonest)

    def note(name: str, phase: str, packet: bytes) -> bytes:
        dealing[0] = name
        return packet

    with pytest.raises(ProtocolError) as caught:
        federation.run({"h2": "masked-input"} if dies else {}, clients=clients, to_client=note)
    assert caught.value.code is Code.BAD_SHARE_DEALER and caught.value.culprit == "h2"


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        ("share-keys", "sealed-share-altered"),
        ("masked-input", "result-mismatch"),
        ("unmasking", "malformed"),
        ("receipt", "malformed"),
    ],
)
def test_an_attachment_that_its_sender_did_not_sign(lab: Any, phase: str, code: str) -> None:
    federation = lab.federation(n=5, t=4)

    def change(name: str, at: str, packet: bytes) -> bytes:
        if (name, at) != ("h2", phase):
            return packet
        raw, attachment = lab.split(packet)
        return lab.join(raw, bytes(attachment[:-1]) + bytes([attachment[-1] ^ 1]) if attachment else b"x")

    result = federation.result(to_server=change)
    assert result.dropped == {"h2": phase}
    assert (result.drops["h2"].code, result.drops["h2"].culprit, result.drops["h2"].verified) == (code, "h2", True)
    assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors))


def test_attachments_of_the_wrong_length(lab: Any) -> None:
    federation = lab.federation(n=5, t=4)
    for phase in ("advertise-keys", "share-keys", "masked-input", "consistency-check", "unmasking"):

        def longer(name: str, at: str, packet: bytes, phase: str = phase) -> bytes:
            if (name, at) != ("h2", phase):
                return packet
            raw, attachment = lab.split(packet)
            return lab.join(raw, bytes(attachment) + bytes(4))

        assert federation.result(to_server=longer).drops["h2"].code == "malformed"
        errors: dict[str, ProtocolError] = {}
        federation.result(to_client=longer, errors=errors)
        assert list(errors) == ["h2"] and errors["h2"].culprit == "server"


@pytest.mark.parametrize(
    ("stage", "lie", "code"),
    [
        (R2, {"sum": 1}, "stage-out-of-order"),
        (R2, {"model_hash": bytes(32)}, "model-mismatch"),
        (R1, {"seed_commitments": ()}, "malformed"),
        (R3, {"survivors_digest": survivors_digest((1, 3, 4, 5))}, "inconsistent"),
        (R4, {"alive": (1, 3, 4, 5)}, "inconsistent"),
        (R4, {"dead": (2,)}, "inconsistent"),
        (R5, {"sum_digests": (bytes(32),)}, "result-mismatch"),
    ],
)
def test_a_member_that_signs_another_statement_is_dropped(
    lab: Any, stage: Stage, lie: dict[str, Any], code: str
) -> None:
    federation = lab.federation(n=5, t=4)

    def change(name: str, at: str, packet: bytes) -> bytes:
        if (name, at) != ("h2", stage.label):
            return packet
        raw, attachment = lab.split(packet)
        message = open_message(federation.parameters, raw, stage=stage, sender=2, previous=None, blame="")
        changed = federation.sign(stage, message.previous, replace(message.body, **lie), sender=2)
        return lab.join(changed.raw, bytes(attachment))

    result = federation.result(to_server=change)
    assert (result.dropped, result.drops["h2"].code) == ({"h2": stage.label}, code)
    assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors))


def test_one_members_word_names_no_culprit_but_more_than_c_do(lab: Any) -> None:
    federation = lab.federation(n=4, t=3)  # c = 1
    for accusers, culprit in ((["h1"], ""), (["h1", "h2"], "h4")):
        server = federation.server()
        claims = {name: Failure("bad-share-dealer", "it says", "h4") for name in accusers}
        with pytest.raises(ProtocolError) as caught:
            server.receive(claims)
        assert caught.value.culprit == culprit
