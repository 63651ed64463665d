"""A transcript checks, one flipped bit does not, and no secret is in it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_protocols import ProtocolError, ServerSession, Stage, checks, fingerprint
from fedgan_protocols.messages import Closing, open_message, survivors_digest
from fedgan_protocols.primitives.encoding import decode, encode
from fedgan_protocols.server import machine as server_machine
from fedgan_protocols.transcript.transcript import check


def test_the_facts_of_a_round(lab: Any) -> None:
    federation = lab.federation(n=7, t=4, sums=2)
    result = federation.result({"h7": "share-keys", "h4": "masked-input/1", "h2": "unmasking/1"})
    facts = check(result.transcript, federation.expectations(complete=True))
    assert facts.advertised == federation.parameters.names
    six = ("h1", "h2", "h3", "h4", "h5", "h6")
    five = ("h1", "h2", "h3", "h5", "h6")
    assert facts.shared == facts.sums[0].survivors == facts.sums[0].revealed == six
    assert facts.sums[1].survivors == facts.sums[1].signed == five
    assert facts.sums[1].revealed == facts.receipts == ("h1", "h3", "h5", "h6")
    assert tuple(one.digest for one in facts.sums) == result.sum_digests
    assert facts.stage == "receipt" and facts.abort_code == "" and facts.abort_culprit == ""
    assert facts.digest == result.transcript_digest == hashlib.sha256(result.transcript).digest()
    assert facts.colluders == federation.parameters.colluders
    assert {name: drop.stage for name, drop in facts.dropped.items()} == dict(result.dropped)


def test_fewer_than_t_responders_abort_before_a_second_sum(lab: Any) -> None:
    federation = lab.federation(n=4, t=3, sums=2)
    server = federation.server()
    with pytest.raises(ProtocolError):
        federation.run({"h1": "unmasking/0", "h2": "unmasking/0"}, server=server)
    facts = check(server.transcript_so_far(), federation.expectations(complete=False))
    assert facts.stage == "unmasking" and facts.sums[0].digest == b"" and len(facts.sums) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("session", bytes(32)),
        ("round", 9),
        ("threshold", 4),
        ("ring_bits", 64),
        ("lengths", (6,)),
        ("policy_hash", bytes(32)),
        ("model_hashes", (bytes(32),)),
        ("sum_digests", (bytes(32),)),
        ("survivors", (("h1",),)),
        ("complete", False),
        ("server_public_key", bytes(32)),
        ("roster", ()),
    ],
)
def test_every_expectation_is_compared(lab: Any, field: str, value: Any) -> None:
    federation = lab.federation()
    data = federation.result().transcript
    check(data, federation.expectations())
    with pytest.raises(ProtocolError) as caught:
        check(data, replace(federation.expectations(), **{field: value}))
    assert caught.value.code == "transcript-mismatch"


def test_another_roster_order_or_key_fails(lab: Any) -> None:
    federation = lab.federation()
    data = federation.result().transcript
    roster = federation.parameters.roster
    for other in (roster[::-1], roster[:-1], (*roster[:-1], lab.federation(seed="x").parameters.roster[-1])):
        with pytest.raises(ProtocolError):
            check(data, replace(federation.expectations(), roster=other))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_fails(lab: Any, data: Any) -> None:
    federation = lab.federation(n=3, t=2)
    transcript = TRANSCRIPTS.setdefault("one", federation.result({"h3": "unmasking"}).transcript)
    place = data.draw(st.integers(0, 8 * len(transcript) - 1))
    broken = bytearray(transcript)
    broken[place // 8] ^= 1 << place % 8
    with pytest.raises(ProtocolError):
        check(bytes(broken), federation.expectations())


TRANSCRIPTS: dict[str, bytes] = {}


def test_parts_left_out_or_exchanged_fail(lab: Any) -> None:
    federation = lab.federation()
    data = federation.result().transcript
    other = lab.federation(seed="seed", round_=2).result().transcript
    items: Any = decode(data, 1 << 20)
    foreign: Any = decode(other, 1 << 20)
    groups = items[3]
    broken: list[Any] = [
        [*items[:3], groups[:-1], items[4]],
        [*items[:3], groups[1:], items[4]],
        [*items[:3], [*groups, groups[-1]], items[4]],
        [*items[:3], [groups[0], groups[2], groups[1], *groups[3:]], items[4]],
        [*items[:3], [[*groups[0][:3], groups[0][3][:-1]], *groups[1:]], items[4]],
        [*items[:3], [*groups[:-1], [*groups[-1][:3], groups[-1][3][::-1]]], items[4]],
        [*items[:3], groups, foreign[4]],
        [*items[:2], foreign[2], groups, items[4]],
        [*items[:3], foreign[3], items[4]],
        items[:4],
        [*items, 0],
        [items[0], 2, *items[2:]],
    ]
    for one in broken:
        with pytest.raises(ProtocolError):
            check(encode(one), federation.expectations())
    check(encode(items), federation.expectations())


def resign(federation: Any, items: Any, **closing: Any) -> bytes:
    """The transcript with other groups or another closing, signed again by the server."""
    from fedgan_protocols.transcript.transcript import _groups_digest, _read_groups

    body = Closing(closing.get("complete", 1), closing.get("code", ""), "", closing.get("drops", ()))
    previous = _groups_digest(federation.parameters, _read_groups(items[3]))
    return encode([*items[:4], federation.sign(Stage.CLOSING, previous, body).raw])


def test_a_server_that_signs_another_history_fails(lab: Any) -> None:
    """The server's own signature does not help: members' signatures and the chain are missing."""
    federation = lab.federation()
    items: Any = decode(federation.result().transcript, 1 << 20)
    check(resign(federation, items), federation.expectations(complete=True))
    groups = items[3]
    cut_reply = [[*group[:3], group[3][1:]] for group in groups]
    for stage in range(len(groups) - 1):
        fewer = [*groups[:stage], cut_reply[stage], *groups[stage + 1 :]]
        with pytest.raises(ProtocolError):
            check(resign(federation, [*items[:3], fewer, items[4]]), federation.expectations())
    shorter = [*items[:3], groups[:-1], items[4]]
    with pytest.raises(ProtocolError):
        check(resign(federation, shorter), federation.expectations())
    facts = check(resign(federation, shorter, complete=0, code="x"), federation.expectations())
    assert not facts.complete and facts.stage == "unmasking"
    with pytest.raises(ProtocolError):
        check(resign(federation, items, drops=((9, 0, "x", "", 0),)), federation.expectations())
    with pytest.raises(ProtocolError):
        check(resign(federation, items, complete=2), federation.expectations())


def test_a_closing_of_the_same_round_at_another_time_fails(lab: Any) -> None:
    """Both are the server's own, of one session: the closing's previous hash ties it to its messages."""
    federation = lab.federation()
    server = federation.server()
    clients = federation.clients()
    early: Any = None
    while (phase := server.next_phase()) is not None and phase.name != "unmasking":
        early = server.transcript_so_far()
        if phase.name == "masked-input":
            for name, client in clients.items():
                client.provide_input(0, federation.inputs[name, 0])
        server.receive({name: clients[name].handle(phase.name, one) for name, one in phase.payloads.items()})
    old, now = decode(early, 1 << 20), decode(server.transcript_so_far(), 1 << 20)
    assert isinstance(old, list) and isinstance(now, list)
    check(encode(now), federation.expectations())
    with pytest.raises(ProtocolError) as caught:
        check(encode([*now[:4], old[4]]), federation.expectations())
    assert caught.value.code == "transcript-mismatch"


LIES: list[tuple[str, int, dict[str, Any]]] = [
    ("Invitation", 0, {"parameters_hash": bytes(32)}),
    ("Invitation", 0, {"policy_hash": bytes(32)}),
    ("Invitation", 0, {"model_hashes": (bytes(32),)}),
    ("KeyDirectory", 0, {"members": (1, 2, 3)}),
    ("MaskRequest", 0, {"members": (1, 2, 3)}),
    ("MaskRequest", 0, {"responders": (1, 2, 3, 4)}),
    ("MaskRequest", 0, {"last_sum_digest": bytes(32)}),
    ("MaskRequest", 0, {"sum": 1}),
    ("MaskRequest", 0, {"model_hash": bytes(32)}),
    ("SurvivorList", 0, {"members": (1, 2, 3)}),
    ("SurvivorList", 0, {"model_hash": bytes(32)}),
    ("SurvivorList", 0, {"sum": 1}),
    ("UnmaskRequest", 0, {"members": (1, 2, 3)}),
    ("UnmaskRequest", 0, {"sum": 1}),
    ("MaskRequest", 1, {"members": (1, 2, 3)}),
    ("MaskRequest", 1, {"responders": (1, 2, 3)}),
    ("MaskRequest", 1, {"last_sum_digest": b""}),
    ("MaskRequest", 1, {"model_hash": bytes(32)}),
    ("Outcome", 1, {"responders": (1, 2, 3)}),
    ("Outcome", 1, {"sum_digests": (bytes(32),)}),
    ("Outcome", 1, {"sum_digests": (bytes(32), bytes(32))}),
]


@pytest.mark.parametrize(("kind", "j", "lie"), LIES)
def test_a_last_broadcast_that_lies_fails(lab: Any, kind: str, j: int, lie: dict[str, Any]) -> None:
    """No reply follows it, so no member's signature contradicts it: the rules themselves must."""
    federation = lab.federation(sums=2)
    items: Any = decode(TRANSCRIPTS.setdefault("two", federation.result().transcript), 1 << 20)
    opened = [
        open_message(federation.parameters, raw, stage=Stage(stage), sender=0, previous=None, blame="")
        for stage, _, raw, _ in items[3]
    ]
    found = [(type(one.body).__name__, group[1]) for one, group in zip(opened, items[3], strict=True)]
    place = found.index((kind, j))
    message, stage = opened[place], items[3][place][0]

    def ending(body: object, **numbers: Any) -> bytes:
        raw = federation.sign(Stage(stage), message.previous, body).raw
        group = [numbers.get("stage", stage), numbers.get("j", j), raw, []]
        return resign(federation, [*items[:3], [*items[3][:place], group], items[4]], complete=0, code="x")

    check(ending(message.body), federation.expectations())
    for wrong in (ending(replace(message.body, **lie)), ending(message.body, j=j + 1), ending(message.body, stage=6)):
        with pytest.raises(ProtocolError):
            check(wrong, federation.expectations())


def test_replies_that_lie_fail(lab: Any) -> None:
    """A member and the server together sign a reply that the rules forbid, as the last one of a transcript."""
    federation = lab.federation()
    items: Any = decode(federation.result({"h4": "masked-input"}).transcript, 1 << 20)
    lies: dict[int, list[dict[str, Any]]] = {
        0: [{"policy_hash": bytes(32)}, {"mask_keys": ()}, {"sealing_key": bytes(32)}, {"model_hashes": (bytes(32),)}],
        1: [{"sealed_digests": ()}, {"seed_commitments": ()}],
        2: [{"sum": 1}, {"model_hash": bytes(32)}],
        3: [
            {"survivors_digest": survivors_digest((1, 2, 3, 4))},
            {"t2": bytes(32)},
            {"model_hash": bytes(32)},
            {"sum": 1},
        ],
        4: [{"alive": (1, 2, 3, 4)}, {"dead": ()}, {"sum": 1}],
        5: [{"sum_digests": (bytes(32),)}, {"sum_digests": ()}],
    }
    for place, changes in lies.items():
        stage, j, broadcast, replies = items[3][place]
        sender, raw = replies[0]
        message = open_message(federation.parameters, raw, stage=Stage(stage), sender=sender, previous=None, blame="")
        for change in ({}, *changes):
            reply = federation.sign(Stage(stage), message.previous, replace(message.body, **change), sender=sender)
            group = [stage, j, broadcast, [[sender, reply.raw], *replies[1:]]]
            data = resign(federation, [*items[:3], [*items[3][:place], group], items[4]], complete=0, code="x")
            if not change:
                check(data, federation.expectations())
                continue
            with pytest.raises(ProtocolError):
                check(data, federation.expectations())


def test_a_set_below_the_threshold_fails_even_when_everybody_signed_it(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Server and members that all ignore t: their transcript still does not check."""
    federation = lab.federation(n=3, t=2)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "require_enough", lambda *_, **__: None)
        patch.setattr(server_machine, "_enough", lambda state, _: tuple(sorted(state.asked.replies)))
        server = federation.run({"h1": "masked-input", "h2": "masked-input"}, stop_before="unmasking")
        data = server.transcript_so_far()
        check(data, federation.expectations())
    with pytest.raises(ProtocolError) as caught:
        check(data, federation.expectations())
    assert caught.value.code == "too-few"


def test_structures_that_are_no_transcript(lab: Any) -> None:
    federation = lab.federation()
    items: Any = decode(federation.result().transcript, 1 << 20)
    parameters, groups = items[2], items[3]
    group = groups[0]
    broken: list[Any] = [
        [*items[:4], 5],
        [*items[:2], 5, *items[3:]],
        [*items[:2], parameters[:-1], *items[3:]],
        [*items[:2], [*parameters[:2], 5, *parameters[3:]], *items[3:]],
        [*items[:2], [*parameters[:2], [[b"x", b"y"]], *parameters[3:]], *items[3:]],
        [*items[:2], [*parameters[:2], [["x"]], *parameters[3:]], *items[3:]],
        [*items[:2], [*parameters[:4], b"x", *parameters[5:]], *items[3:]],
        [*items[:2], [*parameters[:4], 1, *parameters[5:]], *items[3:]],
        [*items[:2], [*parameters[:6], 5, *parameters[7:]], *items[3:]],
        [*items[:2], [*parameters[:7], b"short", parameters[8]], *items[3:]],
        *(
            [*items[:2], [*parameters[:8], graph], *items[3:]]
            for graph in (5, [2, 2], [2, 2, b"x"], [2, 3, 0], [9, 2, 0])
        ),
        [*items[:3], 5, items[4]],
        [*items[:3], [5], items[4]],
        [*items[:3], [group[:-1]], items[4]],
        [*items[:3], [[9, *group[1:]]], items[4]],
        [*items[:3], [[*group[:3], 5]], items[4]],
        [*items[:3], [[*group[:3], [5]]], items[4]],
        [*items[:3], [[*group[:3], [[1, 5]]]], items[4]],
        [*items[:3], [[*group[:2], 5, group[3]]], items[4]],
    ]
    for one in broken:
        with pytest.raises(ProtocolError) as caught:
            check(encode(one), federation.expectations())
        assert caught.value.code == "malformed", one
    for pairs in ([[9, group[3][0][1]]], group[3][::-1], [group[3][0], group[3][0]]):
        changed = [*items[:3], [[*group[:3], pairs]], items[4]]
        with pytest.raises(ProtocolError):
            check(resign(federation, changed, complete=0, code="x"), federation.expectations())
    empty = [*items[:3], [], items[4]]
    assert check(resign(federation, empty, complete=0, code="x"), federation.expectations()).stage == ""


def test_every_unfinished_stage_gives_a_transcript_that_checks(lab: Any) -> None:
    federation = lab.federation(n=4, t=3, sums=2)
    for stage in (one.label for one in Stage if one is not Stage.CLOSING):
        server = federation.run(stop_before=stage)
        facts = check(server.transcript_so_far(), federation.expectations(complete=False))
        assert facts.abort_code == "unfinished" and facts.stage == stage
    nothing = federation.server().transcript_so_far()
    assert check(nothing, federation.expectations()).stage == "advertise-keys"


def test_no_secret_is_in_a_transcript(lab: Any) -> None:
    """Everything random that any member drew, every input and masked vector, every identity key: not one of them."""
    federation = lab.federation(n=4, t=3, d=40)
    secrets: list[bytes] = []
    clients = federation.clients()
    for client in clients.values():
        source = client._entropy

        def draw(size: int, source: Any = source) -> bytes:
            drawn: bytes = source(size)
            secrets.extend(drawn[at : at + 16] for at in range(0, size, 16))
            return drawn

        client._entropy = draw
    attachments: list[bytes] = []

    def note(name: str, phase: str, packet: bytes) -> bytes:
        attachments.append(bytes(lab.split(packet)[1]))
        return packet

    result = federation.result({"h4": "masked-input"}, clients=clients, to_server=note)
    secrets += [vector.tobytes() for vector in federation.inputs.values()]
    secrets += [identity.private_key.private_bytes_raw() for identity in federation.identities.values()]
    for attachment in attachments:  # sealed shares, masked vectors, revealed shares
        secrets += [attachment[at : at + 16] for at in range(0, len(attachment) - 16, 16)]
    secrets.append(result.sums[0].tobytes())
    assert len(secrets) > 300
    assert not any(secret in result.transcript for secret in secrets if len(secret) >= 16)
    assert federation.parameters.roster[0].public_key in result.transcript  # the search would find what is there


def test_the_server_of_other_parameters_is_refused(lab: Any) -> None:
    federation = lab.federation()
    with pytest.raises(ProtocolError) as caught:
        ServerSession(federation.parameters, federation.identities["h1"], federation.models)
    assert caught.value.exit_code == 2
    assert fingerprint(federation.parameters.server_public_key).startswith("SHA256:")
    for models in ((), (b"x",), (b"",), federation.models * 2):
        with pytest.raises(ProtocolError):
            ServerSession(federation.parameters, federation.server_identity, models)
